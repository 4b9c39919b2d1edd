"""The bytes of one living task: it runs and waits for an event, or waits for a slot, or for its phase.

The bytes of the coroutine and of its place at the event are included everywhere.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from importlib import import_module
from types import TracebackType
from typing import Any

import trio
from anyio.lowlevel import checkpoint

from .measure import Group, in_a_loop
from .processes import in_a_fork
from .tasks import FLOOR

COUNT = 10_000
TURNS = 3  # turns of the loop until all started tasks wait


class Scale:
    """Measures the bytes that Python allocates between entry and exit and still uses at the exit."""

    size = 0

    def __enter__(self) -> None:
        gc.collect()
        tracemalloc.start()
        self._begin = tracemalloc.get_traced_memory()[0]

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        gc.collect()
        self.size = tracemalloc.get_traced_memory()[0] - self._begin
        tracemalloc.stop()


Case = Callable[[Scale, int, Any], Awaitable[None]]
"""Has `size` tasks that wait for the event at the exit of the scale, and then lets them end."""


async def waits(event: Any) -> None:
    await event.wait()


async def turns() -> None:
    for _ in range(TURNS):
        await checkpoint()


async def create_task(scale: Scale, size: int, event: Any) -> None:
    loop = asyncio.get_running_loop()
    with scale:
        tasks = [loop.create_task(waits(event)) for _ in range(size)]
        await turns()
    event.set()
    await asyncio.wait(tasks)


async def nursery(scale: Scale, size: int, event: Any) -> None:
    async with trio.open_nursery() as nursery:
        with scale:
            for _ in range(size):
                nursery.start_soon(waits, event)
            await turns()
        event.set()


def floors(backend: str) -> dict[str, Case]:
    return {FLOOR[backend]: nursery if backend == "trio" else create_task}


async def sample(case: Case, backend: str, count: int) -> float:
    """Return the bytes of one task."""

    def event() -> Any:
        return trio.Event() if backend == "trio" else asyncio.Event()

    await case(Scale(), 1, event())  # a warm-up: allocates everything that exists only once
    scale = Scale()
    await case(scale, count, event())
    return scale.size / count


def weighing(backend: str, case: Case, count: int) -> Callable[[], float]:
    # In a fork: free lists and grown tables of an earlier case would make the next case lighter.
    return lambda: in_a_fork(in_a_loop(backend, sample, case, backend, count))


def groups(library: str, *, quick: bool) -> dict[str, Group]:
    """Return the groups by title. `library`: "ours" or "theirs"."""
    others = import_module(f".memory_{library}", __package__)
    count = 200 if quick else COUNT
    found: dict[str, Group] = {}
    for backend in ("asyncio", "trio"):
        cases = floors(backend) | others.CASES
        samples = {name: weighing(backend, case, count) for name, case in cases.items()}
        found[f"bytes of one task, {backend}"] = Group(FLOOR[backend], samples)
    return found
