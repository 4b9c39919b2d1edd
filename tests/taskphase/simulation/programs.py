"""Programs that use much of anyio, to compare runs. As a script: print the traces of all programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio import from_thread, to_thread

from taskphase import TaskHost, retry
from taskphase.testing import RandomWalk, Replay, mark, pause, simulate


async def nested_groups() -> list[str]:
    async def leaf(name: str) -> None:
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        log.append(name)

    async def branch(name: str) -> None:
        async with anyio.create_task_group() as tg:
            for number in range(3):
                tg.start_soon(leaf, f"{name}{number}", name=f"leaf {name}{number}")

    log: list[str] = []
    async with anyio.create_task_group() as tg:
        for name in "abc":
            tg.start_soon(branch, name)
    return log


async def cancellation() -> list[str]:
    """One cancellation reaches many tasks and scopes at once. These are in sets."""

    async def wait(number: int) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            try:
                await anyio.sleep_forever()
            finally:
                log.append(f"cancelled {number}")
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(number % 3)
                log.append(f"cleaned {number}")

    log: list[str] = []
    scopes: list[anyio.CancelScope] = []
    with anyio.move_on_after(2):
        async with anyio.create_task_group() as tg:
            for number in range(12):
                tg.start_soon(wait, number)
            await anyio.sleep(1)
            scopes[3].cancel()
    return log


async def synchronisation() -> list[Any]:
    async def worker(number: int) -> None:
        await opened.wait()
        async with limiter, lock:
            await anyio.lowlevel.checkpoint()
            log.append(number)
        async with condition:
            condition.notify_all()

    log: list[Any] = []
    opened, lock, limiter, condition = anyio.Event(), anyio.Lock(), anyio.CapacityLimiter(2), anyio.Condition()
    send, receive = anyio.create_memory_object_stream[int](1)
    async with anyio.create_task_group() as tg, send, receive:
        for number in range(5):
            tg.start_soon(worker, number)
        opened.set()
        async with condition:
            while len(log) < 5:
                await condition.wait()
        tg.start_soon(send.send, 1)
        log.append(await receive.receive())
        with anyio.move_on_after(1) as scope:
            await receive.receive()
        log.append((scope.cancelled_caught, anyio.current_time()))
    return log


async def threads() -> list[Any]:
    async def in_loop(number: int) -> int:
        await anyio.sleep(number)
        return number

    def work(number: int) -> None:
        mark(f"work {number}")
        pause()
        log.append(number)
        pause(number)
        log.append(from_thread.run(in_loop, number))
        from_thread.run_sync(log.append, -number)

    log: list[Any] = []
    limiter = anyio.CapacityLimiter(2)
    async with anyio.create_task_group() as tg:
        for number in range(4):
            tg.start_soon(lambda number=number: to_thread.run_sync(work, number, limiter=limiter))
    return [*log, anyio.current_time()]


async def a_host() -> list[Any]:
    """Phases, drains, shields, timeouts, retries and sync functions."""

    async def sleeps(seconds: float) -> None:
        try:
            await anyio.sleep(seconds)
            log.append(seconds)
        except BaseException:
            mark(f"{seconds} cut")
            raise

    def sync(seconds: float) -> float:
        pause(seconds)
        host.schedule(sleeps, 0)
        return seconds

    async def flaky() -> str:
        attempts.append(anyio.current_time())
        if len(attempts) < 3:
            raise ConnectionError
        return "done"

    log: list[Any] = []
    attempts: list[float] = []
    async with TaskHost(drain_timeout=2, shield_timeout=10, max_running=6) as host:
        async with host.scope() as tasks, tasks.route():
            tasks.after_response.schedule(sleeps, 1)
            tasks.after_route.schedule(sleeps, 0)
        all_of = [
            host.schedule(sleeps, 1.5),
            host.schedule(sleeps, 50),
            host.task(shield=True).schedule(sleeps, 5),
            host.task(shield=True).schedule(sleeps, 60),
            host.task(timeout=0.25).schedule(sleeps, 3),
            host.schedule(sync, 0.5),
            host.task(retry=retry(backoff=1, jitter=False)).schedule(flaky),
        ]
    log.sort()
    return [log, [task.status.value for task in all_of], attempts, anyio.current_time()]


PROGRAMS: list[Callable[[], Awaitable[Any]]] = [nested_groups, cancellation, synchronisation, threads, a_host]


def traces() -> list[object]:
    """Return the traces of all programs on both backends, under a few schedules."""
    return [
        (run.value, run.decisions, run.trace)
        for backend in ("asyncio", "trio")
        for program in PROGRAMS
        for run in (
            simulate(program, backend=backend),
            *(simulate(program, backend=backend, policy=RandomWalk(seed)) for seed in range(3)),
            simulate(program, backend=backend, policy=Replay([1, 2, 3, 0, 1] * 4)),
        )
    ]


if __name__ == "__main__":
    import logging
    import sys

    logging.disable()
    for trace in traces():
        sys.stdout.write(f"{trace}\n")
