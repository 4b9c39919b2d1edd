"""asyncio, under whichever event loop."""

from __future__ import annotations

import asyncio
import sys
from asyncio import _get_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from importlib import import_module
from threading import get_ident
from types import coroutine
from typing import TYPE_CHECKING, Any

import anyio

from .attempt import attempt
from .awaited import awaited_frames
from .seam import enter_scope, is_cancelled_around

if TYPE_CHECKING:
    from contextvars import Context
    from types import FrameType

    from .job import Job
    from .seam import CancelScope


# So often a barrier takes no turn until the event loop has turned: who goes through one after the other, without ever
# waiting, must not keep all others from running.
_BARRIERS = 100


# `asyncio.current_task()`, which is slow on Python 3.11.
_tasks: Any = asyncio.tasks
_running: Callable[[Any], object] = _tasks._current_tasks.get if sys.version_info < (3, 12) else asyncio.current_task


class AsyncioSeam:
    """One asyncio loop.

    `_can_step` says whether native tasks may be made here that have taken their first step when they are made: from
    Python 3.12 on, unless somebody else makes the loop's tasks. Who is asked to start then stands in line, in `_asked`,
    until `_step()`. `_will_step`: the loop will call it. `_is_stepping`: it runs. It does not run in itself: each first
    step would stand on the stack of the one before.
    """

    cancelled: type[BaseException] = asyncio.CancelledError
    in_order = True  # the loop's queue is first in, first out

    def __init__(self) -> None:
        self.thread = get_ident()
        self._loop = loop = asyncio.get_running_loop()
        self.running: Callable[[], object] = partial(_running, loop)
        self.has_running: Callable[[], object] = self.running
        self._callbacks: set[asyncio.Task[None]] = set()
        self._asked: deque[tuple[Job, tuple[str, str], Context | None]] = deque()
        self._will_step = self._is_stepping = False
        self._barriers = 0
        self._can_step = _EAGER is not None and _makes_plain_tasks(self._loop)
        self._states = _states_of_tasks()
        self.begins = self._can_step or self._states is None
        # `anyio.CancelScope(...)` looks up the backend at each call, which costs more than the scope itself.
        self.cancel_scope: Callable[..., CancelScope] = type(anyio.CancelScope())

    def is_here(self) -> bool:
        return self.runs_here() and self.running() is not None

    def runs_here(self) -> bool:
        return _get_running_loop() is self._loop

    def check_loop(self) -> None:
        running = _get_running_loop()
        if running is not None and running is not self._loop and get_ident() == self.thread:
            raise RuntimeError(
                "this task host belongs to another event loop of this thread, which does not run now: the task would "
                "never start. Schedule it from the loop in which the host was entered"
            )

    def was_cancelled(self) -> bool:
        native: Any = self.running()
        return native is not None and native.cancelling() > 0

    def beside(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> AbstractAsyncContextManager[None]:
        return _Beside(self._loop, work, name)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        # Nothing to be opened: the runner keeps the tasks, and whoever closes it waits until it has none.
        yield

    def start(self, job: Job) -> object:
        context = job._context
        if job.config.retry is not None and context is not None:
            # An attempt changes its context. The next attempt must find the context as it was.
            context = context.copy()
        is_eager = False
        if _EAGER is not None:
            factory = self._loop.get_task_factory()
            is_eager = getattr(factory, "__code__", None) is _EAGER
            if self._can_step and (factory is None or is_eager):
                # The name now: what is in line must not be lost by what may raise.
                self._asked.append((job, job._names(), context))
                self._step_soon()
                return None
            self._can_step = False  # for good: what is stepped here would overtake what waits for the loop's next turn
        coro: Any = attempt(job)
        name, coro.__qualname__ = job._names()
        if is_eager:  # (uvloop 0.23 cannot call that factory on Python 3.13)
            return asyncio.Task(coro, loop=self._loop, name=name, context=context)
        native = self._loop.create_task(coro, name=name, context=context)
        if type(native) is not asyncio.Task:  # there may be another one inside it
            self.begins = True
        return native

    def first_steps(self) -> Awaitable[None]:
        return _nothing() if self._can_step and self._have_stepped() else self.turns()

    @coroutine
    def turns(self) -> Generator[None, None, None]:
        try:
            yield  # what `asyncio.sleep(0)` does
        except asyncio.CancelledError:
            # The loop has turned all the same. anyio cancels again, at the next checkpoint; asyncio itself does not.
            if not is_cancelled_around():
                raise

    def _have_stepped(self) -> bool:
        """Have those in line take their first steps, here and now, unless they are for the loop's next turn."""
        self._barriers += 1
        if (
            self._is_stepping
            or self._barriers > _BARRIERS
            or sys.exception() is not None  # it would be that of the tasks too, as the `__context__` of theirs
        ):
            return False
        self._step()
        here = asyncio.current_task(self._loop)
        # A first step may have cancelled who is here: that is for a turn, where it can be told whose it was.
        return here is None or not here.cancelling()

    def _step_soon(self) -> None:
        if not self._will_step:
            self._will_step = True
            self._loop.call_soon(self._step_in_turn)

    def _step_in_turn(self) -> None:
        self._will_step = False
        self._barriers = 0
        self._step()

    def _step(self) -> None:
        was_stepping, self._is_stepping = self._is_stepping, True
        try:
            for _ in range(len(self._asked)):  # and not what these ask for
                if not self._asked:
                    break  # a first step has run the loop (as nest_asyncio makes possible), which has taken the others
                job, (name, qualname), context = self._asked.popleft()
                coro: Any = attempt(job)
                coro.__qualname__ = qualname  # by which asyncio's debug mode, Sentry and aiomonitor show a task
                # It has taken its first step when this returns. (`begin()` keeps it alive, if that was not all.)
                asyncio.Task(coro, loop=self._loop, name=name, context=context, **_STEPPED)
                del job, coro, context  # or a task that fails at once would be a cycle, by `f_back`
        finally:
            self._is_stepping = was_stepping
            if self._asked:
                self._step_soon()

    def begin(self, job: Job) -> None:
        alive = job._runner.alive
        if type(alive[job]) is not asyncio.Task:  # there was none, or a factory has made what may be around it
            alive[job] = asyncio.current_task(self._loop)
        if self._states is None:
            enter_scope(job, self.cancel_scope)

    def enclose(self, native: Any) -> CancelScope:
        assert self._states is not None
        scope: Any = self.cancel_scope()  # without a shield: nothing encloses a task of the loop's own
        state: Any = self._states.get(native)
        if state is None or state.cancel_scope is None:
            self._enter_as(native, scope)
            return scope  # type: ignore[no-any-return]
        innermost = outermost = state.cancel_scope
        while outermost._parent_scope is not None:
            outermost = outermost._parent_scope
        if _is_known_to_a_thread(outermost, native):
            # Where no scope is around `to_thread.run_sync()`, anyio gives the thread its own, which shields the task.
            # So that the thread, and what it runs in the loop, see through the shield, it is around the task only now.
            outermost._shield = False
            outermost._tasks = _Others(outermost._tasks)
            outermost._tasks.remove(native)
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


class _Beside:
    """A body, and a native task beside it (see `NativeSeam.beside`)."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, None]], name: str
    ) -> None:
        self._native = loop.create_task(work(), name=name)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        if not self._native.done():
            await asyncio.wait([self._native])
        if not self._native.cancelled() and (error := self._native.exception()) is not None:
            raise error


@coroutine
def _nothing() -> Generator[None, None, None]:
    """Wait for nothing."""
    yield from ()


class _Others(set[Any]):
    """The tasks in a scope, without the one that has entered it and is to leave it."""

    def remove(self, task: Any) -> None:
        self.discard(task)


# The name of anyio's coroutine function that calls a function in a thread.
_TO_THREAD = "run_sync_in_worker_thread"


def _is_known_to_a_thread(scope: Any, native: asyncio.Task[Any]) -> bool:
    """Tell whether `scope` is the shield that anyio has put around a call in a thread, and has given to the thread as
    well. `native` awaits that call, and `scope` is its outermost scope.
    """
    # Most cancelled tasks are in no shield: no walk then.
    return scope._shield and any(_gives_to_a_thread(frame, scope) for frame in awaited_frames(native.get_coro()))


def _gives_to_a_thread(frame: FrameType, scope: Any) -> bool:
    # The name first: on Python 3.11 and 3.12 `f_locals` makes a dict that lives, with its values, as long as the frame.
    if frame.f_code.co_name != _TO_THREAD:
        return False
    variables = frame.f_locals
    # One task enters a scope. So no frame but the right one has this scope, wherever else the walk has been.
    return variables.get("worker_scope") is scope is variables.get("scope")


@cache
def _states_of_tasks() -> MutableMapping[Any, Any] | None:
    """Return where anyio keeps the innermost scope of each task, if it is as `enclose()` has to have it: else None."""
    backend: Any = import_module("anyio._backends._asyncio")
    try:
        states: MutableMapping[Any, Any] = backend._task_states
        scope, state = backend.CancelScope(), backend.TaskState(None, None)
        to_thread = getattr(backend.AsyncIOBackend, _TO_THREAD).__code__
        known = (
            to_thread.co_name == _TO_THREAD  # see `_gives_to_a_thread()`
            and {"scope", "worker_scope"} <= set(to_thread.co_varnames)
            and callable(scope._child_scopes.add)
            and callable(scope._tasks.discard)
            and (scope._parent_scope, scope._shield, state.cancel_scope) == (None, False, None)
        )
    except (AttributeError, TypeError):
        return None
    return states if known else None


# From Python 3.12 on: the code of the task factory that has tasks take their first steps as they are made.
_EAGER: Any = getattr(getattr(asyncio, "eager_task_factory", None), "__code__", None)
_STEPPED: dict[str, Any] = {"eager_start": True}


def _makes_plain_tasks(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether the loop's `create_task()` makes plain tasks of asyncio, so that they may be made without it."""
    kind = type(loop)
    if "create_task" in getattr(loop, "__dict__", ()):
        return False
    return kind.create_task is asyncio.BaseEventLoop.create_task or kind.__module__.partition(".")[0] == "uvloop"
