"""Metrics of prometheus_client, and faster ones for a process that is scraped itself.

prometheus_client takes a lock for each change, and its histogram takes two. `PrometheusTasks` has one lock for all.
"""

from __future__ import annotations

import collections
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from threading import Lock
from typing import Any, Protocol, TypeAlias, TypeVar

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.utils import floatToGoString  # pyright: ignore[reportUnknownVariableType]

from ._machine.text import exportable

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
Change: TypeAlias = Callable[[tuple[str, ...], float], None]


_shown: Callable[[float], str] = floatToGoString  # pyright: ignore[reportUnknownVariableType]


class Metrics(Protocol[M_co]):
    """The metrics of one name, by their labels. A `Gauge`, a `Counter`, a `Histogram`, or a `LocalHistogram`."""

    def labels(self, *labels: str) -> M_co: ...
    def describe(self) -> Iterable[Metric]: ...
    def collect(self) -> Iterable[Metric]: ...


class Observes(Protocol):
    """A `Histogram`, or a `Tally`."""

    def observe(self, amount: float) -> None: ...


class Counts(Protocol):
    """A `Counter`, or a `Number`."""

    def inc(self) -> None: ...


class Tally:
    """One series of a histogram, without a lock: `Changes` has one.

    :ivar counts: of the values in each bucket
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * len(bounds)
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount


class Number:
    """One series of a counter, without a lock: `Changes` has one. A scrape moves the value to prometheus_client."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        self.value += 1


class LocalCounter:
    """A counter of this process alone."""

    def __init__(self, metric: Counter) -> None:
        self._metric = metric
        self._numbers: dict[tuple[str, ...], Number] = {}

    def labels(self, *labels: str) -> Number:
        return self._numbers.setdefault(labels, Number())

    def describe(self) -> Iterable[Metric]:
        return self._metric.describe()

    def collect(self) -> Iterable[Metric]:
        for labels, number in self._numbers.items():
            self._metric.labels(*labels).inc(number.value)
            number.value = 0
        return self._metric.collect()


class LocalHistogram:
    """A histogram of this process alone. An observation costs a tenth of an observation of prometheus_client.

    :param metric: for its name, its help text, and the checks of its parameters
    """

    def __init__(self, metric: Histogram, labels: Sequence[str], buckets: Sequence[float]) -> None:
        self._metric = metric
        self._labels = labels
        self._bounds = [*(float(bound) for bound in buckets if bound != inf), inf]
        self._tallies: dict[tuple[str, ...], Tally] = {}

    def labels(self, *labels: str) -> Tally:
        return self._tallies.setdefault(labels, Tally(self._bounds))

    def describe(self) -> Iterable[Metric]:
        return self._metric.describe()

    def collect(self) -> Iterable[Metric]:
        for family in self._metric.describe():
            for values, tally in self._tallies.items():
                labels = dict(zip(self._labels, map(str, values), strict=True))
                total = 0
                for bound, count in zip(self._bounds, tally.counts, strict=True):
                    total += count
                    family.add_sample(f"{family.name}_bucket", {**labels, "le": _shown(bound)}, total)
                family.add_sample(f"{family.name}_count", labels, total)
                family.add_sample(f"{family.name}_sum", labels, tally.sum)
            yield family


class Series(dict[tuple[str, ...], M]):
    """The series of one name by their labels. Faster than `labels()`. A name that is no text would end each scrape."""

    def __init__(self, metrics: Metrics[M]) -> None:
        super().__init__()
        self._metrics = metrics

    def __missing__(self, labels: tuple[str, ...]) -> M:
        self[labels] = series = self._metrics.labels(*map(exportable, labels))
        return series

    def inc(self: Series[Counts], labels: tuple[str, ...], _: float) -> None:
        self[labels].inc()

    def observe(self: Series[Observes], labels: tuple[str, ...], seconds: float) -> None:
        self[labels].observe(seconds)


class States(dict[int, str]):
    """The states of the tasks that have not ended, by the ids of the tasks. A scrape counts them. From any thread."""

    def counts(self) -> collections.Counter[str]:
        """Return the number of tasks for each state."""
        return collections.Counter(list(self.values()))  # `list()` copies in one step, while other threads change this


class SharedStates(States):
    """Counts each change at once: nobody tells this process of a scrape."""

    def __init__(self, changes: Changes, alive: Series[Gauge]) -> None:
        super().__init__()
        self._changes = changes
        self._alive = alive
        self._counts = collections.Counter[str]()

    def counts(self) -> collections.Counter[str]:
        return self._counts

    def __setitem__(self, task: int, state: str) -> None:
        self._changes.waiting.append((self._move, (state,), task))
        self._changes.make()

    def pop(self, task: int, default: Any = None) -> Any:
        self._changes.waiting.append((self._move, (), task))
        self._changes.make()
        return default

    def _move(self, to: tuple[str, ...], task: float) -> None:
        before = super().pop(int(task), None)
        if before is not None:
            self._count(before, -1)
        for state in to:
            super().__setitem__(int(task), state)
            self._count(state, 1)

    def _count(self, state: str, more: int) -> None:
        self._counts[state] += more
        self._alive[state,].set(self._counts[state])


class Changes:
    """Changes of metrics: made in their order, by one thread at a time. The collector of these metrics.

    prometheus_client has locks that are not reentrant. A finalizer or a signal handler may schedule a task while its
    own thread holds such a lock, in a scrape or in another change. So no method of an observer waits for a lock: it
    leaves its change to the holder of `_lock`, and a scrape holds `_lock`, too.

    :ivar waiting: changes to make: a function, its labels, and seconds
    """

    def __init__(self, metrics: Sequence[Metrics[object]], prepare: Callable[[], None]) -> None:
        self._metrics = metrics
        self._prepare = prepare
        self.waiting: deque[tuple[Change, tuple[str, ...], float]] = deque()
        self._lock = Lock()

    def make(self) -> None:
        """Make the changes, or leave them to the thread that makes changes now. From any thread; does not wait."""
        # Look again after the release: another thread may have left a change before.
        while self.waiting and self._lock.acquire(blocking=False):
            try:
                self._make()
            finally:
                self._lock.release()

    def _make(self) -> None:
        while self.waiting:
            change, labels, seconds = self.waiting.popleft()
            change(labels, seconds)

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values: the registry looks for names that it has already."""
        return [each for metric in self._metrics for each in metric.describe()]

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        try:
            with self._lock:
                self._make()
                self._prepare()
                return [each for metric in self._metrics for each in metric.collect()]
        finally:
            self.make()
