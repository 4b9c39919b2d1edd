"""The simulation (no G number): its three errors, and nothing is left of a run that is given up."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import from_thread, to_thread
from anyio.lowlevel import checkpoint

from taskphase import TaskHost
from taskphase.testing import Deadlock, Livelock, RandomWalk, pause, simulate
from taskphase.testing._simulation.running import Backend


def test_a_deadlock_lists_who_is_blocked_and_where(backend: Backend) -> None:
    async def main() -> None:
        async def first() -> None:
            async with a:
                await anyio.sleep(1)
                async with b:
                    pytest.fail("nobody gives it back")

        async def second() -> None:
            async with b:
                await anyio.sleep(1)
                async with a:
                    pytest.fail("nobody gives it back")

        a, b = anyio.Lock(), anyio.Lock()
        async with anyio.create_task_group() as tg:
            tg.start_soon(first)
            tg.start_soon(second)

    run = simulate(main, backend=backend)
    assert isinstance(run.exception, Deadlock)
    assert [blocked.label for blocked in run.exception.blocked] == ["main#0", "first#1", "second#2"]
    assert "async with b:" in str(run.exception)
    assert "async with a:" in str(run.exception)
    assert "at 1 s; 3 wait for ever" in str(run.exception)


def test_sleeping_for_ever_is_a_deadlock_too(backend: Backend) -> None:
    assert isinstance(simulate(anyio.sleep_forever, backend=backend).exception, Deadlock)


def test_a_thread_in_a_deadlock_is_listed_and_ended(backend: Backend) -> None:
    async def main() -> None:
        await to_thread.run_sync(from_thread.run, anyio.sleep_forever)

    run = simulate(main, backend=backend)
    assert isinstance(run.exception, Deadlock)
    assert [blocked.label for blocked in run.exception.blocked][-1] == "run#1 (thread)"


def test_a_livelock_lists_who_is_alive(backend: Backend) -> None:
    async def main() -> None:
        while True:
            await checkpoint()

    run = simulate(main, backend=backend, max_steps=50)
    assert isinstance(run.exception, Livelock)
    assert [alive.label for alive in run.exception.alive] == ["main#0"]
    assert run.steps == 50


def test_callbacks_without_end_are_a_livelock() -> None:
    import asyncio

    async def main() -> None:
        def again() -> None:
            loop.call_soon(again)

        loop = asyncio.get_running_loop()
        again()
        await asyncio.sleep(1)

    assert isinstance(simulate(main).exception, Livelock)


async def shielded_for_ever() -> None:
    async def wait() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tg:
        tg.start_soon(wait)
        tg.start_soon(wait)


async def cleans_up_at_length() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(100)
            await to_thread.run_sync(pause, 10)


async def a_host_for_ever() -> None:
    async with TaskHost() as host:
        host.task(shield=True).schedule(anyio.sleep_forever)
        host.task(shield=True).schedule(pause, 10**9)
        await anyio.sleep_forever()


async def will_not_end() -> None:
    async def stubborn(times: int) -> None:
        for _ in range(times):
            try:
                await anyio.sleep_forever()
            except BaseException:
                pass

    async with anyio.create_task_group() as tg:
        tg.start_soon(stubborn, 5)
        tg.start_soon(stubborn, 500)


async def a_thread_that_waits() -> None:
    await to_thread.run_sync(from_thread.run, anyio.sleep_forever)


async def never_started() -> None:
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep, 1)
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()


async def async_generators() -> None:
    async def numbers() -> Any:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()

    async for _ in numbers():
        pass


@pytest.mark.parametrize(
    "program",
    [
        shielded_for_ever,
        cleans_up_at_length,
        a_host_for_ever,
        will_not_end,
        a_thread_that_waits,
        never_started,
        async_generators,
    ],
    ids=lambda program: program.__name__,
)
@pytest.mark.parametrize("max_steps", [1, 2, 3, 4, 6, 9, 100])
def test_nothing_is_left_of_a_run_that_is_given_up(
    backend: Backend, program: Callable[[], Awaitable[None]], max_steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Threads, warnings and patches are looked for by the fixture."""
    for seed in range(3):
        run = simulate(program, backend=backend, policy=RandomWalk(seed), max_steps=max_steps)
        # Time moves while a thread pauses. The unwinding ends nevertheless.
        assert isinstance(run.exception, (Deadlock, Livelock))
    assert [record for record in caplog.records if record.name == "asyncio"] == []
    assert logging.getLogger("asyncio").level <= logging.WARNING


def test_an_async_generator_that_main_leaves_at_its_end_is_no_error() -> None:
    async def numbers() -> Any:
        try:
            yield 1
        finally:
            log.append("closed")

    async def main() -> None:
        async for _ in numbers():
            break  # asyncio closes the generator in a task, which has not begun at the end of main

    log: list[str] = []
    assert simulate(main).exception is None
    assert log == ["closed"]


def test_tasks_that_main_leaves_behind_are_cancelled_as_asyncio_does() -> None:
    import asyncio

    log: list[str] = []

    async def behind() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(1)
            log.append("cancelled")

    async def main() -> None:
        kept.append(asyncio.create_task(behind()))
        await asyncio.sleep(0)

    kept: list[Any] = []
    run = simulate(main)
    assert run.exception is None
    assert (log, run.time) == (["cancelled"], 0)
