"""G2, G8, G9: a closing host notices at once that the last thing to wait for has ended.

The drain timeouts are long: a host that missed the change would wait for them, and fail its test.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, cast

import anyio
import pytest
from tests.backends import turns, until

from taskphase import Limit, Phase, Scope, Task, TaskConfig, TaskHost, TasksClosedError, TasksScheduler, TaskStatus
from taskphase._drain import Drain
from taskphase._drive.loops import native_seam
from taskphase._drive.runner import Runner
from taskphase._machine.config import UNSET
from taskphase._machine.drain import DrainEvent, DrainStage

Logged = Callable[[], list[tuple[str, str]]]

LONG = 1000


@asynccontextmanager
async def closing(host: TaskHost) -> AsyncGenerator[None]:
    """Close `host`, with its drain at rest in the body of this, and be done soon after that."""
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            tg.start_soon(host.aclose)
            await turns()
            yield


def submit_deferred(runner: Runner, task: Task[None]) -> None:
    """Have `task` wait for a phase that does not come."""
    task.phase = Phase.AFTER_ROUTE
    runner.submit(task, Scope(runner, cast(Any, None), UNSET))


def schedule_in_thread(schedule: Callable[..., Task[None]]) -> Task[None]:
    """Return a task that is on its way: the loop does not turn meanwhile."""
    tasks: list[Task[None]] = []
    thread = threading.Thread(target=lambda: tasks.append(schedule(anyio.sleep, 0)))
    thread.start()
    thread.join()
    return tasks[0]


async def test_the_drain_notices_that_a_deferred_task_was_cancelled_g9() -> None:
    async with TaskHost(drain_timeout=LONG) as host:
        task = host.scope().after_response.schedule(anyio.sleep, 0)
        async with closing(host):
            task.cancel()


async def test_the_drain_notices_that_a_deferred_task_was_dropped_g9() -> None:
    async with TaskHost(drain_timeout=LONG) as host:
        scope = host.scope()
        task = scope.after_response.schedule(anyio.sleep, 0)
        async with closing(host):
            scope.end(failed=True)
        assert task.status is TaskStatus.DROPPED


async def test_the_drain_notices_that_a_shielded_deferred_task_was_dropped_g9() -> None:
    async with TaskHost() as host:
        scope = host.scope()
        task = scope.task(shield=True).after_response.schedule(anyio.sleep, 0)
        async with closing(host):
            assert task.status is TaskStatus.DEFERRED
            scope.end(failed=True)
        assert task.status is TaskStatus.DROPPED


async def test_the_drain_notices_that_a_task_ended_on_its_way_from_a_thread_g8_g9() -> None:
    async with TaskHost(drain_timeout=LONG) as host:
        held = host.scope().after_response.schedule(anyio.sleep, 0)
        async with closing(host):
            held.cancel()  # the drain checks again now, and finds the next task
            task = schedule_in_thread(host.schedule)
            task.cancel()
        assert task.status is TaskStatus.CANCELLED


async def test_the_drain_notices_that_a_pause_before_an_attempt_was_cancelled_g9_g16() -> None:
    def again(task: Task[None], error: Exception) -> float:
        return LONG

    async def fail() -> None:
        raise ValueError

    async with TaskHost(drain_timeout=LONG) as host:
        task = host.task(retry=again).schedule(fail)
        await until(lambda: task.status is TaskStatus.RETRYING)
        async with closing(host):
            task.cancel()


async def test_the_drain_notices_that_a_waiting_task_was_cancelled_g9_g15() -> None:
    async with TaskHost(max_running=1, drain_timeout=LONG) as host:
        running, waiting = (host.schedule(anyio.sleep_forever) for _ in range(2))
        async with closing(host):
            waiting.cancel()
            await turns()
            running.cancel()


async def test_the_drain_notices_that_the_plain_group_is_empty_g9() -> None:
    async def unwind() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await release.wait()

    release = anyio.Event()
    async with TaskHost(drain_timeout=LONG) as host:
        host.tg.start_soon(unwind)
        await turns()
        async with closing(host):
            release.set()


async def test_the_drain_notices_that_the_plain_group_failed_while_cancelled_g3_g9(logged: Logged) -> None:
    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError

    async with TaskHost(drain_timeout=LONG) as host:
        host.tg.start_soon(fail)
        await turns()
        async with closing(host):
            pass
    assert [level for level, _ in logged()] == ["WARNING", "ERROR"]


async def test_a_drain_that_waits_is_at_rest_g9() -> None:
    """It sleeps until something changes, and does not look again and again."""
    release = anyio.Event()
    async with TaskHost(drain_timeout=LONG) as host:
        first = host.schedule(anyio.sleep, 0)
        task = host.schedule(release.wait)
        async with closing(host):
            assert first.status is TaskStatus.SUCCEEDED
            with anyio.fail_after(2):
                await anyio.wait_all_tasks_blocked()
            release.set()
        assert task.status is TaskStatus.SUCCEEDED


async def test_a_host_does_not_close_while_a_task_is_on_its_way_from_a_thread_g2_g8() -> None:
    async with TaskHost(drain_timeout=LONG) as host:
        held = host.scope().after_response.schedule(anyio.sleep, 0)
        async with closing(host):
            held.cancel()
            task = schedule_in_thread(host.schedule)
        assert task.status is TaskStatus.SUCCEEDED


async def test_a_task_from_a_thread_that_finds_its_group_closed_is_dropped_g2_g8(logged: Logged) -> None:
    async with anyio.create_task_group() as tg:
        tasks = TasksScheduler(tg)
    task = schedule_in_thread(tasks.schedule)
    await until(lambda: task.status is not TaskStatus.NEW)
    assert task.status is TaskStatus.DROPPED
    assert [level for level, _ in logged()] == ["WARNING"]


async def test_a_runner_taken_down_cancels_tasks_not_begun_or_on_their_way_g2_g8() -> None:
    runner = Runner(native_seam(), config=UNSET, max_running=1)
    jobs = [Task(anyio.sleep_forever) for _ in range(4)]

    def on_its_way() -> None:
        runner.submit(jobs[3])

    async with runner.seam.open():
        runner.submit(jobs[0])
        runner.submit(jobs[1])
        submit_deferred(runner, jobs[2])
        thread = threading.Thread(target=on_its_way)
        thread.start()
        thread.join()
        assert [job.status for job in jobs] == [
            TaskStatus.STARTING,
            TaskStatus.WAITING,
            TaskStatus.DEFERRED,
            TaskStatus.NEW,
        ]
        runner.abort()
        assert {job.status for job in jobs} == {TaskStatus.CANCELLED}
        with pytest.raises(TasksClosedError, match="closed"):
            runner.submit(Task(anyio.sleep_forever))
        await until(lambda: runner.idle)


async def test_a_runner_taken_down_cancels_tasks_that_a_cancelled_task_lets_go_on_g2_g19() -> None:
    limit = Limit(1)
    runner = Runner(native_seam(), config=UNSET, max_running=1)
    jobs = [Task(anyio.sleep_forever, config=config) for config in (UNSET, *[TaskConfig(limit=limit)] * 3)]
    async with runner.seam.open():
        for job in jobs:
            runner.submit(job)
        statuses = [job.status for job in jobs]
        assert statuses == [TaskStatus.STARTING, TaskStatus.WAITING, TaskStatus.LIMITED, TaskStatus.LIMITED]
        runner.abort()
        assert {job.status for job in jobs} == {TaskStatus.CANCELLED}
        await until(lambda: runner.idle)


@pytest.mark.parametrize("line", range(12))
async def test_a_closing_host_notices_a_signal_handler_that_cancels_the_last_task_g8_g9(line: int) -> None:
    """The handler runs before any line of the wait for the last task. A trace function takes its place."""

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code is not Drain._idle.__code__:
            return None
        if event == "line":
            nonlocal line
            line -= 1
            if line == 0:
                task.cancel()
        return trace

    async with TaskHost(drain_timeout=LONG) as host:
        task = host.task(delay=LONG / 2).schedule(anyio.sleep, 0)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            async with closing(host):
                task.cancel()
        finally:
            sys.settrace(before)
            host._drain.wake()


async def test_a_runner_does_not_close_while_a_task_is_on_its_way_g2_g8() -> None:
    """The task may have arrived since the drain last checked."""
    runner = Runner(native_seam(), config=UNSET)
    runner.follow(DrainEvent.CLOSE)
    task = Task(anyio.sleep, (0,))

    def on_its_way() -> None:
        runner.submit(task)

    async with runner.seam.open():
        thread = threading.Thread(target=on_its_way)
        thread.start()
        thread.join()
        assert not runner.close()
        assert runner.stage is DrainStage.GRACE
        await until(lambda: runner.idle)
        assert runner.close()
        assert (runner.stage, task.status) == (DrainStage.CLOSED, TaskStatus.SUCCEEDED)


@pytest.mark.parametrize("decision", ["submit", "close", "abort", "read"])
async def test_closing_and_scheduling_from_a_thread_exclude_each_other_g2_g8(decision: str) -> None:
    """Each of them reads a state that the others write, so no two of them may run at the same time."""
    runner = Runner(native_seam(), config=UNSET)
    runner.follow(DrainEvent.CLOSE)
    decide: dict[str, Callable[[], object]] = {
        "submit": lambda: submit_deferred(runner, Task(anyio.sleep, (0,))),
        "close": runner.close,
        "abort": runner.abort,
        "read": runner._read,
    }
    thread = threading.Thread(target=decide[decision])
    with runner._lock:
        thread.start()
        thread.join(0.05)  # were it not kept waiting, it would be done long before
        assert thread.is_alive()
    thread.join()
