"""All of the recorded tasks: what is done with each as it is scheduled, and what is said at the end."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from types import TracebackType
from typing import Any, Literal, Self, cast, get_args

from ..._drive.current import running_job
from ..._drive.job import Job
from ..._drive.recording import RECORDERS, Admitted, Place
from ..._host import TaskHost
from ..._machine.config import check_seconds
from ..._machine.life import TaskStatus
from ...errors import TasksClosedError
from .book import Book
from .changes import CHANGES
from .entry import Entry, observe
from .expecting import check, note
from .selection import RecordedTasks

RunMode = Literal["normal", "never", "inline"]
"""What becomes of recorded tasks: see `record_tasks`."""


class TaskRecorder(RecordedTasks[Any]):
    """Records tasks while its `with` block lasts: what `record_tasks()` returns.

    Whoever binds a framework makes a subclass of it: `claim()` and `is_busy()` are to be overridden, `claimed_by()`,
    `finish()` and `changed()` to be called.

    :param host: whose tasks; None: those of everybody
    :param run: see `record_tasks()`
    :param timeout: likewise
    """

    def __init__(self, host: TaskHost | None = None, *, run: RunMode = "normal", timeout: float | None = 10) -> None:
        if host is not None and not isinstance(host, TaskHost):
            raise TypeError(f"host must be a TaskHost, not {host!r}")
        if run not in get_args(RunMode):
            raise ValueError(f"run must be one of {', '.join(map(repr, get_args(RunMode)))}, not {run!r}")
        if timeout is not None:
            check_seconds("timeout", timeout)
        super().__init__(Book(self.is_busy, timeout), lambda _: True, "recorded tasks")
        self._host = host
        self._run = run

    def __enter__(self) -> Self:
        if self in RECORDERS:
            raise RuntimeError("this recorder records already")
        RECORDERS.append(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Stop recording. Waits for nothing.

        :raises UnexpectedFailures: if a task has failed and nothing expects that
        :raises AssertionError: if something expects a failure and there was none
        """
        RECORDERS.remove(self)
        book = self._book
        if exc is None:
            check(book.entries.values(), book.expected)
        else:
            note(exc, book.entries.values(), book.expected)

    # For bindings

    def claim(self, host: TaskHost | None) -> object:
        """Return on whose account a task is recorded that is being scheduled here and now, or None if it is not to be.
        What a recorded task schedules is recorded on its account, where this returns None. In any thread; it must not
        schedule, because locks are held.

        :param host: None if it is scheduled in a plain task group
        """
        return self if self._host is None or self._host is host else None

    def is_busy(self) -> bool:
        """Return whether something that is over for its client may still schedule tasks: `wait_all()` waits for that,
        too. `changed()` has it ask again.
        """
        return False

    def changed(self) -> None:
        """Have whoever waits look again. From any thread."""
        CHANGES.tell()

    def claimed_by(self, is_meant: Callable[[object], bool], what: str) -> RecordedTasks[Any]:
        """Return the tasks that are recorded on these accounts; `what` is what messages call them."""
        return self._narrow(lambda entry: is_meant(entry.claim), what)

    async def finish(self, scope: object, /) -> None:
        """With `run="inline"`, wait until what was asked to start has ended, among the tasks of a scope, or of an
        account. Whoever calls this from a task does not wait for that task. Not a checkpoint if there is nothing to
        wait for.

        :raises TimeoutError: after the recorder's `timeout`
        """
        if self._run == "inline":
            callers = self._lineage(running_job())
            await self._book.until(
                lambda entry: entry.claim is scope or any(scope is each for each in entry.scopes),
                lambda entries: all(_is_inline(entry) or entry.task in callers for entry in entries),
                "not all tasks that run inline have ended",
            )

    def _take(self, admitted: Admitted, place: Place, /) -> Place:
        job, runner = admitted.job, admitted.runner
        by = running_job()
        parent = None if by is None else self._book.entries.get(by)
        claim = self.claim(cast("TaskHost | None", runner.host))
        if claim is None and parent is not None:
            claim = parent.claim
        if claim is None or job in self._book.entries:  # what was held may be scheduled again, by hand
            return place
        scopes: tuple[object, ...] = (admitted.placer, *(() if parent is None else parent.scopes))
        entry = Entry(observe(job), runner, by, scopes, claim, admitted.placer)
        self._book.entries[job] = entry
        CHANGES.tell()
        if self._run == "never":
            place = entry.hold(place)
        return self._unless_refused(place) if runner.host is None and get_ident() == runner.seam.thread else place

    def _unless_refused(self, place: Place) -> Place:
        def place_or_forget(job: Job) -> None:
            try:
                place(job)
            except TasksClosedError:  # the task group is closed, and nothing was scheduled
                del self._book.entries[job]
                CHANGES.tell()
                raise

        return place_or_forget

    def _lineage(self, job: Job | None) -> set[Job]:
        """Return a task and those that have scheduled it, one through the other."""
        found: set[Job] = set()
        while job is not None:
            found.add(job)
            entry = self._book.entries.get(job)
            job = None if entry is None else entry.parent
        return found


def _is_inline(entry: Entry) -> bool:
    return entry.is_at_rest or entry.task.status is TaskStatus.DEFERRED


def record_tasks(host: TaskHost | None = None, *, run: RunMode = "normal", timeout: float | None = 10) -> TaskRecorder:
    """Return a context manager that records tasks while its `with` block lasts, and is the sequence of them.

        with record_tasks(host) as tasks:
            ...
            await tasks.await_all()
            assert tasks.of(send_mail).one().args == ("ada@example.org",)

    Tasks are recorded as they are scheduled, whichever thread does that. There may be several recorders at once, for
    the same tasks, too. What the recorder has seen can be asked and waited for after the block as well. Leaving the
    block raises `UnexpectedFailures` if one of the tasks has failed, unless `expect_failure()` was called for it; it
    waits for nothing, so what is to be looked at has to have ended.

    :param host: whose tasks, the host being open or not yet; default: those of all hosts, and of each `TasksScheduler`
        that is made with a task group
    :param run: "normal" changes nothing. "never": tasks are scheduled, held for their phase and dropped as always,
        but instead of being started they are taken out of their host, which knows no more of them: they take no place
        among `max_pending`, and no drain waits for them. They can be run by hand, with `run_all()` or `await task()`.
        "inline": the real thing, awaited earlier: a route and a scope are left when what was asked to start in them,
        and what that schedules, has ended; tasks that no scope and no recorded task schedules run as always. A task
        that waits for what comes later in its scope cannot end then
    :param timeout: seconds of the event loop's time, jumps of a `JumpClock` included, that each wait for tasks may
        take; None: for ever
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if `run` is none of the three, or `timeout` is negative or not a number
    """
    return TaskRecorder(host, run=run, timeout=timeout)
