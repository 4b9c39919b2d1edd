"""The simulation (no G number): faults at a step."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from taskphase import TaskHost, TaskStatus
from taskphase.testing import Call, Cancel, Fifo, Replay, Throw, mark, pause, simulate
from taskphase.testing._simulation.running import Backend


class Injected(Exception):
    pass


async def two_tasks() -> list[str]:
    async def work(name: str) -> None:
        try:
            for number in range(2):
                await checkpoint()
                log.append(f"{name}{number}")
        except Injected:
            log.append(f"{name} hit")
        except BaseException as exc:
            log.append(f"{name} {type(exc).__name__}")
            raise

    log: list[str] = []
    async with anyio.create_task_group() as tg:
        tg.start_soon(work, "a")
        tg.start_soon(work, "b")
    return log


def test_an_error_is_thrown_into_the_task_that_makes_the_step(backend: Backend) -> None:
    # Steps: main 1, a 2, b 3, a 4, ...
    assert simulate(two_tasks, backend=backend, faults=[Throw(4, Injected)]).result() == ["a hit", "b0", "b1"]
    hit_b = simulate(two_tasks, backend=backend, faults=[Throw(4, Injected)], policy=Replay([0, 0, 1]))
    assert hit_b.result() == ["b hit", "a0", "a1"]
    assert [(e.step, e.task, e.detail) for e in hit_b.trace if e.what == "fault"] == [(4, "work#2", "Throw")]


def test_an_error_that_is_due_at_a_first_step_hits_the_next_task_that_waits(backend: Backend) -> None:
    run = simulate(two_tasks, backend=backend, faults=[Throw(2, Injected("first"))])
    assert run.result() == ["a hit", "b0", "b1"]


def test_a_run_with_faults_has_the_same_steps_up_to_them(backend: Backend) -> None:
    plain = simulate(two_tasks, backend=backend)
    faulty = simulate(two_tasks, backend=backend, faults=[Throw(6, Injected)])
    assert plain.trace[:7] == faulty.trace[:7]
    assert faulty.trace == simulate(two_tasks, backend=backend, faults=[Throw(6, Injected)]).trace


def test_a_cancellation_reaches_the_scope_that_the_task_stands_in(backend: Backend) -> None:
    async def main() -> list[bool]:
        async def work() -> None:
            with anyio.CancelScope() as scope:
                for _ in range(10):
                    await checkpoint()
            caught.append(scope.cancelled_caught)

        caught: list[bool] = []
        async with anyio.create_task_group() as tg:
            tg.start_soon(work)
            tg.start_soon(work)
        return caught

    run = simulate(main, backend=backend, faults=[Cancel(4)])
    assert run.result() == [True, False]


def test_a_native_cancellation_is_asyncios_own() -> None:
    async def main() -> str:
        task = asyncio.create_task(asyncio.sleep(0))
        try:
            await task
        except asyncio.CancelledError:
            return "task was cancelled"
        return "no"

    assert simulate(main, faults=[Cancel(2, native=True)]).result() == "task was cancelled"


def test_a_fault_that_is_due_in_a_thread_hits_the_next_task(backend: Backend) -> None:
    async def main() -> str:
        def work() -> None:
            mark("thread")
            pause()
            mark("thread")

        try:
            await to_thread.run_sync(work)
        except Injected:
            return "hit"
        return "no"

    plain = simulate(main, backend=backend)
    at = next(entry.step for entry in plain.trace if entry.what == "mark")
    run = simulate(main, backend=backend, faults=[Throw(at, Injected)])
    assert (run.result(), run.marks) == ("hit", ["thread", "thread"])


@pytest.mark.parametrize("step", range(1, 15))
def test_a_call_comes_from_outside_of_all_tasks(backend: Backend, step: int) -> None:
    async def main() -> float:
        async def spin() -> None:
            for _ in range(10):
                await checkpoint()

        nonlocal stop
        stop = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(spin)
            with anyio.move_on_after(100):
                await stop.wait()
        return anyio.current_time()

    def end() -> None:
        if stop is not None:
            stop.set()
            assert anyio.current_time() in (0, 100)

    stop: anyio.Event | None = None
    run = simulate(main, backend=backend, faults=[Call(step, end)])
    assert run.result() == (0 if 2 <= step <= 12 else 100)


def test_what_a_call_raises_is_raised_outside(backend: Backend) -> None:
    def fail() -> None:
        raise Injected

    with pytest.raises(Injected):
        simulate(two_tasks, backend=backend, faults=[Call(3, fail)])


def test_a_drain_can_begin_at_every_step(backend: Backend) -> None:
    """G2, G9: a fault at any moment. Every task ends in exactly one way, and the host is closed."""

    async def main() -> set[TaskStatus]:
        async def work(seconds: float) -> None:
            await checkpoint()
            await anyio.sleep(seconds)

        async def watch() -> None:
            await closing.wait()
            scope.cancel()

        nonlocal closing
        closing = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(watch)
            with anyio.CancelScope() as scope:
                async with TaskHost(drain_timeout=1, max_running=2) as host:
                    tasks = [host.schedule(work, seconds) for seconds in (0, 0.5, 2, 0.1)]
                    tasks.append(host.task(shield=True).schedule(work, 5))
                    tasks.append(host.schedule(pause, 0.5))
                    for task in tasks:
                        await task.wait()
            tg.cancel_scope.cancel()
        assert not host._runner.alive
        return {task.status for task in tasks}

    closing: anyio.Event | None = None
    steps = simulate(main, backend=backend, policy=Fifo()).steps
    for step in range(8, steps):
        run = simulate(main, backend=backend, faults=[Call(step, lambda: closing and closing.set())])
        assert run.result() <= {TaskStatus.SUCCEEDED, TaskStatus.CANCELLED}


def test_a_fault_can_be_for_tasks_of_a_name(backend: Backend) -> None:
    for fault in (Throw(1, Injected, task="work#2"), Throw(3, Injected, task="work#2")):
        run = simulate(two_tasks, backend=backend, faults=[fault])
        assert run.result() == ["a0", "b hit", "a1"]
    run = simulate(two_tasks, backend=backend, faults=[Throw(1, Injected, task="nobody")])
    assert run.result() == ["a0", "b0", "a1", "b1"]
