"""G4, G9, G15, G16: the log records of tasks and of the drain."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.backends import turns, until

from taskphase import Task, TaskHost, TaskStatus, retry

Logged = Callable[[], list[tuple[str, str]]]


async def refuse(password: str) -> None:
    raise PermissionError(f"not {password}")


@pytest.mark.parametrize(
    ("pause", "shown"), [(2.9e-6, "0"), (0.0161, "0.016"), (0.5, "0.5"), (3600, "3600"), (86400.0, "86400")]
)
async def test_the_pause_before_an_attempt_is_a_plain_number_g4_g16(logged: Logged, pause: float, shown: str) -> None:
    async with TaskHost() as host:
        task = host.task(name="log in", retry=lambda _task, _error: pause).schedule(refuse, "s3cret")
        await until(lambda: bool(logged()))
        task.cancel()
    assert logged()[0] == (
        "INFO",
        f"task 'log in' raised PermissionError in attempt 1; the next one comes in {shown} s",
    )


@pytest.mark.parametrize(("timeout", "shown"), [(0.00005, "0.00005"), (0.02, "0.02"), (0, "0")])
async def test_the_time_of_a_timeout_is_a_plain_number_g16(timeout: float, shown: str) -> None:
    async with TaskHost() as host:
        task = host.task(timeout=timeout).schedule(anyio.sleep_forever)
        await task.wait()
    assert str(task.exception) == f"timed out after {shown} seconds"


class Empty(Exception):
    """A collection of errors, which is false without an element."""

    def __len__(self) -> int:
        return 0


class Odd(Exception):
    """Even its truth raises."""

    def __bool__(self) -> bool:
        raise RuntimeError


@pytest.mark.parametrize("cls", [Empty, Odd])
async def test_an_exception_that_is_not_true_is_logged_with_its_traceback_g3_g4(
    cls: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise cls

    def handle(_task: Task[Any], _error: Exception) -> None:
        raise cls

    async with TaskHost() as host:
        await host.task(on_error=handle).schedule(fail).wait()
    for record in caplog.records:
        assert record.exc_info is not None
        assert record.exc_info[0] is cls
        assert record.exc_info[2] is not None
    assert len(caplog.records) == 2


async def test_a_retried_failure_is_logged_below_error_without_arguments_g4_g16(
    logged: Logged,
) -> None:
    async with TaskHost() as host:
        policy = retry(attempts=2, backoff=0, jitter=False)
        await host.task(name="log in", retry=policy).schedule(refuse, "s3cret").wait()
    assert logged() == [
        ("INFO", "task 'log in' raised PermissionError in attempt 1; the next one comes in 0 s"),
        ("ERROR", "task 'log in' failed in attempt 2"),
    ]


async def test_no_message_of_the_library_shows_a_task_s_arguments_g4(logged: Logged) -> None:
    def handler(task: Task[Any], error: Exception) -> None:
        raise LookupError

    async def forever(password: str) -> None:
        await anyio.sleep_forever()

    async with TaskHost(max_running=4) as host, host.scope() as tasks:
        for phase in (tasks, tasks.after_route, tasks.after_response):
            phase.task(when="failure").schedule(refuse, "s3cret")
            phase.task(on_error=handler).schedule(refuse, password="s3cret")
            phase.task(shield=True, timeout=0.02).schedule(forever, "s3cret")
            phase.schedule(forever, "s3cret")
    assert logged()
    assert "s3cret" not in str(logged())


async def test_a_failing_handler_is_logged_with_its_exception_and_its_task_s_name_g4(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(task: Task[Any], error: Exception) -> None:
        raise LookupError("in the handler")

    async with TaskHost() as host:
        await host.task(name="t", on_error=handler).schedule(refuse, "").wait()
    handled, failed = [record for record in caplog.records if record.name == "taskphase"]
    assert (handled.levelno, handled.getMessage()) == (logging.ERROR, "the error handler of task 't' failed")
    assert handled.exc_info is not None
    assert isinstance(handled.exc_info[1], LookupError)
    assert failed.exc_info is not None
    assert isinstance(failed.exc_info[1], PermissionError)


async def test_a_handler_that_the_drain_cancels_has_not_failed_g4_g9(logged: Logged) -> None:
    async def handler(task: Task[Any], error: Exception) -> None:
        await anyio.sleep_forever()

    async with TaskHost() as host:
        task = host.task(name="t", on_error=handler).schedule(refuse, "")
        await until(lambda: task.status is TaskStatus.HANDLING)
        await turns()
    assert logged() == [("ERROR", "task 't' failed in attempt 1")]


async def test_a_task_that_succeeds_despite_cancellation_is_not_named_as_cancelled_g9(logged: Logged) -> None:
    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await cancelled.wait()

    async def tell() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    cancelled = anyio.Event()
    async with TaskHost() as host:
        task = host.task(name="stubborn").schedule(stubborn)
        host.task(name="told").schedule(tell)
        await turns()
    assert task.status is TaskStatus.SUCCEEDED
    assert logged() == [("WARNING", "closing the task host: 1 cancelled: told")]


async def test_a_waiting_task_cancelled_by_its_user_is_not_named_by_the_drain_g9_g15(logged: Logged) -> None:
    async with TaskHost(max_running=1) as host:
        host.task(name="running").schedule(anyio.sleep_forever)
        host.task(name="given up").schedule(anyio.sleep_forever).cancel()
        host.task(name="waiting").schedule(anyio.sleep_forever)
        await turns()
    assert logged() == [("WARNING", "closing the task host: 2 cancelled: running, waiting")]
