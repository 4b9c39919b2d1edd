"""G9: shields with an end, the drain report, and `host.closing`."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from tests.backends import until
from tests.virtual import on_each_loop, run

from taskphase import (
    DrainReport,
    HostStatistics,
    Limit,
    Task,
    TaskConfig,
    TaskHost,
    TasksClosedError,
    TaskStatus,
    current_host,
)
from taskphase.testing import pause
from taskphase.testing._simulation.running import Backend


@on_each_loop
@pytest.mark.parametrize(
    ("shield", "expected"), [(False, 1), (0, 1), (0.5, 1.5), (2, 3), (True, 11), (100, 11), (math.inf, 11)]
)
def test_a_shield_of_some_seconds_ends_so_long_after_the_unshielded_are_cancelled_g9(
    backend: Backend, shield: float, expected: float
) -> None:
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(anyio.current_time() - began)

    async def main() -> Task[None]:
        nonlocal began
        began = anyio.current_time()
        async with TaskHost(drain_timeout=1, shield_timeout=10) as host:
            host.task(shield=True, name="other").schedule(anyio.sleep_forever)
            return host.task(shield=shield).schedule(work)

    began = 0.0
    ended: list[float] = []
    assert run(main, backend).status is TaskStatus.CANCELLED
    assert ended == [pytest.approx(expected)]


@on_each_loop
@pytest.mark.parametrize("at", [0, 5])
def test_hurry_begins_the_drain_or_ends_its_first_stage_sooner_g9(backend: Backend, at: float) -> None:
    """Requests that hold their tasks wait without a limit, until the lifespan ends."""

    async def work(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended[name] = anyio.current_time() - began

    async def hurry(host: TaskHost) -> None:
        await anyio.sleep(at)
        host.hurry(2)
        assert host.closing.is_set()

    async def main() -> Task[None]:
        nonlocal began
        began = anyio.current_time()
        async with anyio.create_task_group() as tg, TaskHost(drain_timeout=math.inf, shield_timeout=10) as host:
            host.schedule(work, "plain")
            host.task(shield=True).schedule(work, "shielded")
            late = host.task(delay=3600).schedule(anyio.sleep, 0)
            if at == 0:
                await hurry(host)
            else:
                tg.start_soon(hurry, host)
            await host.aclose()
            ended["all"] = anyio.current_time() - began
            return late

    began = 0.0
    ended: dict[str, float] = {}
    late = run(main, backend)
    assert ended == {"plain": at + 2, "shielded": at + 12, "all": at + 12}
    assert (late.status, late.age) == (TaskStatus.CANCELLED, at)


@on_each_loop
@pytest.mark.parametrize("in_thread", [False, True])
def test_what_a_shielded_task_schedules_late_has_its_own_shield_g9(backend: Backend, in_thread: bool) -> None:
    def schedule() -> None:
        later.append(current_host().task(shield=3).schedule(anyio.sleep_forever))
        later.append(current_host().task(shield=0.5).schedule(anyio.sleep_forever))

    async def outer() -> None:
        await anyio.sleep(1)
        if in_thread:
            await anyio.to_thread.run_sync(schedule)
        else:
            schedule()
        await anyio.sleep(1)

    async def main() -> float:
        began = anyio.current_time()
        async with TaskHost() as host:
            host.task(shield=True).schedule(outer)
        return anyio.current_time() - began

    later: list[Task[None]] = []
    assert run(main, backend) == pytest.approx(3)
    assert [task.status for task in later] == [TaskStatus.CANCELLED] * 2
    # The seconds count from the beginning of the stage, so the second of them has none left.
    assert [task.age for task in later] == [pytest.approx(2), pytest.approx(0)]


@on_each_loop
def test_a_handler_has_the_shield_of_its_task_and_no_longer_g4_g9(backend: Backend) -> None:
    async def fail() -> None:
        await anyio.sleep(1)
        raise ValueError

    async def handle(_task: Task[Any], _exc: Exception) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(anyio.current_time() - began)

    async def main() -> None:
        nonlocal began
        began = anyio.current_time()
        async with TaskHost() as host:
            host.task(shield=2, on_error=handle).schedule(fail)

    began = 0.0
    ended: list[float] = []
    run(main, backend)
    assert ended == [pytest.approx(2)]


def test_a_shield_of_seconds_is_inherited_and_overridden_like_any_setting() -> None:
    config = TaskConfig(shield=5).merge(TaskConfig(name="a"))
    assert (config.shield, config.shielded, config.protection) == (5, True, 5)
    assert config.merge(TaskConfig(shield=False)).protection == 0
    assert TaskConfig(shield=True).protection == math.inf
    assert not TaskConfig(shield=0).shielded
    assert TaskConfig().protection == 0


@on_each_loop
def test_the_report_says_how_many_ended_and_names_what_was_cut_short_g9(backend: Backend) -> None:
    async def main() -> tuple[DrainReport, DrainReport | None, DrainReport]:
        host = TaskHost(drain_timeout=1, shield_timeout=2)
        async with host:
            host.task(name="done").schedule(anyio.sleep, 0.5)
            host.task(name="before").schedule(anyio.sleep, 0)
            await anyio.sleep(0.1)
            for _ in range(2):
                host.task(name="cut").schedule(anyio.sleep_forever)
            host.task(name="thread").schedule(pause, 60)
            assert host.drain_report is None
            report = await host.aclose()
            assert await host.aclose() is report
        return report, host.drain_report, await host.aclose()

    first, kept, again = run(main, backend)
    assert first is kept is again
    assert first == DrainReport(seconds=pytest.approx(3), completed=1, cancelled={"cut": 2}, abandoned={"thread": 1})
    with pytest.raises(TypeError):
        first.cancelled["cut"] = 3  # type: ignore[index]


async def test_a_task_that_watches_the_closing_ends_by_itself_g9() -> None:
    async def work() -> str:
        assert not current_host().closing.is_set()
        await current_host().closing.wait()
        return "put away"

    async with TaskHost(drain_timeout=5) as host:
        task = host.schedule(work)
        await until(lambda: task.attempt > 0)
    assert await task == "put away"
    assert host.closing.is_set()
    await host.closing.wait()


def test_a_host_that_is_not_open_has_nothing_to_tell() -> None:
    host = TaskHost()
    assert host.drain_report is None
    for ask in (host.statistics, lambda: host.closing):
        with pytest.raises(TasksClosedError):
            ask()


@on_each_loop
def test_the_statistics_count_each_task_once_g15(backend: Backend) -> None:
    async def fail() -> None:
        raise ValueError

    async def main() -> list[HostStatistics]:
        async with TaskHost(max_running=2) as host:
            seen = [host.statistics()]
            async with host.scope() as tasks, tasks.route():
                host.schedule(anyio.sleep, 0)
                host.schedule(fail)
                tasks.after_route.task(when="failure").schedule(anyio.sleep, 0)
                await anyio.sleep(1)
                retrying = host.task(retry=lambda *_: 60).schedule(fail)
                await anyio.sleep(1)
                oldest = host.task(name="oldest").schedule(anyio.sleep_forever)
                host.schedule(pause, 5)
                host.schedule(anyio.sleep_forever).cancel()
                host.schedule(anyio.sleep_forever)
                host.task(delay=60).schedule(fail)
                one = Limit(1)
                for _ in range(2):
                    host.task(limit=one).schedule(anyio.sleep_forever)
                await anyio.sleep(1)
                seen.append(host.statistics())
                counts = (host.running, host.waiting, host.deferred, host.delayed, host.limited)
                assert counts == (2, 2, 1, 1, 1)
                assert seen[1].oldest_running is oldest
                assert retrying.status is TaskStatus.RETRYING
        seen.append(host.statistics())
        return seen

    first, busy, last = run(main, backend)
    assert first == HostStatistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, None)
    assert busy == HostStatistics(
        running=2,
        waiting=2,
        deferred=1,
        delayed=1,
        limited=1,
        retrying=1,
        handing_over=0,
        threads=1,
        succeeded=1,
        failed=1,
        cancelled=1,
        dropped=0,
        handed_over=0,
        oldest_running=busy.oldest_running,
    )
    # The drain waited for the thread; the other tasks were cancelled, and one was dropped.
    ends = {"succeeded": 2, "failed": 1, "cancelled": 7, "dropped": 1, "handed_over": 0}
    assert last == HostStatistics(0, 0, 0, 0, 0, 0, 0, 0, **ends, oldest_running=None)


@on_each_loop
@pytest.mark.parametrize(("patience", "closes", "abandoned"), [(None, 5, {}), (2, 2, {"slow": 1})])
def test_a_thread_that_outlived_its_timeout_is_waited_for_or_reported_g2_g9_g16(
    backend: Backend, patience: float | None, closes: float, abandoned: dict[str, int]
) -> None:
    async def main() -> tuple[float, DrainReport | None]:
        began = anyio.current_time()
        async with TaskHost(shield_timeout=patience) as host:
            slow = host.task(name="slow", timeout=1).schedule(pause, 5)
            await slow.wait()
            assert slow.status is TaskStatus.FAILED
            await host.aclose()
        return anyio.current_time() - began, host.drain_report

    took, report = run(main, backend)
    assert took == pytest.approx(closes if patience is None else 1 + closes)
    assert report is not None
    assert report.abandoned == abandoned
