"""G8, G15: the limits of a host."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest
from tests.backends import turns, until

from taskphase import Task, TaskHost, TasksSaturatedError, TaskStatus


async def test_more_than_max_running_wait_first_in_first_out_g15() -> None:
    async def work(number: int) -> None:
        order.append(number)
        await release[number].wait()

    order: list[int] = []
    release = [anyio.Event() for _ in range(5)]
    async with TaskHost(max_running=2, drain_timeout=10) as host:
        tasks = [host.schedule(work, number) for number in range(5)]
        await turns()
        assert sorted(order) == [0, 1]
        assert [task.status for task in tasks[2:]] == [TaskStatus.WAITING] * 3
        assert (host.running, host.waiting) == (2, 3)
        for number in range(5):
            release[number].set()
            await tasks[number]
            await turns()
            assert host.running == min(2, 4 - number)
    assert order[2:] == [2, 3, 4]


async def test_a_task_that_waits_for_a_slot_does_not_hold_the_response_up_g1_g15() -> None:
    async with TaskHost(max_running=1) as host:
        host.schedule(anyio.sleep_forever)
        async with host.scope() as tasks:
            async with tasks.route():
                waiting = tasks.after_route.schedule(anyio.sleep, 0)
            assert waiting.status is TaskStatus.WAITING


async def test_more_than_max_pending_are_refused_and_nothing_is_half_scheduled_g15() -> None:
    async with TaskHost(max_running=1, max_pending=2) as host:
        host.schedule(anyio.sleep_forever)
        scope = host.scope()
        host.schedule(anyio.sleep, 0)
        scope.after_response.schedule(anyio.sleep, 0)
        for schedule in (host.schedule, scope.schedule, scope.after_route.schedule):
            with pytest.raises(TasksSaturatedError) as caught:
                schedule(anyio.sleep, 0)
            error = caught.value
            assert (error.running, error.waiting, error.deferred, error.max_pending) == (1, 1, 1, 2)
        assert (host.running, host.waiting, host.deferred) == (1, 1, 1)


async def test_the_counts_of_a_refusal_have_the_tasks_of_other_threads_too_g8_g15() -> None:
    def schedule() -> TasksSaturatedError:
        with pytest.raises(TasksSaturatedError) as caught:
            for _ in range(5):
                scope.after_response.schedule(anyio.sleep, 0)
        return caught.value

    async with TaskHost(max_pending=3) as host, host.scope() as scope:
        error = await anyio.to_thread.run_sync(schedule)
        assert (error.waiting, error.deferred) == (0, 3)


async def test_a_task_that_is_dropped_is_never_too_much_g5_g15() -> None:
    async with TaskHost(max_running=1, max_pending=0) as host:
        host.schedule(anyio.sleep_forever)
        scope = host.scope()
        scope.end_route(failed=True)
        assert scope.after_route.schedule(anyio.sleep, 0).status is TaskStatus.DROPPED


async def test_while_a_slot_is_free_nothing_is_pending_g15() -> None:
    async with TaskHost(max_running=1, max_pending=0) as host:
        first = host.schedule(anyio.sleep_forever)
        with pytest.raises(TasksSaturatedError):
            host.schedule(anyio.sleep, 0)
        first.cancel()
        await until(lambda: host.running == 0)
        await host.schedule(anyio.sleep, 0)


async def test_a_deferred_task_that_was_taken_keeps_its_place_g15() -> None:
    async with TaskHost(max_running=1, max_pending=1) as host:
        async with host.scope() as tasks:
            kept = tasks.after_response.schedule(anyio.sleep, 0)
            blocker = host.schedule(anyio.sleep_forever)
        assert kept.status is TaskStatus.WAITING
        blocker.cancel()
        await kept


async def test_the_limit_holds_for_threads_too_g8_g15() -> None:
    def in_thread() -> list[Task[None]]:
        taken = [host.schedule(anyio.sleep, 0) for _ in range(2)]
        with pytest.raises(TasksSaturatedError):
            host.schedule(anyio.sleep, 0)
        return taken

    async with TaskHost(max_running=1, max_pending=2) as host:
        blocker = host.schedule(anyio.sleep_forever)
        taken = await anyio.to_thread.run_sync(in_thread)
        blocker.cancel()
        for task in taken:
            await task


async def test_tasks_on_their_way_from_a_thread_that_will_not_wait_are_not_pending_g8_g15() -> None:
    def in_thread() -> None:
        for _ in range(3):
            host.schedule(anyio.sleep, 0)
        scope.after_response.schedule(anyio.sleep, 0)
        with pytest.raises(TasksSaturatedError):
            scope.after_response.schedule(anyio.sleep, 0)

    for max_running in (None, 3):
        async with TaskHost(max_running=max_running, max_pending=1) as host, host.scope() as scope:
            await anyio.to_thread.run_sync(in_thread)
            assert host.deferred == 1


async def test_a_task_cancelled_on_its_way_from_a_thread_never_starts_g2_g8() -> None:
    def in_thread() -> Task[None]:
        task = host.schedule(anyio.sleep_forever)
        task.cancel()
        return task

    async with TaskHost(drain_timeout=10) as host:
        task = await anyio.to_thread.run_sync(in_thread)
        await task.wait()
        assert task.status is TaskStatus.CANCELLED
