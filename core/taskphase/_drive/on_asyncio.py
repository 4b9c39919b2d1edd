"""The seam of asyncio, with any event loop."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context, copy_context
from functools import partial
from threading import get_ident
from time import monotonic
from types import coroutine
from typing import TYPE_CHECKING, Any

import anyio

from .._machine.calling import names_of
from .._machine.life import TaskStatus
from .attempt import attempt
from .cancelling import is_cancelled_around
from .companion import Companion
from .enclosing_asyncio import can_enclose_here, enclose, enter_task, leave_task, running_loop, task_of
from .job import Job, enter_scope
from .natives import HAS_EAGER_TASKS, NativeTask, bury_if_missed, is_eager, makes_plain_tasks, stepper_of

if TYPE_CHECKING:
    from .cancelling import CancelScope


# The most barriers without a turn of the event loop. A task with barrier after barrier would block the loop.
_BARRIERS = 100

# A barrier that waits for a turn is cheaper under load: the tasks of all requests of a turn start one after another.
# But it suspends the requests. If the garbage collector comes meanwhile, their objects count as long-lived, and so it
# looks at all objects of the program sooner. It comes after 700 new objects, which a dozen requests have; from Python
# 3.13 on after 2000.
_MANY = 2000

# The most frames of a first step above the frames of its function: for the end of the task and its log records.
_ROOM = 300


class AsyncioSeam:
    """One asyncio loop. Jobs start in one of two ways:

    - In line, if `_can_step`: the loop makes plain tasks. `start()` puts the job into the line, `_asked`. `_step()` has
      `natives.py` make the native tasks, and each takes its first step as it is made.
    - Otherwise `start()` makes the native task. The loop runs the first step in its next turn.

    *Invariant*: while `_asked` has a job, the loop will call `_step_in_turn()`, or `_step()` runs. Otherwise the job
    never starts.

    :ivar _will_step: True if the loop will call `_step_in_turn()`
    :ivar _is_stepping: True while `_step()` runs. A barrier inside a first step must not call `_step()`: otherwise the
        stack grows with each first step
    :ivar _steps_at_barriers: True if a barrier calls `_step()`, False if it waits for a turn
    :ivar _barriers: the number of barriers since the last turn
    :ivar turn: the number of turns in which jobs in line were asked to start
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
        self.stamp: Callable[[], float] = self.clock
        self.running: Callable[[], object] = partial(task_of, loop)
        self.has_running: Callable[[], object] = self.running
        self._companions: set[Companion] = set()
        self._asked: deque[tuple[Job, str, str, Context]] = deque()
        self._will_step = self._is_stepping = False
        self._steps_at_barriers = gc.isenabled() and 0 < gc.get_threshold()[0] < _MANY
        self._barriers = self.turn = 0
        self._context = copy_context()  # for callbacks: the context of a task would live as long as they wait
        self._is_plain = makes_plain_tasks(self._loop)
        self._make = stepper_of(loop) if self._is_plain else None
        self._can_step = self._is_plain and (HAS_EAGER_TASKS or self._make is not None)
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
        return Companion(self._loop, work, name, self._companions)

    def start_beside(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        Companion(self._loop, work, name, self._companions)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        # No group to open: the runner keeps the tasks, and the drain waits for them.
        self.early = not (self._may_enclose and await can_enclose_here(self._loop))
        self.begins = (self._can_step and self._make is None) or self.early
        yield

    def start(self, job: Job) -> object:
        context: Any = job._context  # (only trio's seam forgets it)
        config = job.config
        if config.is_gated:
            # An attempt changes its context, and the next attempt must find the context as it was. A task that its
            # queue has refused makes a second attempt, too.
            context = context.copy()
        factory = self._loop.get_task_factory()
        # (uvloop 0.23 cannot call the eager factory on Python 3.13.)
        is_plain = self._is_plain if factory is None else is_eager(factory)
        if self._can_step and is_plain:
            if not self._will_step:
                self._step_soon()
            # Find the names now: if that raised in `_step()`, the job would be lost.
            full, short = job._parcel.names or names_of(job.func)
            self._asked.append((job, config.name or full, short, context))
            return None
        self._can_step = False  # for ever: jobs in line would overtake jobs that wait for the loop's next turn
        coro: Any = attempt(job)
        name, coro.__qualname__ = job._parcel.names or names_of(job.func)
        name = config.name or name
        try:
            if is_plain:  # as `create_task()`, but faster
                return NativeTask(coro, loop=self._loop, name=name, context=context)
            native = self._loop.create_task(coro, name=name, context=context)
        except BaseException:
            coro.close()  # otherwise Python warns of it
            raise
        bury_if_missed(native, job)
        if type(native) is not asyncio.Task:  # it may wrap the real native task
            self.begins = True
        return native

    def first_steps(self) -> Awaitable[None]:
        return _nothing() if self._can_step and self._steps_at_barriers and self._have_stepped() else self.turns()

    @coroutine
    def turns(self) -> Generator[None, None, None]:
        try:
            yield  # as `asyncio.sleep(0)`
        except asyncio.CancelledError:
            # The loop has turned. anyio cancels again, at the next checkpoint; asyncio itself does not.
            if not is_cancelled_around():
                raise

    def _have_stepped(self) -> bool:
        """Make the jobs in line take their first steps now. Return False if the barrier must wait for a turn."""
        self._barriers += 1
        if (
            self._is_stepping
            or self._barriers > _BARRIERS
            or _is_deep()
            or sys.exception() is not None  # it would become the `__context__` of the exceptions of the tasks
        ):
            return False
        self._step()
        here = task_of(self._loop)
        # A first step may have cancelled the running task. `turns()` finds out if that was a native cancellation.
        return here is None or not here.cancelling()

    def _step_soon(self) -> None:
        self._loop.call_soon(self._step_in_turn)
        self._will_step = True  # last: close to the recursion limit `call_soon()` raises

    def _step_in_turn(self) -> None:
        self._will_step, self._barriers = False, 0
        self.turn += 1
        self._step()

    def _step(self) -> None:
        was_stepping, self._is_stepping = self._is_stepping, True
        make, asked = self._make, self._asked
        running = None if make is None else task_of(self._loop)
        if running is not None:
            leave_task(self._loop, running)
        try:
            for _ in range(len(asked)):  # not the jobs that these first steps ask to start
                if not asked:
                    break  # a first step has run the loop (nest_asyncio makes that possible), and the loop all others
                job, name, qualname, context = asked.popleft()
                coro: Any = attempt(job)
                coro.__qualname__ = qualname  # asyncio's debug mode, Sentry and aiomonitor show this name
                try:
                    if make is None:  # `begin()` puts the native task into `alive`
                        asyncio.Task(coro, loop=self._loop, name=name, context=context, eager_start=True)  # type: ignore[call-arg]
                    else:
                        make(coro, name, context, job._runner.alive, job)
                except BaseException:
                    _bury_if_new(job, coro)
                    raise
                del job, coro, context  # otherwise a task that fails at once would be a cycle, by `f_back`
        finally:
            if running is not None:
                enter_task(self._loop, running)
            self._is_stepping = was_stepping
            if asked and not self._will_step:
                self._step_soon()

    def begin(self, job: Job) -> None:
        alive = job._runner.alive
        if type(alive[job]) is not asyncio.Task:  # None, or an object of a task factory that may wrap the native task
            alive[job] = task_of(self._loop)
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
        # A signal handler or a finalizer may call this in the middle of asyncio's own `call_at()`, whose heap must not
        # change there. So a callback makes the timer.
        def make_timer() -> None:
            handles.append(self._loop.call_at(when, callback, context=self._context))

        handles = [self._loop.call_soon(make_timer, context=self._context)]
        return lambda: handles[-1].cancel()  # noqa: PLW0108 - by then there may be another handle

    def is_over(self, native: object) -> bool:
        return isinstance(native, asyncio.Future) and native.done()

    def after_first_step(self, callback: Callable[[], object]) -> None:
        if self._is_plain:  # the line of such a loop is first in, first out
            self._loop.call_soon(callback, context=self._context)

    def in_task(self, callback: Callable[[], object]) -> None:
        async def run() -> None:
            callback()

        self.start_beside(run, name="taskphase.callback")

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(callback)


def _bury_if_new(job: Job, coro: Coroutine[Any, Any, None]) -> None:
    """End `job` if an interrupt has come before its first step."""
    if job.status is TaskStatus.STARTING:
        coro.close()
        job._runner.bury(job)


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
