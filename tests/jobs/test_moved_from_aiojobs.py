"""Jobs of aiojobs, before and after their move to a host: docs/how-to/migrate-from-aiojobs.md."""

import asyncio
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from aiojobs import Scheduler

from taskphase import Task, TaskConfig, TaskHost, TasksSaturatedError

tenant = ContextVar("tenant", default="nobody")
seen: list[str] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


async def look() -> None:
    await anyio.sleep(0)
    seen.append(tenant.get())


async def fail() -> None:
    raise ConnectionError("no answer")


async def wait_for_nothing() -> None:
    try:
        await anyio.Event().wait()
    finally:
        seen.append("cleaned up")


def test_a_queued_job_has_the_context_of_another_job() -> None:
    async def main() -> None:
        async with Scheduler(limit=1) as scheduler:
            for name in ("ada", "bob"):
                tenant.set(name)
                await scheduler.spawn(look())

    asyncio.run(main())
    assert seen == ["ada", "ada"]


async def test_a_waiting_task_has_a_context_of_its_own_g6() -> None:
    async with TaskHost(max_running=1, drain_timeout=60) as host:
        for name in ("ada", "bob"):
            tenant.set(name)
            host.schedule(look)

    assert seen == ["ada", "bob"]


def test_spawn_waits_while_the_queue_is_full() -> None:
    async def main() -> None:
        async with Scheduler(limit=1, pending_limit=1, wait_timeout=0.01) as scheduler:
            for _ in range(2):
                await scheduler.spawn(wait_for_nothing())
            late = asyncio.create_task(scheduler.spawn(look()))
            await asyncio.sleep(0)
            assert not late.done()
            late.cancel()
            await asyncio.wait([late])

    asyncio.run(main())


async def test_schedule_refuses_at_once_when_as_many_wait_g15() -> None:
    async with TaskHost(max_running=1, max_pending=1) as host:
        host.schedule(wait_for_nothing)
        host.schedule(wait_for_nothing)
        with pytest.raises(TasksSaturatedError) as caught:
            host.schedule(look)

    assert (caught.value.running, caught.value.waiting) == (1, 1)


async def test_a_handler_for_all_tasks_takes_the_place_of_an_exception_handler_g4() -> None:
    def tell(task: Task[Any], error: Exception) -> None:
        seen.append(f"{task.name}: {error}")

    async with TaskHost(config=TaskConfig(on_error=tell), drain_timeout=60) as host:
        host.task(name="ask").schedule(fail)

    assert seen == ["ask: no answer"]


async def test_a_wait_that_is_over_leaves_the_task_alone_until_it_is_cancelled_g17() -> None:
    async with TaskHost() as host:
        task = host.schedule(wait_for_nothing)
        await task.started.wait()
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await task
        assert task.status == "running"
        task.cancel()
        await task.wait()

    assert (task.status, seen) == ("cancelled", ["cleaned up"])


async def test_a_host_that_closes_at_once_waits_for_what_cancelled_tasks_clean_up_g9() -> None:
    async with TaskHost() as host:
        await host.schedule(wait_for_nothing).started.wait()

    assert seen == ["cleaned up"]


async def test_a_shielded_task_ends_though_its_waiter_is_cancelled_and_the_host_closes_g9() -> None:
    async with TaskHost() as host:
        with anyio.CancelScope() as handler:
            handler.cancel()
            await host.task(shield=True).schedule(look)

    assert handler.cancelled_caught
    assert seen == ["nobody"]
