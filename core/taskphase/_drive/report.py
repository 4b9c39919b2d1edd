"""All records of the logger `taskphase`. None contains the arguments of a task: they may be secret."""

from __future__ import annotations

import logging
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from .._machine.calling import name_of, shown, type_name
from .._machine.text import plain
from ..errors import TasksClosedError
from .job import JOB, order_of

if TYPE_CHECKING:
    from .job import Job

LOGGER = logging.getLogger("taskphase")

_FIELDS = (
    "task_id",
    "task_function",
    "task_name",
    "task_phase",
    "task_attempt",
    "task_status",
    "task_message_id",
    "task_recovered",
)
"""The attributes that a record about one task has."""

_NO_MORE: Mapping[str, object] = MappingProxyType({})
_traceback = BaseException.__dict__["__traceback__"]  # the class of an exception may override the attribute
_answered: set[str] = set()
_MOST_HANDLERS = 1000  # a program that creates handlers for ever must not fill the memory


def observer_failed(observer: object, method: str, error: BaseException) -> None:
    """Log that a method of an observer has raised, and is not called again."""
    text = "%s() of the observer %s raised; it is not called again"
    log(logging.ERROR, text, method, shown(type_name(observer)), error=error)


def telemetry_failed(error: BaseException) -> None:
    """Log that OpenTelemetry has raised. Of one observer only the first exception is logged."""
    text = "OpenTelemetry raised at the begin or end of an attempt; its further exceptions are not logged"
    log(logging.ERROR, text, error=error)


def failed(job: Job, error: BaseException) -> None:
    """Log a final failure. Call this inside the task's context."""
    if not job.attempt:
        log(logging.ERROR, "task %r failed before its first step", job.name, error=error, job=job)
    elif (order := order_of(job)) is not None:  # its exception has the number of attempts to publish
        text = "the hand-over of task %r to %r failed"
        log(logging.ERROR, text, job.name, order.outlet.queue.name, error=error, job=job)
    else:
        log(logging.ERROR, "task %r failed in attempt %d", job.name, job.attempt, error=error, job=job)


def unrecorded(job: Job, error: BaseException) -> None:
    """Log that a task for failure runs without a record in its journal."""
    text = "task %r is not in the journal, and would not survive a crash"
    job._run_in_context(log, logging.ERROR, text, job.name, error=error, job=job)


def lost(job: Job, error: BaseException) -> None:
    """Log that a task was cut off before its journal had it, and that the journal could not write it any more."""
    text = "task %r is lost: it was cut off, and is not in the journal"
    log(logging.ERROR, text, job.name, error=error, job=job)  # its context is gone


def given_up(message_id: str, function: str, name: str, phase: str, reason: str) -> None:
    """Log that the journal keeps a task as failed that no host has run now."""
    text = "the journal keeps a task of %s as failed (message %s): %s. `journal.retry(id)` runs it again"
    values = (None, function, name, phase, 0, "failed", message_id, True)  # no id: this host has no such task
    log(logging.ERROR, text, shown(function), message_id, reason, more=dict(zip(_FIELDS, values, strict=True)))


def not_taken_over(error: BaseException) -> None:
    """Log that the journal cannot take over tasks of other hosts. The journal tries again."""
    log(logging.WARNING, "the journal cannot take over tasks of other hosts, and tries again", error=error)


def journal_gone(path: object) -> None:
    """Log that another program has deleted or replaced the file of the journal, or its WAL."""
    text = (
        "the journal %r or its WAL was deleted or replaced: a crash may lose older tasks. Keep clean-ups away from both"
    )
    log(logging.ERROR, text, str(path))


def handler_failed(job: Job, error: BaseException) -> None:
    """Log that the handler of a failed task has failed, too. Call this inside the task's context."""
    log(logging.ERROR, "the error handler of task %r failed", job.name, error=error, job=job)


def handler_answered(job: Job, answer: object) -> None:
    """Warn, once for each handler, that a returned number or `timedelta` does not lead to another attempt."""
    assert job.config.on_error is not None
    name = name_of(job.config.on_error)
    if name not in _answered and len(_answered) < _MOST_HANDLERS:
        _answered.add(name)
        text = "the error handler of task %r returned %s, which is ignored; for further attempts write retry=..."
        log(logging.WARNING, text, job.name, shown(type_name(answer)), job=job)


def policy_failed(job: Job, error: BaseException) -> None:
    """Log that the retry policy of a failed task has failed, too. Call this inside the task's context."""
    log(
        logging.ERROR, "the retry policy of task %r failed; there is no further attempt", job.name, error=error, job=job
    )


def retrying(job: Job, error: BaseException, after: float) -> None:
    """Log that an attempt has failed and another attempt follows. Call this inside the task's context."""
    text = "task %r raised %s in attempt %d; the next one comes in %s s"
    log(logging.INFO, text, job.name, shown(type_name(error)), job.attempt, plain(round(after, 3)), job=job)


def cut_off(job: Job, error: BaseException) -> None:
    """Log that an attempt has raised while the drain stopped it. Call this inside the task's context."""
    text = "task %r raised %s in attempt %d, which was being cancelled; the task stays in the journal"
    log(logging.INFO, text, job.name, shown(type_name(error)), job.attempt, job=job)


