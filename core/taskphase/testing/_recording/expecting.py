"""Failures that a test expects, and all other failures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn, cast

from ..._machine.life import TaskStatus
from ...errors import TaskFailed
from .entry import Entry
from .showing import line, lines


class UnexpectedFailures(ExceptionGroup[Exception], AssertionError):
    """Tasks have failed, and the test did not expect that. The group has their exceptions."""

    def derive(self, excs: Iterable[Exception], /) -> UnexpectedFailures:  # type: ignore[override]
        """Return a group of the same class, for `split()` and `except*`."""
        return UnexpectedFailures(self.message, list(excs))


@dataclass(frozen=True, slots=True)
class Expectation:
    """The expectation that a task fails.

    :ivar whose: returns True for the tasks that may fail
    :ivar who: the name of these tasks in messages
    :ivar error: the class of the exception
    :ivar text: a regular expression to search for in the message of the exception; None: any message
    """

    whose: Callable[[Entry], bool]
    who: str
    error: type[BaseException] | tuple[type[BaseException], ...]
    text: str | None

    def covers(self, entry: Entry) -> bool:
        """Return whether the failure of `entry` is expected."""
        error = entry.task._result
        return (
            entry.task.status is TaskStatus.FAILED
            and isinstance(error, self.error)
            and (self.text is None or re.search(self.text, str(error)) is not None)
            and self.whose(entry)
        )

    def __str__(self) -> str:
        kinds = self.error if isinstance(self.error, tuple) else (self.error,)
        names = " or ".join(kind.__name__ for kind in kinds)
        matching = "" if self.text is None else f" whose message matches {self.text!r}"
        return f"none of {self.who} failed with {names}{matching}"


class NoBlock:
    """The result of `expect_failure()`, which takes no `with`."""

    def __enter__(self) -> NoReturn:
        raise TypeError("expect_failure() takes no `with`: the end of the recorder's block looks for the failure")

    def __exit__(self, *_: object) -> None: ...


def unexpected(entries: Iterable[Entry], expected: Iterable[Expectation]) -> list[Entry]:
    """Return the tasks with an unexpected failure."""
    wanted = tuple(expected)
    failed = (entry for entry in entries if entry.task.status is TaskStatus.FAILED)
    return [entry for entry in failed if not any(expectation.covers(entry) for expectation in wanted)]


def check(entries: Iterable[Entry], expected: Iterable[Expectation]) -> None:
    """Compare failures with expectations.

    :raises UnexpectedFailures: if a task has failed unexpectedly
    :raises AssertionError: if an expected failure is missing
    """
    recorded, wanted = tuple(entries), tuple(expected)
    failures = unexpected(recorded, wanted)
    if failures:
        message = f"unexpected failures of recorded tasks:{lines(failures)}"
        raise UnexpectedFailures(message, [_exception(entry) for entry in failures])
    for expectation in wanted:
        if not any(expectation.covers(entry) for entry in recorded):
            raise AssertionError(f"{expectation}; recorded:{lines(recorded)}")


def note(error: BaseException, entries: Iterable[Entry], expected: Iterable[Expectation]) -> None:
    """Add the unexpected failures as notes to the exception of a test: they may be its cause."""
    for entry in unexpected(entries, expected):
        error.add_note(f"a recorded task had failed: {line(entry)}")


def _exception(entry: Entry) -> Exception:
    error = cast(BaseException, entry.task._result)
    if isinstance(error, Exception):
        return error
    wrapped = TaskFailed(f"task {entry.task.name!r} failed")  # a group of Exceptions cannot contain a SystemExit
    wrapped.__cause__ = error
    return wrapped
