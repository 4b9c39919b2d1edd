"""The simulation (no G number): policies choose the next step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import anyio
import pytest
from anyio.lowlevel import checkpoint

from taskphase.testing import PCT, Deviate, Fifo, Policy, RandomWalk, Replay, mark, simulate
from taskphase.testing._simulation.running import Backend


async def four_tasks() -> None:
    async def work(name: str) -> None:
        for _ in range(4):
            mark(name)
            await checkpoint()

    async with anyio.create_task_group() as tg:
        for name in "abcd":
            tg.start_soon(work, name)


def test_fifo_chooses_the_oldest() -> None:
    assert [Fifo().choose(count) for count in (2, 3)] == [0, 0]


def test_a_replay_goes_on_first_in_first_out_and_bears_what_is_too_large() -> None:
    replay = Replay([1, 5, 0])
    assert [replay.choose(count) for count in (2, 3, 2, 2)] == [1, 2, 0, 0]


def test_deviations_are_at_their_decisions_only() -> None:
    deviate = Deviate({1: 1, 3: 9})
    assert [deviate.choose(3) for _ in range(5)] == [0, 1, 0, 2, 0]


def test_a_random_walk_chooses_each_as_often_and_depends_on_its_seed_alone() -> None:
    walks = [RandomWalk(7), RandomWalk(7), RandomWalk("other")]
    chosen = [[walk.choose(4) for _ in range(400)] for walk in walks]
    assert chosen[0] == chosen[1] != chosen[2]
    assert min(Counter(chosen[0]).values()) > 60


def test_priorities_starve_tasks_as_a_random_walk_does_not(backend: Backend) -> None:
    starved = 0
    for seed in range(50):
        marks = "".join(simulate(four_tasks, backend=backend, policy=PCT(seed, depth=1)).marks)
        assert marks == "".join(name * 4 for name in dict.fromkeys(marks))  # one mark after the other
        starved += 1
    assert starved == 50
    orders = {"".join(simulate(four_tasks, backend=backend, policy=PCT(seed, 3, 16)).marks) for seed in range(50)}
    assert any(order != "".join(sorted(order, key=order.index)) for order in orders)


@pytest.mark.parametrize("options", [{"depth": 0}, {"steps": 0}])
def test_priorities_take_a_depth_and_steps_of_at_least_1(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        PCT(0, **options)


def test_a_policy_may_ask_which_tasks_there_are(backend: Backend) -> None:
    class Youngest(Fifo):
        def choose_task(self, numbers: Sequence[int]) -> int:
            return max(range(len(numbers)), key=numbers.__getitem__)

    assert simulate(four_tasks, backend=backend, policy=Youngest()).marks == list("ddddccccbbbbaaaa")
    assert PCT(1).choose(3) in range(3)


class Stop(BaseException):
    """Like Hypothesis's StopTest, raised by a draw."""


class Raising:
    def __init__(self, at: int) -> None:
        self.left = at

    def choose(self, count: int) -> int:
        self.left -= 1
        if self.left < 0:
            raise Stop
        return count - 1


@pytest.mark.parametrize("at", [0, 1, 5])
def test_what_a_policy_raises_is_raised_outside_after_unwinding(backend: Backend, at: int) -> None:
    ended: list[str] = []

    async def main() -> None:
        try:
            await four_tasks()
        finally:
            ended.append("unwound")

    policy: Policy = Raising(at)
    with pytest.raises(Stop):
        simulate(main, backend=backend, policy=policy)
    assert ended == ["unwound"]


def test_a_choice_out_of_range_is_refused(backend: Backend) -> None:
    class Wrong:
        def choose(self, count: int) -> int:
            return count

    with pytest.raises(ValueError, match="from 0 to 3"):
        simulate(four_tasks, backend=backend, policy=Wrong())
