"""One request or websocket session: the scope of its tasks, and the barrier before its response."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
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
            if scope["type"] == "websocket":
                leave_last(stack, self._leave_session, is_async=True)
            elif self.tasks.in_order:
                leave_last(stack, self._leave_route)
            else:
                leave_last(stack, self.tasks.route().__aexit__, is_async=True)
        return self.tasks

    def _leave_route(self, exc_type: type[BaseException] | None, _exc: object, _tb: object) -> None:
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
            tasks = self.tasks
            if tasks is not None and tasks.unsettled:
                return self._settle_and_send(tasks, message)
            self._began = True
        return self._send(message)

    async def _settle_and_send(self, tasks: TasksScheduler, message: Message) -> None:
        await tasks.settle()
        self._began = True
        await self._send(message)


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
