"""The phases of one scope in detail: the order of first steps, the tasks for which the barrier waits, and failed
routes.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext, suppress
from threading import get_ident
from typing import Any

import anyio
import pytest
from anyio import CancelScope
from hypothesis import given
from hypothesis import strategies as st

from property_tests.recorder import Boom
from taskphase import Phase, Task, TaskHost, TasksScheduler, TaskStatus
from taskphase.testing import RandomWalk, simulate

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
S = TaskStatus
seeds = st.integers(0, 1000)


def run(main: Any, backend: Any, seed: int = 0) -> Any:
    """Run `main` in the order that the event loop promises: on trio ready tasks run in random order."""
    policy = RandomWalk(seed) if backend == "trio" else None
    return simulate(main, backend=backend, turns=True, policy=policy).result()


async def nothing() -> None:
    pass


def place_of(tasks: TasksScheduler, phase: Phase) -> Any:
    return tasks if phase is Phase.IMMEDIATE else getattr(tasks, phase.value)


@BACKENDS
@given(
    phases=st.lists(st.sampled_from([Phase.IMMEDIATE, Phase.AFTER_ROUTE]), min_size=1, max_size=3), before=st.booleans()
)
def test_a_cancelled_route_waits_for_first_steps_all_the_same_g1_g11(
    backend: str, phases: list[Phase], before: bool
) -> None:
    begun: list[Phase] = []

    async def step(phase: Phase) -> None:
        begun.append(phase)

    async def main() -> None:
        async with TaskHost(drain_timeout=1) as host:
            with CancelScope() as cancel_scope:
                async with host.scope() as tasks:
                    if before:
                        cancel_scope.cancel()
                    for phase in phases:
                        place_of(tasks, phase).schedule(step, phase)
                    cancel_scope.cancel()
                    tasks.end_route()
                    await tasks.settle()
                    settled.append(sorted(begun))
                    await anyio.sleep(0)
            assert cancel_scope.cancelled_caught

    settled: list[list[Phase]] = []
    run(main, backend)
    assert settled == [sorted(phases)]


def route_of(tasks: TasksScheduler, has_route: bool) -> Any:
    return tasks.route() if has_route else nullcontext()


@BACKENDS
@given(seed=seeds, has_route=st.booleans())
def test_the_phases_of_a_scope_start_in_order_under_any_order_of_a_turn_g1(
    backend: str, seed: int, has_route: bool
) -> None:
    begun: list[Phase] = []

    async def step(phase: Phase) -> None:
        begun.append(phase)

    async def main() -> None:
        async with TaskHost(drain_timeout=1) as host, host.scope() as tasks, route_of(tasks, has_route):
            for phase in reversed(Phase):
                for _ in range(3):
                    place_of(tasks, phase).schedule(step, phase)

    run(main, backend, seed)
    assert begun == [phase for phase in Phase for _ in range(3)]


@BACKENDS
@given(seed=seeds, depth=st.integers(1, 10))
def test_what_first_steps_schedule_has_started_too_when_the_route_is_left_g1(
    backend: str, seed: int, depth: int
) -> None:
    begun: list[int] = []

    async def step(tasks: TasksScheduler, left: int) -> None:
        begun.append(left)
        if left > 1:
            tasks.schedule(step, tasks, left - 1)

    async def main() -> None:
        async with TaskHost() as host, host.scope() as tasks:
            async with tasks.route():
                tasks.after_route.schedule(step, tasks, depth)
            assert len(begun) == depth

    run(main, backend, seed)


@BACKENDS
@given(
    has_route=st.booleans(),
    ending=st.sampled_from(["return", "raise", "cancel"]),
    kinds=st.lists(st.tuples(st.sampled_from(list(Phase)[1:]), st.sampled_from(["success", "failure", "always"]))),
)
def test_a_cancelled_route_has_failed_like_a_raising_route_g5(
    backend: str, has_route: bool, ending: str, kinds: list[tuple[Phase, Any]]
) -> None:
    async def main() -> list[Task[Any]]:
        async with TaskHost(drain_timeout=1) as host:
            with CancelScope() as scope, suppress(Boom):
                async with host.scope() as tasks, route_of(tasks, has_route):
                    held = [place_of(tasks, phase).task(when=when).schedule(nothing) for phase, when in kinds]
                    if ending == "cancel":
                        scope.cancel()
                        await anyio.sleep(0)
                    if ending == "raise":
                        raise Boom
            return held

    wanted = {"always", "success" if ending == "return" else "failure"}
    assert [task.status for task in run(main, backend)] == [
        S.SUCCEEDED if when in wanted else S.DROPPED for _, when in kinds
    ]


class WaryOfThreads:
    """asyncio's own check in debug mode: only `call_soon_threadsafe()` wakes a sleeping loop."""

    def __init__(self, loop: Any) -> None:
        self._call_soon = loop.call_soon
        self._thread = get_ident()
        loop.call_soon = self

    def __call__(self, *args: Any, **options: Any) -> Any:
        if get_ident() != self._thread:
            raise RuntimeError("only call_soon_threadsafe() is for other threads")
        return self._call_soon(*args, **options)


def test_what_a_thread_asks_of_the_loop_wakes_it_g8() -> None:
    def schedule(host: TaskHost) -> Task[Any]:
        return host.schedule(nothing)

    async def main() -> None:
        WaryOfThreads(asyncio.get_running_loop())
        async with TaskHost() as host:
            task = await anyio.to_thread.run_sync(schedule, host)
            await task.wait()

    run(main, "asyncio")
