"""The bytes of one task of `fastapi-tasks` from PyPI. Only its own environment imports this module."""

from __future__ import annotations

from typing import Any

import anyio
from fastapi_tasks.tasks import TasksScheduler  # type: ignore[import-not-found]

from .memory import Case, Scale, turns, waits


async def running(scale: Scale, size: int, event: Any) -> None:
    async with anyio.create_task_group() as group:
        scheduler = TasksScheduler(group)
        with scale:
            for _ in range(size):
                scheduler.schedule(waits, event)
            await turns()
        event.set()


async def deferred(scale: Scale, size: int, event: Any) -> None:
    async with anyio.create_task_group() as group:
        scheduler = TasksScheduler(group)
        with scale:
            for _ in range(size):
                scheduler.after_response.schedule(waits, event)
        scheduler.after_response.__start__(scheduler)
        event.set()


CASES: dict[str, Case] = {"fastapi-tasks of PyPI, running": running, "fastapi-tasks of PyPI, deferred": deferred}
