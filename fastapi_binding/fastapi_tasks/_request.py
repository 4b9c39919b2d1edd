"""One request or websocket session: the scope of its tasks, and the barrier before its response."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, cast

from anyio import Event
from starlette.types import Message, Scope, Send
from starlette.websockets import WebSocketDisconnect

from taskphase import TaskHost, TasksScheduler

from .errors import FastAPITasksUnsupportedError

SCOPE_KEY = "fastapi_tasks"
"""Where an ASGI scope carries its `RequestTasks`. The outermost app that has tasks puts it there."""

# FastAPI (0.121.1 to 0.165) puts the exit stack of the function-scope dependencies there. It is left
# when the route has returned and its response is built, or with whatever either of them raised.
_FUNCTION_STACK_KEY = "fastapi_function_astack"


class RequestTasks:
    """The tasks of one request.

    It may have several routes, if a middleware calls the app again. Each has a scheduler of its own.

    :ivar host: owns them
    :ivar tasks: the scheduler of the last route, from the moment that somebody asks for it
    :ivar has_tasks: whether it has a scheduler
    :ivar outside: holds what is scheduled by hand outside of any route
    """

    __slots__ = (
        "_earlier",
        "_has_begun",
        "_is_direct",
        "_line",
        "_send",
        "_stack",
        "_waiter",
        "has_tasks",
        "host",
        "outside",
        "tasks",
    )

    def __init__(self, host: TaskHost, scope: Scope, send: Send) -> None:
        scope[SCOPE_KEY] = self
        state = scope.setdefault("state", {})  # not every server has one
        state["fastapi_tasks_tg"] = host.tg
        state["fastapi_tasks_host"] = host
        self.tasks: TasksScheduler | None = None
        self.outside: TasksScheduler | None = None
        self._earlier: list[TasksScheduler] | None = None
        self.host = host
        self._send = send
        self._stack: object = None
        self.has_tasks = False
        self._is_direct = self._has_begun = False
        self._line: deque[Event] | None = None
        self._waiter: Event | None = None

    def open(self, scope: Scope) -> TasksScheduler:
        """Return the scheduler of the route that runs here, having first made sure that it will learn how that ends.

        :raises FastAPITasksUnsupportedError: if FastAPI does not tell that
        """
        stack: AsyncExitStack[Any] | None = scope.get(_FUNCTION_STACK_KEY)
        if self.tasks is not None and stack is self._stack:
            return self.tasks
        if not isinstance(stack, AsyncExitStack):
            raise FastAPITasksUnsupportedError(
                f"scope[{_FUNCTION_STACK_KEY!r}] is no AsyncExitStack: Tasks needs a route of FastAPI >= 0.121.1"
            )
        if self.tasks is not None:
            self._earlier = [*(self._earlier or ()), self.tasks]
        self.tasks = tasks = self.host.scope(in_route=True)
        if self.is_over:
            tasks.end()  # so that the end of the route is the end of the scope
        self.has_tasks = True
        self._stack = stack
        if scope["type"] == "websocket":
            leave_last(stack, partial(self._leave_session, tasks), is_async=True)
        elif tasks.in_order:
            leave_last(stack, partial(self._leave_route, tasks))
        else:
            leave_last(stack, partial(self._leave_route_later, tasks), is_async=True)
        return tasks

    def scheduler(self) -> TasksScheduler:
        """Return what a `TasksScheduler` belongs to that is made by hand outside of the route."""
        if self.tasks is not None and self._has_begun:
            return self.tasks
        if self.outside is None:
            self.outside = self.host.scope()
            self._is_direct = False
            self.has_tasks = True
            if self._has_begun:
                self.outside.end_route()
            if self.is_over:  # by code that the request has left behind: nobody ends the scope any more
                self.outside.end()
        return self.outside

    def _leave_route(
        self, tasks: TasksScheduler, exc_type: type[BaseException] | None, _exc: object, _tb: object
    ) -> None:
        # What leaving `route()` does where tasks start in order, except that it is the first message that waits.
        tasks.end_route(failed=exc_type is not None)
        self._left_route(failed=exc_type is not None)

    async def _leave_route_later(self, tasks: TasksScheduler, *outcome: Any) -> None:
        await tasks.route().__aexit__(*outcome)
        self._left_route(failed=outcome[0] is not None)

    def _left_route(self, *, failed: bool) -> None:
        if failed:
            self.host.set_current(self.scheduler)  # a middleware may come next that calls the app again
        if self._waiter is not None:
            self._waiter.set()

    async def _leave_session(self, tasks: TasksScheduler, exc_type: Any, exc: BaseException | None, tb: Any) -> None:
        # A client that leaves has the handler raise, wherever that reads or sends. It is over then, but has not failed.
        outcome = (None, None, None) if _client_left(exc) else (exc_type, exc, tb)
        await self._leave_route_later(tasks, *outcome)

    def leave(self, exc: BaseException | None) -> Awaitable[None]:
        """End the scope: the call of the app has returned, or raised `exc`."""
        self.end()  # first, because on trio other code runs meanwhile, which may open another scope
        if self.tasks is not None and self.outside is None and self._earlier is None:
            return self.tasks.__aexit__(None if exc is None else type(exc), exc, None)
        return self._leave_all(exc)

    async def _leave_all(self, exc: BaseException | None) -> None:
        await self._decide_outside(failed=exc is not None)
        for tasks in self._schedulers():
            await tasks.__aexit__(None if exc is None else type(exc), exc, None)
        if self.outside is not None:
            await self.outside.settle()

    async def routes_ended(self) -> None:
        """Wait for the routes that run on, though the call of the app has returned."""
        while any(tasks.outcome is None for tasks in self._schedulers()):
            self._waiter = Event()
            await self._waiter.wait()

    def end(self) -> None:
        """Let go of the server's `send`, which knows the scope, which knows this: a cycle a request is work for the
        garbage collector, and pauses for others.
        """
        self._send = _too_late

    @property
    def is_over(self) -> bool:
        """Whether the call of the app has returned."""
        return self._send is _too_late

    def send(self, message: Message) -> Awaitable[None]:
        """Hand a message to the server; the first one waits until what was asked to start has taken its first step."""
        if not self._is_direct:
            tasks = self.tasks
            if (
                self._line is not None
                or self.outside is not None
                or (tasks is not None and (tasks.unsettled or tasks.in_route))
            ):
                return self._send_in_line(message)
            self._is_direct = self._has_begun = True
        return self._send(message)

    async def _send_in_line(self, message: Message) -> None:
        """Send what comes first, or comes while that waits: one message at a time, in their order."""
        if self._line is None:
            self._line = deque()
        else:
            await self._wait_in_line(self._line)
        try:
            if not self._has_begun:
                await self._settle(message)
            await self._send(message)
        finally:
            if self._line:
                self._line.popleft().set()
            else:
                self._line = None
                self._is_direct = self._has_begun

    async def _wait_in_line(self, line: deque[Event]) -> None:
        turn = Event()
        line.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn in line:
                line.remove(turn)
            elif line:
                line.popleft().set()  # its turn had come
            else:
                self._line = None
            raise

    async def _settle(self, message: Message) -> None:
        tasks = self.tasks
        if tasks is not None and message["type"] == "http.response.start" and tasks.route_runs_here:
            tasks.end_route()  # it sends before FastAPI leaves its exit stack, as `app.frontend()` does
        await self._decide_outside()
        for each in self._schedulers():
            await each.settle()
        self._has_begun = True

    async def _decide_outside(self, *, failed: bool = False) -> None:
        """What was scheduled outside of any route has the outcome of the last route. Without one, `failed` tells it."""
        if self.outside is not None and (self.tasks is None or self.tasks.outcome is not None):
            if not self.outside.in_order:
                await self.outside.settle()  # or its after_route tasks might be faster than its immediate ones
            self.outside.end_route(failed=failed if self.tasks is None else self.tasks.outcome == "failure")

    def _schedulers(self) -> list[TasksScheduler]:
        return [tasks for tasks in (*(self._earlier or ()), self.tasks, self.outside) if tasks is not None]


def leave_last(stack: Any, leave: Callable[..., Any], *, is_async: bool = False) -> None:
    """Have `leave` called when `stack` is left, after all that was entered before, and all that will be: whatever the
    order of an endpoint's parameters.
    """
    if _IS_KNOWN:  # the public way costs several times as much, in each request
        stack._exit_callbacks.appendleft((not is_async, leave))
        return
    entered = stack.pop_all()
    (stack.push_async_exit if is_async else stack.push)(leave)
    stack.push_async_exit(entered)


def _is_known() -> bool:
    """Tell whether an exit stack keeps its callbacks as CPython's has since 3.7."""
    stack: Any = AsyncExitStack()
    stack.push(_is_known)
    stack.push_async_exit(_too_late)
    return getattr(stack, "_exit_callbacks", None) == deque([(True, _is_known), (False, _too_late)])


async def _too_late(message: Message) -> None:
    raise RuntimeError(f"{message['type']} was sent when the call of the app had returned: nobody is there any more")


_IS_KNOWN = _is_known()


def _client_left(exc: BaseException | None) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return group.split(WebSocketDisconnect)[1] is None
    return isinstance(exc, WebSocketDisconnect)
