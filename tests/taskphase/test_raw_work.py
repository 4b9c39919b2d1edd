"""G3, G9: the plain task group of a host can be used for as long as the host is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.abc import TaskStatus as Starting
from tests.backends import native_cancel_only, turns, until

from taskphase import TaskHost, TasksScheduler, TaskStatus

S = TaskStatus
Logged = Callable[[], list[tuple[str, str]]]


class Failed(BaseException):
    """Like pytest's."""


ERRORS: list[BaseException] = [
    ValueError(),
    Failed(),
    GeneratorExit(),
    BaseExceptionGroup("", [Failed(), ValueError()]),
]


async def fail(error: BaseException) -> NoReturn:
    raise error


async def begin_and_wait(*, task_status: Starting[int]) -> None:
    task_status.started(7)
    await anyio.sleep_forever()


async def check_usable(host: TaskHost, group: TaskGroup) -> None:
    """Check that the group takes work in each way."""
    ran: list[str] = []

    async def note(what: str) -> None:
        ran.append(what)

    group.start_soon(note, "start_soon")
    assert await group.start(begin_and_wait) == 7
    scheduled = TasksScheduler(group).schedule(note, "a scheduler")
    expected = {"start_soon", "a scheduler"}
    if hasattr(TaskGroup, "create_task"):
        group.create_task(note("create_task"))
        expected.add("create_task")
    await until(lambda: set(ran) == expected)
    await scheduled.wait()
    group.cancel_scope.cancel()
    await turns()
    assert host.tg is group


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("count", [1, 3])
async def test_a_failure_is_logged_and_the_group_takes_what_comes_next_g3(
    error: BaseException, count: int, logged: Logged
) -> None:
    async with TaskHost() as host:
        group, task = host.tg, host.schedule(anyio.sleep_forever)
        await task.started.wait()
        for _ in range(count):
            group.start_soon(fail, error)
        await check_usable_after(host, group)
        await until(lambda: any(level == "ERROR" for level, _ in logged()))
        for _ in range(2):
            await check_usable(host, group)
            group.start_soon(fail, error)
            await turns()
        await check_usable(host, group)
        assert task.status is S.RUNNING
    assert task.status is S.CANCELLED


async def check_usable_after(host: TaskHost, group: TaskGroup) -> None:
    await turns()
    await check_usable(host, group)


