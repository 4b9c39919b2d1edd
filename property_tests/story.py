"""What a run leaves behind, for the promises to be read from it."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from property_tests.programs import Program, Spec
from taskphase import Phase, Task, TaskHost, TaskStatus
from taskphase.testing import Run

TAG: ContextVar[int] = ContextVar("tag", default=-1)
"""Whose context this is: `schedule()` is called with the number of the task to be."""

LEFT: ContextVar[int | None] = ContextVar("left", default=None)
"""What each attempt sets, and no other may see."""

SECRET = "hunter2"
"""An argument of every task: it must be in no log."""


class Event(NamedTuple):
    """One thing that has happened.

    :ivar what: see `Recorder`, which writes them
    :ivar number: of the task, or of the scope
    :ivar tasks: the status of each task at this moment
    :ivar counts: the host's, of tasks that run, wait for a slot, and are deferred; None if it is not open
    """

    time: float
    what: str
    number: int
    detail: Any
    tasks: tuple[TaskStatus, ...]
    counts: tuple[int, int, int] | None


@dataclass
class Scheduled:
    """One call of `schedule()`: by which task, in which scope, for which phase; and what it returned or raised."""

    spec: Spec
    by: int | None
    scope: int | None
    phase: Phase
    task: Task[Any] | None = None
    refusal: Exception | None = None


class Log(NamedTuple):
    """One record of the logger `taskphase`: with its traceback, if any, and in whose context it was made."""

    level: int
    text: str
    tag: int


@dataclass
class Story:
    """What a run leaves behind."""

    program: Program
    host: TaskHost
    again: str = ""
    """The command that makes the same run again."""
    calls: list[Scheduled] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    run: Run = field(init=False)

    def hit(self) -> set[int]:
        """Return the tasks that a fault has hit."""
        hit = [entry.task for entry in self.run.trace if entry.what == "fault" and entry.task.startswith("task-")]
        return {int(label.partition("#")[0].removeprefix("task-")) for label in hit}

    def tasks(self) -> Iterable[tuple[int, Scheduled, Task[Any]]]:
        """Yield what was taken."""
        return ((n, call, call.task) for n, call in enumerate(self.calls) if call.task is not None)

    def when(self, what: str, number: int | None = None) -> list[tuple[int, Event]]:
        """Return all such events, each with its place."""
        return [(i, e) for i, e in enumerate(self.events) if e.what == what and number in (None, e.number)]

    def first(self, what: str, number: int | None = None) -> tuple[int, Event] | None:
        return next(iter(self.when(what, number)), None)
