"""G1, G5, G11: the tasks that have started when the route is left, and the price of that."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from functools import partial
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from anyio.lowlevel import checkpoint
from tests.backends import native_cancel_only, turns, turns_of_a_barrier

from taskphase import Scope, Task, TaskHost, TaskObserver, TasksScheduler
from taskphase._drive.on_asyncio import AsyncioSeam
from taskphase._drive.on_trio import TrioSeam


class Log(list[str]):
    async def add(self, entry: str) -> None:
        self.append(entry)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch, task_factory: None) -> list[None]:
    """Return a list that gets an entry each time a scope waits for turns of the event loop. With a task factory, a
    scope waits on asyncio of every Python.
    """

    async def count() -> None:
        made.append(None)
        await checkpoint()

    made: list[None] = []
    monkeypatch.setattr(AsyncioSeam, "turns", staticmethod(count))
    monkeypatch.setattr(TrioSeam, "first_steps", staticmethod(count))
    return made


@pytest.mark.parametrize("kind", ["host", "group"])
async def test_a_failing_route_has_started_its_tasks_before_the_error_response_g1_g5(kind: str) -> None:
    """Repeated, because trio runs ready tasks in random order."""
    async with TaskHost() as host, anyio.create_task_group() as tg:
        for _ in range(30):
            log = Log()
            async with host.scope() if kind == "host" else TasksScheduler(tg) as tasks:
                with pytest.raises(LookupError):
                    async with tasks.route():
                        tasks.after_route.task(when="always").schedule(log.add, "after_route")
                        tasks.schedule(log.add, "immediate")
                        raise LookupError
                assert log == ["immediate", "after_route"]


async def test_an_observer_adds_no_barrier_to_the_end_of_a_scope_g1_g20(waited: list[None]) -> None:
    class Ends(TaskObserver):
        def ended(self, task: Task[Any], /) -> None: ...

    counts: list[int] = []
    for observers in ([], [Ends()]):
        waited.clear()
        async with TaskHost(observers=observers) as host:
            async with host.scope() as tasks:
                tasks.after_response.schedule(anyio.sleep, 0)
            counts.append(len(waited))
    assert counts[0] == counts[1]


async def test_a_barrier_is_paid_once_and_only_by_who_scheduled_something_g1(waited: list[None]) -> None:
    async with TaskHost() as host:
        async with host.scope() as tasks, tasks.route():
            pass
        assert len(waited) == 0
        async with host.scope() as tasks:
            async with tasks.route():
                tasks.after_route.schedule(anyio.sleep, 0)
            assert len(waited) == 1
            await tasks.settle()
        assert len(waited) == 1
        waited.clear()
        async with host.scope() as tasks:
            async with tasks.route():
                tasks.schedule(anyio.sleep, 0)
            assert len(waited) == 1
        waited.clear()
        async with host.scope() as tasks, tasks.route():
            tasks.after_response.schedule(anyio.sleep, 0)
        assert len(waited) == 0


async def test_an_endless_chain_of_tasks_delays_a_barrier_by_ten_rounds_g1() -> None:
    async def schedule_next(tasks: Scope) -> None:
        ran.append(None)
        if not is_over:
            tasks.schedule(schedule_next, tasks)

    ran, is_over = list[None](), list[None]()
    async with TaskHost() as host, host.scope() as tasks:
        tasks.schedule(schedule_next, tasks)
        await tasks.settle()
        is_over.append(None)
        assert 10 <= len(ran) <= 20  # on trio the two turns of a round may have two of these tasks begin


async def test_on_trio_the_earlier_phase_pays_another_checkpoint_g1(waited: list[None], backend_name: str) -> None:
    async with TaskHost() as host, host.scope() as tasks:
        async with tasks.route():
            tasks.schedule(anyio.sleep, 0)
            tasks.after_route.schedule(anyio.sleep, 0)
        assert len(waited) == (1 if backend_name == "asyncio" else 2)


async def test_a_task_that_is_dropped_costs_no_barrier_g1_g5(waited: list[None]) -> None:
    async with TaskHost() as host, host.scope() as tasks, tasks.route():
        tasks.after_route.task(when="failure").schedule(anyio.sleep, 0)
    assert len(waited) == 0


async def test_a_cancelled_scope_keeps_its_phases_in_order_g1_g11() -> None:
    """Repeated, because trio runs ready tasks in random order."""
    async with TaskHost() as host:
        for _ in range(30):
            log = Log()
            with anyio.CancelScope() as cancel_scope:
                async with host.scope() as tasks:
                    last = tasks.after_response.task(when="always").schedule(log.add, "after_response")
                    tasks.after_route.task(when="always").schedule(log.add, "after_route")
                    tasks.schedule(log.add, "immediate")
                    cancel_scope.cancel()
                    await checkpoint()
            await last.wait()
            assert log == ["immediate", "after_route", "after_response"]


async def test_a_cancelled_route_keeps_its_phases_in_order_g1_g11() -> None:
    async with TaskHost() as host:
        for _ in range(30):
            log = Log()
            with anyio.CancelScope() as cancel_scope:
                async with host.scope() as tasks, tasks.route():
                    tasks.after_response.task(when="always").schedule(log.add, "after_response")
                    tasks.after_route.task(when="always").schedule(log.add, "after_route")
                    tasks.schedule(log.add, "immediate")
                    cancel_scope.cancel()
                    await checkpoint()
            assert cancel_scope.cancelled_caught
            await turns()
            assert log == ["immediate", "after_route", "after_response"]


async def test_a_barrier_is_not_where_cancellation_comes_g1_g11() -> None:
    log = Log()
    async with TaskHost() as host:
        with anyio.CancelScope() as cancel_scope:
            async with host.scope() as tasks:
                tasks.schedule(log.add, "immediate")
                cancel_scope.cancel()
                await tasks.settle()
                log.append("settled")
                await checkpoint()
                log.append("never")
        assert cancel_scope.cancelled_caught
    assert log == ["immediate", "settled"]


@pytest.mark.parametrize("is_suspended", [False, True])
@pytest.mark.parametrize("threshold", [700, 2000])
async def test_a_barrier_takes_as_many_turns_as_the_event_loop_needs_g1(
    backend_name: str,
    threshold: int,
    is_suspended: bool,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A scope that was suspended takes a turn where another scope takes none: under load that is cheaper."""

    async def count() -> None:
        made.append(None)
        await checkpoint()

    log, made = Log(), list[None]()
    request.addfinalizer(partial(gc.set_threshold, *gc.get_threshold()))
    gc.set_threshold(threshold)
    monkeypatch.setattr(AsyncioSeam, "turns", staticmethod(count))
    monkeypatch.setattr(trio.lowlevel, "cancel_shielded_checkpoint", count)
    async with TaskHost() as host:
        for _ in range(2):
            log.clear()
            made.clear()
            async with host.scope() as tasks:
                async with tasks.route():
                    if is_suspended:
                        await host.schedule(anyio.sleep, 0)
                        made.clear()
                    tasks.after_route.schedule(log.add, "after_route")
                assert log == ["after_route"]
                assert len(made) == max(turns_of_a_barrier(backend_name), is_suspended)


