"""Work that `asyncio.create_task` began, after its move to a host: docs/how-to/migrate-from-create-task.md."""

import asyncio
import gc
from contextvars import ContextVar, copy_context

import anyio
import pytest

from taskphase import TaskCancelled, TaskFailed, TaskHost

done: list[str] = []
tenant = ContextVar("tenant", default="nobody")


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


async def save(reading: str) -> str:
    await anyio.sleep(0.01)
    done.append(f"{reading} for {tenant.get()}")
    return reading


async def fail() -> None:
    raise ConnectionError("no answer")


async def wait_for_nothing() -> None:
    await anyio.Event().wait()


def test_what_create_task_began_is_cancelled_at_the_end_of_the_program() -> None:
    async def main() -> None:
        asyncio.create_task(save("21"))  # noqa: RUF006 - a reference would not help
        await asyncio.sleep(0)

    asyncio.run(main())
    assert done == []


async def test_what_a_host_began_ends_within_its_drain_timeout_g9() -> None:
    async with TaskHost(drain_timeout=5) as host:
        host.schedule(save, "21")

    assert done == ["21 for nobody"]


async def test_a_task_without_a_reference_is_not_forgotten_g2() -> None:
    async with TaskHost(drain_timeout=5) as host:
        host.schedule(save, "21")
        await anyio.lowlevel.checkpoint()
        gc.collect()

    assert done == ["21 for nobody"]


async def test_a_failure_is_logged_at_once_though_nobody_waits_g4(caplog: pytest.LogCaptureFixture) -> None:
    async with TaskHost(drain_timeout=5) as host:
        await host.schedule(fail).wait()
        [record] = caplog.records

    assert (record.name, record.levelname) == ("taskphase", "ERROR")


async def test_a_given_context_is_the_context_of_the_task_g6() -> None:
    context = copy_context()
    context.run(tenant.set, "ada")
    async with TaskHost() as host:
        await context.run(host.schedule, save, "21")
        await host.schedule(save, "22")

    assert done == ["21 for ada", "22 for nobody"]


async def test_a_waiter_that_is_cancelled_does_not_cancel_its_task_g17() -> None:
    async with TaskHost(drain_timeout=5) as host:
        task = host.schedule(save, "21")
        with anyio.CancelScope() as waiting:
            waiting.cancel()
            await task

    assert waiting.cancelled_caught
    assert done == ["21 for nobody"]


async def test_the_cancellation_of_a_task_is_no_cancellation_of_its_waiter_g17() -> None:
    async with TaskHost() as host:
        task = host.schedule(wait_for_nothing)
        task.cancel()
        with pytest.raises(TaskCancelled):
            await task


async def test_a_second_task_takes_the_place_of_a_done_callback() -> None:
    async with TaskHost(drain_timeout=5) as host:
        first = host.schedule(save, "21")

        async def when_done() -> None:
            await first.wait()
            done.append(f"it has {first.status}")

        host.schedule(when_done)

    assert done == ["21 for nobody", "it has succeeded"]


async def test_a_task_group_inside_of_a_task_fails_that_task_alone_g3() -> None:
    async def download() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            group.start_soon(wait_for_nothing)

    async with TaskHost(drain_timeout=5) as host:
        other = host.schedule(save, "21")
        with pytest.raises(TaskFailed) as caught:
            await host.schedule(download)
        assert await other == "21"

    assert isinstance(caught.value.__cause__, ExceptionGroup)
