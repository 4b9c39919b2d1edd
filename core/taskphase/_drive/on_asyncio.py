"""The seam of asyncio, with any event loop."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context, copy_context
from functools import partial
from inspect import CORO_CREATED, getcoroutinelocals, getcoroutinestate
from threading import get_ident
from time import monotonic
from types import coroutine
from typing import TYPE_CHECKING, Any

import anyio

from .attempt import attempt
from .cancelling import is_cancelled_around
from .enclosing_asyncio import can_enclose_here, enclose, running_loop, task_of
from .job import Job, enter_scope, names

if TYPE_CHECKING:
    from .cancelling import CancelScope


# The most barriers without a turn of the event loop. A task with barrier after barrier would block the loop.
_BARRIERS = 100

# Above the frames of its function, a first step has at most so many: for the end of the task and its log records.
_ROOM = 300


class AsyncioSeam:
    """One asyncio loop. Jobs start in one of two ways:

    - In line, if `_can_step`: Python 3.12 or newer, and the loop makes plain tasks. `start()` puts the job into the
      line, `_asked`. `_step()` makes the native tasks, and each takes its first step as it is made.
    - Otherwise `start()` makes the native task. The loop runs the first step in its next turn.

    *Invariant*: while `_asked` has a job, the loop will call `_step_in_turn()`, or `_step()` runs. Otherwise the job
    never starts.

    :ivar _will_step: True if the loop will call `_step_in_turn()`
    :ivar _is_stepping: True while `_step()` runs. A barrier inside a first step must not call `_step()`: otherwise the
        stack grows with each first step
    :ivar _barriers: the number of barriers since the last turn
    """

    backend = "asyncio"
    cancelled: type[BaseException] = asyncio.CancelledError
    in_order = True  # the loop's queue is first in, first out
    event: Callable[..., asyncio.Event] = asyncio.Event

    def __init__(self, *, may_enclose: bool) -> None:
        self.thread = get_ident()
        self._loop = loop = asyncio.get_running_loop()
        # `time()` of the standard library's loops only calls this function.
        is_standard = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self.clock: Callable[[], float] = monotonic if is_standard else loop.time
        self.running: Callable[[], object] = partial(task_of, loop)
        self.has_running: Callable[[], object] = self.running
        self._callbacks: set[asyncio.Task[None]] = set()
        self._asked: deque[tuple[Job, tuple[str, str], Context | None]] = deque()
        self._will_step = self._is_stepping = False
        self._barriers = 0
        self._context = copy_context()  # for callbacks: the context of a task would live as long as they wait
        self._is_plain = _makes_plain_tasks(self._loop)
        self._can_step = self._is_plain and _EAGER is not None
        self.begins, self.early = True, True
        self._may_enclose = may_enclose
        # `anyio.CancelScope(...)` looks up the backend at each call, which costs more than the scope itself.
        self.cancel_scope: Callable[..., CancelScope] = type(anyio.CancelScope())

    def is_here(self) -> bool:
        return self.runs_here() and self.running() is not None

    def runs_here(self) -> bool:
        return running_loop() is self._loop

    def check_loop(self) -> None:
        running = running_loop()
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
        # No group to open: the runner keeps the tasks, and the drain waits for them.
        self.early = not (self._may_enclose and await can_enclose_here(self._loop))
        self.begins = self._can_step or self.early
        yield

    def start(self, job: Job) -> object:
        context = job._context
        if job.config.retry is not None and context is not None:
            # An attempt changes its context. The next attempt must find the context as it was.
            context = context.copy()
        factory = self._loop.get_task_factory()
        # (uvloop 0.23 cannot call the eager factory on Python 3.13.)
        is_plain = self._is_plain if factory is None else _is_eager(factory)
        if self._can_step and is_plain:
            # Find the names now: if that raised in `_step()`, the job would be lost.
            self._asked.append((job, names(job), context))
            self._step_soon()
            return None
        self._can_step = False  # for ever: jobs in line would overtake jobs that wait for the loop's next turn
        coro: Any = attempt(job)
        name, coro.__qualname__ = names(job)
        try:
            if is_plain:  # as `create_task()`, but faster
                return _Native(coro, loop=self._loop, name=name, context=context)
            native = self._loop.create_task(coro, name=name, context=context)
        except BaseException:
            coro.close()  # otherwise Python warns of it
            raise
        _bury_if_missed(native, job)
        if type(native) is not asyncio.Task:  # it may wrap the real native task
            self.begins = True
        return native

    def first_steps(self) -> Awaitable[None]:
        return _nothing() if self._can_step and self._have_stepped() else self.turns()

    @coroutine
    def turns(self) -> Generator[None, None, None]:
        try:
            yield  # as `asyncio.sleep(0)`
        except asyncio.CancelledError:
            # The loop has turned. anyio cancels again, at the next checkpoint; asyncio itself does not.
            if not is_cancelled_around():
                raise

    def _have_stepped(self) -> bool:
        """Have the jobs in line take their first steps now. Return False if the barrier must wait for a turn."""
        self._barriers += 1
        if (
            self._is_stepping
            or self._barriers > _BARRIERS
            or _is_deep()
            or sys.exception() is not None  # it would become the `__context__` of the exceptions of the tasks
        ):
            return False
        self._step()
        here = asyncio.current_task(self._loop)
        # A first step may have cancelled the running task. `turns()` finds out if that was a native cancellation.
        return here is None or not here.cancelling()

    def _step_soon(self) -> None:
        if not self._will_step:
            self._will_step = True
            self._loop.call_soon(self._step_in_turn)

    def _step_in_turn(self) -> None:
        self._will_step, self._barriers = False, 0
        self._step()

    def _step(self) -> None:
        was_stepping, self._is_stepping = self._is_stepping, True
        try:
            for _ in range(len(self._asked)):  # not the jobs that these first steps ask to start
                if not self._asked:
                    break  # a first step has run the loop (nest_asyncio makes that possible), and the loop all others
                job, (name, qualname), context = self._asked.popleft()
                coro: Any = attempt(job)
                coro.__qualname__ = qualname  # asyncio's debug mode, Sentry and aiomonitor show this name
                # The first step is taken when this returns. (Then `begin()` has put the native task into `alive`.)
                asyncio.Task(coro, loop=self._loop, name=name, context=context, **_STEPPED)
                del job, coro, context  # otherwise a task that fails at once would be a cycle, by `f_back`
        finally:
            self._is_stepping = was_stepping
            if self._asked:
                self._step_soon()

    def begin(self, job: Job) -> None:
        alive = job._runner.alive
        if type(alive[job]) is not asyncio.Task:  # None, or an object of a task factory that may wrap the native task
            alive[job] = asyncio.current_task(self._loop)
        if self.early:
            enter_scope(job, self.cancel_scope(shield=job.config.shielded))

    def enclose(self, native: Any) -> CancelScope:
        return enclose(self._loop, native)

    def call_at(
        self,
        when: float,
        callback: Callable[[], None],
        cancelled: Callable[[], None],  # noqa: ARG002 - nothing can
    ) -> Callable[[], object]:
        return self._loop.call_at(when, callback, context=self._context).cancel

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


class _Native(asyncio.Task[None]):
    """A native task. Foreign code may cancel it before its first step: then `attempt()` never runs, so does not report
    the end of the job either.
    """

    __slots__ = ()

    def cancel(self, msg: Any = None) -> bool:
        coro: Any = self.get_coro()
        if getcoroutinestate(coro) == CORO_CREATED:
            _bury_if_missed(self, getcoroutinelocals(coro)["job"])
        return super().cancel(msg)


def _bury_if_missed(native: asyncio.Task[None], job: Job) -> None:
    """End `job` when `native` has ended, if `attempt()` has not. For each task this would cost too much."""
    if isinstance(native, asyncio.Future):  # a task factory may return anything
        native.add_done_callback(partial(_bury, job))


def _bury(job: Job, native: object) -> None:
    if job._runner.alive.get(job) is native:
        job._runner.bury(job)


class _Beside:
    """A context with a native task beside its body: see `NativeSeam.beside()`."""

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
    """Return without a turn of the loop."""
    yield from ()


def _is_deep() -> bool:
    """Return whether the stack is so deep that a first step on top of it may fail inside this library."""
    try:
        sys._getframe(sys.getrecursionlimit() - _ROOM)
    except ValueError:
        return False
    return True


def _is_eager(factory: Any) -> bool:
    """Return whether a task factory is asyncio's eager one, for plain tasks."""
    if _EAGER is None or getattr(factory, "__code__", None) is not _EAGER:
        return False
    return all(cell.cell_contents is asyncio.Task for cell in factory.__closure__ or ())


# From Python 3.12 on: the code of the task factory whose tasks take their first steps as they are made.
_EAGER: Any = getattr(getattr(asyncio, "eager_task_factory", None), "__code__", None)
_STEPPED: dict[str, Any] = {"eager_start": True}


def _makes_plain_tasks(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the loop's `create_task()` makes plain tasks of asyncio: then `_Native()` does nearly the same."""
    kind = type(loop)
    if _Native.__base__ is not asyncio.Task or "create_task" in getattr(loop, "__dict__", ()):  # (nest_asyncio)
        return False
    return kind.create_task is asyncio.BaseEventLoop.create_task or kind.__module__.partition(".")[0] == "uvloop"
