"""One request or websocket session: the scopes of its tasks, and the barrier before its response."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from anyio import Event
from starlette.types import Message, Scope, Send
from starlette.websockets import WebSocketDisconnect

from taskphase import Scope as TaskScope
from taskphase import TaskHost, TasksScheduler

from ._exit_stack import STACK_KEY, leave_last, swallowed
from ._info import describe
from .errors import FastAPITasksUnsupportedError

SCOPE_KEY = "fastapi_tasks"
"""The key of the `RequestTasks` in an ASGI scope. The outermost app with tasks sets it."""

FIRST_MESSAGES = frozenset(
    {"http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start"}
)
"""The messages that begin a response. Others may come earlier: a push promise, an early hint."""


class RequestTasks:
    """The tasks of one request.

    A request has several routes if a middleware calls the app again. Each route has its own scope.

    The first message of the response waits for the barrier, and later messages wait behind it, in `_line`.

    :ivar host: the owner of the tasks
    :ivar tasks: the scope of the last route; None until the route asks for its scheduler
    :ivar outside: the scope of tasks that are scheduled outside of any route; None until there is one
    :ivar _earlier: the scopes of earlier routes
    :ivar _has_begun: True if the first message may go, or has gone, to the server
    :ivar _line: one entry for each message that waits or is being sent, in their order: the event of its turn, or None
        for the message that opened the line and did not wait. No list if there is no such message
    :ivar _stack: the exit stack of the last route. Like `_scheduler` missing until the route asks for its scheduler
    """

    _stack: AsyncExitStack[Any]
    _scheduler: TasksScheduler

    __slots__ = (
        "_asgi_scope",
        "_earlier",
        "_has_begun",
        "_info",
        "_line",
        "_scheduler",
        "_send",
        "_stack",
        "_waiter",
        "host",
        "outside",
        "tasks",
    )

    def __init__(self, host: TaskHost, scope: Scope, send: Send) -> None:
        scope[SCOPE_KEY] = self
        state = scope.setdefault("state", {})  # not every server has one
        state["fastapi_tasks_tg"] = host.tg
        state["fastapi_tasks_host"] = host
        self.tasks: TaskScope | None = None
        self.outside: TaskScope | None = None
        self._earlier: tuple[TaskScope, ...] = ()
        self.host = host
        self._asgi_scope: Scope | None = scope
        self._info: dict[str, Any] | None = None
        self._send = send
        self._has_begun = False
        self._line: list[Event | None] | None = None
        self._waiter: Event | None = None

    def open(self, scope: Scope) -> TasksScheduler:
        """Return the scheduler of the route that runs here. The first call makes its scope, and a callback for the end
        of the route.

        :raises FastAPITasksUnsupportedError: if FastAPI has no exit stack for such a callback
        """
        stack: AsyncExitStack[Any] | None = scope.get(STACK_KEY)
        if self.tasks is not None and stack is self._stack:
            return self._scheduler
        if not isinstance(stack, AsyncExitStack):
            raise FastAPITasksUnsupportedError(
                f"scope[{STACK_KEY!r}] is no AsyncExitStack: Tasks needs a route of FastAPI >= 0.121.1"
            )
        if self.tasks is not None:
            self._earlier = (*self._earlier, self.tasks)
        self.tasks = tasks = self.host.scope(in_route=True)
        if tasks.is_observed:
            tasks.info = self._describe(scope)
        if self._send is _too_late:
            tasks.end()  # then the end of the route ends the scope
        self._stack = stack
        leave_last(stack, self._leave_route, self, tasks, stack, scope["type"] == "websocket")
        self._scheduler = scheduler = TasksScheduler(tasks)
        return scheduler

    def scope(self) -> TaskScope:
        """Return the scope of tasks that are scheduled outside of the route, not by its scheduler."""
        if self.tasks is not None and self._has_begun:
            return self.tasks
        if self.outside is None:
            self.outside = self.host.scope(info=self._describe(self._asgi_scope))
            if self._has_begun:
                self.outside.end_route()
            if self.is_over:  # code that outlives the request calls this: no other code will end the scope
                self.outside.end()
        return self.outside

    def _describe(self, scope: Scope | None) -> dict[str, Any]:
        """Return `scope.info` for observers: the same dict for all scopes of the request.

        :param scope: an ASGI scope of the request, which has the route as soon as there is one; None: it is over
        """
        self._info = info = describe(scope, self._info)
        return info

    @staticmethod  # without a bound method the garbage collector has less to do
    def _leave_route(
        request: RequestTasks,
        tasks: TaskScope,
        stack: AsyncExitStack[Any],
        is_session: bool,
        around: int,
        _exc_type: object,
        exc: BaseException | None,
        _tb: object,
    ) -> None:
        # As the end of a `route()` block. But the barrier of a request comes later: before its first message.
        if exc is None:
            exc = swallowed(around)
        # If the client leaves, the handler raises wherever it reads or sends. The session is over, but has not failed.
        if is_session and _client_left(exc):
            exc = None
        failed = exc is not None
        if is_session or not tasks.end_route_now(failed=failed):
            # The stack ends, and calls this next.
            stack.push_async_exit(partial(request._leave_route_later, tasks, exc))
        elif failed or request._waiter is not None:
            request._note_route_left(failed=failed)

    async def _leave_route_later(self, tasks: TaskScope, exc: BaseException | None, *_: object) -> None:
        try:
            await tasks.leave_route(exc)
        finally:  # a hook may have raised
            self._note_route_left(failed=tasks.outcome == "failure")

    def _note_route_left(self, *, failed: bool) -> None:
        if failed:
            self.host.set_current(self.scope)  # next, a middleware may call the app again
        if self._waiter is not None:
            self._waiter.set()

    def leave(self, exc: BaseException | None) -> Awaitable[None] | None:
        """End the scopes: the call of the app has returned, or raised `exc`.

        :return: None if they have ended, otherwise an awaitable that ends them
        """
        if self.outside is not None:
            self._describe(self._asgi_scope)
        # Forget the ASGI scope, and the server's `send`, which refers to the scope. The scope refers to this object: in
        # each request the cycle would be work for the garbage collector. Do it first: on trio other code runs
        # meanwhile, and may open another scope.
        self._send = _too_late
        self._asgi_scope = None
        if self.outside is not None or self._earlier:
            return self._leave_all(exc)
        return None if self.tasks is None else self.tasks.leave(exc)

    async def _leave_all(self, exc: BaseException | None) -> None:
        try:
            await self._decide_outside(exc)
        finally:  # a hook may have raised
            for tasks in self._scopes():
                await tasks.__aexit__(None if exc is None else type(exc), exc, None)

    async def routes_ended(self) -> None:
        """Wait for the routes that still run after the call of the app has returned."""
        while any(tasks.outcome is None for tasks in self._scopes()):
            self._waiter = Event()
            await self._waiter.wait()

    @property
    def is_over(self) -> bool:
        """True if the call of the app has returned."""
        return self._send is _too_late

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message to the server. The first message waits for the barrier."""
        if self._line is not None:
            return self._send_in_line(message)
        if not self._has_begun and message["type"] in FIRST_MESSAGES:
            tasks = self.tasks
            if self.outside or self._earlier or (tasks is not None and (tasks.unsettled or tasks.in_route)):
                return self._send_in_line(message)
            self._has_begun = True
            if tasks is not None:
                tasks.note_first_message()
        send = self._send  # (Python 3.11 is slow at calling an attribute of an object)
        return send(message)

    async def _send_in_line(self, message: Message) -> None:
        """Send the first message, and messages that come while it waits: one at a time, in their order."""
        line = self._line
        if line is None:
            line = self._line = []
        turn = Event() if line else None
        line.append(turn)
        try:
            if turn is not None:
                await turn.wait()
            if not self._has_begun and message["type"] in FIRST_MESSAGES:
                await self._settle(message)
                self._has_begun = True
                last = self.tasks or self.outside
                assert last is not None  # otherwise no message waits
                last.note_first_message()
            await self._send(message)
        finally:
            line.remove(turn)
            if not line:
                self._line = None
            elif line[0] is not None:  # otherwise the message in front is still being sent
                line[0].set()

    async def _settle(self, message: Message) -> None:
        """Wait for the barriers of all scopes. A route that sends by itself ends here."""
        tasks = self.tasks
        if tasks is not None and message["type"] == "http.response.start" and tasks.route_runs_here:
            # The route sends before FastAPI leaves its exit stack, like `app.frontend()`.
            await tasks.leave_route(None)
        if self.outside is not None:
            self._describe(self._asgi_scope)
            await self._decide_outside()
        for each in self._scopes():
            await each.settle()

    async def _decide_outside(self, exc: BaseException | None = None) -> None:
        """Give tasks that were scheduled outside of any route the outcome of the last route; without a route, the
        outcome of a call that ends with `exc`.
        """
        last = self.tasks
        if self.outside is not None and (last is None or last.outcome is not None):
            if last is not None:
                exc = Exception() if last.outcome == "failure" else None
            await self.outside.leave_route(exc)

    def _scopes(self) -> list[TaskScope]:
        return [tasks for tasks in (*self._earlier, self.tasks, self.outside) if tasks is not None]


async def _too_late(message: Message) -> None:
    raise RuntimeError(f"{message['type']} was sent after the call of the app had returned: the request is over")


def _client_left(exc: BaseException | None) -> bool:
    # In a group of its own, an exception is split as a group is.
    return exc is not None and BaseExceptionGroup("", [exc]).split(WebSocketDisconnect)[1] is None
