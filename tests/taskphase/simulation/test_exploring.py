"""G9, and the simulation: a shutdown at every step."""

from __future__ import annotations

import inspect
from typing import Any

import anyio
import pytest

from taskphase import TaskHost
from taskphase.testing import explore_shutdown
from taskphase.testing._simulation.running import Backend


@explore_shutdown()
async def test_shielded_work_is_done_whenever_the_shutdown_begins_g9(shutdown: anyio.CancelScope) -> None:
    done: list[str] = []

    async def work() -> None:
        await anyio.sleep(1)
        done.append("work")

    task = None
    with shutdown:
        async with TaskHost() as host:
            task = host.task(shield=True).schedule(work)
            await anyio.sleep(2)
    assert done == ([] if task is None else ["work"])


@explore_shutdown()
async def test_fixtures_reach_an_explored_test(shutdown: anyio.CancelScope, tmp_path: Any) -> None:
    with shutdown:
        await anyio.sleep(0)
    assert tmp_path.is_dir()


def test_the_shutdown_begins_at_each_step(backend: Backend) -> None:
    seen: list[tuple[int, bool]] = []

    async def program(shutdown: anyio.CancelScope) -> None:
        began = anyio.current_time()
        with shutdown:
            for _ in range(3):
                await anyio.sleep(1)
        seen.append((round(anyio.current_time() - began), shutdown.cancelled_caught))

    explore_shutdown([backend])(program)()
    # First without; then before the scope is entered, and in each of the seconds.
    assert seen[0] == (3, False)
    assert {(0, True), (1, True), (2, True)} <= set(seen)


def test_a_failure_says_at_which_step_and_can_be_had_again(backend: Backend) -> None:
    async def program(shutdown: anyio.CancelScope) -> None:
        with shutdown:
            await anyio.sleep(1)
            runs.append("to the end")
            return
        raise LookupError

    runs: list[str] = []
    with pytest.raises(LookupError) as caught:
        explore_shutdown([backend])(program)()
    (note,) = caught.value.__notes__
    step = int(note.partition("with a shutdown at step ")[2].split()[0])
    assert f"@explore_shutdown(replay={step}, ...)" in note
    assert "fault Call" in note
    runs.clear()
    with pytest.raises(LookupError):
        explore_shutdown([backend], replay=step)(program)()
    assert runs == []


def test_what_fails_without_a_shutdown_fails_first(backend: Backend) -> None:
    async def program(shutdown: anyio.CancelScope) -> None:
        raise LookupError

    with pytest.raises(LookupError) as caught:
        explore_shutdown([backend])(program)()
    assert "shutdown at" not in caught.value.__notes__[0]


def test_the_scope_is_not_a_parameter_of_the_test() -> None:
    assert list(inspect.signature(test_fixtures_reach_an_explored_test).parameters) == ["tmp_path"]
