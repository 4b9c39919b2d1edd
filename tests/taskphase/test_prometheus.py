"""G3, G5, G8, G9, G15, G16, G20: the metrics of `PrometheusTasks`, in a registry of its own."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.backends import until

from taskphase import Limit, Task, TaskHost, TasksClosedError, TasksSaturatedError, retry
from taskphase.testing import simulate

prometheus_client = pytest.importorskip("prometheus_client")
from prometheus_client import CollectorRegistry, generate_latest  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from taskphase.prometheus import _BUCKETS, PrometheusTasks  # noqa: E402

DRAIN = 5  # seconds for what a test has left; nothing needs them
PATIENCE = 10  # seconds; a thread that waits for longer fails its test
STATES = ("deferred", "delayed", "limited", "waiting", "running", "retrying")
NONE = (0, 0, 0, 0, 0, 0)


class Metrics:
    """One observer, and what a scrape of its registry says."""

    def __init__(self, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        self.observer = PrometheusTasks(self.registry, **settings)

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def values(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the values of one sample, by the values of some of its labels, the functions without modules."""
        found: Counter[tuple[str, ...]] = Counter()
        for family in text_string_to_metric_families(self.text()):
            for sample in family.samples:
                if sample.name == f"taskphase_{name}":
                    found[tuple(sample.labels[label].rpartition(".")[2] for label in labels)] += sample.value  # type: ignore[assignment]
        return dict(found)

    def alive(self) -> tuple[float, ...]:
        """Return the gauge, in the order of `STATES`."""
        found = self.values("tasks", "state")
        return tuple(found[(state,)] for state in STATES)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


async def work() -> None:
    await anyio.lowlevel.checkpoint()


async def fail() -> None:
    raise LookupError


async def wait() -> None:
    await anyio.sleep_forever()


def sync_work() -> None: ...


async def test_each_end_and_each_attempt_is_counted_once_g2_g16_g20(metrics: Metrics) -> None:
    async with TaskHost(observers=[metrics.observer], drain_timeout=DRAIN) as host:
        again = retry(attempts=3, backoff=0, jitter=False)
        for task in (host.schedule(work), host.schedule(sync_work), host.task(retry=again).schedule(fail)):
            await task.wait()
        running = host.schedule(wait)
        await running.started.wait()
        running.cancel()
        await running.wait()
        host.task(delay=3600).schedule(work).cancel()
        async with host.scope() as tasks, tasks.route():
            tasks.task(when="failure").after_response.schedule(work)
            tasks.after_response.schedule(work)
        host.task(key="one").schedule(sync_work)
        host.task(key="one").schedule(sync_work)
        await until(lambda: not host.tasks())

    assert metrics.values("tasks_ended_total", "function", "phase", "outcome") == {
        ("work", "immediate", "succeeded"): 1,
        ("work", "immediate", "cancelled"): 1,
        ("work", "after_response", "dropped"): 1,
        ("work", "after_response", "succeeded"): 1,
        ("sync_work", "immediate", "succeeded"): 2,
        ("sync_work", "immediate", "dropped"): 1,
        ("fail", "immediate", "failed"): 1,
        ("wait", "immediate", "cancelled"): 1,
    }
    assert metrics.values("task_duration_seconds_count", "function", "outcome") == {
        ("work", "succeeded"): 2,
        ("sync_work", "succeeded"): 2,
        ("fail", "retried"): 2,
        ("fail", "failed"): 1,
        ("wait", "cancelled"): 1,
    }
    assert metrics.values("task_wait_seconds_count", "function") == {
        ("work",): 2,
        ("sync_work",): 2,
        ("fail",): 1,
        ("wait",): 1,
    }
    assert metrics.values("tasks_retried_total", "function") == {("fail",): 2}
    assert metrics.alive() == NONE


async def test_the_gauge_has_each_task_in_one_state_g15_g20(metrics: Metrics) -> None:
    assert metrics.alive() == NONE
    never = retry(attempts=2, backoff=3600, max_delay=3600, jitter=False)
    async with TaskHost(observers=[metrics.observer], max_running=2) as host, host.scope() as tasks, tasks.route():
        tasks.after_response.schedule(work)
        paused = host.task(retry=never).schedule(fail)
        await until(lambda: paused.status == "retrying")
        running = [host.schedule(wait) for _ in range(2)]
        one = host.task(limit=Limit(1))
        waiting = [one.schedule(wait), one.schedule(wait), host.task(delay=3600).schedule(wait)]
        await until(lambda: all(task.status == "running" for task in running))
        assert metrics.alive() == (1, 1, 1, 1, 2, 1)
        running[0].cancel()
        await until(lambda: waiting[0].status == "running")
        assert metrics.alive() == (1, 1, 1, 0, 2, 1)
        waiting[0].cancel()
        await until(lambda: waiting[1].status == "running")
        assert metrics.alive() == (1, 1, 0, 0, 2, 1)
    assert metrics.alive() == NONE


