"""A guest run of trio, whose host gives trio one task at a time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

import outcome
import sniffio
import trio._core._run
from trio.lowlevel import Task

from .errors import ForeignBlock
from .loop import ROUNDS, STEPS_OF_A_ROUND, Loop, Ready
from .offline import refuse_network
from .record import MAIL
from .schedule import Schedule


class Simulation(Loop, trio.abc.Instrument):
    """One run on trio.

    trio runs as a guest: each call of the function in `_host` is one *tick*, in which trio runs every task of its run
    queue. The simulation puts its own queue in place of that run queue, and so decides what a tick runs. One turn:

    1. Sort new runnable tasks: tasks of the program are candidates; trio's own tasks, the plumbing, run at once.
    2. If there are candidates, make one step: the policy chooses, the queue contains only this task, and trio ticks.
    3. Otherwise move the time to the next deadline. Without a deadline, this is a deadlock.
    """

    def __init__(self, schedule: Schedule, main: Callable[[], Any], name: str, patience: float) -> None:
        super().__init__(schedule, patience)
        self._host: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = count()
        self._plumbing: deque[Task] = deque()
        self._init: Task | None = None
        self._has_main = False
        self.outcome: outcome.Outcome[Any] | None = None

        async def call() -> Any:
            trio.socket.set_custom_hostname_resolver(_Offline())
            trio.socket.set_custom_socket_factory(_Offline())
            return await main()

        call.__qualname__ = name
        trio.lowlevel.start_guest_run(
            call,
            run_sync_soon_threadsafe=self._host.append,
            done_callback=self._done,
            host_uses_signal_set_wakeup_fd=True,
            clock=_VirtualClock(schedule),
            instruments=[self],
        )
        context: Any = trio._core._run.GLOBAL_RUN_CONTEXT
        self._runner = context.runner
        self._queue = _Queue(self._runner.runq)
        self._runner.runq = self._queue

    # Called by trio. Its own tasks have no actor.

    def task_spawned(self, task: Task) -> None:
        nursery = task.parent_nursery
        if nursery is None:
            self._init = task
        elif nursery.parent_task is not self._init or not self._has_main:  # the first child of the init task is main
            self._has_main = True
            self.living[task] = self.schedule.spawn(task.name)

    def task_exited(self, task: Task) -> None:
        actor = self.living.pop(task, None)
        if actor is not None:
            self.schedule.note("end", actor)

    def _done(self, result: outcome.Outcome[Any]) -> None:
        self.outcome = result

    def run(self) -> Any:
        while self.outcome is None:
            if not self._turn():
                raise self.deadlock()
        return self.outcome.unwrap()

    def unwind(self) -> None:
        self.end_workers()
        rounds = 0
        while self.outcome is None and rounds < 2 * ROUNDS:
            rounds += 1
            self._make_all_raise(drop=rounds > ROUNDS)
            for _ in range(STEPS_OF_A_ROUND):
                try:
                    if self.outcome is not None or not self._turn():
                        break
                except ForeignBlock:
                    pass
        self.end_workers()

    # One turn.

    def _turn(self) -> bool:
        """Make one turn; return False if there was nothing to do."""
        self._sort()
        self._drain_plumbing()
        if self.outcome is not None:
            return True
        if self.candidates:
            self.step()
            return True
        return self._let_time_pass()

    def _drain_plumbing(self) -> None:
        """Run trio's own tasks until none is runnable. Exception: the task that makes the calls of threads is a
        candidate.
        """
        while self.outcome is None:
            if self._plumbing:
                task = self._plumbing.popleft()
                if self._is_mail(task):
                    self.candidates.append(Ready(MAIL, partial(self._run_task, task)))
                else:
                    self._run_task(task)
            elif self._mail_is_on_its_way():
                self._tick()
            else:
                return

    def _is_mail(self, task: Task) -> bool:
        queue = self._runner.entry_queue
        # After the end of the main task trio itself uses the queue.
        return task.coro.cr_code is queue.task.__code__ and queue.size() > 0 and self._runner.main_task in self.living

    def _mail_is_on_its_way(self) -> bool:
        """Return whether a thread has requested a call, but trio's I/O has not noticed the request yet."""
        return self._runner.entry_queue.size() > 0 and not any(ready.actor is MAIL for ready in self.candidates)

    def _tick(self) -> None:
        self._host.popleft()()
        self._sort()

    def _sort(self) -> None:
        """Sort new runnable tasks into candidates and plumbing.

        Tasks that became runnable in the same step are in the order of spawning: trio wakes them in the order of a set,
        which is random.
        """
        tasks = sorted(self._queue.fresh, key=lambda task: task._counter)
        self._queue.fresh.clear()
        for task in tasks:
            actor = self.living.get(task)
            if actor is None:
                self._plumbing.append(task)
            else:
                self.candidates.append(Ready(actor, partial(self._run_task, task), task))

    def _run_task(self, task: Task) -> None:
        self._queue.pick(task)
        self._tick()

    def coro_of(self, task: Task) -> Any:
        return task.coro

    def _call(self, func: Callable[[], object]) -> None:
        with _inside_trio():
            func()

    def _cancel(self, task: Any, *, native: bool) -> None:  # noqa: ARG002
        with _inside_trio():
            task._cancel_status._scope.cancel()

    def _throw(self, task: Any, error: BaseException) -> None:
        # trio does the same to a task that waits for a foreign awaitable.
        task._next_send_fn, task._next_send = task.coro.throw, error

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
        self.schedule.move_time(when)
        while self._timers and self._timers[0][0] <= self.schedule.now:
            heappop(self._timers)[2]()
        if deadline <= self.schedule.now:
            self._tick()
        return True

    # Called by workers.

    def is_mine(self) -> bool:
        """Return whether the running task belongs to this run."""
        return trio.lowlevel.current_root_task() is self._init

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
            tasks: list[Any] = list(self.living)
            for task in reversed(tasks):
                if drop:
                    _drop(task)
                elif task._abort_func is not None:
                    task._attempt_abort(raise_cancelled)


def raise_cancelled() -> Any:
    """Cancel a task when the run is over."""
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


class _Queue(list[Task]):
    """Replaces trio's run queue. trio finds only the picked task in it.

    :ivar fresh: new runnable tasks
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        super().__init__()
        self.fresh: list[Any] = list(tasks)

    def append(self, task: Task) -> None:
        self.fresh.append(task)

    def pick(self, task: Task) -> None:
        """Let trio run `task` at its next tick."""
        super().append(task)


class _VirtualClock(trio.abc.Clock):
    """The schedule's time. trio never sleeps: the host decides when trio continues."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._schedule.now

    def deadline_to_sleep_time(self, deadline: float) -> float:  # noqa: ARG002
        return 0


class _Offline(trio.abc.HostnameResolver, trio.abc.SocketFactory):
    """Refuses sockets of trio, which would wait for ever."""

    getaddrinfo: Any = refuse_network
    getnameinfo: Any = refuse_network
    socket: Any = refuse_network


@contextmanager
def _inside_trio() -> Generator[None]:
    """Let user code that runs between two ticks see that it runs in trio."""
    before, sniffio.thread_local.name = sniffio.thread_local.name, "trio"
    try:
        yield
    finally:
        sniffio.thread_local.name = before
