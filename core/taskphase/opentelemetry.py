"""`TraceTasks`: a span for each attempt at a task, and metrics, for OpenTelemetry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextvars import Token
from threading import RLock
from typing import Any, Literal
from weakref import ref

from ._machine.calling import name_of
from ._machine.life import TaskStatus
from ._machine.scope import Phase
from ._observer import TaskObserver
from ._scope import Scope
from ._task import Task
from .errors import TasksError

try:
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
    from opentelemetry.trace import (
        INVALID_SPAN,
        Link,
        Span,
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

__all__ = ["TraceTasks"]

_NAME = "taskphase"  # of the instrumentation, in each span and metric

_FUNCTION = "code.function.name"
_PHASE = "taskphase.task.phase"
_STATE = "taskphase.task.state"
_OUTCOME = "taskphase.task.outcome"
_ERROR = "error.type"

# Where a task waits. STARTING: for the event loop.
_WAITS = {
    TaskStatus.DEFERRED: "deferred",
    TaskStatus.DELAYED: "delayed",
    TaskStatus.LIMITED: "limited",
    TaskStatus.WAITING: "waiting",
    TaskStatus.STARTING: "waiting",
}

# Seconds. The SDK's own buckets are made for milliseconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class TraceTasks(TaskObserver):
    """Makes a span for each attempt at a task, and measures tasks.

        async with TaskHost(observers=[TraceTasks()]) as host: ...

    A FastAPI app needs no such line: see `add_tasks(telemetry=...)`.

    The span is a child of the span that was current at `schedule()`. While the function, its threads and its error
    handler run, the span is current and records. The log record of a failure has the ids of the span.

    Tasks that were scheduled before the observer was there have no span and are not counted.

    :param tracer_provider: makes the spans; default: the global provider, also if the program sets it later
    :param meter_provider: takes the measurements; default: likewise
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
        self._tracer = get_tracer(_NAME, tracer_provider=tracer_provider)
        self._links = trace == "link"
        self._lives: dict[int, _Life] = {}
        self._counts = _counts_of(meter_provider or get_meter_provider())
        self._counts.lives.append(self._lives)

    # Code that `schedule()` calls must not measure: a finalizer may call `schedule()` while its thread has a lock of
    # the SDK. So `scheduled()`, `refused()`, `due()`, `moved()` and `ended()` only count. `_Counts` tells the SDK, when
    # it asks.

    def scheduled(self, task: Task[Any], _scope: Scope | None, /) -> None:
        """Begin to count the task."""
        state = "waiting" if task.phase is Phase.IMMEDIATE else "deferred"
        self._lives[task.id] = _Life(task.function, task.phase.value, state)

    def refused(self, func: Callable[..., Any], error: TasksError, /) -> None:
        """Count the refusal."""
        self._counts.note_refused(name_of(func), _type_of(error))

    def due(self, task: Task[Any], /) -> None:
        """Note from when on the task may run."""
        if (life := self._lives.get(task.id)) is not None:
            life.state = _WAITS.get(task.status, "waiting")
            life.may_run_at = task.age + (task.config.delay or 0)

    def moved(self, task: Task[Any], /) -> None:
        """Note where the task waits now."""
        if (state := _WAITS.get(task.status)) is not None and (life := self._lives.get(task.id)) is not None:
            life.state = state

    def started(self, task: Task[Any], /) -> None:
        """Begin the span, and make it current."""
        life = self._lives.get(task.id)
        if life is None:
            return
        life.state = "running"
        wait = max(0.0, task.age - life.may_run_at)
        cause = get_current_span().get_span_context()
        # With "link" without a parent, but with the baggage.
        parent = set_span_in_context(INVALID_SPAN) if self._links else None
        life.span = span = self._tracer.start_span(
            f"task {life.function}",
            parent,
            attributes={
                **life.labels,
                "taskphase.task.id": task.id,
                "taskphase.task.name": _exportable(task.name),
                "taskphase.task.attempt": task.attempt,
                "taskphase.task.wait": wait,
            },
            links=[Link(cause)] if self._links and cause.is_valid else None,
        )
        life.token = attach(set_span_in_context(span))
        self._counts.wait.record(wait, life.labels)

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None, /) -> None:
        """End the span."""
        life = self._lives.get(task.id)
        if life is None or (span := life.span) is None:
            return
        life.span = None
        try:
            labels = dict(life.labels)
            labels[_OUTCOME] = outcome = task.status.value if retry_after is None else "retried"
            span.set_attribute(_OUTCOME, outcome)
            if error is not None and outcome in ("failed", "retried"):
                labels[_ERROR] = _type_of(error)
                span.set_attribute(_ERROR, labels[_ERROR])
                span.set_status(StatusCode.ERROR)
            self._counts.duration.record(task.running_for or 0.0, labels)
            if retry_after is not None:
                self._counts.retried.add(1, life.labels)
                life.state = "retrying"
                life.may_run_at = task.age + retry_after
            span.end()
        finally:
            if life.token is not None:
                detach(life.token)

    def ended(self, task: Task[Any], /) -> None:
        """Forget the task."""
        life = self._lives.pop(task.id, None)
        if life is not None and task.status is TaskStatus.DROPPED:
            self._counts.note_dropped(life.function, life.phase)


