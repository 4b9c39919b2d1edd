"""An asyncio event loop without a selector, which runs one task at a time."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import Context, copy_context
from functools import partial
from heapq import heappop, heappush
from itertools import count
from threading import get_ident
from typing import Any, TypeVar, TypeVarTuple

from ..._machine.calling import names_of
from .errors import ForeignBlock
from .loop import ROUNDS, STEPS_OF_A_ROUND, Loop, Ready
from .offline import Offline
from .privates import asyncio_steps, enter_library
from .record import MAIL, Actor
from .schedule import Schedule
from .tasks_on_asyncio import Interceptor, SimulatedTask, drop, ending_of, intercepted, settle
from .threads import is_over

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# The most callbacks between two steps. A callback that schedules itself for ever is a livelock.
_MOST_PLUMBING = 100_000


class SimulatedLoop(Loop, Offline, asyncio.BaseEventLoop):
    """A loop whose turn runs all plumbing, then makes one step of the task that the policy chooses. Without a runnable
    task the turn moves the time to the next timer. Plumbing is every callback that is not a step of a task.
    anyio repeats the delivery of a cancellation in each turn. As plumbing, that would never end. So deliveries run once
    between two steps, after the plumbing; more than one delivery could have no further effect.
    """

    def __init__(
        self, schedule: Schedule, main: Callable[[], Awaitable[Any]], name: str, patience: float, anyio: Any
    ) -> None:
        super().__init__(schedule, patience)
        asyncio.BaseEventLoop.__init__(self)
        self._main = main
        self._name = name
        self._task_of = asyncio_steps().task_of
        self._deliver = anyio.CancelScope._deliver_cancellation
        self._task_states = anyio._task_states
        self._owner = get_ident()
        self._plumbing: deque[asyncio.Handle] = deque()
        self._deliveries: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_numbers = count()
        self._mail: deque[asyncio.Handle] = deque()
        self._mailbox = Ready(MAIL, self._read_mail)
        self._is_over: Callable[[], bool] = bool
        self._context = copy_context()
        self._context.run(enter_library, "asyncio")

    # Called by asyncio.

    def time(self) -> float:
        return self.schedule.now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_open()
        handle = asyncio.Handle(callback, args, self, context)
        task = self._task_of(callback)
        if task is not None:
            actor = task.actor if type(task) is SimulatedTask else self._adopt(task)
            self.candidates.append(Ready(actor, partial(self._run_task, handle, task, actor), task))
        elif getattr(callback, "__func__", None) is self._deliver:
            self._deliveries.append(handle)
        else:
            self._plumbing.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if get_ident() == self._owner:
            return self.call_soon(callback, *args, context=context)
        self._check_open()
        handle = asyncio.Handle(callback, args, self, context)
        self._mail.append(handle)
        if len(self._mail) == 1:
            self.candidates.append(self._mailbox)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_open()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if when < math.inf:
            heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def create_task(  # type: ignore[override]  # typeshed has one signature a Python version
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        if self.get_task_factory() is not None:
            return super().create_task(coro, name=name, context=context, **options)
        actor = self.schedule.spawn(str(name or getattr(coro, "__qualname__", "task")))
        # asyncio numbers the tasks of the whole process; a program could see these numbers, so each run uses its own.
        name = name or f"Task-{actor.number}"
        interceptor = None
        if self.schedule.throws and asyncio.iscoroutine(coro):
            interceptor = Interceptor(coro)
            coro = intercepted(interceptor)
        task = SimulatedTask(actor, coro, loop=self, name=name, context=context, **options)
        task.interceptor = interceptor
        if not task.done():
            self.living[task] = actor
        return task

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        return self.in_worker(func, lambda: func(*args))

    def in_worker(self, func: Callable[..., object], call: Callable[[], T]) -> asyncio.Future[T]:
        """Return the result of `call()` in a worker. `func`: gives the worker its name."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            value: T | None = None
            error: BaseException | None = None
            if future.cancelled():
                return
            try:
                value = call()
            except BaseException as exc:
                error = exc
            if not is_over():
                self.call_soon_threadsafe(settle, future, value, error)

        self.hire(names_of(func)[1], work)
        return future

    def _run_once(self) -> None:
        self._run_plumbing()
        if self._is_over():
            self.stop()
        elif self.candidates:
            self.step()
        elif not self._let_time_pass():
            if not self.schedule.unwinding:
                raise self.deadlock()
            self.stop()

    def _check_open(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    # One turn.

    def _adopt(self, task: asyncio.Task[Any]) -> Actor:
        """Return the actor of a task that was made without the `create_task()` of the loop."""
        actor = self.living.get(task)
        if actor is None:
            actor = self.living[task] = self.schedule.spawn(task.get_name())
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
        if self.schedule.unwinding:
            self._plumbing.clear()
        else:
            raise self.livelock()

    def _run_task(self, handle: asyncio.Handle, task: asyncio.Task[Any], actor: Actor) -> None:
        handle._run()
        if task.done():
            self.living.pop(task, None)
            self.schedule.note("end", actor, ending_of(task))

    def coro_of(self, task: asyncio.Task[Any]) -> Any:
        interceptor = getattr(task, "interceptor", None)
        return task.get_coro() if interceptor is None else interceptor.coro

    def _call(self, func: Callable[[], object]) -> None:
        self._context.copy().run(func)

    def _cancel(self, task: asyncio.Task[Any], *, native: bool) -> None:
        state = None if native else self._task_states.get(task)
        (task if state is None or state.cancel_scope is None else state.cancel_scope).cancel()

    def _throw(self, task: asyncio.Task[Any], error: BaseException) -> None:
        if isinstance(task, SimulatedTask) and task.interceptor is not None:
            task.interceptor.error = error

    def _let_time_pass(self) -> bool:
        """Move the time to the next timer; return False if there is none."""
        while self._timers and self._timers[0][2].cancelled():
            heappop(self._timers)
        if not self._timers:
            return False
        self.schedule.move_time(self._timers[0][0])
        while self._timers and self._timers[0][0] <= self.schedule.now:
            self._plumbing.append(heappop(self._timers)[2])
        return True

    def _read_mail(self) -> None:
        handle = self._mail.popleft()
        if self._mail:
            self.candidates.append(self._mailbox)
        handle._run()

    # Called by workers.

    def at(self, when: float, callback: Callable[[], object]) -> None:
        self.call_at(when, callback)

    # One run.

    def run(self) -> Any:
        async def main() -> Any:
            return await self._main()

        task = self.create_task(main(), name=self._name, context=self._context.copy())
        self._is_over = task.done
        self.run_forever()
        return task.result()

    def unwind(self) -> None:
        self._context.copy().run(self._unwind)

    def _unwind(self) -> None:
        self.end_workers()
        left = list(self.living)
        for _ in range(ROUNDS):
            if not self.living:
                break
            for task in reversed(list(self.living)):
                if self.has_started(task):  # otherwise the coroutine inside anyio's wrapper would never be awaited
                    task.cancel()
            self._run_on(lambda: not self.living)
        self._run_on(self.create_task(self.shutdown_asyncgens()).done)
        self.end_workers()
        for task in dict.fromkeys((*left, *self.living)):
            drop(task, self.coro_of(task))
        self.close()

    def _run_on(self, is_over: Callable[[], bool]) -> None:
        """Run until `is_over()`, until nothing can run and no timer is set, or until the round has no steps left."""
        left = count(STEPS_OF_A_ROUND, -1)
        self._is_over = lambda: is_over() or next(left) <= 0
        try:
            self.run_forever()
        except (ForeignBlock, KeyboardInterrupt, SystemExit):
            pass  # the run is over, and its result is known
