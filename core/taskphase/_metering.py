"""The instruments of `TraceTasks`, and the numbers behind them. Imports OpenTelemetry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextvars import Token
from threading import RLock
from weakref import ref

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import Span

from ._machine.calling import name_of
from ._machine.text import exportable
from ._queue import Queue

NAME = "taskphase"  # of the instrumentation, in each span and metric

FUNCTION = "code.function.name"
PHASE = "taskphase.task.phase"
QUEUE = "taskphase.queue"
ERROR = "error.type"
_STATE = "taskphase.task.state"

# Seconds. The SDK's own buckets are made for milliseconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Life:
    """The facts about one task that has not ended.

    :ivar may_run_at: the age of the task at which its phase, its delay or its pause is over
    :ivar queue: gets the task in the present hand-over; None during an attempt
    :ivar span: of the present attempt or hand-over; None between attempts
    :ivar token: makes the span before it current again
    """

    __slots__ = ("function", "labels", "may_run_at", "phase", "queue", "span", "state", "token")

    def __init__(self, function: str, phase: str, state: str) -> None:
        self.function = exportable(function)
        self.phase = phase
        self.labels: dict[str, str] = {FUNCTION: self.function, PHASE: phase}
        self.state = state
        self.may_run_at = 0.0
        self.queue: Queue | None = None
        self.span: Span | None = None
        self.token: Token[Context] | None = None


class Counts:
    """The instruments of one meter provider, and the numbers that its readers ask for, in threads of their own.

    The SDK has only one instrument of a name, so all observers with the same provider share this object.

    :ivar lives: the tasks of each observer that have not ended
    """

    def __init__(self, provider: MeterProvider) -> None:
        self.lives: list[dict[int, Life]] = []
        self._lock = RLock()  # a finalizer may schedule, and be refused, in the thread that has the lock
        self.refused: Counter[tuple[str, str]] = Counter()
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.recovered: Counter[tuple[str, str]] = Counter()
        self._seen: set[tuple[str, str]] = set()
        meter = provider.get_meter(NAME)
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
        self.handovers = meter.create_histogram(
            "taskphase.handover.duration",
            unit="s",
            description="Duration of one hand-over to a queue, with its attempts to publish and its error handler.",
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
            [lambda _: self._pairs(self.refused, ERROR)],
            unit="{task}",
            description="Calls of schedule() that raised, because of a limit or the shutdown.",
        )
        meter.create_observable_counter(
            "taskphase.task.dropped",
            [lambda _: self._pairs(self.dropped, PHASE)],
            unit="{task}",
            description="Tasks that never ran, because the outcome of the route did not fit.",
        )
        meter.create_observable_counter(
            "taskphase.task.recovered",
            [lambda _: self._pairs(self.recovered, PHASE)],
            unit="{task}",
            description="Tasks that a journal has recovered: their process has died, or was shut down.",
        )

    def note(self, counter: Counter[tuple[str, str]], function: str, label: str) -> None:
        """Count one more in `refused`, `dropped` or `recovered`."""
        with self._lock:
            counter[function, label] += 1

    def _alive(self, _: CallbackOptions) -> Iterable[Observation]:
        # `list()` copies in one step, while other threads change the dict.
        now = Counter((life.function, life.state) for lives in list(self.lives) for life in list(lives.values()))
        with self._lock:
            self._seen.update(now)
            seen = sorted(self._seen)  # with 0, as soon as there are no more
        return [Observation(now[pair], {FUNCTION: pair[0], _STATE: pair[1]}) for pair in seen]

    def _pairs(self, counter: Counter[tuple[str, str]], label: str) -> Iterable[Observation]:
        with self._lock:
            items = list(counter.items())
        return [Observation(count, {FUNCTION: function, label: value}) for (function, value), count in items]


_lock = RLock()
_known: list[tuple[ref[MeterProvider], Counts]] = []


def counts_of(provider: MeterProvider) -> Counts:
    """Return the counts of `provider`: the same object each time."""
    with _lock:
        _known[:] = [(each, counts) for each, counts in _known if each() is not None]
        is_global = provider is get_meter_provider()
        for each, counts in _known:
            if each() is provider or (is_global and _stands_in(each())):
                return counts
        _known.append((ref(provider), Counts(provider)))
        return _known[-1][1]


def _stands_in(provider: object) -> bool:
    """Return whether OpenTelemetry passes all measurements for `provider` on to the global provider, once it is set."""
    return type(provider).__name__ == "_ProxyMeterProvider"


def type_of(error: BaseException) -> str:
    """Return the name of the class of `error`, as FastAPI's own spans have it."""
    return exportable(name_of(type(error)).removeprefix("builtins."))
