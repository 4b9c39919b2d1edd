"""One task of taskphase, also while others observe it, and of common alternatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import aiojobs
import anyio
from anyio.lowlevel import checkpoint
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from starlette.background import BackgroundTasks

from fastapi_tasks.inspector import History
from taskphase import LogTasks, TaskHost, TaskObserver
from taskphase.opentelemetry import TraceTasks
from taskphase.prometheus import PrometheusTasks

from .measure import Stopwatch
from .tasks import THREADS, UNOBSERVED, Case, nothing, nothing_sync


async def until_idle(host: TaskHost) -> None:
    while host.running:
        await checkpoint()


async def immediate(watch: Stopwatch, size: int) -> None:
    async with TaskHost() as host:
        with watch:
            for _ in range(size):
                host.schedule(nothing)
            await until_idle(host)


class Five(TaskObserver):
    """An observer with five empty methods."""

    def _ignore(self, *_: Any) -> None: ...

    scheduled = due = started = attempt_ended = ended = _ignore


async def observed(make: Callable[[], TaskObserver], watch: Stopwatch, size: int) -> None:
    async with TaskHost(observers=[make()]) as host:
        with watch:
            for _ in range(size):
                host.schedule(nothing)
            await until_idle(host)


async def immediate_in_scope(watch: Stopwatch, size: int) -> None:
    async with TaskHost() as host:
        with watch:
            async with host.scope() as tasks:
                for _ in range(size):
                    tasks.schedule(nothing)
            await until_idle(host)


async def after_route(watch: Stopwatch, size: int) -> None:
    async with TaskHost() as host:
        with watch:
            async with host.scope() as tasks, tasks.route():
                for _ in range(size):
                    tasks.after_route.schedule(nothing)
            await until_idle(host)


async def after_response(watch: Stopwatch, size: int) -> None:
    async with TaskHost() as host:
        with watch:
            async with host.scope() as tasks:
                for _ in range(size):
                    tasks.after_response.schedule(nothing)
            await until_idle(host)


async def anyio_group(watch: Stopwatch, size: int) -> None:
    with watch:
        async with anyio.create_task_group() as group:
            for _ in range(size):
                group.start_soon(nothing)


async def background(watch: Stopwatch, size: int) -> None:
    with watch:
        tasks = BackgroundTasks()
        for _ in range(size):
            tasks.add_task(nothing)
        await tasks()


async def aiojobs_spawn(watch: Stopwatch, size: int) -> None:
    scheduler = aiojobs.Scheduler(limit=None)
    with watch:
        for _ in range(size):
            await scheduler.spawn(nothing())
        while len(scheduler):
            await checkpoint()
    await scheduler.close()


async def immediate_sync(watch: Stopwatch, size: int) -> None:
    async with TaskHost(max_threads=THREADS) as host:
        with watch:
            tasks = [host.schedule(nothing_sync) for _ in range(size)]
            for task in tasks:
                if task.status != "succeeded":
                    await task.wait()


async def anyio_group_sync(watch: Stopwatch, size: int) -> None:
    with watch:
        async with anyio.create_task_group() as group:
            for _ in range(size):
                group.start_soon(anyio.to_thread.run_sync, nothing_sync)


async def background_sync(watch: Stopwatch, size: int) -> None:
    with watch:
        tasks = BackgroundTasks()
        for _ in range(size):
            tasks.add_task(nothing_sync)
        await tasks()


def cases(backend: str) -> dict[str, Case]:
    on_asyncio_only: dict[str, Case] = {} if backend == "trio" else {"aiojobs": aiojobs_spawn}
    return {
        "taskphase, immediate": immediate,
        "taskphase, immediate in a scope": immediate_in_scope,
        "taskphase, after_route": after_route,
        "taskphase, after_response": after_response,
        "anyio's task group": anyio_group,
        "BackgroundTasks, one after another": background,
        **on_asyncio_only,
    }


def thread_cases(backend: str) -> dict[str, Case]:  # noqa: ARG001 - the same on all
    return {
        "taskphase, immediate": immediate_sync,
        "anyio's task group": anyio_group_sync,
        "BackgroundTasks, one after another": background_sync,
    }


def observed_cases(backend: str) -> dict[str, Case]:  # noqa: ARG001 - the same on all
    return {
        UNOBSERVED: immediate,
        "five empty methods": partial(observed, Five),
        "LogTasks, of a level that is off": partial(observed, LogTasks),
        "History of the inspector": partial(observed, History),
        "PrometheusTasks": partial(observed, lambda: PrometheusTasks(CollectorRegistry())),
        "TraceTasks, spans of the SDK": partial(observed, lambda: TraceTasks(tracer_provider=TracerProvider())),
    }
