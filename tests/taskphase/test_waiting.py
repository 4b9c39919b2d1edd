"""G15, G17: code that must end before a phase cannot wait for a task of that phase. Other code can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from tests.backends import native_cancel_only, turns, until

from taskphase import Scope, Task, TaskHost, TaskNotFinished, TasksScheduler, TaskStatus, current_task

S = TaskStatus
Wait = Callable[[Task[Any]], Awaitable[None]]


async def answer() -> int:
    return 42


async def by_await(task: Task[Any]) -> None:
    await task


async def by_wait(task: Task[Any]) -> None:
    await task.wait()


async def by_started(task: Task[Any]) -> None:
    await task.started.wait()


async def bounded(wait: Wait, task: Task[Any]) -> None:
    with anyio.fail_after(20):
        await wait(task)


WAYS = pytest.mark.parametrize("wait", [by_await, by_wait, by_started])


@asynccontextmanager
async def entered(host: TaskHost, how: str) -> AsyncIterator[tuple[Scope, Scope | TasksScheduler]]:
    """A scope, and what schedules in it."""
    async with host.scope() as scope:
        yield scope, TasksScheduler(host.tg) if how == "by hand" else scope


HOW = pytest.mark.parametrize("how", ["scope", "by hand"])


@WAYS
@HOW
async def test_a_route_cannot_wait_for_what_comes_after_it_g17(wait: Wait, how: str) -> None:
    async with TaskHost() as host:
        async with entered(host, how) as (scope, scheduler):
            async with scope.route():
                tasks = [scheduler.after_route.schedule(answer), scheduler.after_response.schedule(answer)]
                for task in tasks:
                    with pytest.raises(TaskNotFinished, match=f"is for {task.phase.value}.*never end"):
                        await wait(task)
                    assert task.status is S.DEFERRED
            await wait(tasks[0])
            with pytest.raises(TaskNotFinished, match="never end"):
                await wait(tasks[1])
        await wait(tasks[1])
        for task in tasks:
            assert await task == 42


@WAYS
async def test_a_scope_without_a_route_cannot_wait_for_either_phase_g17(wait: Wait) -> None:
    async with TaskHost() as host:
        async with host.scope() as scope:
            tasks = [scope.after_route.schedule(answer), scope.after_response.schedule(answer)]
            for task in tasks:
                with pytest.raises(TaskNotFinished):
                    await wait(task)
            immediate = scope.schedule(answer)
            await wait(immediate)
        for task in tasks:
            await wait(task)


@WAYS
async def test_a_child_task_of_the_route_may_wait_g17(wait: Wait) -> None:
    waited: list[int] = []

    async def child(task: Task[int]) -> None:
        await wait(task)
        waited.append(task.id)

    async with TaskHost() as host, anyio.create_task_group() as children, host.scope() as scope, scope.route():
        tasks = [scope.after_route.schedule(answer), scope.after_response.schedule(answer)]
        for task in tasks:
            children.start_soon(child, task)
        await turns()
        assert waited == []
    assert sorted(waited) == [task.id for task in tasks]


@WAYS
async def test_a_child_of_another_task_may_wait_after_the_route_g17(wait: Wait) -> None:
    waited = anyio.Event()

    async def child(task: Task[int]) -> None:
        await wait(task)
        waited.set()

    async def unit() -> None:
        async with host.scope() as scope:
            async with scope.route():
                task = scope.after_response.schedule(answer)
            group.start_soon(child, task)
            await turns()
            assert not waited.is_set()

    with anyio.fail_after(5):
        async with TaskHost() as host, anyio.create_task_group() as group:
            group.start_soon(unit)
    assert waited.is_set()


@WAYS
async def test_work_in_the_group_of_the_host_may_wait_after_the_route_g17(wait: Wait) -> None:
    """Host and scope are entered in one native task: on trio the work is below that task."""

    async def child(task: Task[int]) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait, task)
        waited.append(task.id)

    waited: list[int] = []
    async with TaskHost() as host:
        async with host.scope() as scope:
            async with scope.route():
                task = scope.after_response.schedule(answer)
            host.tg.start_soon(child, task)
            await turns()
            assert waited == []
        await until(lambda: waited)


@native_cancel_only
@WAYS
async def test_a_native_task_of_its_own_may_wait_g17(wait: Wait) -> None:
    async with TaskHost() as host:
        async with host.scope() as scope:
            task = scope.after_response.schedule(answer)
            waiting = asyncio.ensure_future(wait(task))
            await turns()
            assert not waiting.done()
        await waiting


@WAYS
async def test_a_task_of_the_scope_may_wait_for_a_later_phase_g17(wait: Wait) -> None:
    async with TaskHost() as host:
        async with host.scope() as scope:
            later = scope.after_response.schedule(answer)
            waiting = scope.task(shield=True).schedule(wait, later)
            await turns()
            assert waiting.status is S.RUNNING
        await waiting


@WAYS
async def test_another_scope_may_be_waited_for_g17(wait: Wait) -> None:
    async with TaskHost() as host:
        other = host.scope()
        task = other.after_response.schedule(answer)
        async with host.scope(), anyio.create_task_group() as group:
            group.start_soon(wait, task)
            await turns()
            other.end()


@WAYS
async def test_a_task_that_waits_for_a_slot_can_be_waited_for_in_a_route_g15_g17(wait: Wait) -> None:
    async with TaskHost(max_running=1) as host:
        first = host.schedule(turns)
        async with host.scope() as scope, scope.route():
            task = scope.schedule(answer)
            assert task.status is S.WAITING
            await wait(task)
        assert first.status is S.SUCCEEDED


@WAYS
async def test_what_was_cancelled_or_dropped_is_over_and_can_be_waited_for_g17(wait: Wait) -> None:
    async with TaskHost() as host, host.scope() as scope:
        task = scope.after_response.schedule(answer)
        task.cancel()
        await task.wait()
        assert task.status is S.CANCELLED


@WAYS
async def test_a_task_cannot_wait_for_itself_nor_can_its_handler_g17(wait: Wait) -> None:
    async def work() -> None:
        with pytest.raises(TaskNotFinished, match=r"runs this code.*never end"):
            await by_wait(current_task())
        raise LookupError

    async def handle(task: Task[Any], _error: Exception) -> None:
        if wait is by_started:
            await wait(task)  # which was long ago
        else:
            with pytest.raises(TaskNotFinished, match=r"runs this code.*never end"):
                await wait(task)
        handled.append(None)

    handled: list[None] = []
    async with TaskHost() as host:
        await host.task(on_error=handle).schedule(work).wait()
    assert handled == [None]


@WAYS
@pytest.mark.parametrize("way", ["function", "handler", "nested"])
async def test_a_def_task_cannot_wait_for_itself_g17(wait: Wait, way: str) -> None:
    """A task may leave its thread behind. So trio, too, runs the calls of the thread in another task."""

    def work() -> None:
        if way == "handler":
            raise LookupError
        if way == "nested":
            anyio.from_thread.run(anyio.to_thread.run_sync, try_to_wait, current_task())
        else:
            try_to_wait(current_task())

    def try_to_wait(task: Task[Any], _error: Exception | None = None) -> None:
        if wait is by_started:
            anyio.from_thread.run(bounded, wait, task)  # which was long ago
        else:
            with pytest.raises(TaskNotFinished, match=r"runs this code.*never end"):
                anyio.from_thread.run(bounded, wait, task)
        tried.append(None)

    tried: list[None] = []
    async with TaskHost(drain_timeout=5) as host:
        await host.task(on_error=try_to_wait).schedule(work).wait()
    assert tried == [None]


async def test_a_thread_of_other_code_may_wait_for_a_def_task_g17() -> None:
    """The thread of each task and of other code may be left behind, and all are in use."""

    def work() -> None:
        proceed.wait(60)

    def wait_in_thread() -> None:
        anyio.from_thread.run(by_wait, task)

    proceed = threading.Event()
    async with TaskHost(drain_timeout=5) as host, anyio.create_task_group() as group:
        task = host.schedule(work)
        other = host.schedule(wait_in_thread)
        group.start_soon(partial(anyio.to_thread.run_sync, wait_in_thread, abandon_on_cancel=True))
        await until(lambda: task.started.is_set() and other.started.is_set() and task._events)
        await turns()
        proceed.set()
        await other
    assert task.status is S.SUCCEEDED


async def test_a_thread_of_the_route_cannot_wait_for_what_comes_after_the_route_g17() -> None:
    def wait_for(task: Task[Any]) -> None:
        with pytest.raises(TaskNotFinished, match=r"is for after_response.*never end"):
            anyio.from_thread.run(bounded, by_wait, task)
        refused.append(None)

    refused: list[None] = []
    async with TaskHost() as host, host.scope() as scope, scope.route():
        task = scope.after_response.schedule(answer)
        for may_be_left in (False, True):
            await anyio.to_thread.run_sync(wait_for, task, abandon_on_cancel=may_be_left)
    assert refused == [None, None]


async def test_a_child_of_a_task_may_wait_for_it_g17() -> None:
    async def work() -> None:
        host.schedule(wait_for, current_task())
        await turns()

    async def wait_for(task: Task[Any]) -> None:
        await task
        ended.append(task.status)

    ended: list[TaskStatus] = []
    async with TaskHost(drain_timeout=5) as host:
        host.schedule(work)
    assert ended == [S.SUCCEEDED]


class AnotherLoop:
    """An event loop in a thread, on each backend."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    async def run(self, func: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return await anyio.to_thread.run_sync(lambda: anyio.run(func, *args, backend=self._backend))


