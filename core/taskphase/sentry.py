"""`SentryTasks`: each attempt of a task has a transaction, tags and breadcrumbs of its own in Sentry."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from . import Scope, Task, TaskObserver, TaskStatus
from ._drive.job import record_of
from ._queue import queue_of

try:
    import sentry_sdk
    from sentry_sdk.tracing import Span
except ImportError as _missing:
    raise ImportError(
        "taskphase.sentry needs the package sentry-sdk, version 2: pip install 'sentry-sdk<3'"
    ) from _missing

if TYPE_CHECKING:
    from sentry_sdk.traces import StreamedSpan
    from sentry_sdk.types import Attributes, Event, Hint

__all__ = ["SentryTasks"]

_ORIGIN = "auto.queue.taskphase"
_CONTEXT = "taskphase"  # of an event, beside "trace" and "runtime"
_HEADERS = ("sentry-trace", "baggage")
_RECOVERED = "taskphase.recovered"  # a tag, because Sentry searches no contexts
_IN_JOURNAL = "taskphase.sentry."  # before the name of a header of the trace, in the file of a journal


class _Attempt(NamedTuple):
    """An attempt that runs.

    :ivar task: the id of its task
    :ivar scope: its isolation scope
    """

    task: int
    scope: sentry_sdk.Scope
    span: Span | StreamedSpan


_ATTEMPT: ContextVar[_Attempt | None] = ContextVar("taskphase_sentry_attempt", default=None)
"""The attempt around this code, or the attempt in which the task around this code was scheduled."""


class SentryTasks(TaskObserver):
    """Gives each attempt of a task its own place in Sentry. Call `sentry_sdk.init()` as always.

        add_tasks(app, observers=[SentryTasks()])      # or TaskHost(observers=[SentryTasks()])

    - A transaction `queue.process` with the name of the function, in the trace of the request. The function, its
      threads and its error handler add their spans to the transaction.
    - For the hand-over of a task to a queue, likewise a transaction `queue.publish`, with the data for Sentry's page of
      queues.
    - An isolation scope: tags, user and breadcrumbs of a task are not seen by the request and by its other tasks. The
      scope begins with the tags and the user of the request, and without breadcrumbs.
    - Error events have the name of the function as their transaction. They come from the ERROR records of the logger
      `taskphase`, as without this observer: one event for each task that has failed for good.

    The context `taskphase` of each event names the task and the attempt, never the arguments. A task that a journal has
    recovered is in the trace of its request, and has the tag `taskphase.recovered`. Without
    `sentry_sdk.init()` nothing happens. Put this observer first in the list: then the log lines of others belong to the
    task, too.
    """

    def __init__(self) -> None:
        self._traces: dict[int, dict[str, str]] = {}  # of tasks that have not ended, by id

    def scheduled(self, task: Task[Any], _scope: Scope | None, /) -> None:
        """Keep the trace of the code that schedules the task."""
        if sentry_sdk.is_initialized():
            self._traces[task.id] = _trace_of(task)

    def started(self, task: Task[Any], /) -> None:
        """Begin a scope and a transaction."""
        if not sentry_sdk.is_initialized():
            return
        around, old = _ATTEMPT.get(), sentry_sdk.get_isolation_scope()
        # Nobody undoes these two: the context belongs to this attempt, and goes with it.
        sentry_sdk.Scope.set_isolation_scope(scope := old.fork())
        sentry_sdk.Scope.set_current_scope(sentry_sdk.get_current_scope().fork())
        scope.clear_breadcrumbs()
        scope.set_context(
            _CONTEXT,
            {
                "id": task.id,
                "function": task.function,
                "name": task.name,
                "phase": task.phase.value,
                **_number_of(task),
                **({} if task.message_id is None else {"message_id": task.message_id}),
                **({"recovered": True} if task.recovered else {}),
            },
        )
        if task.recovered:
            scope.set_tag(_RECOVERED, "true")
        else:
            scope.remove_tag(_RECOVERED)  # of the task that has scheduled this one
        if around is None or around.scope is not old:
            # Otherwise the fork has it: a task that schedules itself again and again would add one each time.
            scope.add_event_processor(_set_transaction)
        _ATTEMPT.set(_Attempt(task.id, scope, _begin(task, self._traces.get(task.id, {}))))

    def attempt_ended(self, task: Task[Any], error: BaseException | None, _retry_after: float | None, /) -> None:
        """End the transaction."""
        attempt = _ATTEMPT.get()
        if attempt is not None and attempt.task == task.id:
            _end(attempt.span, _status_of(task, error))

    def ended(self, task: Task[Any], /) -> None:
        """Forget the trace."""
        self._traces.pop(task.id, None)


def _trace_of(task: Task[Any]) -> dict[str, str]:
    """Return the headers of the trace around this code; for a recovered task, of the request that has scheduled it."""
    record = record_of(task)
    if record is not None and record.is_recovered:
        kept = {name: record.headers[_IN_JOURNAL + name] for name in _HEADERS if _IN_JOURNAL + name in record.headers}
        if kept:
            return kept
    found = zip(_HEADERS, (sentry_sdk.get_traceparent(), sentry_sdk.get_baggage()), strict=True)
    headers = {name: value for name, value in found if value is not None}
    if record is not None:
        record.headers.update({_IN_JOURNAL + name: value for name, value in headers.items()})
    return headers


def _number_of(task: Task[Any]) -> dict[str, int]:
    """Return the number of the attempt. A hand-over is no attempt at the task."""
    return {"attempt": task.attempt} if queue_of(task.config) is None else {}


def _begin(task: Task[Any], trace: dict[str, str]) -> Span | StreamedSpan:
    """Begin the transaction of an attempt or of a hand-over, on the current scope."""
    queue = queue_of(task.config)
    op = "queue.process" if queue is None else "queue.publish"
    data: Attributes = {
        "taskphase.task.id": task.id,
        "taskphase.task.name": task.name,
        "taskphase.task.phase": task.phase.value,
        **{f"taskphase.task.{name}": number for name, number in _number_of(task).items()},
    }
    if task.recovered:
        data["taskphase.task.recovered"] = True
    if queue is not None:
        data |= {"messaging.destination.name": queue.name, "messaging.message.id": str(task.message_id)}
        if queue.system is not None:
            data["messaging.system"] = queue.system
    if _streams():
        from sentry_sdk import traces

        traces.continue_trace(trace)
        data |= {"sentry.op": op, "sentry.origin": _ORIGIN, "sentry.segment.name.source": "task"}
        return traces.start_span(name=task.function, attributes=data, parent_span=None)
    started = sentry_sdk.start_transaction(
        sentry_sdk.continue_trace(trace, op=op, name=task.function, source="task", origin=_ORIGIN)
    )
    for key, value in data.items():
        started.set_data(key, value)
    return started.__enter__()


def _end(span: Span | StreamedSpan, status: str) -> None:
    if isinstance(span, Span):
        span.set_status(status)
    else:
        span.status = "ok" if status in {"ok", "cancelled"} else "error"
    span.__exit__(None, None, None)


def _status_of(task: Task[Any], error: BaseException | None) -> str:
    if error is None:
        return "ok"
    if task.status is TaskStatus.CANCELLED:
        return "cancelled"
    return "deadline_exceeded" if issubclass(type(error), TimeoutError) else "internal_error"


def _streams() -> bool:
    """Return whether the SDK sends spans one by one, and has no transactions."""
    options = sentry_sdk.get_client().options
    experiments: dict[str, object] = options.get("_experiments") or {}
    lifecycle: object = options.get("trace_lifecycle") or experiments.get("trace_lifecycle")
    return lifecycle == "stream"


def _set_transaction(event: Event, _hint: Hint) -> Event:
    """Give an event of a task its name again, which the integration of a framework has replaced by the request's."""
    contexts = event.get("contexts", {})
    task = contexts.get(_CONTEXT)
    is_own = event.get("type") != "transaction" or contexts.get("trace", {}).get("origin") == _ORIGIN
    if task is not None and is_own:
        event["transaction"] = str(task["function"])
        event["transaction_info"] = {"source": "task"}
    return event