@native_cancel_only
async def test_asyncio_s_own_cancellation_in_a_barrier_is_not_lost_g11(task_factory: None) -> None:
    async def run() -> None:
        async with host.scope() as tasks:
            tasks.schedule(log.add, "immediate")
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await tasks.settle()
            await checkpoint()
            log.append("never")

    log = Log()
    async with TaskHost() as host:
        native = asyncio.ensure_future(run())
        with pytest.raises(asyncio.CancelledError):
            await native
        await turns()
    assert log == ["immediate"]


@native_cancel_only
async def test_leaving_a_cancelled_route_does_not_wait_g1_g11(waited: list[Any]) -> None:
    async with TaskHost() as host:
        with anyio.CancelScope() as cancel_scope:
            async with host.scope() as tasks, tasks.route():
                tasks.after_route.task(when="always").schedule(anyio.sleep, 0)
                cancel_scope.cancel()
                await checkpoint()
        assert waited == []


async def test_a_barrier_deep_in_the_stack_takes_a_turn_g1_g2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step on top of a deep stack may fail inside this library, and the task would never end."""

    async def count() -> None:
        waited.append(None)
        await checkpoint()

    async def below(levels: int) -> None:
        if levels:
            await below(levels - 1)
        else:
            async with host.scope() as tasks, tasks.route():
                tasks.schedule(checkpoint)

    waited: list[None] = []
    monkeypatch.setattr(AsyncioSeam, "turns", staticmethod(count))
    monkeypatch.setattr(TrioSeam, "first_steps", staticmethod(count))
    async with TaskHost(drain_timeout=30) as host:
        await below(sys.getrecursionlimit() - 250)
        assert waited


class Watch(TaskObserver):
    def scheduled(self, task: Task[Any], scope: Scope | None, /) -> None: ...


@pytest.mark.parametrize("action", ["schedule", "cancel"])
async def test_a_thread_that_is_slow_to_wake_the_loop_holds_up_no_barrier_g1_g8(action: str) -> None:
    """The other thread has put its mail into the inbox, and is interrupted before it wakes the loop."""
    is_about_to_wake, go_on = threading.Event(), threading.Event()

    def trace(frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code.co_name == "call_from_thread":
            is_about_to_wake.set()
            go_on.wait(10)

    def act() -> None:
        sys.settrace(trace)
        if action == "schedule":
            host.schedule(anyio.sleep, 0)
        else:
            other.cancel()

    async with TaskHost(observers=[Watch()], drain_timeout=30) as host:
        other = host.schedule(anyio.sleep_forever)
        thread = threading.Thread(target=act)
        async with host.scope() as tasks:
            async with tasks.route():
                thread.start()
                assert await anyio.to_thread.run_sync(is_about_to_wake.wait, 10)
                task = await anyio.to_thread.run_sync(tasks.after_route.schedule, anyio.sleep, 0)
            has_started = task.started.is_set()
        go_on.set()
        await anyio.to_thread.run_sync(thread.join)
        other.cancel()
    assert has_started
