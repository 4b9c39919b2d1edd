"""An asyncio event loop without a selector, which runs one task at a time."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from heapq import heappop, heappush
from itertools import count
from threading import get_ident
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from .errors import Blocked, Deadlock, ForeignBlock, Livelock, stack_of
from .faults import Call, Cancel
from .privates import AnyioOnAsyncio, Steps
from .real_time import Offline
from .record import MAIL, Actor
from .schedule import OutOfSteps, Schedule
from .tasks_on_asyncio import Interceptor, SimulatedTask, coro_of, drop, ending_of, has_started, intercepted, settle
from .threads import Crew, Worker, is_over

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# The most callbacks between two steps. A callback that schedules itself for ever is a livelock.
_MOST_PLUMBING = 100_000

# Limits of the unwinding: rounds that cancel all living tasks, steps in each round. Tasks that survive are dropped.
_ROUNDS, _STEPS_OF_A_ROUND = 20, 2_000


class Ready(NamedTuple):
    """A candidate: its actor, the function that makes the step, and the task, if any."""

    actor: Actor
    run: Callable[[], None]
    task: asyncio.Task[Any] | None


class SimulatedLoop(Offline, asyncio.BaseEventLoop):
    """A loop whose turn runs all plumbing, then makes one step of the task that the policy chooses. Without a runnable
    task the turn moves the time to the next timer. Plumbing is every callback that is not a step of a task.
    anyio repeats the delivery of a cancellation in each turn. As plumbing, that would never end. So deliveries run once
    between two steps, after the plumbing; more than one delivery could have no further effect.
    """

    def __init__(self, schedule: Schedule, steps: Steps, anyio: AnyioOnAsyncio, patience: float) -> None:
        super().__init__()
        self._schedule = schedule
        self._task_of = steps.task_of
        self.anyio = anyio
        self.crew = Crew(schedule, self, patience)
        self._owner = get_ident()
        self._runnable: list[Ready] = []
        self._plumbing: deque[asyncio.Handle] = deque()
        self._deliveries: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_numbers = count()
        self._mail: deque[asyncio.Handle] = deque()
        self._mailbox = Ready(MAIL, self._read_mail, None)
        self._living: dict[asyncio.Task[Any], Actor] = {}
        self._is_over: Callable[[], bool] = bool
        self._context = Context()

    # Called by asyncio.

    def time(self) -> float:
        return self._schedule.now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        task = self._task_of(callback)
        if task is not None:
            actor = task.actor if type(task) is SimulatedTask else self._adopt(task)
            self._runnable.append(Ready(actor, handle._run, task))
        elif getattr(callback, "__func__", None) is self.anyio.deliver:
            self._deliveries.append(handle)
        else:
            self._plumbing.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if get_ident() == self._owner:
            return self.call_soon(callback, *args, context=context)
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._mail.append(handle)
        if len(self._mail) == 1:
            self._runnable.append(self._mailbox)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if when < math.inf:
            heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def create_task(  # type: ignore[override]  # typeshed has one signature a Python version
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        if self.get_task_factory() is not None:
            return super().create_task(coro, name=name, context=context, **options)
        interceptor = None
        if self._schedule.throws and asyncio.iscoroutine(coro):
            interceptor = Interceptor(coro)
            coro = intercepted(interceptor)
        inner: Any = coro if interceptor is None else interceptor.coro
        actor = self._schedule.spawn(str(name or getattr(inner, "__qualname__", "task")))
        # asyncio numbers the tasks of the whole process; a program could see these numbers, so each run uses its own.
        name = name or f"Task-{actor.number}"
        task = SimulatedTask(actor, coro, loop=self, name=name, context=context, **options)
        task.interceptor = interceptor
        if not task.done():
            self._living[task] = actor
        return task

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            value: T | None = None
            error: BaseException | None = None
            try:
                value = func(*args)
            except BaseException as exc:
                error = exc
            if not is_over():
                self.call_soon_threadsafe(settle, future, value, error)

        self.crew.hire(func, work)
        return future

    def _run_once(self) -> None:
        self._run_plumbing()
        if self._is_over():
            self.stop()
        elif self._runnable:
            self._step(self._schedule.choose(self._runnable))
        elif not self._let_time_pass():
            if not self._schedule.unwinding:
                raise Deadlock(self._alive(), self._schedule.steps, self._schedule.now)
            self.stop()

    # One turn.

    def _adopt(self, task: asyncio.Task[Any]) -> Actor:
        """Return the actor of a task that was made without the `create_task()` of the loop."""
        actor = self._living.get(task)
        if actor is None:
            actor = self._living[task] = self._schedule.spawn(task.get_name())
        return actor

    def _run_plumbing(self) -> None:
        self._pump()
        if self._deliveries:
            deliveries, self._deliveries = self._deliveries, []
            for handle in deliveries:
                if not handle.cancelled():
                    handle._run()
            self._pump()

    def _pump(self) -> None:
        for _ in range(_MOST_PLUMBING):
            if not self._plumbing:
                return
            handle = self._plumbing.popleft()
            if not handle.cancelled():
                handle._run()
        if self._schedule.unwinding:
            self._plumbing.clear()
        else:
            raise self._livelock()

    def _step(self, choice: int) -> None:
        actor, run, task = self._runnable[choice]
        try:
            self._schedule.begin_step(actor, choice, len(self._runnable))
        except OutOfSteps:
            raise self._livelock() from None
        if self._schedule.faults_are_due:
            for fault in self._schedule.due(is_task=task is not None, has_started=task is None or has_started(task)):
                self._inject(fault, task)
        del self._runnable[choice]
        run()
        if task is not None and task.done():
            self._ended(task, actor)

    def _ended(self, task: asyncio.Task[Any], actor: Actor) -> None:
        self._living.pop(task, None)
        self._schedule.note("end", actor, ending_of(task))

    def _inject(self, fault: Any, task: asyncio.Task[Any] | None) -> None:
        if isinstance(fault, Call):
            try:
                self._context.copy().run(fault.func)
            except BaseException as exc:
                self._schedule.park(exc)
        elif isinstance(fault, Cancel):
            assert task is not None
            scope = None if fault.native else self.anyio.scope_of(task)
            (task if scope is None else scope).cancel()
        elif isinstance(task, SimulatedTask) and task.interceptor is not None:
            task.interceptor.error = fault.make()

    def _let_time_pass(self) -> bool:
        """Move the time to the next timer; return False if there is none."""
        while self._timers and self._timers[0][2].cancelled():
            heappop(self._timers)
        if not self._timers:
            return False
        self._schedule.move_time(self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._schedule.now:
            self._plumbing.append(heappop(self._timers)[2])
        return True

    def _alive(self) -> list[Blocked]:
        tasks = [Blocked(actor.label, stack_of(coro_of(task))) for task, actor in self._living.items()]
        return [*tasks, *self.crew.blocked()]

    def _livelock(self) -> Livelock:
        return Livelock(self._alive(), self._schedule.steps, self._schedule.now)

    def _read_mail(self) -> None:
        handle = self._mail.popleft()
        if self._mail:
            self._runnable.append(self._mailbox)
        handle._run()

    # Called by workers.

    def make_runnable(self, worker: Worker) -> None:
        self._runnable.append(Ready(worker.actor, worker.step, None))

    def at(self, when: float, callback: Callable[[], object]) -> None:
        self.call_at(when, callback)

    # One run.

    def run(self, main: Coroutine[Any, Any, Any], name: str, context: Context) -> Any:
        """Run `main` to its end, and return its result.

        :raises BaseException: of `main`, or the exception that ended the run, for example `Deadlock`
        """
        self._context = context.copy()
        task = self.create_task(main, name=name, context=context)
        self._is_over = task.done
        self.run_forever()
        return task.result()

    def unwind(self) -> None:
        """End all threads and tasks, and close the loop. A task that survives all rounds of cancelling is dropped."""
        self.crew.unwind()
        self._runnable = [ready for ready in self._runnable if ready.task is not None]
        self._plumbing.extend(self._mail)
        self._mail.clear()
        left = list(self._living)
        for _ in range(_ROUNDS):
            if not self._living:
                break
            for task in reversed(list(self._living)):
                if has_started(task):  # otherwise the coroutine inside anyio's wrapper would never be awaited
                    task.cancel()
            self._run_on(lambda: not self._living)
        self._run_on(self.create_task(self.shutdown_asyncgens()).done)
        self.crew.unwind()
        for task in dict.fromkeys((*left, *self._living)):
            drop(task)
        self.close()

    def _run_on(self, is_over: Callable[[], bool]) -> None:
        """Run until `is_over()`, until nothing can run and no timer is set, or until the round has no steps left."""
        left = count(_STEPS_OF_A_ROUND, -1)
        self._is_over = lambda: is_over() or next(left) <= 0
        try:
            self.run_forever()
        except (ForeignBlock, KeyboardInterrupt, SystemExit):
            pass  # the run is over, and its result is known
