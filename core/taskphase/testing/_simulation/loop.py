"""What both event loops share: candidates, steps, faults, and worker threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, NamedTuple

from .errors import Blocked, Deadlock, Livelock, stack_of
from .faults import Call, Cancel, Fault
from .record import Actor
from .schedule import Schedule
from .threads import Worker

# Limits of the unwinding: rounds that cancel all living tasks, steps in each round. Tasks that survive are dropped.
ROUNDS = 20
STEPS_OF_A_ROUND = 2_000


class Ready(NamedTuple):
    """A candidate: its actor, the function that makes the step, and the task, if any."""

    actor: Actor
    run: Callable[[], object]
    task: Any = None


class Loop(ABC):
    """An event loop that runs one task, or one worker, at a time.

    :param patience: the most real seconds of a worker for one step
    :ivar candidates: all that can step, the oldest first
    :ivar living: the tasks of the program that have not ended
    :ivar workers: the worker threads that have not ended
    """

    def __init__(self, schedule: Schedule, patience: float) -> None:
        self.schedule = schedule
        self.patience = patience
        self.candidates: list[Ready] = []
        self.living: dict[Any, Actor] = {}
        self.workers: dict[Worker, None] = {}

    @abstractmethod
    def run(self) -> Any:
        """Run the main function to its end, and return its result.

        :raises BaseException: of the main function, or the exception that ended the run, for example `Deadlock`
        """

    @abstractmethod
    def unwind(self) -> None:
        """End all that is alive: first the threads, then the tasks. A task that survives all rounds is dropped."""

    # Worker threads. Called while nothing else runs, from any thread.

    def hire(self, name: str, call: Callable[[], None], give_up: Callable[[], object] | None = None) -> Worker:
        """Return a new worker, which runs `call` when it is chosen.

        :param name: the name in the trace
        :param give_up: called in the event loop's thread if the run is over before the end of `call`
        """
        worker = Worker(self, self.schedule.spawn(name), call, give_up)
        self.workers[worker] = None
        self.make_runnable(worker)
        return worker

    def make_runnable(self, worker: Worker) -> None:
        """Make `worker` a candidate for the next step."""
        self.candidates.append(Ready(worker.actor, worker.step))

    @abstractmethod
    def at(self, when: float, callback: Callable[[], object]) -> None:
        """Call `callback` at the virtual time `when`."""

    def end_workers(self) -> None:
        """End all threads: each parked worker raises. A thread that waits for something outside of the simulation is
        left alone.
        """
        for worker in list(self.workers):
            worker.unwind()
        self.workers.clear()

    # Steps.

    def step(self) -> None:
        """Make the step of the candidate that the policy chooses.

        :raises Livelock: if there are no steps left
        """
        choice = self.schedule.choose(self.candidates)
        actor, run, task = self.candidates[choice]
        if self.schedule.is_out_of_steps:
            raise self.livelock()
        self.schedule.begin_step(actor, choice, len(self.candidates))
        if self.schedule.faults_are_due:
            has_started = task is not None and self.has_started(task)
            for fault in self.schedule.due(is_task=task is not None, has_started=has_started):
                self._inject(fault, task)
        del self.candidates[choice]
        run()

    def _inject(self, fault: Fault, task: Any) -> None:
        if isinstance(fault, Call):
            try:
                self._call(fault.func)
            except BaseException as exc:
                self.schedule.park(exc)
        elif isinstance(fault, Cancel):
            self._cancel(task, native=fault.native)
        else:
            self._throw(task, fault.make())

    @abstractmethod
    def coro_of(self, task: Any) -> Any:
        """Return the coroutine of `task`."""

    def has_started(self, task: Any) -> bool:
        """Return whether `task` has taken its first step."""
        coro = self.coro_of(task)
        # asyncio also makes a task of the `aclose()` of an async generator, which has no state.
        return not iscoroutine(coro) or getcoroutinestate(coro) != CORO_CREATED

    @abstractmethod
    def _call(self, func: Callable[[], object]) -> None:
        """Call `func` outside of any task."""

    @abstractmethod
    def _cancel(self, task: Any, *, native: bool) -> None:
        """Cancel the innermost cancel scope around `task`, or with `native` the task."""

    @abstractmethod
    def _throw(self, task: Any, error: BaseException) -> None:
        """Have the wait of `task` raise `error`."""

    # Ends.

    def deadlock(self) -> Deadlock:
        return Deadlock(self._alive(), self.schedule.steps, self.schedule.now)

    def livelock(self) -> Livelock:
        return Livelock(self._alive(), self.schedule.steps, self.schedule.now)

    def _alive(self) -> list[Blocked]:
        tasks = [Blocked(actor.label, stack_of(self.coro_of(task))) for task, actor in self.living.items()]
        return [*tasks, *(worker.blocked() for worker in self.workers)]
