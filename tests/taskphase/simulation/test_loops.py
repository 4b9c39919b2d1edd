"""The simulation (no G number): steps, choices and virtual time, on both event loops."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from taskphase.testing import Fifo, RandomWalk, Replay, Run, mark, simulate
from taskphase.testing._simulation.running import Backend


async def three_tasks() -> list[int]:
    async def note(number: int) -> None:
        order.append(number)

    order: list[int] = []
    async with anyio.create_task_group() as tg:
        for number in range(3):
            tg.start_soon(note, number)
    return order


def labels_of(run: Run) -> list[str]:
    return [entry.task for entry in run.trace if entry.what == "step"]


def test_the_first_choice_is_the_oldest(backend: Backend) -> None:
    run = simulate(three_tasks, backend=backend, policy=Fifo())

    assert run.result() == [0, 1, 2]
    assert run.choices == [0, 0]
    assert [among for _, among in run.decisions] == [3, 2]
    assert labels_of(run) == ["three_tasks#0", "note#1", "note#2", "note#3", "three_tasks#0"]


def test_every_order_of_tasks_can_be_had(backend: Backend) -> None:
    orders = [
        tuple(simulate(three_tasks, backend=backend, policy=Replay(choices)).value)
        for choices in product(range(3), range(2))
    ]

    assert sorted(orders) == list(permutations(range(3)))


def test_a_step_runs_a_single_task_to_its_next_suspension(backend: Backend) -> None:
    async def work(name: str) -> None:
        for number in range(3):
            mark(f"{name}{number}")
            await checkpoint()

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(work, "a")
            tg.start_soon(work, "b")

    assert simulate(main, backend=backend).marks == ["a0", "b0", "a1", "b1", "a2", "b2"]
    starved = simulate(main, backend=backend, policy=Replay([1] * 9))
    assert starved.marks == ["b0", "b1", "b2", "a0", "a1", "a2"]


def test_turns_let_every_task_step_once_before_any_steps_twice(backend: Backend) -> None:
    async def work(name: str) -> None:
        for number in range(3):
            mark(f"{name}{number}")
            await checkpoint()

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            for name in "abc":
                tg.start_soon(work, name)

    orders = set[str]()
    for seed in range(50):
        marks = simulate(main, backend=backend, policy=RandomWalk(seed), turns=True).marks
        assert [mark[1] for mark in marks] == list("000111222")
        orders.add("".join(marks))
    assert len(orders) > 30


def test_time_is_virtual_and_moves_only_when_nothing_can_run(backend: Backend) -> None:
    async def main() -> list[float]:
        async def busy() -> None:
            for _ in range(50):
                await checkpoint()
            times.append(anyio.current_time())

        times = [anyio.current_time()]
        async with anyio.create_task_group() as tg:
            tg.start_soon(busy)
            with anyio.move_on_after(3600):
                await anyio.sleep(7200)
            times.append(anyio.current_time())
        await anyio.sleep_until(10**6)
        return [*times, anyio.current_time()]

    began = time.monotonic()
    run = simulate(main, backend=backend)

    assert run.result() == [0, 0, 3600, 10**6]
    assert run.time == 10**6
    assert time.monotonic() - began < 60


def test_timers_of_the_same_moment_fire_together_and_are_chosen_from(backend: Backend) -> None:
    async def main() -> list[int]:
        async def sleeper(number: int) -> None:
            await anyio.sleep(5)
            order.append(number)

        order: list[int] = []
        async with anyio.create_task_group() as tg:
            for number in range(4):
                tg.start_soon(sleeper, number)
        return order

    assert simulate(main, backend=backend).value == [0, 1, 2, 3]
    orders = {tuple(simulate(main, backend=backend, policy=RandomWalk(seed)).value) for seed in range(300)}
    assert len(orders) == math.factorial(4)


def test_waiting_for_all_tasks_to_be_blocked_takes_no_more_than_a_moment(backend: Backend) -> None:
    async def main() -> list[str]:
        async def work() -> None:
            for _ in range(5):
                await checkpoint()
            log.append("worked")
            await anyio.sleep(100)

        log: list[str] = []
        async with anyio.create_task_group() as tg:
            tg.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            assert anyio.current_time() < 1
            log.append("blocked")
        return log

    for seed in range(5):
        assert simulate(main, backend=backend, policy=RandomWalk(seed)).result() == ["worked", "blocked"]


def test_a_task_that_starts_by_start_has_started(backend: Backend) -> None:
    async def main() -> str:
        async def serve(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            await anyio.sleep(1)
            task_status.started("up")
            await anyio.sleep(1)

        async with anyio.create_task_group() as tg:
            return str(await tg.start(serve))

    assert simulate(main, backend=backend).result() == "up"


def test_cancellation_that_finds_nobody_does_not_keep_time_from_moving(backend: Backend) -> None:
    """On asyncio, anyio delivers it again and again: to a task that is shielded, without end."""

    async def main() -> float:
        with anyio.CancelScope() as scope:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(10)
            await checkpoint()
        assert scope.cancelled_caught
        return anyio.current_time()

    run = simulate(main, backend=backend)
    assert run.result() == 10
    assert run.steps < 10


def test_what_main_raises_is_in_the_run(backend: Backend) -> None:
    error = LookupError("x")

    async def main() -> None:
        await checkpoint()
        raise error

    run = simulate(main, backend=backend)
    assert run.exception is error
    with pytest.raises(LookupError):
        run.result()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exit_from_a_task_ends_the_run(backend: Backend, error: type[BaseException]) -> None:
    async def main() -> None:
        await checkpoint()
        raise error

    assert isinstance(simulate(main, backend=backend).exception, error)


def test_names_of_tasks_do_not_depend_on_earlier_runs() -> None:
    async def main() -> list[str]:
        async def work() -> str:
            current = asyncio.current_task()
            assert current is not None
            return current.get_name()

        async with asyncio.TaskGroup() as tg:
            tasks = [tg.create_task(work()), tg.create_task(work(), name="named")]
        return [task.result() for task in tasks]

    assert simulate(main).result() == simulate(main).result() == ["Task-1", "named"]


def test_plain_asyncio_runs_too() -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(number)
        return 2 * number

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        queue = asyncio.Queue[int]()
        loop.call_later(3, queue.put_nowait, 7)
        direct = asyncio.Task(double(4), loop=loop)
        done, pending = await asyncio.wait([asyncio.create_task(double(n)) for n in (5, 1, 2)], timeout=3)
        results = sorted(task.result() for task in done)
        async with asyncio.timeout(60):
            got = await queue.get()
        for task in pending:
            task.cancel()
        return results, got, await asyncio.gather(double(1), double(2)), await direct, len(pending)

    for seed in range(5):
        assert simulate(main, policy=RandomWalk(seed)).result() == ([2, 4], 7, [2, 4], 8, 1)


def test_async_generators_are_closed_at_the_end(backend: Backend) -> None:
    log: list[str] = []

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            log.append("closed")

    async def main() -> None:
        kept.append(numbers())
        await anext(kept[0])

    kept: list[Any] = []
    assert simulate(main, backend=backend).exception is None
    assert log == ["closed"]


def test_context_variables_have_the_values_of_the_caller(backend: Backend) -> None:
    from contextvars import ContextVar

    variable = ContextVar[str]("variable")
    variable.set("outside")

    async def main() -> str:
        before = variable.get()
        variable.set("inside")
        return before

    assert simulate(main, backend=backend).result() == "outside"
    assert variable.get() == "outside"


def test_a_run_inside_an_event_loop_is_refused(backend: Backend) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="outside of other event loops"):
            simulate(three_tasks, backend=backend)

    anyio.run(main, backend=backend)
    simulate(main, backend=backend).result()


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="'curio'"):
        simulate(three_tasks, backend="curio")  # type: ignore[arg-type]


def test_runs_and_steps_a_second_are_printed(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    async def spin() -> None:
        async def work() -> None:
            for _ in range(1000):
                await checkpoint()

        async with anyio.create_task_group() as tg:
            for _ in range(5):
                tg.start_soon(work)

    def per_second(main: Callable[[], Any], rounds: int) -> tuple[float, float]:
        began, steps = time.perf_counter(), 0
        for _ in range(rounds):
            steps += simulate(main, backend=backend, policy=RandomWalk(0)).steps
        took = time.perf_counter() - began
        return rounds / took, steps / took

    _, steps = per_second(spin, 2)
    runs, _ = per_second(three_tasks, 100)
    with capsys.disabled():
        sys.stdout.write(f"\n{backend}: {steps:,.0f} steps/s, {runs:,.0f} runs/s (of 5 steps)\n")
