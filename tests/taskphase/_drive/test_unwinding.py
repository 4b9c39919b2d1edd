"""G2, G3, G4: tasks that end while they are cancelled, or by a `BaseException`."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from tests.backends import turns

from taskphase import Task, TaskHost, TasksScheduler, TaskStatus, current_task


async def fail_while_unwinding() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise ValueError("cleaning up")


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_every_kind_of_handler_hears_of_an_exception_while_unwinding_g4(kind: str) -> None:
    """An async task is cancelled at its first checkpoint. A thread that has begun cannot be cancelled."""

    def handler(task: Task[Any], error: Exception) -> None:
        heard.append(error)

    async def async_handler(task: Task[Any], error: Exception) -> None:
        handler(task, error)

    heard: list[Exception] = []
    async with TaskHost() as host:
        definition = host.task(on_error=handler if kind == "sync" else async_handler)
        task = definition.schedule(fail_while_unwinding)
        await task.started.wait()
        task.cancel()
        await task.wait()
    assert heard == [task.exception]


@pytest.mark.parametrize("exits", [SystemExit, GeneratorExit, type("Own", (BaseException,), {})])
async def test_a_task_that_raises_a_base_exception_fails_and_touches_no_other_g2_g3(
    exits: type[BaseException],
) -> None:
    async def leave() -> None:
        raise exits

    async with anyio.create_task_group() as tg:
        tasks = TasksScheduler(tg)
        other = tasks.schedule(anyio.sleep_forever)
        task = tasks.schedule(leave)
        await task.wait()
        assert isinstance(task.exception, exits)
        await turns()
        assert other.status is TaskStatus.RUNNING
        other.cancel()


async def test_a_handler_has_as_long_as_it_needs_whatever_the_timeout_of_its_task_g16() -> None:
    async def fail() -> None:
        raise ValueError

    def sync_handler(task: Task[Any], error: Exception) -> None:
        handled.append("sync")

    async def async_handler(task: Task[Any], error: Exception) -> None:
        await anyio.lowlevel.checkpoint()
        assert anyio.current_effective_deadline() > anyio.current_time() + 1
        handled.append("async")

    handled: list[str] = []
    async with TaskHost() as host:
        await host.task(timeout=0, on_error=sync_handler).schedule(fail).wait()
        await host.task(timeout=0, on_error=async_handler).schedule(fail).wait()
    assert handled == ["sync", "async"]


async def test_a_task_that_cancels_itself_and_then_fails_has_failed_g2() -> None:
    async def run() -> None:
        current_task().cancel()
        raise ValueError

    async with TaskHost() as host:
        task = host.schedule(run)
        await task.wait()
    assert isinstance(task.exception, ValueError)