async def test_a_cancellation_takes_what_is_in_the_group_and_no_more_g3() -> None:
    left: list[str] = []

    async def wait(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            left.append(name)

    async with TaskHost() as host:
        task = host.schedule(anyio.sleep_forever)
        host.tg.start_soon(wait, "first")
        await turns()
        host.tg.cancel_scope.cancel()
        host.tg.start_soon(wait, "second")
        await turns()
        assert left == ["first"]
        assert task.status is S.RUNNING
    assert left == ["first", "second"]


async def test_a_cancellation_after_a_failure_takes_no_later_work_g3() -> None:
    ran: list[int] = []

    async def note(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        ran.append(number)

    async with TaskHost() as host:
        for number in range(3):
            host.tg.start_soon(fail, ValueError())
            await turns()
            await check_usable(host, host.tg)
            host.tg.cancel_scope.cancel()
            host.tg.start_soon(note, number)
            await turns()
    assert ran == [0, 1, 2]


async def test_the_group_takes_work_while_cancelled_work_ends_slowly_g3() -> None:
    go_on = anyio.Event()

    async def end_slowly() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await go_on.wait()

    async with TaskHost() as host:
        for _ in range(3):
            host.tg.start_soon(end_slowly)
            await turns()
            host.tg.start_soon(fail, ValueError())
            await turns()
        assert await host.tg.start(begin_and_wait) == 7
        go_on.set()


async def test_stage_1_does_not_wait_for_raw_work_and_a_warning_names_the_work_g9(logged: Logged) -> None:
    async with TaskHost(drain_timeout=60) as host:
        host.tg.start_soon(anyio.sleep_forever, name="evil\nname")
        host.tg.start_soon(anyio.sleep_forever, name="other")
        await turns()
    (message,) = [message for level, message in logged() if level == "WARNING"]
    assert "cancelled 2" in message
    assert "'evil\\nname'" in message
    assert "'other'" in message
    assert host.drain_report is not None
    assert host.drain_report.seconds < 30


async def test_stage_1_waits_for_tasks_though_raw_work_runs_g9() -> None:
    async with TaskHost(drain_timeout=60) as host:
        host.tg.start_soon(anyio.sleep_forever)
        task = host.schedule(turns)
    assert task.status is S.SUCCEEDED


async def test_raw_work_that_starts_during_the_drain_is_cancelled_and_waited_for_g9() -> None:
    left: list[str] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            left.append("left")

    async def start_some() -> None:
        await host.closing.wait()
        await turns()
        host.tg.start_soon(wait)
        await turns()
        host.tg.start_soon(wait)

    async with TaskHost(drain_timeout=60) as host:
        task = host.task(shield=True).schedule(start_some)
        await task.started.wait()
    assert task.status is S.SUCCEEDED
    assert len(left) <= 2
    assert left.count("left") == len(left) >= 1


async def test_cancelled_raw_work_may_start_more_which_is_cancelled_too_g3_g9(logged: Logged) -> None:
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turns()  # by now the host's own work in the group has ended
            host.tg.start_soon(note)

    async def note() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(None)

    ended: list[None] = []
    async with TaskHost() as host:
        host.tg.start_soon(work)
        await turns()
    assert len(ended) == 1
    assert [level for level, _ in logged()] == ["WARNING"]


async def test_much_raw_work_needs_no_more_groups_g9() -> None:
    async with TaskHost() as host:
        for _ in range(10):
            host.tg.start_soon(anyio.sleep_forever)
        await turns()
        assert len(host._group._groups) == 2


async def test_a_closed_host_takes_no_raw_work_and_leaves_no_coroutine_g9() -> None:
    async with TaskHost() as host:
        group = host.tg
    with pytest.raises(RuntimeError, match="closed"):
        group.start_soon(anyio.sleep, 0)
    with pytest.raises(RuntimeError, match="closed"):
        await group.start(begin_and_wait)
    if hasattr(TaskGroup, "create_task"):
        coro = turns()
        with pytest.raises(RuntimeError, match="closed"):
            group.create_task(coro)


async def test_raw_work_cannot_close_its_own_host_g9() -> None:
    refused: list[RuntimeError] = []

    async def close(*, task_status: Starting[None] = anyio.TASK_STATUS_IGNORED) -> None:
        with pytest.raises(RuntimeError, match="would wait for itself") as caught:
            await host.aclose()
        refused.append(caught.value)
        async with TaskHost():  # a second host
            pass
        task_status.started()

    async with TaskHost() as host:
        host.tg.start_soon(close)
        await host.tg.start(close)
        await until(lambda: len(refused) == 2)
        await check_usable(host, host.tg)


async def test_the_group_is_entered_by_its_host_only_g9() -> None:
    async with TaskHost() as host:
        with pytest.raises(RuntimeError, match="belongs to a host"):
            async with host.tg:
                pass
        await check_usable(host, host.tg)


@native_cancel_only
async def test_raw_work_that_is_cancelled_natively_touches_nothing_g3(logged: Logged) -> None:
    natives: list[asyncio.Task[Any] | None] = []

    async def wait() -> None:
        natives.append(asyncio.current_task())
        await anyio.sleep_forever()

    async with TaskHost() as host:
        host.tg.start_soon(wait)
        await turns()
        assert natives[0] is not None
        natives[0].cancel()
        await check_usable_after(host, host.tg)
    assert not any(level == "ERROR" for level, _ in logged())
