"""`record_tasks()`: observe every host, record tasks, and judge their failures at the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from math import inf
from types import TracebackType
from typing import Any, Literal, Self, cast, get_args

from ..._drive.current import BODY
from ..._drive.job import JOB, Job
from ..._drive.runner import Runner
from ..._drive.watching import forget_everywhere, observe_everywhere
from ..._host import TaskHost
from ..._machine.config import check_seconds
from ..._machine.life import TaskStatus
from ..._task import Task
from .book import Book
from .changes import CHANGES
from .entry import Entry
from .expecting import check, note
from .selection import RecordedTasks

RunMode = Literal["normal", "never", "inline"]
"""The way in which recorded tasks run: see `record_tasks`."""


class TaskRecorder(RecordedTasks[Any]):
    """Records tasks during its `with` block: the result of `record_tasks()`.

    A binding for a framework makes a subclass, overrides `claim()` and `is_busy()`, and calls `claimed_by()`,
    `finish()` and `changed()`.

    :param host: the host whose tasks are recorded; None: all hosts
    :param run: see `record_tasks()`
    :param timeout: see `record_tasks()`
    """

    _block = "`with record_tasks(host) as tasks:`"
    """How to enter the recorder, for messages."""

    def __init__(
        self, host: TaskHost | None = None, *, run: RunMode = "normal", timeout: float | timedelta | None = 10
    ) -> None:
        if host is not None and not isinstance(host, TaskHost):
            raise TypeError(f"host must be a TaskHost, not {host!r}; for an app: fastapi_tasks.testing.record_tasks")
        if run not in get_args(RunMode):
            raise ValueError(f"run must be one of {', '.join(map(repr, get_args(RunMode)))}, not {run!r}")
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
            timeout = None if timeout == inf else timeout
        super().__init__(Book(self.is_busy, timeout, self._block), lambda _: True, "recorded tasks")
        self._host = host
        self._run = run

    def __enter__(self) -> Self:
        try:
            observe_everywhere(self, {"scheduled": self._note, "holds": self._holds, "settled": self.finish})
        except RuntimeError:
            raise RuntimeError(f"this recorder records already: enter it once, by {self._block}") from None
        self._book.has_begun = True
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Stop recording. Waits for nothing.

        :raises UnexpectedFailures: if a task has failed unexpectedly
        :raises AssertionError: if an expected failure is missing
        """
        forget_everywhere(self)
        book = self._book
        if exc is None:
            check(book.entries.values(), book.expected)
        else:
            note(exc, book.entries.values(), book.expected)

    # For bindings

    def claim(self, host: TaskHost | None) -> object:
        """Return the account of a task that is being scheduled in this context; None for a task to ignore.

        If this returns None for a task that a recorded task schedules, the task gets the account of its parent. Called
        in any thread. Must not schedule.

        :param host: None if the task is scheduled in a plain task group
        """
        return self if self._host is None or self._host is host else None

    def is_busy(self) -> bool:
        """Return whether a request whose client has the whole response may still schedule: `wait_all()` waits for such
        requests, too. Call `changed()` when the answer changes.
        """
        return False

    def changed(self) -> None:
        """Have all waiting code look at the tasks again. From any thread."""
        CHANGES.tell()

    def claimed_by(self, is_meant: Callable[[object], bool], what: str) -> RecordedTasks[Any]:
        """Return the tasks of the accounts for which `is_meant` is true. `what` is their name in messages."""
        return self._narrow(lambda entry: is_meant(entry.claim), what)

    async def finish(self, scope: object, /) -> None:
        """With `run="inline"`, wait for the ends of all tasks of a scope or an account that were asked to start.

        A task that calls this does not wait for itself, and not for the tasks that have scheduled it. Not a checkpoint
        without such tasks.

        :raises TimeoutError: after the recorder's `timeout`
        """
        if self._run == "inline":
            callers = self._lineage(JOB.get())
            await self._book.until(
                lambda entry: entry.claim is scope or any(scope is each for each in entry.scopes),
                lambda entries: all(_is_inline(entry) or entry.task in callers for entry in entries),
                "not all tasks that run inline have ended",
            )

    def _note(self, task: Task[Any], scope: object) -> None:
        by = JOB.get()
        parent = None if by is None else self._book.entries.get(by)
        runner = cast(Runner, task._runner)
        claim = self.claim(cast("TaskHost | None", runner.host))
        if claim is None and parent is not None:
            claim = parent.claim
        if parent is None and _continues_scope(by, runner.host):
            return
        if claim is not None and task not in self._book.entries:  # a held task may be scheduled again
            scopes = (*(() if scope is None else (scope,)), *(() if parent is None else parent.scopes))
            self._book.entries[task] = Entry(task, runner, by, scopes, claim)
            CHANGES.tell()

    def _holds(self, task: Task[Any]) -> bool:
        entry = self._book.entries.get(task)
        if entry is None or self._run != "never" or entry.was_held:
            return False
        entry.was_held = True
        CHANGES.tell()
        return True

    def _lineage(self, job: Job | None) -> set[Job]:
        """Return a task, its parent, the parent of its parent, and so on."""
        found: set[Job] = set()
        while job is not None:
            found.add(job)
            entry = self._book.entries.get(job)
            job = None if entry is None else entry.parent
        return found


def _continues_scope(by: Job | None, host: object) -> bool:
    """Return whether this code is the task `by` of a scope of `host`, and not the code of the scope itself.

    If the recorder has not recorded `by`, the scope began before the block: for example the request of another test.
    """
    body = BODY.get()
    return by is not None and body is not None and body[0] is host and body[2] is not None and body[1] is not by


def _is_inline(entry: Entry) -> bool:
    return entry.is_at_rest or entry.task.status in (TaskStatus.DEFERRED, TaskStatus.DELAYED)


def record_tasks(
    host: TaskHost | None = None, *, run: RunMode = "normal", timeout: float | timedelta | None = 10
) -> TaskRecorder:
    """Return a context manager that records tasks during its `with` block, and is the sequence of these tasks.

        with record_tasks(host) as tasks:
            ...
            await tasks.await_all()
            assert tasks.of(send_mail).one().args == ("ada@example.org",)

    `schedule()` calls in any thread are recorded, but not by a task that was scheduled in a scope before the block.
    Several recorders may record the same tasks at once. After the block the recorder still answers, and its methods
    still wait. Before the block they raise `RuntimeError`.

    The end of the block raises `UnexpectedFailures` if a task has failed, unless `expect_failure()` was called for it.
    It does not wait: wait for the tasks first, for example with `wait_all()`.

    `run` is one of:

    - "normal": tasks run as always.
    - "never": tasks are scheduled, held for their phase and dropped as always. A task whose phase has come does not
      start, and begins no `delay`. Its host forgets the task: the task does not count for `max_pending`, and no drain
      waits for it. Run the task by hand, with `run_all()` or `await task()`.
    - "inline": tasks run as always, but a route and a scope end only after the ends of their tasks that were asked to
      start, and of all tasks that these schedule. They do not wait for a `delay`. Tasks of no scope and no recorded
      task run as always. A task that waits for a later event of its own scope cannot end.

    :param host: the host whose tasks are recorded, open or not; default: all hosts, and each `TasksScheduler` with a
        task group
    :param run: "normal", "never" or "inline"
    :param timeout: the most seconds of each wait, or a `timedelta`, in the event loop's time, with the jumps of a
        `JumpClock`; None: for ever
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if `run` is another word, or `timeout` is negative or not a number
    """
    return TaskRecorder(host, run=run, timeout=timeout)
