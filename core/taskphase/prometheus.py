"""`PrometheusTasks`: metrics of tasks for prometheus_client, from any thread and without a polling loop."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Sequence
from typing import Any

from . import HandOverFailed, Phase, Scope, Task, TaskObserver, TasksError, TaskStatus
from ._machine.calling import name_of
from ._machine.life import WAITS
from ._queue import queue_of

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

    from ._prometheus import Changes, LocalCounter, LocalHistogram, Series, SharedStates
except ImportError as _missing:
    raise ImportError(
        "taskphase.prometheus needs the package prometheus-client: pip install prometheus-client"
    ) from _missing

__all__ = ["PrometheusTasks"]

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # seconds
_DEFERRED, _WAITING, _RUNNING, _RETRYING = "deferred", "waiting", "running", "retrying"
_STATE_OF = dict(WAITS)  # faster than the read-only view
_STATES: tuple[str, ...] = (*dict.fromkeys(WAITS.values()), _RUNNING)

_IMMEDIATE = Phase.IMMEDIATE
_MOST = 64  # changes that wait: less than a millisecond of work


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
    | `taskphase_tasks_recovered_total`: tasks that a journal has recovered | `function` |
    | `taskphase_tasks_refused_total`: calls of `schedule()` that raise | `function`, `error` |
    | `taskphase_handover_duration_seconds`, a histogram: hand-overs to queues | `function`, `queue`, `outcome` |

    - `function` is `task.function`. No label has the name or an argument of a task: each value would be a new series.
    - `outcome` is `succeeded`, `failed` or `cancelled`; of an attempt also `retried`, of a task also `dropped` and
      `handed_over`. Of a hand-over it is `handed_over`, `refused`, `unknown` (see `HandOverFailed`) or `cancelled`. A
      hand-over is no attempt, so the other histograms do not have it.
    - The wait does not include the `delay` of the task.
    - `state` is `deferred`, `recording`, `delayed`, `limited`, `waiting`, `running`, `retrying` or `handing_over`.

    A scrape may come in any thread. One observer may watch several hosts: its metrics are their sums. In the
    multi-process mode of prometheus_client the gauge is the sum of the processes that are alive.

    :param registry: default: `prometheus_client.REGISTRY`
    :param namespace: the first word of the names of the metrics
    :param buckets: the upper bounds of all histograms, in seconds
    :raises ValueError: if the registry has metrics of these names, for example from another `PrometheusTasks`
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        namespace: str = "taskphase",
        buckets: Sequence[float] = _BUCKETS,
    ) -> None:
        # In the multi-process mode another process makes the scrape, and reads the values that this one has written.
        is_shared = any(name.upper() == "PROMETHEUS_MULTIPROC_DIR" for name in os.environ)

        # Not in the registry: each scrape must come through `Changes`.
        def histogram(name: str, documentation: str, *labels: str) -> Series[Histogram] | LocalHistogram:
            parameters = f"{namespace}_{name}", documentation, labels
            metric = Histogram(*parameters, registry=None, buckets=buckets)  # checks the parameters in both cases
            return Series(metric) if is_shared else LocalHistogram(*parameters, buckets)

        def counter(name: str, documentation: str, *labels: str) -> Series[Counter] | LocalCounter:
            metric = Counter(f"{namespace}_{name}", documentation, labels, registry=None)
            return Series(metric) if is_shared else LocalCounter(metric)

        alive = Gauge(
            f"{namespace}_tasks", "Tasks that have not ended.", ["state"], registry=None, multiprocess_mode="livesum"
        )
        self._alive = Series(alive)
        named = ("function", "phase")
        self._durations = histogram(
            "task_duration_seconds", "Seconds of one attempt, with its error handler.", *named, "outcome"
        )
        self._waits = histogram(
            "task_wait_seconds", "Seconds from the phase of a task to its first step, without its delay.", *named
        )
        self._handovers = histogram(
            "handover_duration_seconds",
            "Seconds of one hand-over to a queue, with its error handler.",
            *("function", "queue", "outcome"),
        )
        self._ends = counter("tasks_ended", "Tasks that have ended.", *named, "outcome")
        self._retries = counter("tasks_retried", "Attempts that another attempt follows.", "function")
        self._refusals = counter("tasks_refused", "Calls of schedule() that raise.", "function", "error")
        self._recoveries = counter("tasks_recovered", "Tasks that a journal has recovered.", "function")
        measured = (self._durations, self._waits, self._handovers)
        counted = (self._ends, self._retries, self._refusals, self._recoveries)
        changes = Changes((self._alive, *measured, *counted), self._set_alive, 1 if is_shared else _MOST)
        self._changes = changes
        self._states: dict[int, str] = SharedStates(changes, self._alive) if is_shared else {}
        self._due_at: dict[int, float] = {}  # the age of a task when its later phase came
        self._set_alive()  # from the start on there is a 0
        try:
            (REGISTRY if registry is None else registry).register(changes)
        except ValueError as exc:
            raise ValueError(
                f"the registry has metrics with the namespace {namespace!r} already: give one PrometheusTasks to all "
                "hosts, or another namespace to each"
            ) from exc

    # Each of the next methods is a part of the cost of each task.

    def scheduled(self, task: Task[Any], _scope: Scope | None, /) -> None:
        """Count the task as deferred, and a recovery."""
        self._states[task.id] = _DEFERRED
        if task.recovered:
            self._changes.note(self._recoveries.inc, (task.function,))

    def refused(self, func: Callable[..., Any], error: TasksError, /) -> None:
        """Count a refusal."""
        self._changes.note(self._refusals.inc, (name_of(func), type(error).__name__))

    def due(self, task: Task[Any], /) -> None:
        """Count the task as one that waits."""
        self._states[task.id] = _STATE_OF.get(task.status, _WAITING)
        if task.phase is not _IMMEDIATE:  # the others are due since `schedule()`
            self._due_at[task.id] = task.age

    def moved(self, task: Task[Any], /) -> None:
        """Count the task where it waits now."""
        if (state := _STATE_OF.get(task.status)) is not None:
            self._states[task.id] = state

    def started(self, task: Task[Any], /) -> None:
        """Count the task as running, and measure its wait. `moved()` counts a task that is handed over."""
        config = task.config
        if config.queue is not None and queue_of(config) is not None:
            return
        self._states[task.id] = _RUNNING
        if task.attempt == 1:
            wait = task.age - self._due_at.pop(task.id, 0) - (config.delay or 0)
            self._changes.note(self._waits.observe, (task.function, task.phase), max(0.0, wait))

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None, /) -> None:
        """Measure an attempt that another attempt follows; `ended()` measures the last one."""
        if retry_after is None:
            return
        self._states[task.id] = _RETRYING
        seconds = task.running_for or 0
        if task.attempt == 0 and isinstance(error, HandOverFailed):  # the task runs here after all
            self._changes.note(self._handovers.observe, (task.function, error.queue, error.outcome), seconds)
        else:
            self._changes.note(self._durations.observe, (task.function, task.phase, "retried"), seconds)
            self._changes.note(self._retries.inc, (task.function,))

    def ended(self, task: Task[Any], /) -> None:
        """Count an end, and measure the last attempt."""
        seconds, config = task.running_for, task.config
        labels = function, phase, outcome = task.function, task.phase, task.status
        self._states.pop(task.id, None)
        if phase is not _IMMEDIATE:
            self._due_at.pop(task.id, None)
        if seconds is None:  # the task has ended outside of an attempt
            self._changes.note(self._ends.inc, labels)
        elif config.queue is not None and (queue := queue_of(config)) is not None:
            error = task.exception if outcome is TaskStatus.FAILED else None
            of_queue = error.outcome if isinstance(error, HandOverFailed) else outcome
            self._changes.note(self._ends.inc, labels)
            self._changes.note(self._handovers.observe, (function, queue.name, of_queue), seconds)
        else:
            self._changes.note(self._end_attempt, labels, seconds)

    def _end_attempt(self, labels: tuple[str, ...], seconds: float) -> None:
        self._ends.inc(labels, 1)
        self._durations.observe(labels, seconds)

    def _set_alive(self) -> None:
        counts = collections.Counter(list(self._states.values()))  # `list()`: other threads change the dict
        for state in _STATES:
            self._alive[state,].set(counts[state])
