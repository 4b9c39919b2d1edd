"""The instruments of `TraceTasks`, and the numbers behind them. Imports OpenTelemetry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextvars import Token
from threading import RLock
from weakref import ref

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import Span

from ._machine.text import exportable
from ._queue import Queue

NAME = "taskphase"  # of the instrumentation, in each span and metric

FUNCTION = "code.function.name"
PHASE = "taskphase.task.phase"
QUEUE = "taskphase.queue"
ERROR = "error.type"

# Seconds. The SDK's own buckets are made for milliseconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Life:
    """The facts about one task that has not ended.

    :ivar may_run_at: the age of the task at which its phase, its delay or its pause is over
    :ivar queue: gets the task in the present hand-over; None during an attempt
    :ivar current: the span of the present attempt or hand-over, and the token that makes the span before it current
        again; None between attempts
    """

    __slots__ = ("current", "function", "labels", "may_run_at", "queue", "state")

    def __init__(self, function: str, phase: str, state: str) -> None:
        self.function = exportable(function)
        self.labels: dict[str, str] = {FUNCTION: self.function, PHASE: phase}
        self.state = state
        self.may_run_at = 0.0
        self.queue: Queue | None = None
        self.current: tuple[Span, Token[Context]] | None = None


class Lives(dict[int, Life]):
    """The tasks of one observer that have not ended, by id. (A plain dict takes no weak reference.)"""


class Counts:
    """The instruments of one meter provider, and the numbers that its readers ask for, in threads of their own.

    The SDK has only one instrument of a name, so all observers with the same provider share this object.

    A provider may live longer than its observers, so this refers to them weakly.
    """

    def __init__(self, provider: MeterProvider) -> None:
        self._lives: list[ref[Lives]] = []
        self._lock = RLock()  # a finalizer may schedule, and be refused, in the thread that has the lock
        self._seen: set[tuple[str, str]] = set()
        meter = provider.get_meter(NAME)

        def seconds(name: str, description: str) -> Histogram:
            return meter.create_histogram(
                f"taskphase.{name}", "s", description, explicit_bucket_boundaries_advisory=_BUCKETS
            )

        def counter(name: str, description: str, label: str) -> Counter[tuple[str, str]]:
            counts: Counter[tuple[str, str]] = Counter()

            def read(_: CallbackOptions) -> Iterable[Observation]:
                with self._lock:
                    items = list(counts.items())
                return [Observation(count, {FUNCTION: function, label: value}) for (function, value), count in items]

            meter.create_observable_counter(f"taskphase.task.{name}", [read], "{task}", description)
            return counts

        self.duration = seconds("task.duration", "Duration of one attempt at a task, with its error handler.")
        self.wait = seconds(
            "task.wait", "Time that a task waits for its limit, its slot and the event loop, when it may run."
        )
        self.handovers = seconds(
            "handover.duration",
            "Duration of one hand-over to a queue, with its attempts to publish and its error handler.",
        )
        self.retried = meter.create_counter(
            "taskphase.task.retried", unit="{attempt}", description="Failed attempts that another attempt follows."
        )
        meter.create_observable_up_down_counter(
            "taskphase.tasks", [self._alive], unit="{task}", description="Tasks that have not ended."
        )
        self.refused = counter(
            "refused", "Calls of schedule() that raised: a limit, the shutdown, a call that cannot go elsewhere.", ERROR
        )
        self.dropped = counter("dropped", "Tasks that were dropped and never ran, for any reason.", PHASE)
        self.recovered = counter(
            "recovered", "Tasks that a journal has recovered: their process has died, or was shut down.", PHASE
        )

    def add(self, lives: Lives) -> None:
        """Count `lives` too, as long as its observer is there."""
        self._lives.append(ref(lives, self._lives.remove))

    def note(self, counter: Counter[tuple[str, str]], function: str, label: str) -> None:
        """Count one more in `refused`, `dropped` or `recovered`."""
        with self._lock:
            counter[function, label] += 1

    def _alive(self, _: CallbackOptions) -> Iterable[Observation]:
        # `list()` copies in one step, while other threads change the dict.
        alive = [lives for each in list(self._lives) if (lives := each()) is not None]
        now = Counter((life.function, life.state) for lives in alive for life in list(lives.values()))
        with self._lock:
            self._seen.update(now)
            seen = sorted(self._seen)  # with 0, as soon as there are no more
        return [Observation(now[pair], {FUNCTION: pair[0], "taskphase.task.state": pair[1]}) for pair in seen]


_lock = RLock()
_known: list[tuple[ref[MeterProvider], Counts]] = []  # no dict: providers of users may have no hash, or be equal


def counts_of(provider: MeterProvider) -> Counts:
    """Return the counts of `provider`: the same object each time."""
    with _lock:
        _known[:] = [(each, counts) for each, counts in _known if each() is not None]
        is_global = provider is get_meter_provider()
        for each, counts in _known:
            # OpenTelemetry passes all measurements for a proxy on to the global provider, once it is set.
            if each() is provider or (is_global and type(each()).__name__ == "_ProxyMeterProvider"):
                return counts
        _known.append((ref(provider), Counts(provider)))
        return _known[-1][1]
