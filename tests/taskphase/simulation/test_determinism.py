"""The simulation (no G number): a run is a pure function of the program and its choices."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.taskphase.simulation.programs import PROGRAMS

from taskphase.testing import PCT, Deviate, RandomWalk, Replay, simulate
from taskphase.testing._simulation.running import Backend

ROOT = Path(__file__).resolve().parents[3]

each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)


@each_program
def test_the_same_choices_make_the_same_run(backend: Backend, program: Callable[[], Awaitable[Any]]) -> None:
    for seed in range(10):
        policies = [RandomWalk(seed), PCT(seed, steps=20), Deviate({seed: 1, seed + 2: 2})]
        for policy in policies:
            run = simulate(program, backend=backend, policy=policy)
            again = simulate(program, backend=backend, policy=Replay(run.choices))
            assert run.exception is None
            assert again.trace == run.trace
            assert again.decisions == run.decisions
            assert (again.value, again.steps, again.time) == (run.value, run.steps, run.time)


@each_program
def test_other_choices_make_other_runs(backend: Backend, program: Callable[[], Awaitable[Any]]) -> None:
    traces = {simulate(program, backend=backend, policy=RandomWalk(seed)).trace for seed in range(20)}

    assert len(traces) > 15


def test_another_process_with_another_hash_seed_makes_the_same_runs() -> None:
    outputs: list[str] = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "error", "-m", "tests.taskphase.simulation.programs"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)

    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") == 2 * 5 * len(PROGRAMS)


def test_random_numbers_are_the_same_in_each_run_and_untouched_outside(backend: Backend) -> None:
    async def main() -> float:
        return random.random()

    state = random.getstate()
    assert simulate(main, backend=backend).result() == simulate(main, backend=backend).result()
    assert random.getstate() == state


@each_program
def test_what_ran_before_does_not_matter(backend: Backend, program: Callable[[], Awaitable[Any]]) -> None:
    first = simulate(program, backend=backend, policy=RandomWalk(1))
    ballast = [object() for _ in range(1000)]  # other addresses
    for other in PROGRAMS:
        simulate(other, backend=backend)
    again = simulate(program, backend=backend, policy=RandomWalk(1))

    assert again.trace == first.trace
    assert ballast
