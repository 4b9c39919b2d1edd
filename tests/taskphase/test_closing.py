"""G2, G3, G8, G9: how the closing of a host ends for the code that closes it."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest
from tests.backends import native_cancel_only, turns

from taskphase import Task, TaskHost, TasksClosedError, TaskStatus
from taskphase._drive.runner import Runner


@native_cancel_only
async def test_a_native_cancel_of_who_closes_the_host_comes_when_it_is_closed_g9() -> None:
    async def close() -> None:
        await host.aclose()
        pytest.fail("the cancellation is lost")

    release = anyio.Event()
    async with TaskHost() as host:
        shielded = host.task(shield=True).schedule(release.wait)
        native = asyncio.ensure_future(close())
        for _ in range(3):
            await turns()
            native.cancel()
        await turns()
        assert not native.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await native
        assert shielded.status is TaskStatus.SUCCEEDED


@native_cancel_only
async def test_a_native_cancel_while_the_body_is_left_comes_when_the_host_is_closed_g9() -> None:
    async def main() -> None:
        async with TaskHost() as host:
            shielded.append(host.task(shield=True).schedule(release.wait))
        pytest.fail("the cancellation is lost")

    shielded: list[Task[None]] = []
    release = anyio.Event()
    native = asyncio.ensure_future(main())
    await turns()
    native.cancel()
    await turns()
    assert not native.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await native
    assert shielded[0].status is TaskStatus.SUCCEEDED


async def test_aclose_in_a_cancelled_scope_waits_for_the_drain_and_never_spins_g9() -> None:
    async def close() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await host.aclose()
        ended.append(shielded.status)

    release = anyio.Event()
    ended: list[TaskStatus] = []
    async with TaskHost() as host, anyio.create_task_group() as tg:
        shielded = host.task(shield=True).schedule(release.wait)
        tg.start_soon(close)
        await anyio.wait_all_tasks_blocked()
        assert (ended, host.drain_report) == ([], None)
        release.set()
    assert ended == [TaskStatus.SUCCEEDED]


async def test_a_group_that_the_body_raises_is_the_body_s_and_comes_out_as_it_is_g3() -> None:
    for mine in (
        ExceptionGroup("mine", [ValueError()]),
        BaseExceptionGroup("mine", [ExceptionGroup("inner", [ValueError()]), SystemExit()]),
    ):
        with pytest.raises(BaseExceptionGroup) as caught:
            async with TaskHost() as host:
                host.schedule(anyio.sleep_forever)
                raise mine
        assert caught.value is mine


async def test_a_task_that_comes_from_a_thread_at_the_last_moment_is_not_lost_g2_g8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the drain's last look and the end."""

    def close(runner: Runner) -> bool:
        if not tasks:
            thread = threading.Thread(target=lambda: tasks.append(host.schedule(anyio.sleep, 0)))
            thread.start()
            thread.join()
        return original(runner)

    tasks: list[Task[None]] = []
    async with TaskHost(drain_timeout=10) as host:
        original = Runner.close
        monkeypatch.setattr(Runner, "close", close)
    assert tasks[0].status is TaskStatus.SUCCEEDED


async def test_a_task_of_a_signal_handler_at_the_last_moment_is_not_cancelled_g2_g9(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As above, but in the loop's thread, where the task starts at once."""

    def close(runner: Runner) -> bool:
        if not tasks:
            tasks.append(host.schedule(turns, 5))
        return original(runner)

    tasks: list[Task[None]] = []
    async with TaskHost(drain_timeout=10) as host:
        original = Runner.close
        monkeypatch.setattr(Runner, "close", close)
    assert tasks[0].status is TaskStatus.SUCCEEDED


@native_cancel_only
async def test_a_host_that_could_not_be_opened_takes_no_tasks_g2() -> None:
    async def main() -> None:
        async with host:
            pytest.fail("the body of a host that could not be opened")

    host = TaskHost()
    native = asyncio.ensure_future(main())
    before = asyncio.all_tasks()
    await turns(1)
    (supervisor,) = asyncio.all_tasks() - before
    supervisor.cancel()  # before its first step
    native.cancel()
    with pytest.raises(asyncio.CancelledError):
        await native
    with pytest.raises(TasksClosedError):
        host.schedule(anyio.sleep, 0)
