"""G22, G24: a host with a journal shuts down, or its process dies, at each step of a small program.

A step is a step of the event loop, or one SQL statement of the thread that writes. Another host with the
same file is open at the same time, or opens afterwards. Whatever the step:

- no task of a delivered response is lost
- no task of a failed route runs
- no task runs in two living processes at once, and no task that a shutdown has let end runs again
- at the end no row and no file of a lock is left.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from tests.taskphase.journal.exploring import (
    Backend,
    Death,
    Process,
    Program,
    Statements,
    World,
    die_before_another_host_opens,
    die_beside_a_living_host,
    new_world,
)

from taskphase import JournalError
from taskphase.journal._file import File
from taskphase.testing import Fifo, RandomWalk, explore_shutdown, mark


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(File, "connect", Statements.connect)


@explore_shutdown()
async def test_a_shutdown_at_any_step_keeps_all_promises_g9_g22(shutdown: anyio.CancelScope) -> None:
    with new_world() as world:
        with shutdown:
            await world.first.live()
        async with Process(world).host:
            await world.wait_for_all()


@explore_shutdown()
async def test_a_shutdown_beside_a_living_host_keeps_all_promises_g9_g22(shutdown: anyio.CancelScope) -> None:
    with new_world() as world:
        async with Process(world).host:
            with shutdown:
                await world.first.live()
            await world.wait_for_all()


@pytest.mark.parametrize(
    ("program", "order"),
    [(die_before_another_host_opens, "fifo"), (die_beside_a_living_host, "fifo"), (die_beside_a_living_host, "random")],
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_death_at_any_step_keeps_all_promises_g22(program: Program, order: str, backend: Backend) -> None:
    first = Death(program).run(backend, Fifo())
    last = next(entry.step for entry in first.trace if entry.detail == "over")
    twins = 0
    for step in range(1, last + 1):
        death = Death(program)
        death.run(backend, RandomWalk(step) if order == "random" else Fifo(), step)
        twins += death.world is not None and death.world.has_twins
    assert 0 < twins < last  # at least once is the promise, not exactly once


async def fail_a_route_whose_write_takes_too_long(begin: Callable[[World], None]) -> None:
    with new_world() as world:
        begin(world)
        process = world.first
        with process.scope:
            async with process.host as host, host.scope() as tasks:
                with pytest.raises(JournalError, match="longer than 5 seconds"):
                    async with tasks.route():
                        tasks.after_response.schedule(process.work, 0)
                await anyio.sleep(20)
        mark("over")
        async with Process(world).host:
            await world.wait_for_all()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_only_a_death_lets_a_task_run_whose_write_took_too_long_g22(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Statements, "insert_takes", 6.0)
    death = Death(fail_a_route_whose_write_takes_too_long)
    first = death.run(backend, Fifo())
    assert death.world is not None
    runs = [death.world.started.total()]
    for step in range(1, 1 + next(entry.step for entry in first.trace if entry.detail == "over")):
        death = Death(fail_a_route_whose_write_takes_too_long)
        death.run(backend, Fifo(), step)
        runs.append(0 if death.world is None else death.world.started.total())
    assert runs[0] == 0
    assert set(runs) == {0, 1}
