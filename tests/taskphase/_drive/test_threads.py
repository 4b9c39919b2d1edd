"""G8: sync tasks have threads of their own, and `schedule()` works from any."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from tests.backends import turns, until

from taskphase import Task, TaskHost, TasksScheduler, TaskStatus, current_task

SHORT = 0.02


async def test_sync_tasks_never_take_the_default_threads_g8() -> None:
    release = threading.Event()
    default = anyio.to_thread.current_default_thread_limiter()
    async with TaskHost() as host:
        try:
            tasks = [host.schedule(release.wait) for _ in range(60)]
            await until(lambda: host._runner.threads.in_use == 40)
            assert default.borrowed_tokens == 0
            assert await anyio.to_thread.run_sync(lambda: "not starved") == "not starved"
        finally:
            release.set()
        for task in tasks:
            await task


async def test_max_threads_bounds_them_in_order_g8() -> None:
    def work(number: int) -> None:
        nonlocal now, most
        with lock:
            order.append(number)
            now += 1
            most = max(most, now)
        time.sleep(SHORT / 4)
        with lock:
            now -= 1

    lock, order, now, most = threading.Lock(), list[int](), 0, 0
    async with TaskHost(max_threads=2) as host:
        tasks = [host.schedule(work, number) for number in range(8)]
        for task in tasks:
            await task
    assert most == 2
    assert sorted(order) == list(range(8))


async def test_a_task_that_waits_for_a_thread_can_be_cancelled_g9() -> None:
    release = threading.Event()
    async with TaskHost(max_threads=1) as host:
        first = host.schedule(release.wait)
        await until(lambda: host._runner.threads.in_use == 1)
        second = host.schedule(release.wait)
        await turns()
        second.cancel()
        await second.wait()
        assert second.status is TaskStatus.CANCELLED
        release.set()
        assert await first is True


async def test_schedule_from_worker_threads_keeps_their_order_and_does_not_block_g8() -> None:
    """The loop is held up meanwhile, so a call that waited for it would never return."""

    async def add(entry: str) -> None:
        log.append(entry)

    def in_thread(schedule: Callable[..., Task[None]]) -> None:
        for number in range(20):
            schedule(add, f"{number}")

    log: list[str] = []
    async with TaskHost(max_running=1) as host:
        thread = threading.Thread(target=in_thread, args=[host.schedule])
        thread.start()
        thread.join()  # in the loop's thread: it does not turn
        assert log == []
        await until(lambda: len(log) == 20)
        assert log == [str(number) for number in range(20)]


@pytest.mark.parametrize("kind", ["host", "group"])
async def test_phases_work_from_a_thread_as_from_the_loop_g1_g8(kind: str) -> None:
    async def add(entry: str) -> None:
        log.append(entry)

    def route(tasks: TasksScheduler) -> None:
        tasks.after_response.schedule(add, "after_response")
        tasks.after_route.schedule(add, "after_route")
        tasks.schedule(add, "immediate")
        log.append("route")

    log: list[str] = []
    async with TaskHost() as host, anyio.create_task_group() as tg:
        for _ in range(10):
            log.clear()
            tasks = host.scope() if kind == "host" else TasksScheduler(tg)
            async with tasks:
                async with tasks.route():
                    await anyio.to_thread.run_sync(route, tasks)
                log.append("response")
            await until(lambda: len(log) == 5)
            assert log[0] == "route" or log[:2] == ["immediate", "route"]
            assert [entry for entry in log if entry != "route"] == [
                "immediate",
                "after_route",
                "response",
                "after_response",
            ]


async def test_wrong_calls_are_refused_in_the_thread_g7_g8() -> None:
    def in_thread() -> None:
        with pytest.raises(TypeError, match="expected a callable"):
            host.schedule(1)  # type: ignore[call-overload]

    async with TaskHost() as host:
        await anyio.to_thread.run_sync(in_thread)
        assert host.running == 0


async def test_a_thread_that_times_out_runs_on_and_keeps_its_slot_g16() -> None:
    began, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        release.wait()
        ended.set()

    async with TaskHost(max_threads=1) as host:
        try:
            while not began.is_set():  # on a busy machine the time may be up before the thread begins
                task = host.task(timeout=SHORT).schedule(work)
                await task.wait()
            assert str(task.exception) == "timed out after 0.02 seconds; its thread runs on"
            assert host._runner.threads.in_use == 1
            assert not ended.is_set()
            waiting = host.schedule(lambda: "got the slot")
            await turns()
            assert waiting.status is TaskStatus.RUNNING
        finally:
            release.set()
        assert await waiting == "got the slot"
        assert ended.is_set()
        await until(lambda: host._runner.threads.in_use == 0)


async def test_an_exception_of_a_thread_is_the_task_s_g4() -> None:
    def fail() -> None:
        raise ValueError("in a thread")

    async with TaskHost() as host:
        task = host.schedule(fail)
        await task.wait()
    assert str(task.exception) == "in a thread"


async def test_a_thread_may_call_back_into_the_loop_g8() -> None:
    def work() -> str:
        assert current_task().status is TaskStatus.RUNNING
        anyio.from_thread.run(anyio.sleep, 0)
        return anyio.from_thread.run_sync(lambda: threading.current_thread().name)

    async with TaskHost() as host:
        assert await host.schedule(work) == threading.current_thread().name
