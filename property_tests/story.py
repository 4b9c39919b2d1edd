"""The record of a run, from which the promises are checked."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from property_tests.programs import Program, Spec
from taskphase import Phase, Task, TaskHost, TaskStatus
from taskphase.testing import Run

TAG: ContextVar[int] = ContextVar("tag", default=-1)
"""Identifies a context: `schedule()` is called with the number of the future task."""

LEFT: ContextVar[int | None] = ContextVar("left", default=None)
"""Each attempt sets this; no other attempt may see the value."""

SECRET = "hunter2"
"""An argument of every task; it must never appear in the log."""


class Event(NamedTuple):
    """One event.

    :ivar what: the kind of event; `Recorder` lists the kinds
    :ivar number: the number of the task, or of the scope
    :ivar tasks: the status of each task at this moment
    :ivar counts: the host's counts of running, waiting, deferred, delayed and limited tasks; None if the host is not
        open
    """

    time: float
    what: str
    number: int
    detail: Any
    tasks: tuple[TaskStatus, ...]
    counts: tuple[int, int, int, int, int] | None


@dataclass
class Scheduled:
    """One call of `schedule()`: the calling task, the scope, the phase, and the result or the exception."""

    spec: Spec
    by: int | None
    scope: int | None
    phase: Phase
    task: Task[Any] | None = None
    refusal: Exception | None = None


class Told(NamedTuple):
    """One call of an observer.

    :ivar place: how many events were there before
    :ivar number: of the task; None for a hook that is about no task of the program
    :ivar detail: the error and the pause of an attempt; the scope and its change
    :ivar tag: in whose context this was
    :ivar is_in_loop: whether it was in the thread of the event loop
    """

    place: int
    hook: str
    number: int | None
    status: TaskStatus | None
    detail: Any
    tag: int
    is_in_loop: bool


class Log(NamedTuple):
    """One record of the logger `taskphase`, with its traceback, if any, and the context in which it was made."""

    level: int
    text: str
    tag: int


@dataclass
class Story:
    """The record of a run."""

    program: Program
    host: TaskHost
    again: str = ""
    """The command that repeats the run."""
    calls: list[Scheduled] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    run: Run = field(init=False)

    def hit(self) -> set[int]:
        """Return the tasks that a fault has hit."""
        hit = [entry.task for entry in self.run.trace if entry.what == "fault" and entry.task.startswith("task-")]
        return {int(label.partition("#")[0].removeprefix("task-")) for label in hit}

    def tasks(self) -> Iterable[tuple[int, Scheduled, Task[Any]]]:
        """Yield the tasks that were taken."""
        return ((n, call, call.task) for n, call in enumerate(self.calls) if call.task is not None)

    def when(self, what: str, number: int | None = None) -> list[tuple[int, Event]]:
        """Return all events of this kind, each with its position."""
        return [(i, e) for i, e in enumerate(self.events) if e.what == what and number in (None, e.number)]

    def first(self, what: str, number: int | None = None) -> tuple[int, Event] | None:
        return next(iter(self.when(what, number)), None)
