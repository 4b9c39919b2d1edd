"""What is logged, by the logger `taskphase`. Never a task's arguments: they may be secret."""

from __future__ import annotations

import logging
import sys
import traceback
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from .._machine.calling import name_of, shown, type_name

if TYPE_CHECKING:
    from .job import Job

LOGGER = logging.getLogger("taskphase")

_answered: set[str] = set()
_MOST_HANDLERS = 1000  # names that are kept; a program that makes handlers without end must not fill the memory


def failed(job: Job, error: BaseException) -> None:
    """Log a final failure. To be called inside the task's context."""
    _log(logging.ERROR, "task %r failed in attempt %d", job.name, job.attempt, error=error)


def handler_failed(job: Job, error: BaseException) -> None:
    """Log that the handler of a failed task has failed too. To be called inside the task's context."""
    _log(logging.ERROR, "the error handler of task %r failed", job.name, error=error)


def handler_answered(job: Job, answer: object) -> None:
    """Log, once for each handler, that an answer looks like a pause before another attempt, which it is not."""
    assert job.config.on_error is not None
    name = name_of(job.config.on_error)
    if name not in _answered and len(_answered) < _MOST_HANDLERS:
        _answered.add(name)
        text = "the error handler of task %r returned %s, which means nothing; for further attempts write retry=..."
        _log(logging.WARNING, text, job.name, shown(type_name(answer)))


def policy_failed(job: Job, error: BaseException) -> None:
    """Log that the retry policy of a failed task has failed too. To be called inside the task's context."""
    _log(logging.ERROR, "the retry policy of task %r failed; there is no further attempt", job.name, error=error)


def retrying(job: Job, error: BaseException, after: float) -> None:
    """Log that an attempt has failed and another is to come. To be called inside the task's context."""
    text = "task %r raised %s in attempt %d; the next one comes in %.3g s"
    _log(logging.INFO, text, job.name, shown(type_name(error)), job.attempt, after)


def dropped(job: Job, reason: str) -> None:
    """Log a drop, in the task's context: loudly where nobody has chosen it by setting `when`."""
    level = logging.WARNING if job.config.when is None else logging.DEBUG
    if LOGGER.isEnabledFor(level):  # mostly not for what is to run on failure only, which each success drops
        job._run_in_context(_log, level, "task %r was dropped: %s", job.name, reason)


def not_started(job: Job, error: Exception) -> None:
    """Log that a task could not be started when its turn came: its task group is closed, or a task factory raises."""
    _log(logging.WARNING, "task %r could not be started, and was cancelled", job.name, error=error)


def group_failed(error: BaseException) -> None:
    """Log that the host's plain task group was cancelled by an exception in it."""
    _log(logging.ERROR, "a task started in the host's task group failed; the others in it were cancelled", error=error)


def raw_work_cancelled(names: list[str]) -> None:
    """Log, by name, what the closing of the host has cancelled in its plain task group."""
    if names:
        text = "closing the task host: cancelled %d started in its task group: %s"
        _log(logging.WARNING, text, len(names), ", ".join(map(repr, names)))


def waiting_for(jobs: Iterable[Job]) -> None:
    """Log, by name and count, what the closing of the host waits for: it may be long."""
    listed, total = _listed(jobs)
    if total:
        _log(logging.INFO, "closing the task host: waiting for %d: %s", total, listed)


def drained(cancelled: Iterable[Job], abandoned: Iterable[Job]) -> None:
    """Log, by name and count, what the closing of the host cut short."""
    for what, jobs in (("cancelled", cancelled), ("abandoned, with its thread still running", abandoned)):
        listed, total = _listed(jobs)
        if total:
            _log(logging.WARNING, "closing the task host: %d %s: %s", total, what, listed)


def _listed(jobs: Iterable[Job]) -> tuple[str, int]:
    names = Counter(job.name for job in jobs)
    return ", ".join(
        f"{shown(name)} ({count})" if count > 1 else shown(name) for name, count in names.items()
    ), names.total()


def _log(level: int, text: str, *args: object, error: BaseException | None = None) -> None:
    # A filter, a handler or an exception of the user's that raises must not decide what becomes of a task.
    try:
        LOGGER.log(level, text, *args, exc_info=error)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        _print_instead(text, args, exc)


def _print_instead(text: str, args: tuple[object, ...], error: BaseException) -> None:
    """Print what could not be logged, and why not: with its traceback, if that can be had."""
    try:
        reason = "".join(traceback.format_exception(error))
    except KeyboardInterrupt:
        raise
    except BaseException:
        reason = f"{shown(type_name(error))}, whose traceback cannot be formatted\n"
    with suppress(Exception):  # there may be no place to print to
        sys.stderr.write(f"taskphase could not log: {text % args}\n{reason}")