async def test_a_refusal_is_counted_by_its_function_and_its_error_g15_g20(metrics: Metrics) -> None:
    async with TaskHost(observers=[metrics.observer], max_running=1, max_pending=0) as host:
        host.schedule(wait)
        for _ in range(2):
            with pytest.raises(TasksSaturatedError):
                host.schedule(work)
        with pytest.raises(TasksSaturatedError):
            await anyio.to_thread.run_sync(host.schedule, work)
    with pytest.raises(TasksClosedError):
        host.schedule(sync_work)
    assert metrics.values("tasks_refused_total", "function", "error") == {
        ("work", "TasksSaturatedError"): 3,
        ("sync_work", "TasksClosedError"): 1,
    }
    assert metrics.values("tasks_ended_total", "function", "outcome") == {("wait", "cancelled"): 1}
    assert metrics.alive() == NONE


async def test_no_label_has_a_name_or_an_argument_of_a_task_g4_g20(metrics: Metrics) -> None:
    async with TaskHost(observers=[metrics.observer], drain_timeout=DRAIN) as host:
        for number in range(20):
            host.task(name=f"a name {number}").schedule(anyio.sleep, 0.000123)
    assert "a name" not in metrics.text()
    assert "0.000123" not in metrics.text()
    assert metrics.values("tasks_ended_total", "function") == {("sleep",): 20}


