"""The real runner and scheduler, driven event by event without an event loop, beside the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup

from property_tests import model
from property_tests.agreement import agree
from property_tests.program_model import Event, Fate, Kind, What, World
from taskphase import Limit, Scope, Task, TaskConfig, TasksClosedError, TasksSaturatedError
from taskphase._drive.gates import Line
from taskphase._drive.job import JOB, move
from taskphase._drive.runner import Runner
from taskphase._machine import dispatch, drain
from taskphase._machine.config import UNSET
from taskphase._machine.dispatch import Outcome
from taskphase._machine.drain import DrainEvent, Sweep
from taskphase._machine.life import LifeEvent, TaskStatus
from taskphase._machine.scope import ScopeEvent
from taskphase._machine.table import IllegalEvent

S = TaskStatus


class _Scope:
    """The scope of a task without code."""

    def cancel(self) -> None: ...


class FakeLoop:
    """A seam that starts nothing. It notes the jobs that should start, and the calls that threads have requested."""

    cancelled: type[BaseException] = KeyboardInterrupt
    in_order = True
    turn = 0
    event = anyio.Event

    def __init__(self) -> None:
        self.thread = get_ident()
        self.clock = self.stamp = lambda: 0.0
        self.starts: list[object] = []
        self.calls: list[Callable[[], object]] = []

    def is_here(self) -> bool:
        return get_ident() == self.thread

    runs_here = is_here

    def check_loop(self) -> None: ...

    def running(self) -> object:
        return self if self.is_here() else None

    has_running = running

    def start(self, job: object) -> object:
        self.starts.append(job)
        return job

    def enclose(self, _native: object) -> object:
        return _Scope()

    def call_at(self, _when: float, _callback: object, _cancelled: object) -> Callable[[], object]:
        return lambda: None

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        self.calls.append(callback)


async def _function() -> None: ...


async def _handler(_task: object, _exc: Exception) -> None: ...


def _policy(_task: object, _exc: Exception) -> None: ...


class System:
    """The real runner and scheduler of one scope. The program decides what the loop does.

    This class does what `attempt.py` and `_host.py` do around their awaits, in the same order.
    """

    def __init__(self, world: World, path: Sequence[Event] = ()) -> None:
        """Make a system with the limits of `world`, and let the events of `path` happen."""
        self.loop = FakeLoop()
        seam, limits = cast(Any, self.loop), (world.max_running, world.max_pending)
        self.runner = Runner(seam, config=UNSET, max_running=limits[0], max_pending=limits[1])
        self.limit = Limit(world.most, max_pending=world.limit_pending)
        self.scope = Scope(self.runner, cast(TaskGroup, None), UNSET)
        self.tasks: list[Task[Any]] = []
        for event in path:
            self.do(event)

    def do(self, event: Event) -> None:
        """Let `event` happen.

        :raises IllegalEvent: as the machine does
        :raises TasksClosedError: as `schedule()` does
        :raises TasksSaturatedError: as `schedule()` does
        """
        task = None if event.task is None else self.tasks[event.task]
        match event.what, event.how:
            case What.SCHEDULE, Kind() as kind:
                self._schedule(kind, task, from_thread=event.flag)
            case What.ARRIVE, _:
                self.loop.calls.pop(0)()
            case What.SIGNAL, ScopeEvent.ENDED:
                self.scope.end(failed=event.flag)
            case What.SIGNAL, signal:
                self.scope.end_route(failed=signal is ScopeEvent.ROUTE_FAILED)
            case What.DRAIN, DrainEvent() as drained:
                self._drain(drained)
            case _:
                assert task is not None
                self._attempt(task, event)
        self._let_natives_leave()

    def _schedule(self, kind: Kind, by: Task[Any] | None, *, from_thread: bool) -> None:
        config = TaskConfig(
            when=kind.when,
            shield=kind.shielded,
            on_error=_handler if kind.has_handler else None,
            delay=1 if kind.delayed else None,
            limit=self.limit if kind.limited else None,
            key="key" if kind.keyed else None,
            retry=_policy,
        )
        token = JOB.set(by)
        self.loop.thread = -1 if from_thread else get_ident()
        try:
            self.tasks.append(self.scope._schedule(config, _function, (), {}, kind.phase))
        finally:
            self.loop.thread = get_ident()
            JOB.reset(token)

    def _attempt(self, task: Task[Any], event: Event) -> None:
        match event.what, event.how:
            case What.STEP, _:
                if not task._step(lambda: 0.0):
                    raise IllegalEvent(task.status, LifeEvent.STEP)
            case What.FINISH, Outcome() as outcome:
                again = event.flag and task.status is TaskStatus.RUNNING
                self._follow(task, dispatch.DISPATCH[outcome, again, task.config.on_error is not None])
            case What.HANDLER_ENDS, _:
                if task.status not in (TaskStatus.HANDLING, TaskStatus.ABORTING):
                    raise IllegalEvent(task.status, LifeEvent.FAIL)
                self._follow(task, LifeEvent.FAIL)
            case What.PAUSE_ENDS, _:
                self._resume(task)
            case _:
                task.cancel()

    def _follow(self, task: Task[Any], event: LifeEvent) -> None:
        if event is LifeEvent.RAISE:
            move(task, event)
        elif event is LifeEvent.RETRY:
            with self.runner.busy():
                self.runner.note_paused(task, 1)
        else:
            self.runner.end(task, event)
            self.runner.note_left(task)

    def _resume(self, task: Task[Any]) -> None:
        with self.runner.busy():
            self.runner.resume(task)
            self.runner.gates.pauses.remove(task)

    def _drain(self, event: DrainEvent) -> None:
        if event is DrainEvent.IDLE:
            self.runner.close()
        elif event is DrainEvent.ABORT:
            self.runner.abort()
        else:
            self.runner.follow(event)
            sweep = drain.SWEEPS[self.runner.stage]
            for job in list(self.runner.jobs()):
                if sweep is Sweep.EVERYBODY or (sweep is Sweep.UNSHIELDED and not job.config.shielded):
                    self.runner.cancel(job)

    def _let_natives_leave(self) -> None:
        for job in [job for job in self.runner.alive if job._has_ended]:
            self.runner.note_left(job)


def seen(system: System) -> tuple[object, ...]:
    """Return the visible state of a running program."""
    runner, tasks = system.runner, system.tasks
    counts = (runner.running, runner.waiting, runner.deferred, runner.idle)
    gates, line = runner.gates, runner.gates.lines.get(system.limit, Line())
    pauses = (runner.delayed, runner.retrying, len(gates.pauses.ends))
    places = (len(line.held), runner.limited, len(line.waiting), len(gates._keys))
    starts = [tasks.index(cast("Task[Any]", job)) for job in system.loop.starts]
    # A task keeps its context for the next attempt, and releases it at its end.
    per_task = [(task.status, task.attempt, task._context is None) for task in tasks]
    return (per_task, starts, counts, pauses, places, system.scope._state, runner.stage)


def foreseen(world: World) -> tuple[object, ...]:
    """Return the visible state that the model predicts."""
    ended = [model.end_of(past) is not None for past in world.pasts]
    steps = [past.count(LifeEvent.STEP) for past in world.pasts]
    per_task = list(zip(map(model.status_of, world.pasts), steps, ended, strict=True))
    latest = Counter(model.status_of(past) for past in world.pasts)
    counts = (world.running(), latest[S.WAITING], latest[S.DEFERRED], world.idle())
    pauses = (latest[S.DELAYED], latest[S.RETRYING], latest[S.DELAYED] + latest[S.RETRYING])
    places = (world.held(), latest[S.LIMITED], world.waiting_for_limit(), int(world.key_is_taken()))
    return (per_task, world.starts, counts, pauses, places, model.state_of(world.signals), model.stage_of(world.drain))


_REFUSED: dict[type[Exception], Fate] = {
    TasksClosedError: Fate.CLOSED,
    TasksSaturatedError: Fate.SATURATED,
    IllegalEvent: Fate.ILLEGAL,
}


def meet(system: System, world: World, event: Event) -> bool:
    """Let `event` happen in both, and return whether both have accepted the event.

    :raises Disagreement: if the system and the model differ
    """
    fate = world.fate(event)
    try:
        system.do(event)
    except tuple(_REFUSED) as exc:
        agree(event, _REFUSED[type(exc)], fate)
    else:
        agree((event, fate), fate in (Fate.HAPPENS, Fate.CHANGES_NOTHING), True)
    if fate is Fate.HAPPENS:
        world.happen(event)
    elif event.what is What.SCHEDULE and not event.flag and fate is not Fate.IMPOSSIBLE:
        world.arrive()
    return fate is Fate.HAPPENS
