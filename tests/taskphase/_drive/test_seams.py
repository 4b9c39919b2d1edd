"""G2, G4, G9, G14: tasks in a foreign task group, and native cancellations."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from tests.backends import ASYNCIO, TRIO, turns, until

from taskphase import (
    NoCurrentError,
    Task,
    TaskHost,
    TasksClosedError,
    TasksScheduler,
    TaskStatus,
    current_host,
    current_task,
    retry,
)

Logged = Callable[[], list[tuple[str, str]]]


VAR: ContextVar[object] = ContextVar("VAR", default=None)


async def fail() -> None:
    raise ValueError


class TestCancelledGroup:
    async def test_the_handler_of_a_shielded_task_is_spared_g4_g9(self) -> None:
        async def handler(task: Task[Any], error: Exception) -> None:
            await release.wait()
            await anyio.lowlevel.checkpoint()
            handled.append(error)

        handled: list[Exception] = []
        release = anyio.Event()
        async with anyio.create_task_group() as tg:
            task = TasksScheduler(tg).task(shield=True, on_error=handler).schedule(fail)
            await until(lambda: task.status is TaskStatus.HANDLING)
            tg.cancel_scope.cancel()
            release.set()
        assert handled == [task.exception]

    async def test_the_handler_of_an_unshielded_task_is_cancelled_and_no_failure_g4_g9(self, logged: Logged) -> None:
        async def handler(task: Task[Any], error: Exception) -> None:
            await anyio.sleep_forever()

        async with anyio.create_task_group() as tg:
            task = TasksScheduler(tg).task(name="t", on_error=handler).schedule(fail)
            await until(lambda: task.status is TaskStatus.HANDLING)
            tg.cancel_scope.cancel()
        assert isinstance(task.exception, ValueError)
        assert logged() == [("ERROR", "task 't' failed in attempt 1")]

    async def test_a_shielded_task_gets_its_next_attempt_g9_g16(self) -> None:
        async def fail_once() -> int:
            if current_task().attempt == 1:
                raise ValueError
            return current_task().attempt

        async with anyio.create_task_group() as tg:
            tasks = TasksScheduler(tg)
            definition = tasks.task(shield=True, retry=lambda task, error: 0.02)
            task = definition.schedule(fail_once)
            await until(lambda: task.status is TaskStatus.RETRYING)
            tg.cancel_scope.cancel()
        assert task.return_value == 2

    async def test_an_unshielded_task_gets_no_next_attempt_g9_g16(self) -> None:
        attempts: list[int] = []

        async def always_fail() -> None:
            attempts.append(current_task().attempt)
            raise ValueError

        async with anyio.create_task_group() as tg:
            tasks = TasksScheduler(tg)
            task = tasks.task(retry=lambda task, error: 60).schedule(always_fail)
            await until(lambda: task.status is TaskStatus.RETRYING)
            tg.cancel_scope.cancel()
        assert (task.status, task.attempt, attempts) == (TaskStatus.CANCELLED, 1, [1])

    async def test_a_task_with_children_of_its_own_is_cancelled_and_has_not_failed_g2(self, logged: Logged) -> None:
        async def parent() -> None:
            async with anyio.create_task_group() as children:
                children.start_soon(anyio.sleep_forever)
                children.start_soon(anyio.sleep_forever)

        async with anyio.create_task_group() as tg:
            task = TasksScheduler(tg).schedule(parent)
            await turns()
            tg.cancel_scope.cancel()
        assert task.status is TaskStatus.CANCELLED
        assert logged() == []

    async def test_a_cancelled_task_keeps_nothing_of_what_it_ran_alive_g2(self) -> None:
        class Local:
            pass

        async def run() -> None:
            local = Local()
            gone.append(weakref.ref(local))
            await anyio.sleep_forever()

        gone: list[weakref.ref[Local]] = []
        async with anyio.create_task_group() as tg:
            task = TasksScheduler(tg).schedule(run)
            await turns()
            tg.cancel_scope.cancel()
        await turns()
        gc.collect()
        assert task.status is TaskStatus.CANCELLED
        assert gone[0]() is None


async def test_an_ended_task_lets_go_of_its_context_and_its_scope_g2() -> None:
    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)
    async with TaskHost() as host:
        token = VAR.set(value)
        tasks = [host.schedule(anyio.sleep, 0), host.task(retry=retry()).schedule(anyio.sleep, 0)]
        VAR.reset(token)
        del token, value
        for task in tasks:
            await task
        await turns()
        gc.collect()
        assert gone() is None
        assert [task._scope for task in tasks] == [None, None]


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_asyncio_refers_to_a_task_weakly_so_the_runner_keeps_it_g2() -> None:
    async with TaskHost() as host:
        task = host.schedule(anyio.sleep_forever)
        await task.started.wait()
        assert isinstance(host._runner.alive[task], asyncio.Task)


async def test_a_thread_wakes_the_loop_g8() -> None:
    heard = anyio.Event()

    async def hear() -> None:
        heard.set()

    def in_thread() -> None:
        time.sleep(0.05)  # the loop should be asleep by then; the test holds even if it is not
        host.schedule(hear)

    async with TaskHost() as host:
        thread = threading.Thread(target=in_thread)
        thread.start()
        with anyio.fail_after(5):
            await heard.wait()
        thread.join()


def native_name(backend_name: str) -> str:
    if backend_name == "asyncio":
        native = asyncio.current_task()
        assert native is not None
        return native.get_name()
    import trio

    return trio.lowlevel.current_task().name


@pytest.mark.parametrize("kind", ["host", "group"])
async def test_debuggers_see_the_name_of_the_task(kind: str, backend_name: str) -> None:
    async def look() -> str:
        return native_name(backend_name)

    async with TaskHost() as host, anyio.create_task_group() as tg:
        scheduler = host.scope() if kind == "host" else TasksScheduler(tg)
        assert await scheduler.task(name="look here").schedule(look) == "look here"


async def test_a_task_in_another_group_has_the_host_of_its_scheduling_as_current_g14() -> None:
    async def look() -> TaskHost:
        return current_host()

    async with anyio.create_task_group() as tg:
        tasks = TasksScheduler(tg)
        async with TaskHost() as host:
            assert await tasks.schedule(look) is host
        outside = tasks.schedule(look)
        await outside.wait()
        assert isinstance(outside.exception, NoCurrentError)


@pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO])
def test_a_loop_that_has_ended_takes_no_tasks_from_threads_and_keeps_none_g2_g8(anyio_backend: tuple[str, Any]) -> None:
    async def main() -> TasksScheduler:
        async with anyio.create_task_group() as tg:
            return TasksScheduler(tg)

    def in_thread() -> None:
        for schedule in (tasks.schedule, tasks.after_route.schedule):
            with pytest.raises(TasksClosedError, match="the event loop has ended"):
                schedule(fail)
        done.append(True)

    done: list[bool] = []
    backend, options = anyio_backend
    tasks = anyio.run(main, backend=backend, backend_options=options)
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert done
    assert tasks._scope._runner.idle


@pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO])
def test_an_ended_task_may_be_cancelled_for_ever_even_without_its_loop_g17(anyio_backend: tuple[str, Any]) -> None:
    async def main() -> Task[None]:
        async with TaskHost() as host:
            return host.schedule(anyio.sleep_forever)

    def in_thread() -> None:
        task.cancel()
        done.append(task.status)

    done: list[TaskStatus] = []
    backend, options = anyio_backend
    task = anyio.run(main, backend=backend, backend_options=options)
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert done == [TaskStatus.CANCELLED]
