"""The cost of one task that does nothing, from its request to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import trio
from anyio.lowlevel import checkpoint

from taskphase import TaskHost

from .measure import medians

COUNT = 20_000
BURST = 100  # tasks that are asked to start before the loop turns again

# From a request to start to the end of all that was asked: two turns on asyncio, three on trio.
TURNS = 3


async def nothing() -> None: ...


async def in_bursts(start: Callable[[], object], count: int) -> None:
    for _ in range(count // BURST):
        for _ in range(BURST):
            start()
        for _ in range(TURNS):
            await checkpoint()


async def anyio_group(count: int) -> None:
    async with anyio.create_task_group() as tg:
        await in_bursts(lambda: tg.start_soon(nothing), count)


async def host(count: int) -> None:
    async with TaskHost() as host:
        await in_bursts(lambda: host.schedule(nothing), count)


async def deferred(count: int) -> None:
    async with TaskHost() as host:
        for _ in range(count // BURST):
            async with host.scope() as tasks:
                for _ in range(BURST):
                    tasks.after_response.schedule(nothing)
            for _ in range(TURNS):
                await checkpoint()


async def bare_create_task(count: int) -> None:
    loop = asyncio.get_running_loop()
    kept: list[asyncio.Task[None]] = []
    await in_bursts(lambda: kept.append(loop.create_task(nothing())), count)


async def bare_nursery(count: int) -> None:
    async with trio.open_nursery() as nursery:
        await in_bursts(lambda: nursery.start_soon(nothing), count)


OURS: dict[str, Callable[[int], Awaitable[None]]] = {
    "anyio's task group": anyio_group,
    "taskphase, immediate": host,
    "taskphase, after_response": deferred,
}


async def on_asyncio() -> dict[str, float]:
    return await medians({"bare create_task": bare_create_task, **OURS}, COUNT)


async def on_trio() -> dict[str, float]:
    return await medians({"bare nursery": bare_nursery, **OURS}, COUNT)
