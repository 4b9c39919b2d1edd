"""Records the tasks of a random app, and its messages on the wire.

A task has *started* when its handle says so. Each note contains the tasks that had started by then.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from fastapi_tasks import Task, TasksClosedError
from taskphase.testing import pause

if TYPE_CHECKING:
    from property_tests.apps import Described, Plan

# Virtual seconds.
ROUTE_TAKES, GIVES_UP_AT, CANCELLED_AT = 2.0, 0.9, 1.1
SLEEPS = {"sleep": 0.6, "sleep long": 4.7}
FOR_EVER = 1000.0

ENDS = ("succeeded", "failed", "cancelled", "dropped", "handed_over")
OF_TASKS = ("schedule", "scheduled", "refused", "begin", "end", "cancelled")
MINE: ContextVar[int] = ContextVar("MINE", default=-1)
SET_BY_TASK: ContextVar[int] = ContextVar("SET_BY_TASK", default=-1)


class TaskError(Exception):
    """The task of this number has failed."""


class Note(NamedTuple):
    """One event, and the tasks that had started by then. `number`: of the task, or a count."""

    request: int
    what: str
    number: int
    time: float
    started: frozenset[int]


@dataclass(eq=False, repr=False)
class Made:
    """A requested task. `origin`: the place of the request; `by`: the number of the scheduling task, or -1; `task`:
    None after a refusal.
    """

    number: int
    request: int
    plan: Plan
    origin: str
    by: int
    context: tuple[int, int]
    task: Task[Any] | None = None
    seen: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"task {self.number} of request {self.request} ({self.plan}, from {self.origin} {self.by})"

    @property
    def status(self) -> str:
        """The final status, or "refused"."""
        return "refused" if self.task is None else self.task.status.value

    @property
    def is_sync(self) -> bool:
        """Whether the function is sync, and so runs in a thread."""
        return self.plan.does.startswith("sync")


@dataclass(eq=False, repr=False)
class Journal:
    """All events of one run. `quiet`: the tasks do nothing."""

    described: Described
    quiet: bool = False
    notes: list[Note] = field(default_factory=list)
    made: dict[int, Made] = field(default_factory=dict)
    logged: list[tuple[str, str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    clock: Callable[[], float] = float
    thread: int = 0

    def note(self, request: int, what: str, number: int = -1) -> None:
        """Note an event. From any thread."""
        started = frozenset(made.number for made in self.made.values() if made.task is not None and made.task.attempt)
        self.notes.append(Note(request, what, number, self.clock(), started))

    def schedule(self, request: int, tasks: Any, plans: tuple[Plan, ...], origin: str, by: int = -1) -> None:
        """Schedule these plans, each with its own value in a context variable. Note refusals."""
        if by < 0 and SET_BY_TASK.get() >= 0:
            self.faults.append(f"G6: what task {SET_BY_TASK.get()} set is seen in {origin}")
        for plan in plans:
            number = len(self.made)
            MINE.set(number)
            context = (number, SET_BY_TASK.get())
            made = self.made[number] = Made(number, request, plan, origin, by, context)
            define = tasks.task(name=f"task {number}", when=plan.when, shield=plan.shield)
            phase = define if plan.phase == "immediate" else getattr(define, plan.phase)
            self.note(request, "schedule", number)
            try:
                made.task = phase.schedule(self._sync if made.is_sync else self._async, made, tasks)
            except TasksClosedError:
                self.note(request, "refused", number)
            else:
                self.note(request, "scheduled", number)

    async def _async(self, made: Made, tasks: Any) -> int:
        self._begin(made)
        try:
            if not self.quiet:
                await self._work(made, tasks)
        except anyio.get_cancelled_exc_class():
            self.note(made.request, "cancelled", made.number)
            raise
        finally:
            self._end(made)
        return made.number

    async def _work(self, made: Made, tasks: Any) -> None:
        does = made.plan.does
        if does == "turns":
            for _ in range(3):
                await checkpoint()
        if does in SLEEPS:
            await anyio.sleep(SLEEPS[does])
        self.schedule(made.request, tasks, made.plan.then, "task", made.number)
        if does == "raise":
            raise TaskError(made.number)

    def _sync(self, made: Made, tasks: Any) -> int:
        self._begin(made)
        try:
            if not self.quiet:
                pause()
                self.schedule(made.request, tasks, made.plan.then, "racing", made.number)
                if made.plan.does == "sync raise":
                    raise TaskError(made.number)
        finally:
            self._end(made)
        return made.number

    def _begin(self, made: Made) -> None:
        made.seen = (MINE.get(), SET_BY_TASK.get())
        SET_BY_TASK.set(made.number)
        if made.is_sync is (get_ident() == self.thread):
            self.faults.append(f"G7, G8: {made} runs in the wrong thread")
        self.note(made.request, "begin", made.number)

    def _end(self, made: Made) -> None:
        if SET_BY_TASK.get() != made.number:
            self.faults.append(f"G6: {made} has lost what it set")
        self.note(made.request, "end", made.number)

    def lifespan(self, name: str) -> Any:
        """Return a lifespan that notes its shutdown. In virtual time, the shutdown takes time."""

        @asynccontextmanager
        async def run(_: Any) -> AsyncIterator[None]:
            try:
                yield
            finally:
                self.note(-1, f"{name} shutdown")
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0 if self.described.mode == "elsewhere" else 10)

        return run

    @contextmanager
    def logs(self) -> Iterator[None]:
        """Keep the log records of the two packages only."""
        journal = self

        class Keep(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                journal.logged.append((record.name, record.levelname, record.getMessage()))

        loggers = [logging.getLogger(name) for name in ("taskphase", "fastapi_tasks")]
        keep = Keep()
        before = [(logger.level, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.addHandler(keep)
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
        try:
            yield
        finally:
            for logger, (level, propagate) in zip(loggers, before, strict=True):
                logger.removeHandler(keep)
                logger.setLevel(level)
                logger.propagate = propagate


class Wire(list[str]):
    """The messages of one request on the wire. The journal notes them as well."""

    def __init__(self, journal: Journal, request: int) -> None:
        super().__init__()
        self.journal, self.request = journal, request

    def append(self, event: str) -> None:
        """Note a message; at the end of the call also note the number of living tasks of the request."""
        super().append(event)
        if event in {"returned", "raised"}:
            mine = (made for made in self.journal.made.values() if made.request == self.request)
            alive = sum(made.status not in {*ENDS, "refused"} for made in mine)
            self.journal.note(self.request, "over", alive)
        else:
            self.journal.note(self.request, "wire")
