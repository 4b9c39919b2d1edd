"""One task of `fastapi-tasks` from PyPI. Only its own environment imports this module."""

from __future__ import annotations

import anyio
from fastapi_tasks.tasks import TasksScheduler  # type: ignore[import-not-found]

from .measure import Stopwatch
from .tasks import Case, nothing, nothing_sync


async def immediate(watch: Stopwatch, size: int) -> None:
    with watch:
        async with anyio.create_task_group() as group:
            scheduler = TasksScheduler(group)
            for _ in range(size):
                scheduler.schedule(nothing)


async def after_response(watch: Stopwatch, size: int) -> None:
    with watch:
        async with anyio.create_task_group() as group:
            scheduler = TasksScheduler(group)
            for _ in range(size):
                scheduler.after_response.schedule(nothing)
            scheduler.after_response.__start__(scheduler)


async def immediate_sync(watch: Stopwatch, size: int) -> None:
    with watch:
        async with anyio.create_task_group() as group:
            scheduler = TasksScheduler(group)
            for _ in range(size):
                scheduler.schedule(nothing_sync)


def cases(backend: str) -> dict[str, Case]:  # noqa: ARG001 - the same on all
    return {"fastapi-tasks of PyPI, immediate": immediate, "fastapi-tasks of PyPI, after_response": after_response}


def thread_cases(backend: str) -> dict[str, Case]:  # noqa: ARG001 - the same on all
    return {"fastapi-tasks of PyPI, immediate": immediate_sync}


def observed_cases(backend: str) -> dict[str, Case]:  # noqa: ARG001 - it has no observers
    return {}
