"""Metrics of prometheus_client, and faster ones for a process that is scraped itself.

prometheus_client takes a lock for each change, and its histogram takes two. `PrometheusTasks` has one lock for all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from math import inf
from threading import Lock
from typing import TypeAlias, TypeVar

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString  # pyright: ignore[reportUnknownVariableType]

from ._machine.text import exportable

M = TypeVar("M", bound=MetricWrapperBase)
Labels: TypeAlias = tuple[str, ...]

_shown: Callable[[float], str] = floatToGoString  # pyright: ignore[reportUnknownVariableType]


class Series(dict[Labels, M], Collector):
    """The series of a metric of prometheus_client, by their labels. Faster than `metric.labels()`."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: Labels) -> M:
        self[labels] = series = self._metric.labels(*_exported(labels))
        return series

    def inc(self: Series[Counter], labels: Labels, _: float) -> None:
        self[labels].inc()

    def observe(self: Series[Histogram], labels: Labels, seconds: float) -> None:
        self[labels].observe(seconds)

    def collect(self) -> Iterable[Metric]:
        return self._metric.collect()


class LocalCounter(dict[Labels, int], Collector):
    """A counter of this process alone. A scrape moves the numbers to prometheus_client."""

    def __init__(self, metric: Counter) -> None:
        super().__init__()
        self._metric = metric

    def inc(self, labels: Labels, _: float) -> None:
        self[labels] = self.get(labels, 0) + 1

    def collect(self) -> Iterable[Metric]:
        for labels, number in self.items():
            self._metric.labels(*_exported(labels)).inc(number)
            self[labels] = 0
        return self._metric.collect()


class LocalHistogram(dict[Labels, list[float]], Collector):
    """A histogram of this process alone. An observation costs a fifth of an observation of prometheus_client.

    Each series is a list: the number of values in each bucket, and at last the sum of the values.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        super().__init__()
        self._new_family = partial(HistogramMetricFamily, name, documentation, labels=labels)
        self._bounds = [*(float(bound) for bound in buckets if bound != inf), inf]

    def __missing__(self, labels: Labels) -> list[float]:
        if (exported := _exported(labels)) != labels:
            return self[exported]  # under both keys a scrape would have the series twice
        self[labels] = series = [0.0] * (len(self._bounds) + 1)
        return series

    def observe(self, labels: Labels, seconds: float) -> None:
        series = self[labels]
        series[bisect_left(self._bounds, seconds)] += 1
        series[-1] += seconds

    def collect(self) -> Iterable[Metric]:
        family = self._new_family()
        bounds = [_shown(bound) for bound in self._bounds]
        for labels, (*counts, total) in self.items():
            family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return [family]


def _exported(labels: Labels) -> Labels:
    """Return labels that a scrape can encode. A name that is no text would end each scrape."""
    return tuple(map(exportable, labels))


class SharedStates(dict[int, str]):
    """The states of the tasks that have not ended, by the ids of the tasks. Has each change in the gauge at once: no
    process is told of a scrape.
    """

    def __init__(self, changes: Changes, gauges: Series[Gauge]) -> None:
        super().__init__()
        self._changes = changes
        self._gauges = gauges

    def __setitem__(self, task: int, state: str) -> None:
        self._changes.note(self._move, (state,), task)

    def pop(self, task: int, _default: object = None) -> None:  # type: ignore[override]
        self._changes.note(self._move, (), task)

    def _move(self, to: Labels, task: int) -> None:
        before = super().pop(task, None)
        if before is not None:
            self._gauges[before,].dec()
        for state in to:
            super().__setitem__(task, state)
            self._gauges[state,].inc()


class Changes(Collector):
    """Changes of metrics: made in their order, by one thread at a time. The collector of these metrics.

    prometheus_client has locks that are not reentrant. A finalizer or a signal handler may schedule a task while its
    own thread holds such a lock, in a scrape or in another change. So no method of an observer waits for a lock: it
    leaves its change to the holder of `_lock`, and a scrape holds `_lock`, too.

    :param prepare: called at the begin of a scrape
    :param most: the number of changes that wait, until they are made together
    :ivar waiting: changes to make: a function, its labels, and its value
    """

    def __init__(self, metrics: Sequence[Collector], prepare: Callable[[], None], most: int) -> None:
        self._metrics = metrics
        self._prepare = prepare
        self._most = most
        self.waiting: deque[tuple[Callable[..., None], Labels, float]] = deque()
        self._lock = Lock()

    def note(self, change: Callable[..., None], labels: Labels, value: float = 0) -> None:
        """Make a change later, with others: that is faster. From any thread; does not wait."""
        waiting = self.waiting
        waiting.append((change, labels, value))
        if len(waiting) >= self._most:
            self._make_all()

    def _make_all(self) -> None:
        """Make the changes, or leave them to the thread that makes changes now."""
        # Look again after the release: another thread may have left a change before.
        while self.waiting and self._lock.acquire(blocking=False):
            try:
                self._make()
            finally:
                self._lock.release()

    def _make(self) -> None:
        waiting = self.waiting
        while waiting:
            change, labels, value = waiting.popleft()
            change(labels, value)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        try:
            with self._lock:
                self._make()
                self._prepare()
                return [each for metric in self._metrics for each in metric.collect()]
        finally:
            self._make_all()

    describe = collect  # the registry looks for names that it has already