@pytest.mark.parametrize("is_shared", [False, True], ids=["one process", "several processes"])
async def test_a_name_that_is_no_text_ends_no_scrape_g3_g20(
    is_shared: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if is_shared:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    metrics, func = Metrics(), named(0)
    func.__qualname__ = "of \udcff"  # as in a file name with unknown bytes
    async with TaskHost(observers=[metrics.observer], drain_timeout=DRAIN) as host:
        host.schedule(func)
    assert metrics.values("tasks_ended_total", "function") == {("of \\udcff",): 1}


def test_the_seconds_are_those_of_the_clock_without_the_delay_g18_g20(metrics: Metrics) -> None:
    """A task of 2 s waits 3 s for its delay, then 4 s for the task before. Another one waits 5 s for its phase."""

    async def long() -> None:
        await anyio.sleep(7)

    async def short() -> None:
        await anyio.sleep(2)

    async def later() -> None:
        await anyio.sleep(1)

    async def main() -> None:
        async with TaskHost(observers=[metrics.observer], drain_timeout=60) as host:
            async with host.scope() as tasks:
                tasks.after_response.schedule(later)
                await anyio.sleep(5)
            at_most_one = host.task(limit=Limit(1))
            at_most_one.schedule(long)
            host.task(delay=3, limit=at_most_one._config.limit).schedule(short)

    simulate(main).result()
    assert metrics.values("task_duration_seconds_sum", "function") == {("later",): 1, ("long",): 7, ("short",): 2}
    assert metrics.values("task_wait_seconds_sum", "function") == {("later",): 0, ("long",): 0, ("short",): 4}


@contextmanager
def scraping(metrics: Metrics) -> Iterator[list[tuple[float, ...]]]:
    """Scrape in another thread until the end of the body; yield the list of the gauges that were seen."""
    seen: list[tuple[float, ...]] = []
    is_over = threading.Event()

    def scrape() -> None:
        while not is_over.is_set():
            seen.append(metrics.alive())

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


async def test_a_scrape_in_a_thread_under_load_is_possible_and_the_sums_are_right_g8_g20(metrics: Metrics) -> None:
    def schedule_some() -> None:
        for number in range(100):
            host.schedule(sync_work if number % 10 == 0 else work)

    observed = TaskHost(observers=[metrics.observer], max_running=20, drain_timeout=DRAIN)
    with scraping(metrics) as seen:
        async with observed as host, anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(anyio.to_thread.run_sync, schedule_some)
            for _ in range(10):
                for _ in range(20):
                    host.schedule(work)
                host.schedule(wait).cancel()
                await anyio.sleep(0)
        await anyio.to_thread.run_sync(until_longer, seen, len(seen))
    assert min(min(gauge) for gauge in seen) == 0
    assert metrics.values("tasks_ended_total", "function", "outcome") == {
        ("work", "succeeded"): 470,
        ("sync_work", "succeeded"): 30,
        ("wait", "cancelled"): 10,
    }
    assert metrics.alive() == NONE


def until_longer(seen: list[Any], before: int) -> None:
    """Block until another scrape is through."""
    patience = threading.Event()
    for _ in range(PATIENCE * 100):
        if len(seen) > before + 1:
            return
        patience.wait(0.01)
    raise AssertionError("no scrape is possible")


async def test_hosts_in_several_threads_share_one_observer_g13_g20(metrics: Metrics, anyio_backend: Any) -> None:
    async def run_host() -> None:
        async with TaskHost(observers=[metrics.observer], drain_timeout=DRAIN) as host:
            for _ in range(50):
                host.schedule(work)
                await anyio.sleep(0)

    def in_another_loop() -> None:
        anyio.run(run_host, backend=anyio_backend[0], backend_options=anyio_backend[1])

    async with anyio.create_task_group() as tg:
        for _ in range(2):
            tg.start_soon(anyio.to_thread.run_sync, in_another_loop)
            tg.start_soon(run_host)
    assert metrics.values("tasks_ended_total", "outcome") == {("succeeded",): 200}
    assert metrics.alive() == NONE


async def test_a_task_may_be_scheduled_at_each_call_in_a_scrape_of_its_thread_g8_g20(metrics: Metrics) -> None:
    """As a finalizer and a signal handler do, while prometheus_client holds a lock that is not reentrant. Without the
    queue of `PrometheusTasks` the thread hangs.
    """
    made: list[Task[None]] = []

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        if event == "c_call" and "prometheus_client" in frame.f_code.co_filename and len(made) < 50:
            made.append(host.schedule(named(len(made))))

    async with TaskHost(observers=[metrics.observer], drain_timeout=DRAIN) as host:
        await host.schedule(work)
        for _ in range(3):
            sys.setprofile(interrupt)
            try:
                metrics.text()
            finally:
                sys.setprofile(None)
            await anyio.sleep(0)
    assert len(made) > 20
    ends = metrics.values("tasks_ended_total", "function")
    assert ends == {("work",): 1, **{(f"work_{number}",): 1 for number in range(len(made))}}
    assert metrics.alive() == NONE


def named(number: int) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a function with a name of its own: a new label, for which prometheus_client takes a lock."""

    async def func() -> None: ...

    func.__qualname__ = f"work_{number}"
    return func


def test_a_second_observer_in_a_registry_is_an_error_that_says_what_to_do_g20(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="give one PrometheusTasks to all hosts, or another namespace to each"):
        PrometheusTasks(metrics.registry)
    other = PrometheusTasks(metrics.registry, namespace="shop")
    assert 'shop_tasks{state="running"} 0.0' in metrics.text()
    assert other is not metrics.observer


def test_the_buckets_are_the_user_s_g20() -> None:
    metrics = Metrics(buckets=(1, 2))

    async def main() -> None:
        async with TaskHost(observers=[metrics.observer], drain_timeout=60) as host:
            host.schedule(anyio.sleep, 1.5)

    simulate(main).result()
    buckets = [
        line for line in metrics.text().splitlines() if line.startswith("taskphase_task_duration_seconds_bucket")
    ]
    assert [(line.split('le="')[1].split('"')[0], line.split()[-1]) for line in buckets] == [
        ("1.0", "0.0"),
        ("2.0", "1.0"),
        ("+Inf", "1.0"),
    ]


async def test_nothing_is_kept_of_a_task_that_has_ended_g20(metrics: Metrics) -> None:
    async with TaskHost(observers=[metrics.observer], max_pending=1, max_running=1) as host, host.scope() as tasks:
        async with tasks.route():
            tasks.task(when="failure").after_response.schedule(work)
        host.schedule(wait)
        with pytest.raises(TasksSaturatedError):
            host.schedule(wait)
    metrics.text()
    observer = metrics.observer
    assert (observer._states, observer._due_at, list(observer._changes.waiting)) == ({}, {}, [])


async def test_without_a_scrape_the_memory_is_bounded_g20(metrics: Metrics) -> None:
    async with TaskHost(observers=[metrics.observer], drain_timeout=DRAIN) as host:
        for _ in range(50):
            for _ in range(10):
                host.schedule(work)
            await until(lambda: not host.running)
            assert len(metrics.observer._changes.waiting) < 64
    assert metrics.values("tasks_ended_total", "outcome") == {("succeeded",): 500}
    assert metrics.values("task_wait_seconds_count", "function") == {("work",): 500}


def test_a_histogram_is_exposed_as_by_prometheus_client_g20(metrics: Metrics) -> None:
    """The text is the same as after the same observations of a `Histogram`, without the time of its creation."""

    async def main() -> None:
        async with TaskHost(observers=[metrics.observer], drain_timeout=60) as host:
            for seconds in (0, 0.005, 0.25, 7, 400):
                await host.schedule(anyio.sleep, seconds)

    simulate(main).result()
    registry = CollectorRegistry()
    by_labels = prometheus_client.Histogram(
        "taskphase_task_duration_seconds",
        "Seconds of one attempt, with its error handler.",
        ["function", "phase", "outcome"],
        registry=registry,
        buckets=_BUCKETS,
    )
    for seconds in (0, 0.005, 0.25, 7, 400):
        by_labels.labels("anyio.sleep", "immediate", "succeeded").observe(seconds)
    expected = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
    found = [line for line in metrics.text().splitlines() if "taskphase_task_duration_seconds" in line]
    assert found == expected
