"""G2, G3, G4: a `CancelledError` without a request is a failure. A requested one is a cancellation.

asyncio only: user code cannot make trio's `Cancelled`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NoReturn

import anyio
import pytest
from tests.backends import native_cancel_only, turns, until

from taskphase import (
    StrayCancellation,
    Task,
    TaskFailed,
    TaskHost,
    TasksError,
    TasksScheduler,
    TaskStatus,
    current_task,
    retry,
)

S = TaskStatus
pytestmark = native_cancel_only


async def wait_for_a_future_that_is_cancelled() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.cancel)
    await future


async def wait_for_a_task_that_is_cancelled() -> None:
    other = asyncio.create_task(asyncio.sleep(10))
    asyncio.get_running_loop().call_soon(other.cancel)
    await other


async def raise_by_hand() -> NoReturn:
    raise asyncio.CancelledError("by hand")


async def raise_in_a_child() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0)
        await wait_for_a_future_that_is_cancelled()


async def raise_in_a_group() -> NoReturn:
    raise BaseExceptionGroup("", [asyncio.CancelledError()])


async def raise_deep_in_a_group() -> NoReturn:
    raise BaseExceptionGroup("", [BaseExceptionGroup("", [asyncio.CancelledError(), asyncio.CancelledError()])])


async def raise_with_an_exception() -> NoReturn:
    raise BaseExceptionGroup("", [ValueError(), asyncio.CancelledError()])


async def raise_behind_a_scope_that_has_been_left() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(1)
    await wait_for_a_future_that_is_cancelled()


async def raise_after_a_cancellation_that_was_taken_back() -> None:
    native = asyncio.current_task()
    assert native is not None
    native.cancel()
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        native.uncancel()
    await wait_for_a_future_that_is_cancelled()


async def raise_while_an_exception_is_handled() -> None:
    try:
        raise LookupError
    finally:
        await wait_for_a_future_that_is_cancelled()


def raise_in_a_thread() -> NoReturn:
    raise asyncio.CancelledError


def return_what_raises() -> Awaitable[None]:
    return wait_for_a_future_that_is_cancelled()


STRAYS: list[Callable[[], Any]] = [
    wait_for_a_future_that_is_cancelled,
    wait_for_a_task_that_is_cancelled,
    raise_by_hand,
    raise_in_a_child,
    raise_in_a_group,
    raise_deep_in_a_group,
    raise_with_an_exception,
    raise_behind_a_scope_that_has_been_left,
    raise_after_a_cancellation_that_was_taken_back,
    raise_while_an_exception_is_handled,
    raise_in_a_thread,
    return_what_raises,
]


def has_cancellation(exc: BaseException | None) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return any(map(has_cancellation, exc.exceptions))
    return isinstance(exc, asyncio.CancelledError)


def check_stray(exc: BaseException | None) -> None:
    assert isinstance(exc, StrayCancellation)
    assert isinstance(exc, TasksError)
    assert has_cancellation(exc.__cause__)


class TestNobodyHasAskedForIt:
    @pytest.mark.parametrize("function", STRAYS)
    @pytest.mark.parametrize("timeout", [None, 10])
    @pytest.mark.parametrize("shield", [False, True])
    async def test_a_stray_cancellation_fails_the_task_with_handler_and_log_record_g2_g4(
        self, function: Callable[[], Any], timeout: float | None, shield: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        heard: list[tuple[Task[Any], Exception]] = []

        async def handler(task: Task[Any], error: Exception) -> None:
            heard.append((task, error))

        async with TaskHost() as host:
            other = host.task(shield=True).schedule(turns)
            task = host.task(timeout=timeout, shield=shield, on_error=handler, name="query").schedule(function)
            await task.wait()
            check_stray(task.exception)
            assert heard == [(task, task.exception)]
            with pytest.raises(TaskFailed) as raised:
                await task
            assert raised.value.__cause__ is task.exception
        assert (task.status, other.status, host.running) == (S.FAILED, S.SUCCEEDED, 0)
        (record,) = [record for record in caplog.records if record.name == "taskphase"]
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert record.exc_info[1] is task.exception
        assert "'query'" in str(task.exception)
        assert "CancelledError" in str(task.exception)

    @pytest.mark.parametrize("function", STRAYS)
    async def test_without_a_handler_a_stray_cancellation_is_logged_as_a_failure_g2_g4(
        self, function: Callable[[], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        async with TaskHost() as host:
            task = host.schedule(function)
            await task.wait()
        check_stray(task.exception)
        assert [record.levelname for record in caplog.records if record.name == "taskphase"] == ["ERROR"]

    @pytest.mark.parametrize("function", STRAYS)
    @pytest.mark.parametrize("timeout", [None, 10])
    async def test_another_attempt_is_made_g2_g16(self, function: Callable[[], Any], timeout: float | None) -> None:
        async with TaskHost() as host:
            again = host.task(timeout=timeout, retry=retry(attempts=3, backoff=0))
            task = again.schedule(function)
            chosen = host.task(retry=retry(attempts=2, backoff=0, on=StrayCancellation)).schedule(function)
            await task.wait()
            await chosen.wait()
        assert (task.attempt, chosen.attempt) == (3, 2)
        check_stray(task.exception)

    async def test_an_attempt_that_succeeds_afterwards_is_a_success_g16(self) -> None:
        async def query() -> int:
            if current_task().attempt == 1:
                await wait_for_a_future_that_is_cancelled()
            return current_task().attempt

        async with TaskHost() as host:
            assert await host.task(retry=retry(attempts=2, backoff=0)).schedule(query) == 2

    @pytest.mark.parametrize("function", STRAYS)
    async def test_a_stray_cancellation_in_a_handler_is_a_failed_handler_g4(
        self, function: Callable[[], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail() -> NoReturn:
            raise ValueError

        def handler(task: Task[Any], error: Exception) -> Any:
            return function()

        async with TaskHost() as host:
            task = host.task(on_error=handler).schedule(fail)
            await task.wait()
        assert isinstance(task.exception, ValueError)
        assert task.status is S.FAILED
        of_handler, of_task = [record.exc_info for record in caplog.records if record.name == "taskphase"]
        assert of_handler is not None
        assert of_task is not None
        check_stray(of_handler[1])
        assert of_task[1] is task.exception

    @pytest.mark.parametrize("function", STRAYS)
    async def test_a_stray_cancellation_in_a_foreign_task_group_touches_nothing_g2_g3(
        self, function: Callable[[], Any]
    ) -> None:
        async with anyio.create_task_group() as group:
            scheduler = TasksScheduler(group)
            task, other = scheduler.schedule(function), scheduler.schedule(turns)
        check_stray(task.exception)
        assert other.status is S.SUCCEEDED

    async def test_a_task_that_runs_inline_fails_with_a_stray_cancellation_g2_g17(self) -> None:
        with pytest.raises(TaskFailed) as raised:
            await Task(wait_for_a_future_that_is_cancelled)()
        check_stray(raised.value.__cause__)

    async def test_a_stray_cancellation_beside_a_base_exception_goes_to_no_handler_g3_g4(self) -> None:
        async def leave() -> NoReturn:
            raise BaseExceptionGroup("", [SystemExit(), asyncio.CancelledError()])

        heard: list[Exception] = []
        async with TaskHost() as host:
            task = host.task(on_error=lambda task, error: heard.append(error)).schedule(leave)
            await task.wait()
        assert isinstance(task.exception, BaseExceptionGroup)
        assert heard == []

    async def test_a_task_that_catches_a_stray_cancellation_itself_has_succeeded_g2(self) -> None:
        async def survive() -> str:
            try:
                await wait_for_a_future_that_is_cancelled()
            except asyncio.CancelledError:
                return "survived"
            return "not reached"

        async with TaskHost() as host:
            assert await host.schedule(survive) == "survived"

    async def test_handler_and_log_record_of_a_stray_cancellation_have_the_context_g4_g6(self) -> None:
        request: ContextVar[str] = ContextVar("request")
        seen: list[tuple[str, str]] = []

        class Note(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append(("log", request.get()))

        async def handler(task: Task[Any], error: Exception) -> None:
            seen.append(("handler", request.get()))

        note = Note()
        logging.getLogger("taskphase").addHandler(note)
        try:
            async with TaskHost() as host:
                request.set("one")
                task = host.task(on_error=handler).schedule(wait_for_a_future_that_is_cancelled)
                request.set("two")
                await task.wait()
        finally:
            logging.getLogger("taskphase").removeHandler(note)
        assert seen == [("handler", "one"), ("log", "one")]


class TestSomebodyHasAskedForIt:
    async def begun(
        self, host: TaskHost, function: Callable[[], Any], heard: list[Exception], **options: Any
    ) -> Task[Any]:
        task = host.task(on_error=lambda task, error: heard.append(error), **options).schedule(function)
        await task.started.wait()
        await turns()
        return task

    @pytest.mark.parametrize("timeout", [None, 10])
    async def test_a_task_that_its_handle_cancels_is_cancelled_g2_g17(self, timeout: float | None) -> None:
        heard: list[Exception] = []
        async with TaskHost() as host:
            task = await self.begun(host, anyio.sleep_forever, heard, timeout=timeout)
            task.cancel()
            await task.wait()
        assert (task.status, heard) == (S.CANCELLED, [])

    @pytest.mark.parametrize("timeout", [None, 10])
    async def test_a_task_that_the_drain_cancels_is_cancelled_g2_g9(self, timeout: float | None) -> None:
        heard: list[Exception] = []
        async with TaskHost() as host:
            task = await self.begun(host, anyio.sleep_forever, heard, timeout=timeout)
        assert (task.status, heard) == (S.CANCELLED, [])

    @pytest.mark.parametrize("timeout", [None, 10])
    async def test_a_task_that_is_cancelled_natively_is_cancelled_g2(self, timeout: float | None) -> None:
        natives: list[asyncio.Task[Any] | None] = []
        heard: list[Exception] = []

        async def work() -> None:
            natives.append(asyncio.current_task())
            await anyio.sleep_forever()

        async with TaskHost() as host:
            task = await self.begun(host, work, heard, timeout=timeout)
            assert natives[0] is not None
            natives[0].cancel()
            await task.wait()
            assert host.running == 0
        assert (task.status, heard) == (S.CANCELLED, [])

    async def test_a_scope_around_the_task_group_cancels_its_tasks_g2(self) -> None:
        heard: list[Exception] = []
        async with anyio.create_task_group() as group:
            scheduler = TasksScheduler(group)
            task = scheduler.task(on_error=lambda task, error: heard.append(error)).schedule(anyio.sleep_forever)
            await task.started.wait()
            group.cancel_scope.cancel()
        assert (task.status, heard) == (S.CANCELLED, [])

    async def test_a_requested_cancellation_of_a_task_hides_a_stray_cancellation_g2(self) -> None:
        future = asyncio.get_running_loop().create_future()

        async def query() -> None:
            await future

        heard: list[Exception] = []
        async with TaskHost() as host:
            task = await self.begun(host, query, heard)
            future.cancel()
            task.cancel()
            await task.wait()
        assert (task.status, heard) == (S.CANCELLED, [])

    async def test_the_children_of_a_cancelled_task_end_it_as_cancelled_g2(self) -> None:
        async def parent() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(anyio.sleep_forever)

        heard: list[Exception] = []
        async with TaskHost() as host:
            task = await self.begun(host, parent, heard)
            task.cancel()
            await task.wait()
        assert (task.status, heard) == (S.CANCELLED, [])

    async def test_a_timeout_that_is_up_is_a_timeout_g16(self) -> None:
        async with TaskHost() as host:
            task = host.task(timeout=0).schedule(anyio.sleep_forever)
            await task.wait()
        assert isinstance(task.exception, TimeoutError)

    async def test_a_cancelled_pause_between_attempts_is_a_cancellation_g2_g16(self) -> None:
        async with TaskHost() as host:
            task = host.task(retry=retry(attempts=9, backoff=60, jitter=False)).schedule(
                wait_for_a_future_that_is_cancelled
            )
            await until(lambda: task.status is S.RETRYING)
            task.cancel()
            assert task.status is S.CANCELLED
