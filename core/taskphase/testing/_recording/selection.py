"""Some of the recorded tasks: narrowing down, asserting, waiting, running by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from ..._machine.calling import Handle
from ..._machine.life import ENDS, TaskStatus
from ..._machine.scope import Phase
from ..._task import Task
from . import by_hand
from .book import Book
from .entry import Entry
from .expecting import Expectation
from .matching import calls, is_of
from .showing import call, line, lines, short_name

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=Handle)
T_co = TypeVar("T_co", covariant=True)


class RecordedTasks(Sequence[Task[T_co]], Generic[T_co]):
    """Recorded tasks, as a sequence in the order of `schedule()`.

    It is a view: tasks that are scheduled later, or whose status changes, come into it and leave it by themselves.
    Narrowing it down (`.of(...)`, `.after_response`, `.failed`) returns another one, and can be gone on with. In any
    thread; `print(tasks)` shows them all.

    Each method that waits has a form for threads, and one for event loops, whose name has an `a` before it.
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

    # Narrowing down

    @overload
    def of(self, what: str) -> RecordedTasks[Any]: ...
    @overload
    def of(self, what: Callable[..., H]) -> RecordedTasks[H]: ...
    @overload
    def of(self, what: Callable[..., Awaitable[T]]) -> RecordedTasks[T]: ...
    @overload
    def of(self, what: Callable[..., T]) -> RecordedTasks[T]: ...
    def of(self, what: Callable[..., Any] | str) -> RecordedTasks[Any]:
        """Return those that call a function, be it through partials, or that have a name.

        :param what: the function; or the `name` of a task, or the end of it after a dot
        """
        name = repr(what) if isinstance(what, str) else short_name(what)
        return self._narrow(lambda entry: is_of(entry.task, what), f"{self._what} of {name}")

    @property
    def immediate(self) -> RecordedTasks[T_co]:
        """Those that were scheduled to start at once."""
        return self._in_phase(Phase.IMMEDIATE)

    @property
    def after_route(self) -> RecordedTasks[T_co]:
        """Those that were scheduled for when the route has returned."""
        return self._in_phase(Phase.AFTER_ROUTE)

    @property
    def after_response(self) -> RecordedTasks[T_co]:
        """Those that were scheduled for when the scope, or request, is over."""
        return self._in_phase(Phase.AFTER_RESPONSE)

    @property
    def succeeded(self) -> RecordedTasks[T_co]:
        """Those that have succeeded."""
        return self._with_status(TaskStatus.SUCCEEDED)

    @property
    def failed(self) -> RecordedTasks[T_co]:
        """Those that have failed, further attempts included."""
        return self._with_status(TaskStatus.FAILED)

    @property
    def cancelled(self) -> RecordedTasks[T_co]:
        """Those that were cancelled."""
        return self._with_status(TaskStatus.CANCELLED)

    @property
    def dropped(self) -> RecordedTasks[T_co]:
        """Those that were dropped: the outcome of their route was not the one that they wanted."""
        return self._with_status(TaskStatus.DROPPED)

    # Asserting

    def one(self) -> Task[T_co]:
        """Return the only one.

        :raises AssertionError: if there is none, or more than one
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
        """Assert that a task was scheduled for exactly this call, and return the first one that was.

        What is said in the call counts, not how: `f(1)` is `f(x=1)`, and default values may be left out.
        `tasks.after_response.assert_scheduled(...)` asserts the phase, too.

        :raises AssertionError: if none was
        :raises TypeError: if `func` does not take the arguments
        """
        for task in self:
            if calls(task, func, args, kwargs):
                return task
        raise AssertionError(f"{call(func, args, kwargs)} is not among {self._what}; recorded:{self._context()}")

    def expect_failure(
        self, error: type[BaseException] | tuple[type[BaseException], ...] = Exception, *, match: str | None = None
    ) -> None:
        """Say that at least one of these tasks fails, or has failed, with `error`: that fails the test no longer. If
        none does before the recorder is left, that is a failure of the test.

        :param error: a class of exceptions, or a tuple of them
        :param match: a regular expression that is found in the exception's message
        """
        self._book.expected.append(Expectation(self._keep, self._what, error, match))

    # Waiting

    def wait_all(self) -> None:
        """Wait until all of them have ended, what they schedule meanwhile included. In a thread that runs no event
        loop: in a `def` test.

        Tasks that are held (`run="never"`) are not waited for.

        :raises RuntimeError: in the thread of an event loop
        :raises TimeoutError: after the recorder's `timeout`; the message tells what each of them does
        """
        self._book.wait(self._keep, self._all_at_rest, f"not all of {self._what} have ended")

    async def await_all(self) -> None:
        """Wait until all of them have ended, what they schedule meanwhile included: `wait_all()` in an event loop,
        which need not be that of the tasks.

        :raises TimeoutError: after the recorder's `timeout`, of the loop's time
        """
        await self._book.until(self._keep, self._all_at_rest, f"not all of {self._what} have ended")

    def wait_until(self, status: TaskStatus | str, *, attempt: int | None = None) -> None:
        """Wait until all of them that have not ended have this status, and there is one: for "retrying" before the
        clock is moved by the pause, for "running" before it is moved by the timeout. In a thread that runs no event
        loop.

        :param status: one that is no end
        :param attempt: in which attempt, from 1; without it the pause that the clock has just jumped over, and whose
            task is only being woken, is as good as the next one
        :raises AssertionError: if all have ended, or one is in a later attempt, so that they will not have it
        :raises RuntimeError: in the thread of an event loop
        :raises TimeoutError: after the recorder's `timeout`
        :raises ValueError: if it is an end, or no status
        """
        self._book.wait(self._keep, self._reaches(status, attempt), f"{self._what} are not all {status}")

    async def await_until(self, status: TaskStatus | str, *, attempt: int | None = None) -> None:
        """Wait until all of them that have not ended have this status, and there is one: `wait_until()` in an event
        loop.

        :raises AssertionError: if all have ended, or one is in a later attempt, so that they will not have it
        :raises TimeoutError: after the recorder's `timeout`, of the loop's time
        :raises ValueError: if it is an end, or no status
        """
        await self._book.until(self._keep, self._reaches(status, attempt), f"{self._what} are not all {status}")

    # Running by hand

    def run_all(self) -> None:
        """Run those that are held (`run="never"`) until none is left, and wait for them. In a thread that runs no event
        loop.

        They run in their host if that is open, else in a new event loop in this thread, in a host of its own. One whose
        phase has not come is left out; what they schedule is run too, if it is one of these. What they return or raise
        is in the tasks. A single one can also be run by `await task()`, in any event loop.

        :raises RuntimeError: in the thread of an event loop
        :raises TimeoutError: after the recorder's `timeout`
        """
        while held := self._due():
            alone = by_hand.start(held)
            self._book.wait((frozenset(held) - frozenset(alone)).__contains__, _all_done, self._not_run())
            by_hand.run_in_thread(alone, self._book.timeout)

    async def arun_all(self) -> None:
        """Run those that are held (`run="never"`) until none is left, and wait for them: `run_all()` in an event loop.
        What has no open host runs in this one.

        :raises TimeoutError: after the recorder's `timeout`, of the loop's time
        """
        while held := self._due():
            alone = by_hand.start(held)
            await self._book.until((frozenset(held) - frozenset(alone)).__contains__, _all_done, self._not_run())
            await by_hand.run(alone, self._book.timeout)

    @property
    def _entries(self) -> list[Entry]:
        return self._book.those(self._keep)

    def _narrow(self, keep: Callable[[Entry], bool], what: str) -> RecordedTasks[Any]:
        return RecordedTasks(self._book, lambda entry: self._keep(entry) and keep(entry), what)

    def _in_phase(self, phase: Phase) -> RecordedTasks[T_co]:
        return self._narrow(lambda entry: entry.task.phase is phase, f"{self._what} for {phase.value}")

    def _with_status(self, status: TaskStatus) -> RecordedTasks[T_co]:
        return self._narrow(lambda entry: entry.task.status is status, f"{self._what} that have {status.value}")

    def _context(self) -> str:
        return lines(self._book.those(lambda _: True))

    def _all_at_rest(self, entries: list[Entry]) -> bool:
        return all(entry.is_at_rest for entry in entries) and not self._book.is_busy()

    def _due(self) -> list[Entry]:
        return [entry for entry in self._entries if entry.is_held and entry.is_due]

    def _not_run(self) -> str:
        return f"not all of {self._what} have ended that were run by hand"

    def _reaches(self, status: TaskStatus | str, attempt: int | None) -> Callable[[list[Entry]], bool]:
        wanted = TaskStatus(status)
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
