"""One request or websocket session: the scope of its tasks, and the barrier before its response."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from starlette.types import Message, Scope, Send

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

    def __init__(self, host: TaskHost, send: Send) -> None:
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
            # parameters.
            entered: AsyncExitStack[Any] = stack.pop_all()
            stack.push_async_exit(self.tasks.route())
            stack.push_async_exit(entered)
        return self.tasks

    async def send(self, message: Message) -> None:
        """Hand a message to the server; the first one waits until what was asked to start has taken its first step."""
        if not self._began:
            self._began = True
            if self.tasks is not None and self.tasks.unsettled:
                await self.tasks.settle()
        await self._send(message)

    async def end(self, error: BaseException | None) -> None:
        """Say that the request is over. `error`: what the app raised."""
        if self.tasks is not None:
            await self.tasks.__aexit__(None if error is None else type(error), error, None)