def runs_here(job: Job) -> None:
    """Log that a hand-over was refused, and the task runs in this program."""
    log(logging.WARNING, "task %r could not be handed over, and runs here", job.name, job=job)


def queue_not_closed(name: str, error: BaseException) -> None:
    """Log that the connection of a queue was not closed."""
    log(logging.WARNING, "the connection of the queue %r could not be closed", name, error=error)


def failed_after_publishing(queue: str, error: BaseException) -> None:
    """Log that code of the user's broker has failed when the broker had the message: the hand-over has succeeded."""
    log(
        logging.ERROR,
        "the broker of queue %r has the message, but post_send() of a middleware failed",
        queue,
        error=error,
        job=JOB.get(),
    )


def dropped(job: Job, reason: str, level: int | None = None) -> None:
    """Log a drop, in the task's context. Default level: WARNING if `when` was left to its default, otherwise DEBUG."""
    if level is None:
        level = logging.WARNING if job.config.when is None else logging.DEBUG
    if LOGGER.isEnabledFor(level):  # saves the context switch: each successful route drops its tasks for failure
        job._run_in_context(log, level, "task %r was dropped: %s", job.name, reason, job=job)


def not_started(job: Job, error: Exception) -> None:
    """Log that a task could not start when its turn came: its task group was closed, or a task factory raised."""
    log(logging.WARNING, "task %r could not be started, and was cancelled", job.name, error=error, job=job)


def scopes_are_early(reason: str) -> None:
    """Log that tasks enter their cancel scopes at the first step, because late scopes do not work here."""
    text = "%s: each task enters its cancel scope at the first step, which takes longer and changes nothing else"
    log(logging.WARNING, text, reason)


def reason_of(exc: Exception) -> str:
    """Return why a job could not be started. The text of a foreign exception may be secret, so name only its class."""
    return str(exc) if isinstance(exc, TasksClosedError) else f"it could not be started: {type(exc).__name__}"


def group_failed(error: BaseException) -> None:
    """Log that an exception has ended one of the real task groups behind `host.tg`."""
    log(logging.ERROR, "work in host.tg failed; the other work of its task group was cancelled", error=error)


def raw_work_cancelled(names: list[str]) -> None:
    """Log the names of the work in `host.tg` that the drain has cancelled."""
    if names:
        text = "closing the task host: cancelled %d in host.tg: %s"
        log(logging.WARNING, text, len(names), ", ".join(map(repr, names)))


def waiting_for(jobs: Iterable[Job]) -> None:
    """Log the names and the number of tasks for which the drain waits, perhaps for long."""
    listed, total = _listed(jobs)
    if total:
        log(logging.INFO, "closing the task host: waiting for %d: %s", total, listed)


def drained(cancelled: Iterable[Job], abandoned: Iterable[Job], kept: Iterable[Job]) -> None:
    """Log the names and the number of tasks that the drain has cut short, and of those in the journal among them."""
    for level, what, jobs in (
        (logging.WARNING, "cancelled", cancelled),
        (logging.WARNING, "abandoned, with its thread still running", abandoned),
        (logging.INFO, "of these in the journal, for another process", kept),
    ):
        listed, total = _listed(jobs)
        if total:
            log(level, "closing the task host: %d %s: %s", total, what, listed)


def _listed(jobs: Iterable[Job]) -> tuple[str, int]:
    names = Counter(job.name for job in jobs)
    return ", ".join(
        f"{shown(name)} ({count})" if count > 1 else shown(name) for name, count in names.items()
    ), names.total()


def log(
    level: int,
    text: str,
    *args: object,
    error: BaseException | None = None,
    job: Job | None = None,
    more: Mapping[str, object] = _NO_MORE,
) -> None:
    # The user's filters, handlers and exceptions may raise here. That must not change the end of a task.
    try:
        if LOGGER.isEnabledFor(level):
            fields = {**(_NO_MORE if job is None else _fields(job)), **more}
            # A tuple, because logging leaves out an exception that is false: its class may have a `__len__()`.
            exc_info = None if error is None else (type(error), error, _traceback.__get__(error))
            write = partial(LOGGER.log, level, text, *args, exc_info=exc_info)
            try:
                write(extra=fields)
            except KeyError:
                # logging refuses a field whose name the user's record factory has set.
                taken = fields.keys() & vars(logging.makeLogRecord({})).keys()
                if not taken:
                    raise
                write(extra={name: value for name, value in fields.items() if name not in taken})
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        _print_instead(text, args, error, exc)


def _fields(job: Job) -> dict[str, object]:
    phase, status = job.phase.value, job.status.value
    values = (job.id, job.function, job.name, phase, job.attempt, status, job.message_id, job.recovered)
    return dict(zip(_FIELDS, values, strict=True))


def _print_instead(text: str, args: tuple[object, ...], error: BaseException | None, reason: BaseException) -> None:
    """Print a record that could not be logged because of `reason`, with the tracebacks of its `error` and `reason`."""
    told = "" if error is None else _traceback_of(error)
    with suppress(Exception):  # stderr may be None or closed
        sys.stderr.write(f"taskphase could not log: {text % args}\n{told}The reason:\n{_traceback_of(reason)}")


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"{shown(type_name(error))}, whose traceback cannot be formatted\n"
