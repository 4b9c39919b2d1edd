"""trio: a guest run, whose host hands it one task at a time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Any

import outcome
import sniffio
import trio
from trio.lowlevel import Task

from .errors import Blocked, Deadlock, ForeignBlock, Livelock, stack_of
from .faults import Call, Cancel
from .privates import PrivateChanged, trio_runner
from .record import MAIL
from .schedule import OutOfSteps, Schedule
from .tasks_on_trio import Members, Queue, Ready, VirtualClock, has_started
from .threads import Crew, Worker

# Ticks in which nothing steps, one after the other: trio needs two to wake by I/O.
_MOST_EMPTY_TICKS = 1_000

# Of the unwinding: rounds of making each wait raise, and steps in each. Who survives that is dropped.
_ROUNDS = 20
_STEPS_OF_A_ROUND = 2_000


class Simulation:
    """One run on trio, from its start."""

    def __init__(self, schedule: Schedule, main: Callable[[], Any], name: str, patience: float) -> None:
        self._schedule = schedule
        self._members = Members(schedule)
        self.crew = Crew(schedule, self, patience)
        self._host: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = count()
        self._empty_ticks = 0
        self.outcome: outcome.Outcome[Any] | None = None
        self._is_broken = False

        async def call() -> Any:
            return None if self._is_broken else await main()

        call.__qualname__ = name
        trio.lowlevel.start_guest_run(
            call,
            run_sync_soon_threadsafe=self._host.append,
            done_callback=self._done,
            host_uses_signal_set_wakeup_fd=True,
            clock=VirtualClock(schedule),
            instruments=[self._members],
        )
        try:
            self._runner = trio_runner()
        except PrivateChanged:
            self._is_broken = True
            while self.outcome is None:
                self._host.popleft()()
            raise
        self._queue = Queue(self._members)
        for task in self._runner.runq:
            self._queue.append(task)
        self._runner.runq = self._queue
        self._queue.sort()
        self._drain_plumbing()

    def _done(self, result: outcome.Outcome[Any]) -> None:
        self.outcome = result

    def run(self) -> None:
        """Run to the end of the main task, whose result is `outcome` then.

        :raises BaseException: what ended the run otherwise
        """
        while self.outcome is None:
            if not self._turn():
                raise Deadlock(self._alive(), self._schedule.steps, self._schedule.now)

    def unwind(self) -> None:
        """Bring everything to its end that is still alive."""
        self.crew.unwind()
        self._queue.ready = [ready for ready in self._queue.ready if isinstance(ready.who, Task)]
        rounds = 0
        while self.outcome is None and rounds < 2 * _ROUNDS:
            rounds += 1
            self._make_all_raise(drop=rounds > _ROUNDS)
            for _ in range(_STEPS_OF_A_ROUND):
                try:
                    if self.outcome is not None or not self._turn():
                        break
                except ForeignBlock:
                    pass
        self.crew.unwind()

    # One turn.

    def _turn(self) -> bool:
        """Do the next thing; return whether there was one."""
        self._queue.sort()
        self._drain_plumbing()
        if self.outcome is not None:
            return True
        if self._queue.ready:
            self._step(self._schedule.choose(self._queue.ready))
            return True
        return self._let_time_pass()

    def _drain_plumbing(self) -> None:
        """Let trio's own tasks run until none can, except for the one that calls what threads have asked for."""
        while self.outcome is None:
            if self._queue.plumbing:
                task = self._queue.plumbing.pop(0)
                if self._is_mail(task):
                    self._queue.ready.append(Ready(MAIL, task))
                    continue
                self._queue.pick(task)
            elif not self._mail_is_on_its_way():
                return
            self._tick()

    def _is_mail(self, task: Task) -> bool:
        queue = self._runner.entry_queue
        # Once the main task has ended it is trio itself that uses the queue.
        return (
            task.coro.cr_code is queue.task.__code__
            and queue.size() > 0
            and self._runner.main_task in self._members.actors
        )

    def _mail_is_on_its_way(self) -> bool:
        """Tell whether trio has not noticed yet, by its own I/O, that a thread has asked for something."""
        if not self._runner.entry_queue.size() or any(ready.actor is MAIL for ready in self._queue.ready):
            self._empty_ticks = 0
            return False
        self._empty_ticks += 1
        return self._empty_ticks < _MOST_EMPTY_TICKS

    def _tick(self) -> None:
        self._host.popleft()()
        self._queue.sort()

    def _step(self, choice: int) -> None:
        ready = self._queue.ready
        actor, who = ready[choice]
        try:
            self._schedule.begin_step(actor, choice, len(ready))
        except OutOfSteps:
            raise Livelock(self._alive(), self._schedule.steps, self._schedule.now) from None
        is_task = isinstance(who, Task) and actor is not MAIL
        if self._schedule.faults_are_due:
            for fault in self._schedule.due(is_task=is_task, has_started=not is_task or has_started(who)):
                self._inject(fault, who)
        del ready[choice]
        if isinstance(who, Worker):
            who.step()
        else:
            self._queue.pick(who)
            self._tick()

    def _inject(self, fault: Any, who: Any) -> None:
        with _inside_trio():
            if isinstance(fault, Call):
                try:
                    fault.func()
                except BaseException as exc:
                    self._schedule.park(exc)
            elif isinstance(fault, Cancel):
                who._cancel_status._scope.cancel()
            else:
                # As trio does with a task that waits for something which is not trio's.
                who._next_send_fn, who._next_send = who.coro.throw, fault.make()

    def _let_time_pass(self) -> bool:
        """Wake who waits for everybody else to be blocked, else move time on to the next timer."""
        runner = self._runner
        if runner.waiting_for_idle:
            cushion = runner.waiting_for_idle.keys()[0][0]
            for key in [key for key in runner.waiting_for_idle if key[0] == cushion]:
                trio.lowlevel.reschedule(runner.waiting_for_idle.pop(key))
            return True
        deadline = runner.deadlines.next_deadline()
        when = min(deadline, self._timers[0][0] if self._timers else math.inf)
        if when == math.inf:
            return False
        self._schedule.move_time(when)
        while self._timers and self._timers[0][0] <= self._schedule.now:
            heappop(self._timers)[2]()
        if deadline <= self._schedule.now:
            self._tick()
        return True

    def _alive(self) -> list[Blocked]:
        tasks = [Blocked(actor.label, stack_of(task.coro)) for task, actor in self._members.actors.items()]
        return [*tasks, *self.crew.blocked()]

    # What workers ask of it.

    @property
    def is_unwinding(self) -> bool:
        """Whether the run is over."""
        return self._schedule.unwinding

    def is_mine(self) -> bool:
        """Tell whether the running task belongs to this run."""
        return trio.lowlevel.current_root_task() is self._runner.init_task

    def make_runnable(self, worker: Worker) -> None:
        self._queue.ready.append(Ready(worker.actor, worker))

    def at(self, when: float, callback: Callable[[], object]) -> None:
        heappush(self._timers, (when, next(self._timer_numbers), callback))

    # The unwinding.

    def _make_all_raise(self, *, drop: bool) -> None:
        """Have each wait raise `trio.Cancelled`, shielded or not, the youngest task's first.

        :param drop: end the tasks as they are instead, because they would not
        """
        with _inside_trio():
            main = self._runner.main_task
            main.parent_nursery.cancel_scope.cancel()
            tasks: list[Any] = list(self._members.actors)
            for task in reversed(tasks):
                if drop:
                    _drop(task)
                elif task._abort_func is not None:
                    task._attempt_abort(_raise_cancelled)


def _raise_cancelled() -> Any:
    raise trio.Cancelled._create(source="unknown", reason="the simulation is over")


def _drop(task: Any) -> None:
    """Have trio take `task` for ended at its next step."""
    if task._next_send_fn is None:
        trio.lowlevel.reschedule(task)
    task._next_send_fn, task._next_send = _stop, task


def _stop(task: Task) -> None:
    try:
        task.coro.close()
    except BaseException:  # noqa: S110
        pass  # it will not end, whatever happens to it
    raise StopIteration


@contextmanager
def _inside_trio() -> Generator[None]:
    """Have code of others, called between two ticks, find itself in trio."""
    before, sniffio.thread_local.name = sniffio.thread_local.name, "trio"
    try:
        yield
    finally:
        sniffio.thread_local.name = before
