"""Every native task is cancelled at once, at any moment, as at the end of `asyncio.run()`. Whatever the host contains,
and at any stage of its closing, the host ends, and no task of it is alive afterwards.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio import CancelScope
from hypothesis import given
from hypothesis import strategies as st

from taskphase import Limit, Task, TaskHost, TasksScheduler, TaskStatus
from taskphase.testing import RandomWalk, pause, simulate

ENDED = {TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.DROPPED}


async def obey(seconds: float) -> None:
    await anyio.sleep(seconds)


async def clean_up(seconds: float) -> None:
    try:
        await anyio.sleep(seconds)
    finally:
        with CancelScope(shield=True):
            await anyio.sleep(seconds)


async def fail(seconds: float) -> None:
    await anyio.sleep(seconds)
    raise OSError


def again(task: Task[Any], error: Exception) -> float | None:
    return 0.6 if task.attempt == 1 else None


@pytest.fixture(autouse=True)
def garbage_is_found_here() -> Iterator[None]:
    """Collect garbage here: a coroutine that was cancelled before its first step warns when it is collected."""
    yield
    gc.collect()


# anyio's own wrapper of the coroutine was started, and only the wrapper is closed.
@pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
@given(
    functions=st.lists(st.sampled_from([obey, clean_up, fail, pause]), min_size=1, max_size=6),
    shields=st.lists(st.booleans(), min_size=6, max_size=6),
    timeout=st.sampled_from([None, 0.5]),
    max_running=st.sampled_from([1, 2, None]),
    grace=st.sampled_from([0, 1.1, 2.3]),
    patience=st.sampled_from([None, 0, 1.6]),
    delays=st.lists(st.sampled_from([None, None, 0.4, 2]), min_size=6, max_size=6),
    is_limited=st.booleans(),
    leaves=st.sampled_from([0, 1, 99]),
    sweeps=st.lists(st.sampled_from([0, 0.3, 0.7, 1.9]), min_size=1, max_size=3),
    seed=st.one_of(st.none(), st.integers(0, 2**16)),
)
def test_a_host_outlasts_the_cancellation_of_every_native_task_g2_g9(
    functions: list[Any],
    shields: list[bool],
    timeout: float | None,
    max_running: int | None,
    grace: float,
    patience: float | None,
    delays: list[float | None],
    is_limited: bool,
    leaves: float,
    sweeps: list[float],
    seed: int | None,
) -> None:
    async def serve() -> None:
        try:
            async with host:
                define = host.task(timeout=timeout, limit=Limit(1) if is_limited else None, retry=again)
                for func, shield, delay in zip(functions, shields, delays, strict=False):
                    tasks.append(define.task(shield=shield, delay=delay).schedule(func, 1.0))
                host.tg.start_soon(clean_up, 0.2)
                await anyio.sleep(leaves)
        finally:
            if tasks:
                threads.append(host.statistics().threads)

    async def main() -> None:
        spared = asyncio.all_tasks()
        server = asyncio.ensure_future(serve())
        await anyio.sleep(0)
        swept = {server}
        for seconds in sweeps:
            await anyio.sleep(seconds)
            now = asyncio.all_tasks() - spared
            swept |= now
            for native in now:
                native.cancel()
        await asyncio.wait(swept)
        assert asyncio.all_tasks() == spared

    host = TaskHost(max_running=max_running, drain_timeout=grace, shield_timeout=patience)
    tasks: list[Task[Any]] = []
    threads: list[int] = []
    simulate(main, policy=None if seed is None else RandomWalk(seed)).result()
    assert {task.status for task in tasks} <= ENDED
    if tasks:
        assert host.running == host.waiting == host.delayed == host.limited == 0
        assert not host._runner.gates.pauses.ends
        report = host.drain_report
        assert report is not None
        assert report.abandoned or threads == [0]


@pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
@given(
    delays=st.lists(st.tuples(st.sampled_from([0, 0.5, 2]), st.booleans()), min_size=1, max_size=4),
    # After the first step of each native task: before, a foreign task group forgets the task.
    sweeps=st.lists(st.sampled_from([0.31, 0.7, 1.9]), min_size=1, max_size=3),
)
def test_a_task_group_outlasts_the_cancellation_of_every_native_task_g2_g16_g18(
    delays: list[tuple[float, bool]], sweeps: list[float]
) -> None:
    async def serve() -> None:
        async with anyio.create_task_group() as tg:
            define = TasksScheduler(tg).task(retry=again)
            for delay, shield in delays:
                tasks.append(define.task(shield=shield, delay=delay).schedule(fail, 0.2))

    async def main() -> None:
        spared = asyncio.all_tasks()
        server = asyncio.ensure_future(serve())
        swept = {server}
        for seconds in sweeps:
            await anyio.sleep(seconds)
            now = asyncio.all_tasks() - spared
            swept |= now
            for native in now:
                native.cancel()
        await asyncio.wait(swept)
        assert asyncio.all_tasks() == spared

    tasks: list[Task[Any]] = []
    simulate(main).result()
    assert {task.status for task in tasks} <= ENDED
