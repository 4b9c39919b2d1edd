"""Some of the recorded tasks: select, assert, wait, run by hand."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from ..._machine.calling import Handle, check_call
from ..._machine.life import ENDS, TaskStatus
from ..._machine.scope import Phase
from ..._task import Task
from . import by_hand
from .book import Book
from .entry import Entry
from .expecting import Expectation, NoBlock
from .matching import calls, is_of
from .showing import call, line, lines, short_name

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=Handle)
T_co = TypeVar("T_co", covariant=True)


class RecordedTasks(Sequence[Task[T_co]], Generic[T_co]):
    """Recorded tasks, as a sequence in the order of `schedule()`. Works in any thread; `print(tasks)` shows all tasks.

    - It is a view: it changes when a task is scheduled, or when the status of a task changes.
    - A selection (`.of(...)`, `.after_response`, `.failed`) returns another view. Selections can be combined.
    - Each method that waits exists twice: for threads, and with an `a` before its name for event loops.
    """

    def __init__(self, book: Book, keep: Callable[[Entry], bool], what: str) -> None:
        self._book = book
        self._keep = keep
        self._what = what

    @overload
    def __getitem__(self, index: int) -> Task[T_co]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task[T_co]]: ...
    def __getitem__(self, index: int | slice) -> Task[T_co] | list[Task[T_co]]:
        return [cast("Task[T_co]", entry.task) for entry in self._entries][index]

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<{self._what}: {'; '.join(line(entry) for entry in self._entries) or 'none'}>"

    def __str__(self) -> str:
        return f"{self._what}:{lines(self._entries)}"

    # Select

    @overload
    def of(self, what: str) -> RecordedTasks[Any]: ...
    @overload
    def of(self, what: Callable[..., H]) -> RecordedTasks[H]: ...
    @overload
    def of(self, what: Callable[..., Awaitable[T]]) -> RecordedTasks[T]: ...
    @overload
    def of(self, what: Callable[..., T]) -> RecordedTasks[T]: ...
    def of(self, what: Callable[..., Any] | str) -> RecordedTasks[Any]:
        """Return the tasks that call a function, also through partials, or that have a name.

        :param what: the function; or the `name` of a task, or the end of the name, after a dot
        """
        name = repr(what) if isinstance(what, str) else short_name(what)
        return self._narrow(lambda entry: is_of(entry.task, what), f"{self._what} of {name}")

    @property
    def immediate(self) -> RecordedTasks[T_co]:
        """The immediate tasks."""
        return self._in_phase(Phase.IMMEDIATE)

    @property
    def after_route(self) -> RecordedTasks[T_co]:
        """The after_route tasks."""
        return self._in_phase(Phase.AFTER_ROUTE)

    @property
    def after_response(self) -> RecordedTasks[T_co]:
        """The after_response tasks."""
        return self._in_phase(Phase.AFTER_RESPONSE)

    @property
    def succeeded(self) -> RecordedTasks[T_co]:
        """The tasks that have succeeded."""
        return self._with_status(TaskStatus.SUCCEEDED)

    @property
    def failed(self) -> RecordedTasks[T_co]:
        """The tasks that have failed, with all attempts."""
        return self._with_status(TaskStatus.FAILED)

    @property
    def cancelled(self) -> RecordedTasks[T_co]:
        """The tasks that were cancelled."""
        return self._with_status(TaskStatus.CANCELLED)

    @property
    def dropped(self) -> RecordedTasks[T_co]:
        """The tasks that were dropped: the outcome of their route did not fit."""
        return self._with_status(TaskStatus.DROPPED)

    @property
    def handed_over(self) -> RecordedTasks[T_co]:
        """The tasks that were handed over to a queue."""
        return self._with_status(TaskStatus.HANDED_OVER)

    # Assert

    def one(self) -> Task[T_co]:
        """Return the only task.

        :raises AssertionError: if there is no task, or more than one
        """
        tasks = self[:]
        if len(tasks) != 1:
            raise AssertionError(f"expected one of {self._what}, found {len(tasks)}; recorded:{self._context()}")
        return tasks[0]

    @overload
    def assert_scheduled(self, func: Callable[P, H], /, *args: P.args, **kwargs: P.kwargs) -> Task[H]: ...
    @overload
    def assert_scheduled(self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    @overload
    def assert_scheduled(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    def assert_scheduled(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Assert that a task was scheduled for exactly this call. Return the first such task.

        The spelling of the call does not matter: `f(1)` is `f(x=1)`, and default values may be left out.
        `tasks.after_response.assert_scheduled(...)` asserts the phase, too.

        :raises AssertionError: if there is no such task
        :raises TypeError: if `func` does not accept the arguments
        """
        check_call(func, args, kwargs)
        for task in self:
            if calls(task, func, args, kwargs):
                return task
        raise AssertionError(f"{call(func, args, kwargs)} is not among {self._what}; recorded:{self._context()}")

    def expect_failure(
        self, error: type[BaseException] | tuple[type[BaseException], ...] = Exception, *, match: str | None = None
    ) -> None:
        """Expect that at least one of these tasks fails with `error`, before or after this call. Such a failure does
        not fail the test. A missing failure does, at the end of the block of the recorder.

        :param error: an exception class, or a tuple of them
        :param match: a regular expression to search for in the message of the exception
        :raises TypeError: if `error` is no such class, or no tuple of them
        :raises re.error: if `match` is no regular expression
        """
        for kind in error if isinstance(error, tuple) else (error,):
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"expect_failure() takes an exception class, or a tuple of them, not {kind!r}")
        if match is not None:
            re.compile(match)
        self._book.expected.append(Expectation(self._keep, self._what, error, match))
        return cast("None", NoBlock())  # for `with`; type checkers refuse that already

    # Wait

    def wait_all(self) -> None:
        """Wait until all these tasks have ended, also tasks that come into the view meanwhile. In a thread without an
        event loop: in a `def` test.

        Does not wait for tasks that are held (`run="never"`).

        :raises RuntimeError: in the thread of an event loop
        :raises TimeoutError: after the recorder's `timeout`; the message has the state of each task
        """
        self._book.wait(self._keep, self._all_at_rest, f"not all of {self._what} have ended")

    async def await_all(self) -> None:
        """The same as `wait_all()`, in any event loop.

        :raises TimeoutError: after the recorder's `timeout`, of the loop's time
        """
        await self._book.until(self._keep, self._all_at_rest, f"not all of {self._what} have ended")

    def wait_until(self, status: TaskStatus | str, *, attempt: int | None = None) -> None:
        """Wait until there is a task that has not ended, and all such tasks have this status. In a thread without an
        event loop. Wait for "retrying" before a clock jumps over a pause, for "running" before it jumps over a timeout.

        :param status: a status that is no end
        :param attempt: the number of the attempt, from 1. Give it if the clock jumps several times: after a jump the
            task stays in the old pause until the event loop wakes it
        :raises AssertionError: if all tasks have ended, or a task is in a later attempt
        :raises RuntimeError: in the thread of an event loop
        :raises TimeoutError: after the recorder's `timeout`
        :raises ValueError: if `status` is an end, or no status
        """
        self._book.wait(self._keep, self._reaches(status, attempt), f"{self._what} are not all {status}")

    async def await_until(self, status: TaskStatus | str, *, attempt: int | None = None) -> None:
        """The same as `wait_until()`, in any event loop.

        :raises AssertionError: if all tasks have ended, or a task is in a later attempt
        :raises TimeoutError: after the recorder's `timeout`, of the loop's time
        :raises ValueError: if `status` is an end, or no status
        """
        await self._book.until(self._keep, self._reaches(status, attempt), f"{self._what} are not all {status}")

    # Run by hand

    def run_all(self) -> None:
        """Run the held tasks of this view (`run="never"`) until no held task is left, and wait for their ends. In a
        thread without an event loop.

        - Tasks whose phase has not come do not run.
        - The tasks run in their host if it is open, otherwise in a new event loop in this thread.
        - Their results and exceptions are in the tasks.
        - To run one task in an event loop, write `await task()`.

        :raises RuntimeError: in the thread of an event loop
        :raises TimeoutError: after the recorder's `timeout`
        """
        while held := self._due():
            alone = by_hand.start(held)
            self._book.wait((frozenset(held) - frozenset(alone)).__contains__, _all_done, self._not_run())
            by_hand.run_in_thread(alone, self._book.timeout)

    async def arun_all(self) -> None:
        """The same as `run_all()`, in any event loop. Tasks without an open host run in this loop.

        :raises TimeoutError: after the recorder's `timeout`, of the loop's time
        """
        while held := self._due():
            alone = by_hand.start(held)
            await self._book.until((frozenset(held) - frozenset(alone)).__contains__, _all_done, self._not_run())
            await by_hand.run(alone, self._book.timeout)

    @property
    def _entries(self) -> list[Entry]:
        return self._book.entries_for(self._keep)

    def _narrow(self, keep: Callable[[Entry], bool], what: str) -> RecordedTasks[Any]:
        return RecordedTasks(self._book, lambda entry: self._keep(entry) and keep(entry), what)

    def _in_phase(self, phase: Phase) -> RecordedTasks[T_co]:
        return self._narrow(lambda entry: entry.task.phase is phase, f"{self._what} for {phase.value}")

    def _with_status(self, status: TaskStatus) -> RecordedTasks[T_co]:
        return self._narrow(lambda entry: entry.task.status is status, f"{self._what} that have {status.value}")

    def _context(self) -> str:
        return lines(self._book.entries_for(lambda _: True))

    def _all_at_rest(self, entries: list[Entry]) -> bool:
        return all(entry.is_at_rest for entry in entries) and not self._book.is_busy()

    def _due(self) -> list[Entry]:
        return [entry for entry in self._entries if entry.is_held]

    def _not_run(self) -> str:
        return f"not all of {self._what} have ended that were run by hand"

    def _reaches(self, status: TaskStatus | str, attempt: int | None) -> Callable[[list[Entry]], bool]:
        try:
            wanted = TaskStatus(status)
        except ValueError:
            known = ", ".join(each.value for each in TaskStatus if each not in ENDS)
            raise ValueError(f"{status!r} is no status; wait for one of {known}") from None
        if wanted in ENDS:
            raise ValueError(f"{wanted.value!r} is an end: wait for all, and look at the tasks")

        def reached(entries: list[Entry]) -> bool:
            alive = [entry.task for entry in entries if not entry.task._has_ended]
            if entries and not alive:
                raise AssertionError(f"{self._what} have ended, and none will be {wanted.value}:{lines(entries)}")
            if attempt is not None and any(task.attempt > attempt for task in alive):
                raise AssertionError(
                    f"not all of {self._what} will be {wanted.value} in attempt {attempt}:{lines(entries)}"
                )
            return bool(alive) and all(task.status is wanted and attempt in (None, task.attempt) for task in alive)

        return reached


def _all_done(entries: list[Entry]) -> bool:
    return all(by_hand.is_done(entry) for entry in entries)
