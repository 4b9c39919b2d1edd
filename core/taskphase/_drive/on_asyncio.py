"""asyncio, under whichever event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Generator, MutableMapping
from contextlib import asynccontextmanager
from functools import cache
from importlib import import_module
from math import inf
from threading import get_ident
from types import coroutine
from typing import TYPE_CHECKING, Any

import anyio
from anyio import current_effective_deadline

from .attempt import attempt
from .seam import enter_scope

if TYPE_CHECKING:
    from .job import Job
    from .seam import CancelScope


class AsyncioSeam:
    cancelled: type[BaseException] = asyncio.CancelledError
    # The loop's queue is first in, first out.
    turns = 1
    in_order = True

    def __init__(self) -> None:
        self.thread = get_ident()
        self._loop = asyncio.get_running_loop()
        self._callbacks: set[asyncio.Task[None]] = set()
        self._states = _states_of_tasks()
        # `anyio.CancelScope(...)` looks up the backend at each call, which costs more than the scope itself.
        self.cancel_scope: Callable[..., CancelScope] = type(anyio.CancelScope())

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        # Nothing to be opened: the runner keeps the tasks, and whoever closes it waits until it has none.
        yield

    def start(self, job: Job) -> object:
        context = job._context
        if context is not None and job.config.on_error is not None:
            # An attempt changes its context, and the next one, which only a handler can ask for, has to find it
            # untouched.
            context = context.copy()
        if _CAN_BE_EAGER and _is_eager(self._loop):
            return asyncio.Task(attempt(job), loop=self._loop, name=job.name, context=context)
        return self._loop.create_task(attempt(job), name=job.name, context=context)

    def enter(self, job: Job) -> None:
        # Nothing encloses a task of the loop's own, so that a shield against it makes no difference.
        if self._states is None:
            enter_scope(job, self.cancel_scope)

    def enclose(self, native: Any) -> CancelScope:
        assert self._states is not None
        scope: Any = self.cancel_scope()
        state: Any = self._states.get(native)
        if state is None or state.cancel_scope is None:
            self._enter_as(native, scope)
            return scope  # type: ignore[no-any-return]
        innermost = outermost = state.cancel_scope
        while outermost._parent_scope is not None:
            outermost = outermost._parent_scope
        state.cancel_scope = None
        self._enter_as(native, scope)
        outermost._parent_scope = scope
        scope._child_scopes.add(outermost)
        scope._tasks.discard(native)  # it is in the innermost one
        state.cancel_scope = innermost
        return scope  # type: ignore[no-any-return]

    def _enter_as(self, native: asyncio.Task[Any], scope: CancelScope) -> None:
        running = asyncio.current_task(self._loop)
        if running is native:
            scope.__enter__()
            return
        if running is not None:
            asyncio.tasks._leave_task(self._loop, running)
        asyncio.tasks._enter_task(self._loop, native)
        try:
            scope.__enter__()
        finally:
            asyncio.tasks._leave_task(self._loop, native)
            if running is not None:
                asyncio.tasks._enter_task(self._loop, running)

    @coroutine
    def turn(self) -> Generator[None, None, None]:
        try:
            yield  # what `asyncio.sleep(0)` does
        except asyncio.CancelledError:
            # The loop has turned all the same. anyio cancels again, at the next checkpoint; asyncio itself does not.
            if current_effective_deadline() != -inf:
                raise

    def is_over(self, native: object) -> bool:
        return isinstance(native, asyncio.Future) and native.done()

    def in_task(self, callback: Callable[[], object]) -> None:
        async def run() -> None:
            callback()

        task = self._loop.create_task(run())
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(callback)


@cache
def _states_of_tasks() -> MutableMapping[Any, Any] | None:
    """Return where anyio keeps the innermost scope of each task, if it is as `enclose()` has to have it: else None."""
    backend: Any = import_module("anyio._backends._asyncio")
    try:
        states: MutableMapping[Any, Any] = backend._task_states
        scope, state = backend.CancelScope(), backend.TaskState(None, None)
        known = (
            callable(scope._child_scopes.add)
            and callable(scope._tasks.discard)
            and (scope._parent_scope, state.cancel_scope) == (None, None)
        )
    except (AttributeError, TypeError):
        return None
    return states if known else None


_CAN_BE_EAGER = sys.version_info >= (3, 12)

if sys.version_info >= (3, 12):

    def _is_eager(_loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether the loop's task factory would run a task's first step inside `schedule()`."""
        code = getattr(_loop.get_task_factory(), "__code__", None)
        return code is not None and code is asyncio.eager_task_factory.__code__

else:

    def _is_eager(_loop: asyncio.AbstractEventLoop) -> bool:
        return False