@pytest.fixture(params=["asyncio", "trio"])
def another_loop(request: pytest.FixtureRequest) -> AnotherLoop:
    return AnotherLoop(request.param)


@WAYS
@pytest.mark.parametrize("phase", ["immediate", "after_response"])
async def test_code_of_another_event_loop_cannot_wait_and_does_no_harm_g2_g3_g15_g17(
    wait: Wait, phase: str, another_loop: AnotherLoop
) -> None:
    proceed = anyio.Event()
    async with TaskHost(max_running=1) as host:
        first = host.schedule(proceed.wait)
        async with host.scope() as scope:
            task = (scope if phase == "immediate" else scope.after_response).schedule(answer)
            with pytest.raises(RuntimeError, match="runs in another event loop"):
                await another_loop.run(wait, task)
        await first.started.wait()
        with pytest.raises(RuntimeError, match="runs in another event loop"):
            await another_loop.run(by_wait, first)
        proceed.set()
        assert await task == 42  # the slot is free again
        await another_loop.run(wait, task)  # there is nothing to wait for


async def test_what_another_event_loop_waits_for_cannot_be_scheduled_here_g2_g17(another_loop: AnotherLoop) -> None:
    async def wait_for_a_while() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tg:
                tg.start_soon(task.wait)
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                scope.cancel()

    task = Task(answer)
    async with TaskHost() as host, host.scope() as scope:
        await another_loop.run(wait_for_a_while)
        with pytest.raises(RuntimeError, match="another event loop"):
            task.__start__(scope)
        assert task.status is S.NEW
