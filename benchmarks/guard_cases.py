"""`python -m benchmarks.guard_cases N`: the cases of the guard, each with N and with twice N tasks or requests.

Each case runs in its own process, forked after all imports, so that Valgrind counts each separately. The output has a
line for each: the process, the number, the case.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable

import trio
import trio._core._run
from anyio.lowlevel import checkpoint

from taskphase import TaskHost

from .apps import make_apps
from .measure import run_on
from .requests import lifespan, serve

BATCH = 50  # tasks that start before the case waits for any


async def nothing() -> None: ...


async def create_task(count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count // BATCH):
        tasks = [loop.create_task(nothing()) for _ in range(BATCH)]
        while not tasks[-1].done():  # noqa: ASYNC110 - measures the turns of the loop
            await asyncio.sleep(0)


async def nursery(count: int) -> None:
    for _ in range(count // BATCH):
        async with trio.open_nursery() as nursery:
            for _ in range(BATCH):
                nursery.start_soon(nothing)


async def immediate(count: int, func: Callable[[], Awaitable[None]] = nothing) -> None:
    async with TaskHost() as host:
        for _ in range(count // BATCH):
            for _ in range(BATCH):
                host.schedule(func)
            while host.running:
                await checkpoint()


async def immediate_of_local_function(count: int) -> None:
    async def local() -> None: ...

    await immediate(count, local)


async def immediate_of_method(count: int) -> None:
    class Service:
        async def nothing(self) -> None: ...

    await immediate(count, Service().nothing)


async def deferred(count: int) -> None:
    async with TaskHost() as host:
        for _ in range(count // BATCH):
            async with host.scope() as tasks:
                for _ in range(BATCH):
                    tasks.after_response.schedule(nothing)
            while host.running:
                await checkpoint()


def requests_to(name: str) -> Callable[[int], Awaitable[None]]:
    app, _ = make_apps("ours")[name]

    async def run(count: int) -> None:
        async with lifespan(app) as state:
            await serve(app, state, count)

    return run


def cases() -> dict[str, tuple[str, Callable[[int], Awaitable[None]]]]:
    """Return the backend and the function of each case, by name."""
    found: dict[str, tuple[str, Callable[[int], Awaitable[None]]]] = {}
    for backend, floor in (("asyncio", create_task), ("trio", nursery)):
        found |= {
            f"floor, {backend}": (backend, floor),
            f"one immediate task, {backend}": (backend, immediate),
            f"one immediate task of a local function, {backend}": (backend, immediate_of_local_function),
            f"one immediate task of a method, {backend}": (backend, immediate_of_method),
            f"one deferred task, {backend}": (backend, deferred),
            f"one request without tasks, {backend}": (backend, requests_to("no tasks")),
            f"one request, nothing scheduled, {backend}": (backend, requests_to("Tasks: nothing scheduled")),
            f"one request, one in each phase, {backend}": (backend, requests_to("Tasks: one in each phase")),
        }
    return found


def main(count: int) -> None:
    # trio takes first steps in random order; a seed makes the order the same in each run.
    trio._core._run._r.seed(0)
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True
    found = cases()
    gc.collect()
    gc.freeze()
    for name, (backend, function) in found.items():
        for often in (count, 2 * count):
            pid = os.fork()
            if pid == 0:
                run_on(backend, function, often)
                os._exit(0)
            if os.waitpid(pid, 0)[1]:
                sys.exit(f"{name} has failed")
            print(pid, often, name, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
