"""A guest run of trio, whose host gives trio one task at a time."""

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
from .tasks_on_trio import Members, OfflineTrio, Queue, Ready, VirtualClock, has_started
from .threads import Crew, Worker

# The most consecutive ticks without a step. trio needs two to wake by I/O.
_MOST_EMPTY_TICKS = 1_000

# Limits of the unwinding: rounds that make each wait raise, and steps in each round. Tasks that survive are dropped.
_ROUNDS = 20
_STEPS_OF_A_ROUND = 2_000


class Simulation:
    """One run on trio.

    trio runs as a guest: each call of the function in `_host` is one *tick*, in which trio runs every task of its run
    queue. The simulation puts its own `Queue` in place of that run queue, and so decides what a tick runs. One turn:

    1. Sort new runnable tasks: tasks of the program are candidates; trio's own tasks, the plumbing, run at once.
    2. If there are candidates, make one step: the policy chooses, the queue contains only this task, and trio ticks.
    3. Otherwise move the time to the next deadline. Without a deadline, this is a deadlock.
    """

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
            trio.socket.set_custom_hostname_resolver(OfflineTrio())
            trio.socket.set_custom_socket_factory(OfflineTrio())
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

    def run(self) -> Any:
        """Run until the main task has ended, and return its result.

        :raises BaseException: of the main task, or the exception that ended the run, for example `Deadlock`
        """
        while self.outcome is None:
            if not self._turn():
                raise Deadlock(self._alive(), self._schedule.steps, self._schedule.now)
        return self.outcome.unwrap()

    def unwind(self) -> None:
        """End all that is alive: first the threads, then the tasks; drop the tasks that survive."""
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
        """Make one turn; return False if there was nothing to do."""
        self._queue.sort()
        self._drain_plumbing()
        if self.outcome is not None:
            return True
        if self._queue.ready:
            self._step(self._schedule.choose(self._queue.ready))
            return True
        return self._let_time_pass()

    def _drain_plumbing(self) -> None:
        """Run trio's own tasks until none is runnable. Exception: the task that makes the calls of threads is a
        candidate.
        """
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
        # After the end of the main task trio itself uses the queue.
        return (
            task.coro.cr_code is queue.task.__code__
            and queue.size() > 0
            and self._runner.main_task in self._members.actors
        )

    def _mail_is_on_its_way(self) -> bool:
        """Return whether a thread has requested a call, but trio's I/O has not noticed the request yet."""
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
                # trio does the same to a task that waits for a foreign awaitable.
                who._next_send_fn, who._next_send = who.coro.throw, fault.make()

    def _let_time_pass(self) -> bool:
        """Wake the tasks in `wait_all_tasks_blocked()`, or move the time to the next timer; return False if there is
        neither.
        """
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

    # Called by workers.

    @property
    def is_unwinding(self) -> bool:
        """Whether the run is over."""
        return self._schedule.unwinding

    def is_mine(self) -> bool:
        """Return whether the running task belongs to this run."""
        return trio.lowlevel.current_root_task() is self._runner.init_task

    def make_runnable(self, worker: Worker) -> None:
        self._queue.ready.append(Ready(worker.actor, worker))

    def at(self, when: float, callback: Callable[[], object]) -> None:
        heappush(self._timers, (when, next(self._timer_numbers), callback))

    # The unwinding.

    def _make_all_raise(self, *, drop: bool) -> None:
        """Make each wait raise `trio.Cancelled`, even a shielded one; the youngest task's first.

        :param drop: close the tasks instead, because they caught the cancellation
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
    """Make trio treat `task` as ended at its next step."""
    if task._next_send_fn is None:
        trio.lowlevel.reschedule(task)
    task._next_send_fn, task._next_send = _stop, task


def _stop(task: Task) -> None:
    try:
        task.coro.close()
    except BaseException:  # noqa: S110
        pass  # the coroutine refuses to end
    raise StopIteration


@contextmanager
def _inside_trio() -> Generator[None]:
    """Let user code that runs between two ticks see that it runs in trio."""
    before, sniffio.thread_local.name = sniffio.thread_local.name, "trio"
    try:
        yield
    finally:
        sniffio.thread_local.name = before
