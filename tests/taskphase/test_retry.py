"""G16: retries, and `retry()`."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from taskphase import Retry, Task, TaskHost, TaskStatus, current_task, retry


class Flaky:
    def __init__(self, failures: int, error: type[Exception] = ConnectionError) -> None:
        self.failures = failures
        self.error = error
        self.attempts: list[int] = []

    async def __call__(self) -> str:
        self.attempts.append(current_task().attempt)
        if len(self.attempts) <= self.failures:
            raise self.error
        return "done"


async def test_a_task_runs_again_until_it_succeeds_g16() -> None:
    flaky = Flaky(2)
    async with TaskHost() as host:
        task = host.task(on_error=retry(attempts=3, backoff=0)).schedule(flaky)
        assert await task == "done"
    assert flaky.attempts == [1, 2, 3]


async def test_the_last_failure_is_the_final_one_and_logged_once_g4_g16(caplog: pytest.LogCaptureFixture) -> None:
    async with TaskHost() as host:
        task = host.task(on_error=retry(attempts=2, backoff=0)).schedule(Flaky(5))
        await task.wait()
    assert (task.status, task.attempt) == (TaskStatus.FAILED, 2)
    assert [r.levelname for r in caplog.records if r.levelname == "ERROR"] == ["ERROR"]


async def test_other_exceptions_are_not_worth_another_attempt_g16() -> None:
    flaky = Flaky(5, ValueError)
    async with TaskHost() as host:
        await host.task(on_error=retry(on=(ConnectionError, TimeoutError))).schedule(flaky).wait()
    assert flaky.attempts == [1]


async def test_waiting_for_another_attempt_holds_no_slot_g16() -> None:
    async with TaskHost(max_running=1) as host:
        slow = host.task(on_error=lambda task, error: Retry(after=60)).schedule(Flaky(1))
        assert await host.schedule(Flaky(0)) == "done"
        assert slow.status is TaskStatus.RETRYING
        slow.cancel()
        assert slow.status is TaskStatus.CANCELLED


async def test_a_task_that_comes_back_queues_for_its_slot_g15_g16() -> None:
    async with TaskHost(max_running=1) as host:
        flaky = host.task(on_error=lambda task, error: Retry()).schedule(Flaky(1))
        blocker = host.schedule(anyio.sleep_forever)
        while flaky.status is not TaskStatus.WAITING or not blocker.started.is_set():
            await anyio.lowlevel.checkpoint()
        blocker.cancel()
        assert await flaky == "done"


async def delays(handler: Any, attempts: int) -> list[float | None]:
    pauses: list[float | None] = []
    task = Task(anyio.sleep_forever)
    for task.attempt in range(1, attempts + 1):
        answer = await handler(task, ConnectionError())
        pauses.append(None if answer is None else answer.after)
    return pauses


async def test_pauses_double_up_to_the_longest_g16() -> None:
    handler = retry(attempts=6, backoff=0.5, jitter=False, max_delay=3)
    assert await delays(handler, 6) == [0.5, 1, 2, 3, 3, None]


async def test_jitter_draws_from_zero_to_the_pause_g16() -> None:
    drawn = [(await delays(retry(attempts=4, backoff=8), 3)) for _ in range(50)]
    for column, most in zip(zip(*drawn, strict=True), (8, 16, 32), strict=True):
        assert all(pause is not None and 0 <= pause <= most for pause in column)
        assert len(set(column)) > 10


async def test_very_many_attempts_do_not_overflow_g16() -> None:
    handler = retry(attempts=10**6, jitter=False)
    task = Task(anyio.sleep_forever)
    task.attempt = 99_999
    assert await handler(task, ValueError()) == Retry(60)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": 2.0}, TypeError),
        ({"attempts": True}, TypeError),
        ({"on": "ValueError"}, TypeError),
        ({"on": (ValueError, BaseException)}, TypeError),
        ({"backoff": -1}, ValueError),
        ({"backoff": "1"}, TypeError),
        ({"max_delay": float("inf")}, ValueError),
    ],
)
def test_bad_settings_are_refused_by_name_g16(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        retry(**settings)
