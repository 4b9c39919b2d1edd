"""The cost of one task that does nothing, from `schedule()` to its end.

Each sample starts a batch of tasks and waits for all of them. Only that is timed: loops and hosts open before and close
after.

This module has the cases of all environments: the floors. `tasks_ours` and `tasks_theirs` have the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import count
from typing import Any

import anyio
import trio

from .measure import BACKENDS, Group, Stopwatch, in_a_loop

BATCH = 1000  # tasks that start before the case waits for any
THREAD_BATCH = 200
THREADS = 40  # at most, in every library

FLOOR = {"asyncio": "create_task", "uvloop": "create_task", "trio": "nursery.start_soon"}
_THREAD_TASK = "create_task of to_thread"
THREAD_FLOOR = {"asyncio": _THREAD_TASK, "uvloop": _THREAD_TASK, "trio": "start_soon of to_thread"}
KEPT = "create_task, in a set until it is done"  # as asyncio's documentation recommends
SCOPED = "the floor, in a CancelScope and a try"
UNOBSERVED = "nobody observes"
OBSERVED_FLOOR = dict.fromkeys(BACKENDS, UNOBSERVED)

_runs = count()


async def nothing() -> None:
    """A task. It counts itself, so that no case can lose a task unnoticed."""
    next(_runs)


def nothing_sync() -> None:
    """A task in a thread."""
    next(_runs)


Case = Callable[[Stopwatch, int], Awaitable[None]]
"""Starts `size` tasks and waits for all of them while the stopwatch runs."""


async def create_task(watch: Stopwatch, size: int) -> None:
    loop = asyncio.get_running_loop()
    with watch:
        # Without a reference the garbage collector may delete a running task.
        tasks = [loop.create_task(nothing()) for _ in range(size)]
        while not tasks[-1].done():  # noqa: ASYNC110 - measures the turns of the loop
            await asyncio.sleep(0)


async def create_task_kept(watch: Stopwatch, size: int) -> None:
    loop = asyncio.get_running_loop()
    with watch:
        tasks: set[asyncio.Task[None]] = set()
        for _ in range(size):
            task = loop.create_task(nothing())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:  # noqa: ASYNC110 - measures the turns of the loop
            await asyncio.sleep(0)


async def create_task_scoped(watch: Stopwatch, size: int) -> None:
    loop = asyncio.get_running_loop()
    scope_class: Any = type(anyio.CancelScope())

    async def scoped() -> None:
        try:
            with scope_class():
                await nothing()
        except ValueError:
            pass

    with watch:
        tasks = [loop.create_task(scoped()) for _ in range(size)]
        while not tasks[-1].done():  # noqa: ASYNC110 - measures the turns of the loop
            await asyncio.sleep(0)


async def create_task_of_thread(watch: Stopwatch, size: int) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    with watch:
        await asyncio.wait([loop.create_task(asyncio.to_thread(nothing_sync)) for _ in range(size)])


async def nursery(watch: Stopwatch, size: int) -> None:
    with watch:
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(nothing)


async def nursery_scoped(watch: Stopwatch, size: int) -> None:
    async def scoped() -> None:
        try:
            with trio.CancelScope():
                await nothing()
        except ValueError:
            pass

    with watch:
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(scoped)


async def nursery_of_thread(watch: Stopwatch, size: int) -> None:
    with watch:
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(trio.to_thread.run_sync, nothing_sync)


def floors(backend: str) -> dict[str, Case]:
    """Return the least cost of a task, and its cost with a cancel scope and a `try`, which every task here needs."""
    if backend == "trio":
        return {FLOOR[backend]: nursery, SCOPED: nursery_scoped}
    return {FLOOR[backend]: create_task, KEPT: create_task_kept, SCOPED: create_task_scoped}


def thread_floors(backend: str) -> dict[str, Case]:
    return {THREAD_FLOOR[backend]: nursery_of_thread if backend == "trio" else create_task_of_thread}


async def sample(case: Case, size: int) -> float:
    """Return the microseconds for one task.

    :raises RuntimeError: if a task did not run
    """
    watch = Stopwatch()
    before = next(_runs)
    await case(watch, size)
    ran = next(_runs) - before - 1
    if ran != size:
        raise RuntimeError(f"{ran} tasks ran of {size}")
    return watch.seconds / size * 1e6


def groups(library: str, *, quick: bool) -> dict[str, Group]:
    """Return the groups by title. `library`: "ours" or "theirs"."""
    others = import_module(f".tasks_{library}", __package__)
    found: dict[str, Group] = {}
    for backend in BACKENDS:
        for title, base, cases, size in (
            ("one task", FLOOR, floors(backend) | others.cases(backend), BATCH),
            ("one sync task", THREAD_FLOOR, thread_floors(backend) | others.thread_cases(backend), THREAD_BATCH),
            ("one observed task", OBSERVED_FLOOR, others.observed_cases(backend), BATCH),
        ):
            if not cases:
                continue
            few = size // 10 if quick else size
            samples = {name: in_a_loop(backend, sample, case, few) for name, case in cases.items()}
            found[f"{title}, {backend}"] = Group(base[backend], samples)
    return found
