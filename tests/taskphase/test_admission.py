"""G8, G9, G14, G15: a host takes tasks from its own tasks while these run, and refuses all others late."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import anyio
import pytest
from tests.backends import native_cancel_only, turns, until

from taskphase import (
    Limit,
    Phase,
    Scope,
    Task,
    TaskConfig,
    TaskHost,
    TaskObserver,
    TasksBatch,
    TasksClosedError,
    TasksSaturatedError,
    TaskStatus,
    current_task,
)


@asynccontextmanager
async def in_stage_three() -> AsyncGenerator[TaskHost]:
    """A host that waits for its shielded tasks for as long as the body lasts."""
    release = anyio.Event()
    async with TaskHost() as host:
        host.task(shield=True).schedule(release.wait)
        async with anyio.create_task_group() as tg:
            tg.start_soon(host.aclose)
            await turns()
            yield host
            release.set()


async def test_a_shielded_task_of_another_host_is_refused_as_everybody_else_is_g9() -> None:
    async def schedule() -> None:
        with pytest.raises(TasksClosedError, match="now only shielded tasks may schedule"):
            closing.schedule(anyio.sleep, 0)

    async with in_stage_three() as closing, TaskHost() as other:
        await other.task(shield=True).schedule(schedule)


async def test_what_a_shielded_task_left_behind_is_refused_once_that_has_ended_g9() -> None:
    async def left_behind() -> None:
        await ended.wait()
        assert current_task() is task
        with pytest.raises(TasksClosedError):
            host.schedule(anyio.sleep, 0)
        refused.set()

    async def leave() -> None:
        tg.start_soon(left_behind)

    ended, refused, release = anyio.Event(), anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tg, TaskHost() as host:
        host.task(shield=True).schedule(release.wait)
        task = host.task(shield=True).schedule(leave)
        await task
        tg.start_soon(host.aclose)
        await turns()
        ended.set()
        await refused.wait()
        release.set()


async def test_what_a_task_left_behind_may_close_the_host_once_that_has_ended_g9() -> None:
    async def leave() -> None:
        tg.start_soon(host.aclose)

    async with anyio.create_task_group() as tg, TaskHost() as host:
        await host.schedule(leave)
        await until(lambda: host._runner.stage.value == "closed")


async def test_a_task_may_close_another_host_than_its_own_g9() -> None:
    async with TaskHost() as other:
        forever = other.schedule(anyio.sleep_forever)
        async with TaskHost() as host:
            await host.schedule(other.aclose)
        assert forever.status is TaskStatus.CANCELLED


@pytest.mark.parametrize("shield", [True, False])
async def test_the_handler_of_a_shielded_task_may_schedule_in_stage_three_too_g9(shield: bool) -> None:
    async def fail() -> None:
        with anyio.CancelScope(shield=True):
            await closing.wait()
        raise ValueError

    async def handler(task: Any, error: Exception) -> None:
        try:
            follow_up.append(host.schedule(anyio.sleep, 0))
        except TasksClosedError:
            refused.append(True)

    follow_up: list[Awaitable[None]] = []
    refused: list[bool] = []
    closing, release = anyio.Event(), anyio.Event()
    async with TaskHost() as host:
        host.task(shield=True).schedule(release.wait)
        task = host.task(shield=shield, on_error=handler).schedule(fail)
        async with anyio.create_task_group() as tg:
            tg.start_soon(host.aclose)
            await turns()
            closing.set()
            await task.wait()
            release.set()
    assert (len(follow_up), refused) == ((1, []) if shield else (0, [True]))


async def test_deferred_tasks_are_pending_though_slots_are_free_g15() -> None:
    async with TaskHost(max_running=5, max_pending=2) as host, host.scope() as tasks:
        tasks.after_route.schedule(anyio.sleep, 0)
        tasks.after_response.schedule(anyio.sleep, 0)
        for phase in (tasks.after_route, tasks.after_response):
            with pytest.raises(TasksSaturatedError):
                phase.schedule(anyio.sleep, 0)
        running = tasks.schedule(anyio.sleep, 0)
        assert (host.deferred, running.status) == (2, TaskStatus.STARTING)


async def test_tasks_on_their_way_from_a_thread_to_a_slot_take_the_slot_g8_g15() -> None:
    def in_thread() -> None:
        for _ in range(2):
            host.schedule(anyio.sleep, 0)
        with pytest.raises(TasksSaturatedError):
            host.schedule(anyio.sleep, 0)
        done.append(True)

    done: list[bool] = []
    async with TaskHost(max_running=2, max_pending=0) as host:
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()  # in the loop's thread: it does not turn
    assert done


async def test_what_is_refused_was_not_scheduled_g15() -> None:
    """Neither its scope nor a batch keeps it for later."""
    batch = TasksBatch()
    async with TaskHost(max_running=1, max_pending=0) as host:
        blocker = host.schedule(anyio.sleep_forever)
        scope = host.scope()
        task = batch.schedule(anyio.sleep, 0)
        for refused in (batch.start, batch.start):
            with pytest.raises(TasksSaturatedError):
                refused(scope)
        assert task.status is TaskStatus.NEW
        blocker.cancel()
        await until(lambda: host.running == 0)
        batch.start(scope)
        assert await task is None
        scope.end()
        assert (host.running, host.waiting, host.deferred) == (0, 0, 0)


class ScheduledMeanwhile(TaskObserver):
    """While the loop's thread is inside `schedule()`, another thread schedules a task, too. At its call number
    `switch_at` of a function that counts, the other thread stops until the first `schedule()` has returned.

    :ivar error: the error of the other thread
    """

    def __init__(self, switch_at: int) -> None:
        self._left = switch_at
        self._stopped, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.schedule: Callable[[], object]
        self.error: TasksSaturatedError | None = None

    def scheduled(self, task: Task[Any], scope: Scope | None) -> None:
        if not self._thread.ident:
            self._thread.start()
            assert self._stopped.wait(10)

    def _run(self) -> None:
        sys.setprofile(self._count)
        try:
            self.schedule()
        except TasksSaturatedError as exc:
            self.error = exc
        finally:
            sys.setprofile(None)
            self._stopped.set()

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_globals["__name__"] in ("taskphase._drive.places", "taskphase._drive.gates"):
            self._left -= 1
            if self._left == 0:
                self._stopped.set()
                assert self._go_on.wait(10)

    async def end(self) -> bool:
        """Let the other thread go on. Return whether it has stopped."""
        self._go_on.set()
        await anyio.to_thread.run_sync(self._thread.join)
        return self._left <= 0


@pytest.mark.parametrize("counts", ["pending", "slots", "pending of a limit", "places of a limit"])
async def test_the_loop_and_a_thread_cannot_both_take_the_last_place_g8_g15_g19(counts: str) -> None:
    """Python may switch to another thread at each call of a function. The test tries all of these moments."""
    is_stopped, switch_at = True, 0
    while is_stopped:
        switch_at += 1
        other, release = ScheduledMeanwhile(switch_at), anyio.Event()
        settings: dict[str, Any] = {"pending": {"max_pending": 1}, "slots": {"max_running": 1, "max_pending": 0}}.get(
            counts, {}
        )
        limit = Limit(1, max_pending=1 if counts == "pending of a limit" else 0) if "limit" in counts else None
        async with TaskHost(**settings, observers=[other]) as host, host.scope() as scope:
            define = scope.task(limit=limit)
            batch = define.after_response if "pending" in counts else define
            other.schedule = partial(batch.schedule, release.wait)
            batch.schedule(release.wait)
            is_stopped = await other.end()
            assert other.error is not None, switch_at
            release.set()
    assert switch_at > 5


async def test_threads_and_the_loop_schedule_cancel_and_look_at_once_g2_g8_g15_g17() -> None:
    """No task is lost or counted twice, and no call raises. A free-threaded Python really runs all threads at once."""
    limit = Limit(2, max_pending=10)
    threads = 3
    taken: list[list[Task[Any]]] = [[] for _ in range(threads + 1)]

    def schedule(tasks: list[Task[Any]], number: int) -> None:
        settings: tuple[dict[str, Any], ...] = {}, {"limit": limit}, {"key": str(number % 7)}, {"delay": 0.001}
        with suppress(TasksSaturatedError):
            tasks.append(host.task(**settings[number % 4]).schedule(anyio.lowlevel.checkpoint))
            if number % 5 == 0:
                tasks[number // 5 % len(tasks)].cancel()
        host.get(number)
        host.statistics()

    def work(tasks: list[Task[Any]]) -> None:
        for number in range(200):
            schedule(tasks, number)

    async with TaskHost(max_running=3, max_pending=20) as host, anyio.create_task_group() as tg:
        for tasks in taken[1:]:
            tg.start_soon(anyio.to_thread.run_sync, work, tasks)
        for number in range(200):
            async with host.scope() as scope:
                schedule(taken[0], number)
                with suppress(TasksSaturatedError):
                    taken[0].append(scope.after_response.schedule(anyio.lowlevel.checkpoint))
    every = [task for tasks in taken for task in tasks]
    assert {task.status for task in every} <= {TaskStatus.SUCCEEDED, TaskStatus.CANCELLED, TaskStatus.DROPPED}
    assert len({task.id for task in every}) == len(every)
    now = host.statistics()
    assert now.succeeded + now.cancelled + now.dropped == len(every)


async def test_a_late_task_is_pending_only_if_it_has_to_wait_g1_g15() -> None:
    async with TaskHost(max_running=1, max_pending=0) as host, host.scope() as tasks:
        async with tasks.route():
            with pytest.raises(TasksSaturatedError):
                tasks.after_route.schedule(anyio.sleep, 0)
        await tasks.after_route.schedule(anyio.sleep, 0)
        host.schedule(anyio.sleep_forever)
        with pytest.raises(TasksSaturatedError):
            tasks.after_route.schedule(anyio.sleep, 0)
        dropped = tasks.after_route.task(when="failure").schedule(anyio.sleep, 0)
        assert dropped.status is TaskStatus.DROPPED


async def test_a_task_made_by_hand_for_a_phase_that_is_to_come_is_pending_too_g15() -> None:
    async with TaskHost(max_pending=1) as host, host.scope() as tasks:
        late, later = (Task(anyio.sleep, (0,)) for _ in range(2))
        late.phase = later.phase = Phase.AFTER_RESPONSE
        late.__start__(tasks)
        assert host.deferred == 1
        with pytest.raises(TasksSaturatedError):
            later.__start__(tasks)
        assert later.status is TaskStatus.NEW
        tasks.schedule(anyio.sleep, 0)


@pytest.mark.parametrize("max_pending", [None, 3])
async def test_a_task_that_is_cancelled_while_it_waits_for_a_slot_is_not_kept_g2_g15(max_pending: int | None) -> None:
    async with TaskHost(max_running=1, max_pending=max_pending) as host:
        host.schedule(anyio.sleep_forever)
        waiting = [weakref.ref(host.schedule(anyio.sleep, 0)) for _ in range(3)]
        for task in waiting:
            task().cancel()  # type: ignore[union-attr]
        gc.collect()
        assert [task() for task in waiting] == [None, None, None]


@native_cancel_only
async def test_a_task_that_no_factory_makes_is_refused_and_takes_no_room_g2_g15() -> None:
    def broken(*_: object, **__: object) -> Any:
        raise LookupError("no tasks today")

    loop = asyncio.get_running_loop()
    async with TaskHost(max_pending=1) as host:
        loop.set_task_factory(broken)
        try:
            with pytest.raises(LookupError):
                host.schedule(anyio.sleep, 0)
        finally:
            loop.set_task_factory(None)
        assert host.tasks() == ()
        host.task(delay=1000).schedule(anyio.sleep, 0)


async def test_a_task_cancelled_on_its_way_from_a_thread_is_not_started_g2_g8(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """asyncio alone would notice the end of a coroutine of the host."""
    tasks: list[Task[None]] = []
    async with TaskHost(config=TaskConfig(limit=Limit(1)), drain_timeout=5) as host:
        thread = threading.Thread(target=lambda: tasks.append(host.schedule(anyio.sleep, 0)))
        thread.start()
        thread.join()  # blocks the event loop
        tasks[0].cancel()
        await turns()
        assert (host.running, host.waiting) == (0, 0)
        host.schedule(anyio.sleep, 0)
        assert host.limited == 0  # the cancelled task has taken no place
    assert (tasks[0].status, tasks[0].attempt) == (TaskStatus.CANCELLED, 0)
    gc.collect()
    assert caplog.records == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # this process has threads
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_child_of_fork_is_refused_because_no_loop_runs_there_g2(in_thread: bool) -> None:
    def schedule_in_child() -> bytes:
        reading, writing = os.pipe()
        if not (child := os.fork()):
            try:
                host.schedule(anyio.sleep, 0)
            except TasksClosedError:
                os.write(writing, b"refused")
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as pipe:
            return pipe.read()

    async with TaskHost() as closed:  # which is closed in the child already
        pass
    async with TaskHost() as host:
        said = await anyio.to_thread.run_sync(schedule_in_child) if in_thread else schedule_in_child()
        await host.schedule(anyio.sleep, 0)
    assert (said, closed.running) == (b"refused", 0)
