"""One request or websocket session: the scope of its tasks, and the barrier before its response."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any, cast

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

    :ivar tasks: its scheduler, from the moment that somebody asks for it
    """

    __slots__ = ("_began", "_host", "_send", "tasks")

    def __init__(self, host: TaskHost, scope: Scope, send: Send) -> None:
        scope[SCOPE_KEY] = self
        state = scope.setdefault("state", {})  # not every server has one
        state["fastapi_tasks_tg"] = host.tg
        state["fastapi_tasks_host"] = host
        self.tasks: TasksScheduler | None = None
        self._host = host
        self._send = send
        self._began = False

    def open(self, scope: Scope) -> TasksScheduler:
        """Return the scheduler, having first made sure that it will learn how the route ends.

        :raises FastAPITasksUnsupportedError: if FastAPI does not tell that
        """
        if self.tasks is None:
            stack: AsyncExitStack[Any] | None = scope.get(_FUNCTION_STACK_KEY)
            if not isinstance(stack, AsyncExitStack):
                raise FastAPITasksUnsupportedError(
                    f"scope[{_FUNCTION_STACK_KEY!r}] is no AsyncExitStack: Tasks needs a route of FastAPI >= 0.121.1"
                )
            self.tasks = self._host.scope()
            # Last of all: after the dependencies that were entered before `Tasks` too, whatever the order of the
            # parameters. Mostly there are none. That look only saves time: without it all is the same.
            entered = stack.pop_all() if getattr(stack, "_exit_callbacks", True) else None
            if scope["type"] == "websocket":
                stack.push_async_exit(self._leave_session)
            elif self.tasks.in_order:
                # An exit stack takes an object with `__exit__` at half the cost of a function.
                stack.push(cast("Any", self))
            else:
                stack.push_async_exit(self.tasks.route())
            if entered is not None:
                stack.push_async_exit(entered)
        return self.tasks

    def __exit__(self, exc_type: type[BaseException] | None, _exc: object, _tb: object) -> None:
        # What leaving `route()` does where tasks start in order, except that it is the first message that waits.
        assert self.tasks is not None
        self.tasks.end_route(failed=exc_type is not None)

    async def _leave_session(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: Any) -> None:
        # A client that leaves has the handler raise, wherever that reads or sends. It is over then, but has not failed.
        assert self.tasks is not None
        outcome = (None, None, None) if _client_left(exc) else (exc_type, exc, tb)
        await self.tasks.route().__aexit__(*outcome)

    def end(self) -> None:
        """Let go of the server's `send`, which knows the scope, which knows this: a cycle a request is work for the
        garbage collector, and pauses for others.
        """
        self._send = _too_late

    def send(self, message: Message) -> Awaitable[None]:
        """Hand a message to the server; the first one waits until what was asked to start has taken its first step."""
        if not self._began:
            if self.tasks is not None and self.tasks.unsettled:
                return self._settle_and_send(message)
            self._began = True
        return self._send(message)

    async def _settle_and_send(self, message: Message) -> None:
        assert self.tasks is not None
        await self.tasks.settle()
        self._began = True
        await self._send(message)


async def _too_late(message: Message) -> None:
    raise RuntimeError(f"{message['type']} was sent when the call of the app had returned: nobody is there any more")


def _client_left(exc: BaseException | None) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return group.split(WebSocketDisconnect)[1] is None
    return isinstance(exc, WebSocketDisconnect)
