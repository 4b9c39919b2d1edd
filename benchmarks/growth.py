"""The cost of one task as a function of the number of living tasks."""

from __future__ import annotations

import gc

from anyio.lowlevel import checkpoint

from taskphase import TaskHost

from .measure import Group, Stopwatch, in_a_loop
from .tasks import Case, create_task, nothing

SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "1M": 1_000_000}
BASE = "10k"
BARE = "bare create_task"
UNCOLLECTED = "{}, collector off"
"""The name of a row without the garbage collector: this part of the growth is ours."""

AT_LEAST = 50_000  # tasks in one sample: the speed of a shared machine changes from moment to moment


async def dropped(watch: Stopwatch, size: int) -> None:
    """Defer tasks until their phase drops them."""
    async with TaskHost() as host:
        with watch:
            async with host.scope() as tasks:
                schedule = tasks.after_response.task(when="failure").schedule
                for _ in range(size):
                    schedule(nothing)


async def released(watch: Stopwatch, size: int) -> None:
    """Defer tasks until their phase starts them all at once."""
    async with TaskHost() as host:
        with watch:
            async with host.scope() as tasks:
                for _ in range(size):
                    tasks.after_response.schedule(nothing)
            while host.running:
                await checkpoint()


async def waiting(watch: Stopwatch, size: int) -> None:
    """Queue tasks for a few slots, until each task has had a slot."""
    async with TaskHost(max_running=100) as host:
        with watch:
            for _ in range(size):
                host.schedule(nothing)
            while host.running:
                await checkpoint()


CASES = {
    "asyncio": {
        "deferred, then dropped": dropped,
        "deferred, then started": released,
        "waiting for a slot": waiting,
        # The growth of bare tasks, caused by Python itself.
        BARE: create_task,
    },
    # On trio the bookkeeping costs the same, and would take too long for a command that runs often.
    "trio": {"deferred, then dropped": dropped},
}


async def uncollected(case: Case, size: int, at_least: int) -> float:
    """Return the microseconds for one task while the garbage collector is off."""
    gc.disable()
    try:
        return await sample(case, size, at_least)
    finally:
        gc.enable()


async def sample(case: Case, size: int, at_least: int) -> float:
    """Return the microseconds for one task. Small batches are repeated until there are `at_least` tasks."""
    times = max(1, at_least // size)
    taken = 0.0
    for _ in range(times):
        watch = Stopwatch()
        await case(watch, size)
        taken += watch.seconds
    return taken / (times * size) * 1e6


def groups(library: str, *, quick: bool) -> dict[str, Group]:  # noqa: ARG001 - only ours has limits and drops
    """Return the groups by title."""
    less = 1000 if quick else 1
    ways = {name: (sample, size // less) for name, size in SIZES.items()}
    ways |= {UNCOLLECTED.format(name): (uncollected, SIZES[name] // less) for name in (BASE, "1M")}
    return {
        f"one task of many, {title}, {backend}": Group(
            BASE, {name: in_a_loop(backend, take, case, size, AT_LEAST // less) for name, (take, size) in ways.items()}
        )
        for backend, cases in CASES.items()
        for title, case in cases.items()
    }
