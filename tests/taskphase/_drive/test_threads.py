"""G1, G8, G9, G16: threads of sync tasks, and `schedule()` from any thread."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import sniffio
import trio
from anyio.lowlevel import checkpoint
from tests.backends import turns, until

from taskphase import Scope, Task, TaskHost, TasksScheduler, TaskStatus, current_task

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


async def test_max_threads_bounds_the_threads_of_sync_tasks_in_order_g8() -> None:
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

    def route(tasks: Scope) -> None:
        tasks.after_response.schedule(add, "after_response")
        tasks.after_route.schedule(add, "after_route")
        tasks.schedule(add, "immediate")
        log.append("route")

    log: list[str] = []
    async with TaskHost() as host, anyio.create_task_group() as tg:
        for _ in range(10):
            log.clear()
            async with host.scope() if kind == "host" else TasksScheduler(tg) as tasks:
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
            assert str(task.exception) == "timed out after 0.02 seconds; its thread still runs"
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


async def test_a_timeout_before_the_thread_begins_leaves_no_thread_behind_g16() -> None:
    called: list[bool] = []
    async with TaskHost() as host:
        task = host.task(timeout=0).schedule(called.append, True)
        await task.wait()
        assert str(task.exception) == "timed out after 0 seconds"
        assert host._runner.threads.in_use == 0
    assert called == []


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


async def test_a_thread_runs_in_a_copy_of_the_context_and_sees_no_async_library_g6_g8(anyio_backend_name: str) -> None:
    def work() -> str:
        with pytest.raises(sniffio.AsyncLibraryNotFoundError):
            sniffio.current_async_library()
        value = variable.get()
        variable.set("changed")
        if anyio_backend_name == "trio":
            assert trio.from_thread.run_sync(trio.lowlevel.in_trio_task)
        return value

    variable = ContextVar("variable", default="")
    variable.set("set")
    async with TaskHost() as host:
        assert await host.schedule(work) == "set"
        assert variable.get() == "set"


async def test_a_thread_that_has_timed_out_can_see_that_with_check_cancelled_g8_g16() -> None:
    def work() -> None:
        began.append(True)
        anyio.from_thread.check_cancelled()
        release.wait()
        try:
            anyio.from_thread.check_cancelled()
        except BaseException as exc:
            seen.append(type(exc))

    began, seen = list[bool](), list[type]()
    async with TaskHost(max_threads=1) as host:
        while not began:  # on a busy machine the time may be up before the thread begins
            release = threading.Event()
            task = host.task(timeout=SHORT).schedule(work)
            await task.wait()
        assert isinstance(task.exception, TimeoutError)
        release.set()
        await until(lambda: host._runner.threads.in_use == 0)
        assert seen == [anyio.get_cancelled_exc_class()]


class Own(BaseException):
    """A `BaseException` that is no `Exception`."""


class Lying(Exception):
    """An exception that `isinstance()` cannot look at. asyncio and anyio do, before they pass it on from a thread."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, _: Any) -> None: ...


RAISED = [
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    SystemExit,
    Own,
    Lying,
    ExceptionGroup("group", [ValueError()]),
    BaseExceptionGroup("group", [GeneratorExit(), ValueError()]),
]


@pytest.fixture(params=RAISED, ids=lambda raised: getattr(raised, "__name__", type(raised).__name__))
def raised(request: pytest.FixtureRequest) -> Any:
    return request.param


def is_of(raised: Any, exception: BaseException | None) -> bool:
    """Check that a task has failed with its thread's exception. Python allows no coroutine to raise StopIteration."""
    if raised is StopIteration:
        return isinstance(exception, RuntimeError) and isinstance(exception.__cause__, StopIteration)
    return exception is raised or type(exception) is raised


@asynccontextmanager
async def among_others() -> AsyncGenerator[TaskHost]:
    """Open a host with one thread and one task, where nothing happens."""
    async with TaskHost(max_threads=1) as host:
        other = host.schedule(anyio.sleep_forever)
        yield host
        await turns()
        assert host.statistics().threads == 0
        assert other.status is TaskStatus.RUNNING
        assert await host.schedule(lambda: "the thread is free") == "the thread is free"


async def test_a_function_raises_what_it_likes_in_its_thread_and_only_its_task_fails_g3_g7(raised: Any) -> None:
    def leave() -> None:
        raise raised

    async with among_others() as host:
        task = host.schedule(leave)
        await task.wait()
        assert task.status is TaskStatus.FAILED
        error = task.exception
        assert error is not None
        assert is_of(raised, error)
        assert "leave" in [entry.name for entry in traceback.extract_tb((error.__cause__ or error).__traceback__)]


async def test_a_handler_raises_what_it_likes_in_its_thread_and_its_task_has_failed_g3_g4(
    raised: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(_task: Task[None], _error: Exception) -> None:
        raise raised

    async def fail() -> None:
        raise ValueError("the first")

    async with among_others() as host:
        task = host.task(on_error=leave).schedule(fail)
        await task.wait()
        assert task.status is TaskStatus.FAILED
        assert str(task.exception) == "the first"
    of_handler, of_task = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert is_of(raised, of_handler)
    assert of_task is task.exception


async def test_an_awaitable_from_a_thread_raises_what_it_likes_too_g3_g7(raised: Any) -> None:
    async def leave() -> None:
        await checkpoint()
        raise raised

    async with among_others() as host:
        task = host.schedule(lambda: leave())
        await task.wait()
        assert task.status is TaskStatus.FAILED
        assert is_of(raised, task.exception)
