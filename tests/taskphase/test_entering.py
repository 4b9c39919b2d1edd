"""G2, G9, G10: a host is entered in one native task and left in another, or not left at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.backends import native_cancel_only, turns

from taskphase import NoCurrentError, Task, TaskHost, TaskStatus, current_host

S = TaskStatus


@native_cancel_only
async def test_a_host_may_be_left_in_another_task_than_it_was_entered_in_g9() -> None:
    host = TaskHost(drain_timeout=10)
    await asyncio.create_task(host.__aenter__())
    task = host.schedule(turns)
    stubborn = host.task(shield=True).schedule(turns, 50)
    await asyncio.create_task(host.__aexit__(None, None, None))
    assert (task.status, stubborn.status, host.running) == (S.SUCCEEDED, S.SUCCEEDED, 0)
    assert host.drain_report is not None


@native_cancel_only
async def test_a_generator_fixture_may_be_begun_and_ended_in_tasks_of_their_own_g9() -> None:
    async def fixture() -> AsyncIterator[TaskHost]:
        async with TaskHost() as host:
            yield host

    async def begin(generator: Any) -> TaskHost:
        host: TaskHost = await anext(generator)
        return host

    async def end(generator: Any) -> None:
        assert await anext(generator, None) is None

    generator = fixture()
    host = await asyncio.create_task(begin(generator))
    task = host.schedule(anyio.sleep_forever)
    await asyncio.create_task(end(generator))
    assert task.status is S.CANCELLED
    with pytest.raises(NoCurrentError):
        current_host()


async def test_a_scope_may_be_left_in_another_task_than_it_was_entered_in_g2() -> None:
    async with TaskHost() as host, anyio.create_task_group() as tg:
        scope = host.scope()
        tg.start_soon(scope.__aenter__)
        await turns()
        task = scope.after_response.schedule(turns, 0)
        await scope.__aexit__(None, None, None)
        await task.wait()
    assert task.status is S.SUCCEEDED


@native_cancel_only
async def test_a_native_cancellation_while_entering_leaves_nothing_open_g9() -> None:
    for after in range(6):
        before = asyncio.all_tasks()
        host = TaskHost()
        entering = asyncio.create_task(host.__aenter__())
        for _ in range(after):
            await checkpoint()
        if not entering.done():
            entering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await entering
        else:
            await host.__aexit__(None, None, None)
        assert asyncio.all_tasks() == before, after


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_host_that_is_left_open_drains_when_its_loop_ends_g2_g9(kind: str) -> None:
    """The task that entered the body has ended, so a cancellation of that task cannot end the body."""
    tasks: list[Task[Any]] = []
    hosts: list[TaskHost] = []

    async def enter() -> None:
        host = await TaskHost(shield_timeout=5).__aenter__()
        hosts.append(host)
        tasks.extend([host.schedule(anyio.sleep_forever), host.task(shield=True).schedule(anyio.sleep, 0.01)])
        await tasks[1].started.wait()

    async def main() -> None:
        await asyncio.create_task(enter())

    def run() -> None:
        anyio.run(main, backend_options={"use_uvloop": kind == "uvloop"})

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert tasks[0].status is S.CANCELLED
    assert tasks[1].status in (S.SUCCEEDED, S.CANCELLED)
    assert hosts[0].closing.is_set()
    assert hosts[0].drain_report is not None
    assert hosts[0].running == 0


@native_cancel_only
async def test_leaving_a_host_that_is_closed_takes_no_turn_of_the_loop_g10() -> None:
    host = TaskHost()
    await host.__aenter__()
    await host.aclose()
    await turns()
    leaving = host.__aexit__(None, None, None)
    with pytest.raises(StopIteration):
        leaving.send(None)


async def test_the_drain_report_exists_after_aclose_and_leaving_keeps_it_g9_g10() -> None:
    async with TaskHost() as host:
        task = host.schedule(anyio.sleep_forever)
        report = await host.aclose()
        assert (task.status, dict(report.cancelled)) == (S.CANCELLED, {task.name: 1})
    assert host.drain_report is report
