"""`PrometheusTasks`: metrics of tasks for prometheus_client, from any thread and without a polling loop."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any, Generic, TypeVar

from . import Scope, Task, TaskObserver, TasksError, TaskStatus
from ._machine.calling import name_of

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
except ImportError as _missing:
    raise ImportError(
        "taskphase.prometheus needs the package prometheus-client: pip install prometheus-client"
    ) from _missing

__all__ = ["PrometheusTasks"]

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # seconds
_STATES: tuple[str, ...] = ("deferred", "delayed", "limited", "waiting", "running", "retrying")
_DEFERRED, _DELAYED, _LIMITED, _WAITING, _RUNNING, _RETRYING = _STATES
# Where a task waits. STARTING: for the event loop.
_WAITS = {
    TaskStatus.DEFERRED: _DEFERRED,
    TaskStatus.DELAYED: _DELAYED,
    TaskStatus.LIMITED: _LIMITED,
    TaskStatus.WAITING: _WAITING,
    TaskStatus.STARTING: _WAITING,
}
_RETRIED = "retried"

M = TypeVar("M", Gauge, Histogram, Counter)


class PrometheusTasks(TaskObserver):
    """Counts and times tasks in a registry of prometheus_client.

        add_tasks(app, observers=[PrometheusTasks()])      # or TaskHost(observers=[PrometheusTasks()])
        app.mount("/metrics", prometheus_client.make_asgi_app())

    | metric | labels |
    |---|---|
    | `taskphase_tasks`, a gauge: tasks that have not ended | `state`, as `host.statistics()` has it |
    | `taskphase_task_duration_seconds`, a histogram: attempts, with their handlers | `function`, `phase`, `outcome` |
    | `taskphase_task_wait_seconds`, a histogram: from the phase to the first step | `function`, `phase` |
    | `taskphase_tasks_ended_total`: each task once | `function`, `phase`, `outcome` |
    | `taskphase_tasks_retried_total`: attempts that another attempt follows | `function` |
    | `taskphase_tasks_refused_total`: calls of `schedule()` that raise | `function`, `error` |

    - `function` is `task.function`. No label has the name or an argument of a task: each value would be a new series.
    - `outcome` is `succeeded`, `failed` or `cancelled`; of an attempt also `retried`, of a task also `dropped`.
    - The wait does not include the `delay` of the task.
    - `state` is `deferred`, `delayed`, `limited`, `waiting`, `running` or `retrying`.

    A scrape may come in any thread. One observer may watch several hosts: its metrics are their sums. In the
    multi-process mode of prometheus_client the gauge is the sum of the processes that are alive.

    :param registry: default: `prometheus_client.REGISTRY`
    :param namespace: the first word of the names of the metrics
    :param buckets: the upper bounds of both histograms, in seconds
    :raises ValueError: if the registry has metrics of these names, such as those of another `PrometheusTasks`
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        namespace: str = "taskphase",
        buckets: Sequence[float] = _BUCKETS,
    ) -> None:
        # Not in the registry: each scrape must come through `_Changes`.
        function = ["function"]
        named = [*function, "phase"]
        alive = Gauge(
            f"{namespace}_tasks", "Tasks that have not ended.", ["state"], registry=None, multiprocess_mode="livesum"
        )
        durations = Histogram(
            f"{namespace}_task_duration_seconds",
            "Seconds of one attempt, with its error handler.",
            [*named, "outcome"],
            registry=None,
            buckets=buckets,
        )
        waits = Histogram(
            f"{namespace}_task_wait_seconds",
            "Seconds from the phase of a task to its first step, without its delay.",
            named,
            registry=None,
            buckets=buckets,
        )
        ends = Counter(f"{namespace}_tasks_ended", "Tasks that have ended.", [*named, "outcome"], registry=None)
        retries = Counter(
            f"{namespace}_tasks_retried", "Attempts that another attempt follows.", function, registry=None
        )
        refusals = Counter(
            f"{namespace}_tasks_refused", "Calls of schedule() that raise.", [*function, "error"], registry=None
        )
        self._alive, self._durations, self._waits = _Children(alive), _Children(durations), _Children(waits)
        self._ends, self._retries, self._refusals = _Children(ends), _Children(retries), _Children(refusals)
        # In the multi-process mode another process makes the scrape, and reads what this one has written.
        self._is_shared = any(name.upper() == "PROMETHEUS_MULTIPROC_DIR" for name in os.environ)
        self._counts: dict[str, int] = dict.fromkeys(_STATES, 0)
        self._state_of: dict[int, str] = {}  # by the id of the task
        self._due_at: dict[int, float] = {}  # the age of a task when its phase came, and its delay
        self._changes = _Changes((alive, durations, waits, ends, retries, refusals), self._set_alive)
        self._note = self._changes.waiting.append
        self._set_alive()  # from the start on there is a 0
        try:
            (REGISTRY if registry is None else registry).register(self._changes)
        except ValueError as exc:
            raise ValueError(
                f"the registry has metrics with the namespace {namespace!r} already: give one PrometheusTasks to all "
                "hosts, or another namespace to each"
            ) from exc

    # Each method notes a change. Only some methods make the changes: that is faster, and each task ends.

    def scheduled(self, task: Task[Any], _scope: Scope | None, /) -> None:
        """Count the task as deferred."""
        self._note((self._move, (task.id, _DEFERRED)))
        if self._is_shared:
            self._changes.make()

    def refused(self, func: Callable[..., Any], error: TasksError, /) -> None:
        """Count a refusal."""
        self._note((self._count_refusal, (name_of(func), type(error).__name__)))
        self._changes.make()

    def due(self, task: Task[Any], /) -> None:
        """Count the task as one that waits."""
        state = _WAITS.get(task.status, _WAITING)
        self._note((self._begin_to_wait, (task.id, state, task.age + (task.config.delay or 0))))
        if self._is_shared:
            self._changes.make()

    def moved(self, task: Task[Any], /) -> None:
        """Count the task where it waits now."""
        if (state := _WAITS.get(task.status)) is not None:
            self._note((self._move, (task.id, state)))
            if self._is_shared:
                self._changes.make()

    def started(self, task: Task[Any], /) -> None:
        """Count the task as running, and measure its wait."""
        self._note((self._begin, (task.id, task.age, task.function, task.phase.value)))
        if self._is_shared:
            self._changes.make()

    def attempt_ended(self, task: Task[Any], _error: BaseException | None, retry_after: float | None, /) -> None:
        """Measure an attempt that another attempt follows; `ended()` measures the last one."""
        if retry_after is not None:
            self._note((self._retry, (task.id, task.running_for, task.function, task.phase.value)))
            self._changes.make()

    def ended(self, task: Task[Any], /) -> None:
        """Count an end, and measure the last attempt."""
        self._note(
            (self._end, (task.id, task.running_for, task.function, task.phase.value, task.status.value)),
        )
        self._changes.make()

    def _move(self, task: int, state: str | None) -> None:
        counts = self._counts
        old = self._state_of.pop(task, None)
        if old is not None:
            counts[old] -= 1
        if state is not None:
            counts[state] += 1
            self._state_of[task] = state
        if self._is_shared:
            self._set_alive()

    def _set_alive(self) -> None:
        for state, count in self._counts.items():
            self._alive(state).set(count)

    def _count_refusal(self, function: str, error: str) -> None:
        self._refusals(function, error).inc()

    def _begin_to_wait(self, task: int, state: str, due_at: float) -> None:
        self._move(task, state)
        self._due_at[task] = due_at

    def _begin(self, task: int, age: float, function: str, phase: str) -> None:
        self._move(task, _RUNNING)
        due_at = self._due_at.pop(task, None)
        if due_at is not None:  # the first attempt
            self._waits(function, phase).observe(max(0.0, age - due_at))

    def _retry(self, task: int, seconds: float | None, function: str, phase: str) -> None:
        self._move(task, _RETRYING)
        self._durations(function, phase, _RETRIED).observe(seconds or 0)
        self._retries(function).inc()

    def _end(self, task: int, seconds: float | None, function: str, phase: str, outcome: str) -> None:
        self._move(task, None)
        self._due_at.pop(task, None)
        self._ends(function, phase, outcome).inc()
        if seconds is not None:  # otherwise the task has ended outside of an attempt
            self._durations(function, phase, outcome).observe(seconds)


class _Children(Generic[M]):
    """The children of one metric by their labels. Faster than `metric.labels()`."""

    __slots__ = ("_known", "_metric")

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._known: dict[tuple[str, ...], M] = {}

    def __call__(self, *labels: str) -> M:
        child = self._known.get(labels)
        if child is None:
            child = self._known[labels] = self._metric.labels(*labels)
        return child


class _Changes:
    """Changes of metrics: made in their order, by one thread at a time. The collector of these metrics.

    prometheus_client has locks that are not reentrant. A finalizer or a signal handler may schedule a task while its
    own thread holds such a lock, in a scrape or in another change. So no method of an observer waits for a lock: it
    leaves its change to the holder of `_lock`, and a scrape holds `_lock`, too.

    :ivar waiting: changes to make: a function and its arguments
    """

    def __init__(self, metrics: Sequence[Gauge | Histogram | Counter], prepare: Callable[[], None]) -> None:
        self._metrics = metrics
        self._prepare = prepare
        self.waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
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
            change, args = self.waiting.popleft()
            change(*args)

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
