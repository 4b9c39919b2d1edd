"""One recorded task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from ..._drive.job import Job
from ..._drive.recording import Place, Placer
from ..._drive.runner import Runner
from ..._machine.life import LifeEvent, TaskStatus
from ..._machine.scope import Verdict
from ..._task import Task
from .changes import CHANGES


def _observed(cls: type[Task[Any]]) -> type[Task[Any]]:
    """Return the same class, but that its tasks tell each change of their status."""

    class Observed(cls):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def _move(self, event: LifeEvent) -> TaskStatus:
            status: TaskStatus = super()._move(event)
            CHANGES.tell()
            return status

        def _step(self) -> bool:
            steps: bool = super()._step()
            CHANGES.tell()
            return steps

        def _end(self, event: LifeEvent, result: Any = None) -> None:
            super()._end(event, result)
            CHANGES.tell()

    Observed.__name__, Observed.__qualname__, Observed.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return Observed


# By the class of tasks as they are made, and of those as they are recorded.
_observing: dict[type[Task[Any]], type[Task[Any]]] = {}


def observe(job: Job) -> Task[Any]:
    """Have a task tell what it does from now on."""
    task = cast("Task[Any]", job)
    cls = type(task)
    if cls not in _observing:
        observed = _observed(cls)
        _observing.update({cls: observed, observed: observed})
    task.__class__ = _observing[cls]
    return task


@dataclass(eq=False, slots=True)
class Entry:
    """One recorded task.

    :ivar runner: of its host, or of its task group
    :ivar parent: the task that has scheduled it, if one has
    :ivar scopes: the units of work that it belongs to: its own, and those of the task that has scheduled it
    :ivar claim: on whose account it is recorded
    :ivar placer: knows what would be done with it now
    """

    task: Task[Any]
    runner: Runner
    parent: Job | None
    scopes: tuple[object, ...]
    claim: object
    placer: Placer

    @property
    def is_held(self) -> bool:
        """Whether it was taken out of its host, and has not been run by hand."""
        return self.task._is_new

    @property
    def is_due(self) -> bool:
        """Whether it would run now, were it not held."""
        return self.placer._verdict(self.task) is Verdict.START

    @property
    def is_at_rest(self) -> bool:
        """Whether it does nothing any more by itself."""
        return self.task._has_ended or self.is_held

    def hold(self, place: Place) -> Place:
        """Return what is to place the task instead: it takes it out of its host, which then neither starts it, nor
        waits for it, nor cancels it. If its scope comes to drop it, it is dropped.
        """

        def take_out(job: Job) -> None:
            if not self.is_due:
                place(job)
                self.runner.deferred.pop(job, None)  # a scope that releases it then finds nothing to start
            if hasattr(job, "_runner") and not job._has_ended:
                del job._runner
                CHANGES.tell()

        return take_out