class _Life:
    """The facts about one task that has not ended.

    :ivar may_run_at: the age of the task at which its phase, its delay or its pause is over
    :ivar span: of the present attempt; None between attempts
    :ivar token: makes the span before it current again
    """

    __slots__ = ("function", "labels", "may_run_at", "phase", "span", "state", "token")

    def __init__(self, function: str, phase: str, state: str) -> None:
        self.function = _exportable(function)
        self.phase = phase
        self.labels: dict[str, str] = {_FUNCTION: self.function, _PHASE: phase}
        self.state = state
        self.may_run_at = 0.0
        self.span: Span | None = None
        self.token: Token[Context] | None = None


class _Counts:
    """The instruments of one meter provider, and the numbers that its readers ask for, in threads of their own.

    The SDK has only one instrument of a name, so all observers with the same provider share this object.

    :ivar lives: the tasks of each observer that have not ended
    """

    def __init__(self, provider: MeterProvider) -> None:
        self.lives: list[dict[int, _Life]] = []
        self._lock = RLock()  # a finalizer may schedule, and be refused, in the thread that has the lock
        self._refused: Counter[tuple[str, str]] = Counter()
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._seen: set[tuple[str, str]] = set()
        meter = provider.get_meter(_NAME)
        self.duration = meter.create_histogram(
            "taskphase.task.duration",
            unit="s",
            description="Duration of one attempt at a task, with its error handler.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self.wait = meter.create_histogram(
            "taskphase.task.wait",
            unit="s",
            description="Time that a task waits for its limit, its slot and the event loop, when it may run.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self.retried = meter.create_counter(
            "taskphase.task.retried", unit="{attempt}", description="Failed attempts that another attempt follows."
        )
        meter.create_observable_up_down_counter(
            "taskphase.tasks", [self._alive], unit="{task}", description="Tasks that have not ended."
        )
        meter.create_observable_counter(
            "taskphase.task.refused",
            [lambda _: self._pairs(self._refused, _ERROR)],
            unit="{task}",
            description="Calls of schedule() that raised, because of a limit or the shutdown.",
        )
        meter.create_observable_counter(
            "taskphase.task.dropped",
            [lambda _: self._pairs(self._dropped, _PHASE)],
            unit="{task}",
            description="Tasks that never ran, because the outcome of the route did not fit.",
        )

    def note_refused(self, function: str, error: str) -> None:
        with self._lock:
            self._refused[_exportable(function), error] += 1

    def note_dropped(self, function: str, phase: str) -> None:
        with self._lock:
            self._dropped[function, phase] += 1

    def _alive(self, _: CallbackOptions) -> Iterable[Observation]:
        # `list()` copies in one step, while other threads change the dict.
        now = Counter((life.function, life.state) for lives in list(self.lives) for life in list(lives.values()))
        with self._lock:
            self._seen.update(now)
            seen = sorted(self._seen)  # with 0, as soon as there are no more
        return [Observation(now[pair], {_FUNCTION: pair[0], _STATE: pair[1]}) for pair in seen]

    def _pairs(self, counter: Counter[tuple[str, str]], label: str) -> Iterable[Observation]:
        with self._lock:
            items = list(counter.items())
        return [Observation(count, {_FUNCTION: function, label: value}) for (function, value), count in items]


_lock = RLock()
_known: list[tuple[ref[MeterProvider], _Counts]] = []


def _counts_of(provider: MeterProvider) -> _Counts:
    """Return the counts of `provider`: the same object each time."""
    with _lock:
        _known[:] = [(each, counts) for each, counts in _known if each() is not None]
        is_global = provider is get_meter_provider()
        for each, counts in _known:
            if each() is provider or (is_global and _stands_in(each())):
                return counts
        _known.append((ref(provider), _Counts(provider)))
        return _known[-1][1]


def _stands_in(provider: object) -> bool:
    """Return whether OpenTelemetry passes all measurements for `provider` on to the global provider, once it is set."""
    return type(provider).__name__ == "_ProxyMeterProvider"


def _type_of(error: BaseException) -> str:
    """Return the name of the class of `error`, as FastAPI's own spans have it."""
    return _exportable(name_of(type(error)).removeprefix("builtins."))


def _exportable(name: str) -> str:
    """Return `name` without lone surrogates, which no exporter can encode. File names may have them."""
    return name if name.isascii() else name.encode(errors="backslashreplace").decode()
