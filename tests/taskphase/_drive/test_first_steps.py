"""G1, G3, G6, G8: first steps, taken by the event loop or by a barrier.

On asyncio the runner itself takes first steps, unless foreign code makes the loop's tasks.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from tests.backends import native_cancel_only, turns, until

from taskphase import Task, TaskHost, TaskStatus, current_host, current_task

# More than Python's stack can hold, if the steps were nested.
DEEP = 1000

VAR: ContextVar[str] = ContextVar("VAR", default="unset")


class Log(list[object]):
    async def add(self, entry: object) -> None:
        self.append(entry)


@pytest.fixture(params=["its own", "its own, in a barrier", "a factory's"], autouse=True)
def makes_tasks(request: pytest.FixtureRequest) -> Iterator[str]:
    """The maker of the tasks of an asyncio loop."""
    before = gc.get_threshold()
    gc.set_threshold(700 if request.param == "its own, in a barrier" else 2000, *before[1:])
    if request.param == "a factory's" and inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("task_factory")
    yield request.param
    gc.set_threshold(*before)


async def test_first_steps_are_taken_in_the_order_of_the_requests_g1(backend_name: str) -> None:
    log = Log()
    async with TaskHost() as host:
        async with host.scope() as tasks, tasks.route():
            for number in range(5):
                host.schedule(log.add, number)
            tasks.after_route.schedule(log.add, 7)
            for number in (5, 6):
                tasks.schedule(log.add, number)
        if backend_name == "asyncio":
            assert log == list(range(8))
        assert sorted(log) == list(range(8))  # type: ignore[type-var]


async def test_a_first_step_that_leaves_a_route_waits_for_its_own_tasks_only_g1() -> None:
    async def serve(name: str) -> None:
        async with current_host().scope() as tasks:
            async with tasks.route():
                tasks.schedule(log.add, f"{name}: immediate")
                tasks.after_route.schedule(log.add, f"{name}: after_route")
            log.append(f"{name}: response")

    log = Log()
    async with TaskHost() as host:
        async with host.scope() as outer, outer.route():
            outer.schedule(serve, "one")
            outer.schedule(serve, "two")
            outer.after_route.schedule(log.add, "outer: after_route")
        assert "outer: after_route" in log
        await turns()
    for name in ("one", "two"):
        steps = [entry for entry in log if str(entry).startswith(name)]
        assert steps == [f"{name}: immediate", f"{name}: after_route", f"{name}: response"]


async def test_a_chain_of_first_steps_that_wait_for_each_other_has_any_length_g1() -> None:
    async def descend(depth: int) -> None:
        deepest.append(depth)
        if depth < DEEP:
            async with current_host().scope() as tasks, tasks.route():
                tasks.schedule(descend, depth + 1)
            assert deepest[-1] > depth

    deepest: list[int] = []
    async with TaskHost() as host:
        task = host.schedule(descend, 0)
        await until(lambda: host.running == 0)
    assert task.status is TaskStatus.SUCCEEDED
    assert deepest == list(range(DEEP + 1))


async def test_a_first_step_is_in_no_scope_of_the_code_that_leaves_the_route_g11() -> None:
    async def look() -> None:
        seen.append(anyio.current_effective_deadline())
        await checkpoint()
        await checkpoint()
        seen.append("went on")

    seen: list[object] = []
    async with TaskHost() as host:
        with anyio.move_on_after(60) as cancel_scope:
            async with host.scope() as tasks, tasks.route():
                tasks.schedule(look)
            cancel_scope.cancel()
        await until(lambda: len(seen) == 2)
    assert seen == [math.inf, "went on"]


async def test_a_failing_first_step_touches_no_code_at_the_barrier_g3_g6() -> None:
    async def fail() -> None:
        VAR.set("set by the task")
        raise ValueError

    async def look() -> None:
        seen.append((VAR.get(), current_task().func))

    seen: list[object] = []
    VAR.set("outside")
    async with TaskHost() as host:
        async with host.scope() as tasks, tasks.route():
            failed = tasks.task(on_error=lambda task, error: None).schedule(fail)
            tasks.after_route.schedule(look)
        assert VAR.get() == "outside"
        with pytest.raises(LookupError):
            current_task()
        await failed.wait()
    assert seen == [("outside", look)]
    assert isinstance(failed.exception, ValueError)


@native_cancel_only
async def test_a_first_step_runs_in_its_own_native_task_g3() -> None:
    async def look() -> None:
        natives.append(asyncio.current_task())

    natives: list[object] = [asyncio.current_task()]
    async with TaskHost() as host:
        async with host.scope() as tasks, tasks.route():
            tasks.schedule(look)
            tasks.after_route.schedule(look)
        assert asyncio.current_task() is natives[0]
    assert len(set(natives)) == 3


async def test_the_first_step_of_a_cancelled_task_is_not_taken_g2() -> None:
    log = Log()
    async with TaskHost() as host:
        async with host.scope() as tasks, tasks.route():
            cancelled = tasks.schedule(log.add, "cancelled")
            tasks.schedule(log.add, "other")
            cancelled.cancel()
        assert log == ["other"]
        await turns()
        assert host.running == 0
    assert cancelled.status is TaskStatus.CANCELLED


async def test_a_first_step_may_cancel_its_own_and_another_requested_task_g2_g17() -> None:
    async def cancel_both() -> None:
        other.cancel()
        task.cancel()
        await checkpoint()
        log.append("never")

    log = Log()
    async with TaskHost() as host:
        async with host.scope() as tasks, tasks.route():
            task = tasks.schedule(cancel_both)
            other = tasks.schedule(anyio.sleep_forever)
        await task.wait()
        await other.wait()
    assert log == []
    assert {task.status, other.status} == {TaskStatus.CANCELLED}


async def test_a_first_step_sees_no_exception_that_is_handled_at_the_barrier_g3_g4() -> None:
    """As a server sends the response to an error: while it handles that."""

    async def fail() -> None:
        seen.append(sys.exc_info()[0])
        raise ValueError

    seen: list[object] = []
    async with TaskHost() as host, host.scope() as tasks:
        try:
            raise LookupError
        except LookupError:
            task = tasks.schedule(fail)
            await tasks.settle()
            assert seen == [None]
        await task.wait()
        assert task.exception is not None
        assert task.exception.__context__ is None


async def test_a_first_step_may_cancel_the_scope_around_the_barrier_and_no_other_g3() -> None:
    async def cancel() -> None:
        cancel_scope.cancel()

    async with TaskHost() as host:
        with anyio.CancelScope() as cancel_scope:
            async with host.scope() as tasks, tasks.route():
                tasks.schedule(cancel)
        assert cancel_scope.cancel_called
        await turns()


async def test_a_function_without_a_module_has_a_name_g7() -> None:
    async with TaskHost(drain_timeout=10) as host:
        async with host.scope() as tasks, tasks.route():
            task = tasks.schedule(str.upper, "x")
        assert await task == "X"
        assert task.name == "str.upper"


async def test_code_that_passes_many_barriers_lets_all_other_tasks_run_g3() -> None:
    async def stop() -> None:
        await checkpoint()
        stopped.append(True)

    async def nothing() -> None: ...

    stopped: list[bool] = []
    async with TaskHost() as host:
        host.schedule(stop)
        for _ in range(10_000):
            async with host.scope() as tasks, tasks.route():
                tasks.schedule(nothing)
            if stopped:
                break
        assert stopped == [True]


async def test_first_steps_requested_by_a_first_step_come_after_earlier_requests_g1(backend_name: str) -> None:
    async def ask(number: int) -> None:
        log.append(number)
        current_host().schedule(log.add, 10 + number)

    log = Log()
    async with TaskHost() as host:
        for number in range(3):
            host.schedule(ask, number)
        await until(lambda: len(log) == 6)
    if backend_name == "asyncio":
        assert log == [0, 1, 2, 10, 11, 12]
    assert sorted(log[:3]) == [0, 1, 2]  # type: ignore[type-var]


async def test_first_steps_that_request_more_without_end_let_other_tasks_run_g3() -> None:
    async def ask_again(number: int) -> None:
        log.append(number)
        if number < DEEP:
            current_host().schedule(ask_again, number + 1)

    log = Log()
    async with TaskHost() as host:
        host.schedule(ask_again, 0)
        for _ in range(5):
            before = len(log)
            await checkpoint()
            assert len(log) <= before + 2  # one, except for trio's order of a turn
        await until(lambda: len(log) == DEEP + 1)


def test_an_interrupt_in_a_first_step_leaves_the_next_steps_to_the_drain_g2(
    anyio_backend: tuple[str, dict[str, Any]], makes_tasks: str
) -> None:
    async def interrupt() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        async with TaskHost() as host:
            host.schedule(interrupt)
            tasks.extend(host.schedule(anyio.sleep_forever) for _ in range(3))
            await anyio.sleep_forever()

    async def with_factory() -> None:
        asyncio.get_running_loop().set_task_factory(
            lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options)  # type: ignore[arg-type]
        )
        await main()

    tasks: list[Task[None]] = []
    backend, options = anyio_backend
    has_factory = makes_tasks == "a factory's" and backend == "asyncio"
    with pytest.raises(KeyboardInterrupt):
        anyio.run(with_factory if has_factory else main, backend=backend, backend_options=options)
    assert {task.status for task in tasks} == {TaskStatus.CANCELLED}


async def test_a_first_step_requested_by_a_thread_wakes_the_loop_g8() -> None:
    heard = anyio.Event()

    async def hear() -> None:
        heard.set()

    async with TaskHost() as host:
        thread = threading.Thread(target=host.schedule, args=(hear,))
        thread.start()
        await heard.wait()
        await anyio.to_thread.run_sync(thread.join)


@native_cancel_only
async def test_a_task_factory_set_later_makes_the_next_tasks_and_the_order_stays_g1() -> None:
    """Like instrumentation that sets a task factory in an app's startup."""

    def make(loop: asyncio.AbstractEventLoop, coro: object, **options: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.Task(coro, loop=loop, **options)  # type: ignore[arg-type]
        made.append(task)
        return task

    log, made = Log(), list[asyncio.Task[None]]()
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    async with TaskHost() as host:
        try:
            async with host.scope() as tasks, tasks.route():
                tasks.schedule(log.add, "first")
                loop.set_task_factory(make)  # type: ignore[arg-type]
                tasks.schedule(log.add, "second")
                tasks.after_route.schedule(log.add, "third")
        finally:
            loop.set_task_factory(before)
    assert log == ["first", "second", "third"]
    assert len(made) == 2
