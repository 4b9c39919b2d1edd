"""asyncio, under whichever event loop."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, MutableMapping
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
    from contextvars import Context

    from .job import Job
    from .seam import CancelScope


class AsyncioSeam:
    """One asyncio loop.

    `_can_step` says whether native tasks may be made here that have taken their first step when they are made: from
    Python 3.12 on, unless somebody else makes the loop's tasks. Who is asked to start then stands in line, in `_asked`,
    until `_step()`. `_will_step`: the loop will call it. `_is_stepping`: it runs, and does not run in itself, where
    each would stand on the stack of the one before.
    """

    cancelled: type[BaseException] = asyncio.CancelledError
    # The loop's queue is first in, first out.
    turns = 1
    in_order = True

    def __init__(self) -> None:
        self.thread = get_ident()
        self._loop = asyncio.get_running_loop()
        self._callbacks: set[asyncio.Task[None]] = set()
        self._asked: deque[Job] = deque()
        self._will_step = self._is_stepping = False
        self._can_step = _makes_plain_tasks(self._loop)
        self._states = _states_of_tasks()
        # `anyio.CancelScope(...)` looks up the backend at each call, which costs more than the scope itself.
        self.cancel_scope: Callable[..., CancelScope] = type(anyio.CancelScope())

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        # Nothing to be opened: the runner keeps the tasks, and whoever closes it waits until it has none.
        yield

    def start(self, job: Job) -> object:
        if self._can_step and _has_no_factory(self._loop):
            self._asked.append(job)
            self._step_soon()
            return None
        self._can_step = False  # from now on, so that what has no native task yet comes before what has one
        return self._loop.create_task(attempt(job), name=job.name, context=_context_of(job))

    def step_asked(self) -> bool:
        if not self._can_step or self._is_stepping:
            return False
        self._step()
        return True

    def _step_soon(self) -> None:
        if not self._will_step:
            self._will_step = True
            self._loop.call_soon(self._step_now)

    def _step_now(self) -> None:
        self._will_step = False
        self._step()

    def _step(self) -> None:
        self._is_stepping = True
        try:
            for _ in range(len(self._asked)):  # and not what these ask for
                job = self._asked.popleft()
                _start_stepped(attempt(job), self._loop, job.name, _context_of(job))
        finally:
            self._is_stepping = False
            if self._asked:
                self._step_soon()

    def enter(self, job: Job) -> None:
        alive = job._runner.alive
        if alive[job] is None:  # `start()` has made no native task
            alive[job] = asyncio.current_task(self._loop)
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


def _context_of(job: Job) -> Context | None:
    context = job._context
    if context is not None and job.config.on_error is not None:
        # An attempt changes its context, and the next one, which only a handler can ask for, has to find it untouched.
        return context.copy()
    return context


if sys.version_info >= (3, 12):
    _PLAIN = asyncio.BaseEventLoop.create_task
    _EAGER = asyncio.eager_task_factory.__code__

    def _makes_plain_tasks(loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether tasks may be made without the loop: whether it would make asyncio's own."""
        return type(loop).create_task is _PLAIN or type(loop).__module__.partition(".")[0] == "uvloop"

    def _has_no_factory(loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether nobody else makes the loop's tasks. (An eager factory makes them as they are made here.)"""
        factory = loop.get_task_factory()
        return factory is None or getattr(factory, "__code__", None) is _EAGER

    def _start_stepped(
        attempt: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, name: str, context: Context | None
    ) -> None:
        """Make a task that has taken its first step when this returns. It keeps itself alive, if that was not all."""
        asyncio.Task(attempt, loop=loop, name=name, context=context, eager_start=True)

else:

    def _makes_plain_tasks(_loop: asyncio.AbstractEventLoop) -> bool:
        return False

    def _has_no_factory(_loop: asyncio.AbstractEventLoop) -> bool:
        return True

    def _start_stepped(
        attempt: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, name: str, context: Context | None
    ) -> None:
        loop.create_task(attempt, name=name, context=context)
