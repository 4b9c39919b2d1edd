"""The bytes of one task of taskphase, and of anyio."""

from __future__ import annotations

from typing import Any

import anyio

from taskphase import TaskHost

from .memory import Case, Scale, turns, waits


async def running(scale: Scale, size: int, event: Any) -> None:
    async with TaskHost(drain_timeout=60) as host:
        with scale:
            for _ in range(size):
                host.schedule(waits, event)
            await turns()
        event.set()


async def waiting(scale: Scale, size: int, event: Any) -> None:
    async with TaskHost(max_running=1, drain_timeout=60) as host:
        host.schedule(waits, event)
        await turns()
        with scale:
            for _ in range(size):
                host.schedule(waits, event)
            await turns()
        event.set()


async def deferred(scale: Scale, size: int, event: Any) -> None:
    async with TaskHost(drain_timeout=60) as host, host.scope() as tasks:
        with scale:
            for _ in range(size):
                tasks.after_response.schedule(waits, event)
            await turns()
        event.set()


async def anyio_group(scale: Scale, size: int, event: Any) -> None:
    async with anyio.create_task_group() as group:
        with scale:
            for _ in range(size):
                group.start_soon(waits, event)
            await turns()
        event.set()


CASES: dict[str, Case] = {
    "taskphase, running": running,
    "taskphase, waiting for a slot": waiting,
    "taskphase, deferred": deferred,
    "anyio's task group, running": anyio_group,
}
