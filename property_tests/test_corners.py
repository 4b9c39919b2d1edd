"""Cases that random programs seldom reach: hosts in hosts, fast threads, and batches made by hand."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from property_tests.compact import Compact
from property_tests.simulated import nothing, place_of, run
from taskphase import (
    Limit,
    NoCurrentError,
    Phase,
    Task,
    TaskHost,
    TasksBatch,
    TasksClosedError,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
    current_host,
    current_task,
)
from taskphase.testing import RandomWalk

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
S = TaskStatus
seeds = st.integers(0, 1000)


# Hosts in hosts.


@dataclass(frozen=True, repr=False)
class Open(Compact):
    """Open a new host, and do these steps in its body."""

    inside: Nested = ()


@dataclass(frozen=True, repr=False)
class On(Compact):
    """Schedule a task with these steps on one of the surrounding hosts."""

    which: int = 0
    inside: Nested = ()


Nested = tuple[Open | On, ...]

nested = st.recursive(
    st.just(()),
    lambda inner: st.lists(st.one_of(st.builds(Open, inner), st.builds(On, st.integers(0, 3), inner)), max_size=3).map(
        tuple
    ),
    max_leaves=8,
)


class Nesting:
    """Follows the steps, and checks the current host and task at each step."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    async def follow(self, steps: Nested, hosts: tuple[TaskHost, ...], host: TaskHost | None, own: bool) -> None:
        task = current_task() if own else None
        self.look(host, task)
        for step in steps:
            if isinstance(step, Open):
                async with TaskHost(drain_timeout=math.inf) as inner:
                    await self.follow(step.inside, (*hosts, inner), inner, own)
            elif hosts:
                of = hosts[step.which % len(hosts)]
                with suppress(TasksClosedError):
                    of.schedule(self.follow, step.inside, hosts, of, own=True)
                await anyio.sleep(0)
            self.look(host, task)

    def look(self, host: TaskHost | None, task: Task[Any] | None) -> None:
        found, found_task = None, None
        with suppress(NoCurrentError):
            found = current_host()
        with suppress(NoCurrentError):
            found_task = current_task()
        if found is not host or found_task is not task:
            self.wrong.append(f"in {found}, {found_task}, and should be in {host}, {task}")


@BACKENDS
@given(steps=nested, seed=seeds)
@example(steps=(Open((Open((On(0),)),)),), seed=0)
def test_nested_hosts_and_tasks_each_are_found_as_current_g14(backend: str, steps: Nested, seed: int) -> None:
    nesting = Nesting()
    run(lambda: nesting.follow(steps, (), None, own=False), backend, policy=RandomWalk(seed))
    assert not nesting.wrong


# Limits.


@BACKENDS
@given(
    running=st.none() | st.integers(1, 3),
    pending=st.integers(0, 3),
    phases=st.lists(st.sampled_from(Phase), max_size=8),
    seed=seeds,
)
def test_a_thread_faster_than_the_loop_meets_the_same_limits_g8_g15(
    backend: str, running: int | None, pending: int, phases: list[Phase], seed: int
) -> None:
    taken: list[bool] = []

    def burst(tasks: TasksScheduler) -> None:
        for phase in phases:
            try:
                place_of(tasks, phase).schedule(anyio.sleep, 1)
                taken.append(True)
            except TasksSaturatedError:
                taken.append(False)

    async def main() -> None:
        host = TaskHost(max_running=running, max_pending=pending, drain_timeout=math.inf)
        async with host, host.scope() as tasks:
            await host.schedule(burst, tasks).wait()

    run(main, backend, policy=RandomWalk(seed))
    slots, room = math.inf if running is None else running - 1, pending
    expected = []
    for phase in phases:
        starts = phase is Phase.IMMEDIATE and slots > 0
        expected.append(starts or room > 0)
        slots -= starts
        room -= not starts and room > 0
    assert taken == expected


@BACKENDS
@given(
    most=st.integers(1, 3),
    pending=st.integers(0, 2),
    waits=st.lists(st.sampled_from([Phase.IMMEDIATE, Phase.IMMEDIATE, Phase.AFTER_ROUTE, "delay"]), max_size=7),
    seed=st.integers(0, 1000),
)
def test_a_thread_faster_than_the_loop_meets_the_same_limit_of_a_kind_g8_g19(
    backend: str, most: int, pending: int, waits: list[Phase | str], seed: int
) -> None:
    taken: list[bool] = []
    limit = Limit(most, max_pending=pending)

    def burst(tasks: TasksScheduler) -> None:
        for wait in waits:
            try:
                if isinstance(wait, Phase):
                    place_of(tasks, wait).task(limit=limit).schedule(anyio.sleep, 1)
                else:
                    tasks.task(limit=limit, delay=1).schedule(anyio.sleep, 1)
                taken.append(True)
            except TasksSaturatedError:
                taken.append(False)

    async def main() -> None:
        host = TaskHost(drain_timeout=math.inf)
        async with host, host.scope() as tasks:
            await host.schedule(burst, tasks).wait()

    run(main, backend, policy=RandomWalk(seed))
    places, room = most, pending
    expected = []
    for wait in waits:
        starts = wait is Phase.IMMEDIATE and places > 0
        expected.append(starts or room > 0)
        places -= starts
        room -= not starts and room > 0
    assert taken == expected


@BACKENDS
def test_what_was_refused_for_want_of_room_is_as_new_and_may_come_again_g15(backend: str) -> None:
    async def main() -> None:
        async with TaskHost(max_running=1, max_pending=0) as host, host.scope() as tasks:
            task = Task(nothing)
            first = tasks.schedule(nothing)
            with pytest.raises(TasksSaturatedError):
                task.__start__(tasks)
            assert task.status is S.NEW
            await first.wait()
            await anyio.sleep(1)
            task.__start__(tasks)
            await task.wait()
            assert task.status is S.SUCCEEDED

    run(main, backend)


@BACKENDS
@given(cancelled=st.lists(st.booleans(), max_size=6), pending=st.integers(0, 6))
def test_a_batch_made_by_hand_starts_its_tasks_as_there_is_room_g15_g17(
    backend: str, cancelled: list[bool], pending: int
) -> None:
    ran: list[int] = []

    async def work(number: int) -> None:
        ran.append(number)

    async def main() -> int:
        batch, starts = TasksBatch(), 0
        async with TaskHost(max_running=1, max_pending=pending) as host, host.scope() as tasks:
            held = [batch.schedule(work, number) for number in range(len(cancelled))]
            for task, is_cancelled in zip(held, cancelled, strict=True):
                if is_cancelled:
                    task.cancel()
            while True:
                starts += 1
                with suppress(TasksSaturatedError):
                    batch.start(tasks)
                    batch.start(tasks)  # the batch is empty
                    break
                await anyio.sleep(1)
            await anyio.sleep(1)
        return starts

    starts = run(main, backend)
    alive = [number for number, is_cancelled in enumerate(cancelled) if not is_cancelled]
    assert ran == alive
    assert starts == max(1, math.ceil(len(alive) / (1 + pending)))
