"""`TraceTasks`: a span for each attempt at a task, and metrics, for OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

from ._drive import report
from ._machine.calling import name_of
from ._machine.life import WAITS, TaskStatus
from ._machine.scope import Phase
from ._observer import TaskObserver
from ._queue import queue_of
from ._scope import Scope
from ._task import Task
from .errors import HandOverFailed, TasksError

try:
    from opentelemetry.context import attach, detach
    from opentelemetry.metrics import MeterProvider, get_meter_provider
    from opentelemetry.trace import (
        INVALID_SPAN,
        Link,
        NonRecordingSpan,
        SpanKind,
        StatusCode,
        TracerProvider,
        get_current_span,
        get_tracer,
        set_span_in_context,
    )
except ImportError as _missing:
    raise ImportError(
        "taskphase.opentelemetry needs the package opentelemetry-api: pip install opentelemetry-sdk"
    ) from _missing

from ._machine.text import exportable
from ._messaging import message_attributes, type_of
from ._metering import ERROR, FUNCTION, NAME, QUEUE, Life, Lives, counts_of

__all__ = ["TraceTasks"]

P = ParamSpec("P")
T = TypeVar("T")


class TraceTasks(TaskObserver):
    """Makes a span for each attempt at a task, and measures tasks.

        async with TaskHost(observers=[TraceTasks()]) as host: ...

    A FastAPI app needs no such line: see `add_tasks(telemetry=...)`.

    The span is a child of the span that was current at `schedule()`. While the function, its threads and its error
    handler run, the span is current and records. The log record of a failure has the ids of the span.

    A task of a queue has one PRODUCER span for its hand-over, in place of the spans of attempts. `Queue.publish()` gets
    the trace of this span among its headers, and `taskphase.queues.running()` continues it in the worker.

    The span of a task that a journal has recovered is in the trace of the request, too, and has the attribute
    `taskphase.task.recovered`.

    Tasks that were scheduled before the observer was there have no span and are not counted.

    If a span processor or a sampler raises, the first exception is logged at ERROR. That span may be lost;
    the next ones are not.

    :param tracer_provider: makes the spans; default: the global provider, also if the program sets it later
    :param meter_provider: takes the measurements; default: the global provider, as above
    :param trace: `"child"`: the spans belong to the trace of the request. `"link"`: each span begins a trace of its
        own, with a link to the request: for long tasks, and for a collector that waits for the end of a trace
    :raises TypeError: if a provider is no provider of OpenTelemetry
    :raises ValueError: if `trace` is neither `"child"` nor `"link"`
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        trace: Literal["child", "link"] = "child",
    ) -> None:
        if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
            raise TypeError(f"tracer_provider must be a TracerProvider of OpenTelemetry, not {tracer_provider!r}")
        if meter_provider is not None and not isinstance(meter_provider, MeterProvider):
            raise TypeError(f"meter_provider must be a MeterProvider of OpenTelemetry, not {meter_provider!r}")
        if trace not in ("child", "link"):
            raise ValueError(f'trace must be "child" or "link", not {trace!r}')
        self._tracer = get_tracer(NAME, tracer_provider=tracer_provider)
        self._links = trace == "link"
        self._lives = Lives()
        self._counts = counts_of(meter_provider or get_meter_provider())
        self._counts.add(self._lives)
        self._has_failed = False

    # Code that `schedule()` calls must not measure: a finalizer may call `schedule()` while its thread has a lock of
    # the SDK. So `scheduled()`, `refused()`, `due()`, `moved()` and `ended()` only count. `Counts` tells the SDK, when
    # it asks.

    def scheduled(self, task: Task[Any], _scope: Scope | None, /) -> None:
        """Begin to count the task."""
        state = "waiting" if task.phase is Phase.IMMEDIATE else "deferred"
        self._lives[task.id] = life = Life(task.function, task.phase.value, state)
        if task.recovered:
            self._counts.note(self._counts.recovered, life.function, task.phase.value)

    def refused(self, func: Callable[..., Any], error: TasksError, /) -> None:
        """Count the refusal."""
        self._counts.note(self._counts.refused, exportable(name_of(func)), type_of(error))

    def due(self, task: Task[Any], /) -> None:
        """Note from when on the task may run."""
        if (life := self._lives.get(task.id)) is not None:
            life.state = WAITS.get(task.status, "waiting")
            life.may_run_at = task.age + (task.config.delay or 0)

    def moved(self, task: Task[Any], /) -> None:
        """Note where the task waits now."""
        if (state := WAITS.get(task.status)) is not None and (life := self._lives.get(task.id)) is not None:
            life.state = state

    def started(self, task: Task[Any], /) -> None:
        """Begin the span, and make it current."""
        life = self._lives.get(task.id)
        if life is None:
            return
        life.queue = queue = queue_of(task.config)
        life.state = "running" if queue is None else "handing_over"
        wait = max(0.0, task.age - life.may_run_at)
        own = {"taskphase.task.attempt": task.attempt, "taskphase.task.wait": wait}
        cause = get_current_span().get_span_context()
        span = self._ask(
            self._tracer.start_span,
            f"task {life.function}" if queue is None else f"send {queue.name}",
            # With "link" without a parent, but with the baggage.
            set_span_in_context(INVALID_SPAN) if self._links else None,
            kind=SpanKind.INTERNAL if queue is None else SpanKind.PRODUCER,
            attributes={
                **life.labels,
                "taskphase.task.id": task.id,
                "taskphase.task.name": exportable(task.name),
                **({"taskphase.task.recovered": True} if task.recovered else {}),
                **(own if queue is None else message_attributes(queue, life.function, str(task.message_id), "send")),
            },
            links=[Link(cause)] if self._links and cause.is_valid else None,
        )
        span = NonRecordingSpan(cause) if span is None else span
        life.current = span, attach(set_span_in_context(span))
        if queue is None:
            self._ask(self._counts.wait.record, wait, life.labels)

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None, /) -> None:
        """End the span."""
        life = self._lives.get(task.id)
        if life is None or life.current is None:
            return
        (span, token), life.current = life.current, None
        try:
            outcome = task.status.value if retry_after is None else "retried"
            of_error = {} if error is None or outcome not in ("failed", "retried") else {ERROR: type_of(error)}
            if of_error:
                self._ask(span.set_status, StatusCode.ERROR)
            if life.queue is not None:
                labels = {
                    "taskphase.handover.outcome": error.outcome if isinstance(error, HandOverFailed) else outcome,
                    **of_error,
                }
                own = {FUNCTION: life.function, QUEUE: exportable(life.queue.name)}
                self._ask(self._counts.handovers.record, task.running_for or 0.0, {**own, **labels})
            else:
                labels = {"taskphase.task.outcome": outcome, **of_error}
                self._ask(self._counts.duration.record, task.running_for or 0.0, {**life.labels, **labels})
                if retry_after is not None:
                    self._ask(self._counts.retried.add, 1, life.labels)
            self._ask(span.set_attributes, labels)
            if retry_after is not None:
                life.state = "retrying"
                life.may_run_at = task.age + retry_after
            self._ask(span.end)
        finally:
            detach(token)

    def ended(self, task: Task[Any], /) -> None:
        """Forget the task."""
        life = self._lives.pop(task.id, None)
        if life is not None and task.status is TaskStatus.DROPPED:
            self._counts.note(self._counts.dropped, life.function, task.phase.value)

    def _ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call code of OpenTelemetry, with processors and samplers of the user. An exception costs this one span, and
        only the first exception is logged: the next span is as good as any.
        """
        try:
            return call(*args, **kwargs)
        except Exception as exc:
            if not self._has_failed:
                self._has_failed = True
                report.telemetry_failed(exc)
            return None
