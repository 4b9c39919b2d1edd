"""G4, G15, G16: retries, and `retry()`."""

from __future__ import annotations

import asyncio
import gc
import math
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from threading import get_ident
from typing import Any, NoReturn
from uuid import uuid4

import anyio
import pytest

from taskphase import RetryPolicy, Task, TaskConfig, TaskHost, TaskStatus, current_task, retry

S = TaskStatus


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
        task = host.task(retry=retry(attempts=3, backoff=0)).schedule(flaky)
        assert await task == "done"
    assert flaky.attempts == [1, 2, 3]


async def test_the_last_failure_is_final_and_logged_once_g4_g16(caplog: pytest.LogCaptureFixture) -> None:
    async with TaskHost() as host:
        task = host.task(retry=retry(attempts=2, backoff=0)).schedule(Flaky(5))
        await task.wait()
    assert (task.status, task.attempt) == (TaskStatus.FAILED, 2)
    assert [r.levelname for r in caplog.records if r.levelname == "ERROR"] == ["ERROR"]


async def test_other_exceptions_are_not_worth_another_attempt_g16() -> None:
    flaky = Flaky(5, ValueError)
    async with TaskHost() as host:
        await host.task(retry=retry(on=(ConnectionError, TimeoutError))).schedule(flaky).wait()
    assert flaky.attempts == [1]


async def test_waiting_for_another_attempt_holds_no_slot_g16() -> None:
    async with TaskHost(max_running=1) as host:
        slow = host.task(retry=lambda task, error: 60).schedule(Flaky(1))
        assert await host.schedule(Flaky(0)) == "done"
        assert slow.status is TaskStatus.RETRYING
        slow.cancel()
        assert slow.status is TaskStatus.CANCELLED


async def test_a_task_that_comes_back_queues_for_its_slot_g15_g16() -> None:
    async with TaskHost(max_running=1) as host:
        flaky = host.task(retry=lambda task, error: 0).schedule(Flaky(1))
        blocker = host.schedule(anyio.sleep_forever)
        while flaky.status is not TaskStatus.WAITING or not blocker.started.is_set():
            await anyio.lowlevel.checkpoint()
        blocker.cancel()
        assert await flaky == "done"


def delays(policy: RetryPolicy, attempts: int) -> list[float | None]:
    pauses: list[float | None] = []
    task = Task(anyio.sleep_forever)
    for task.attempt in range(1, attempts + 1):
        pauses.append(policy(task, ConnectionError()))
    return pauses


def test_pauses_double_up_to_the_longest_g16() -> None:
    policy = retry(attempts=6, backoff=0.5, jitter=False, max_delay=3)
    assert delays(policy, 6) == [0.5, 1, 2, 3, 3, None]


def test_jitter_draws_from_zero_to_the_pause_g16() -> None:
    drawn = [delays(retry(attempts=4, backoff=8), 3) for _ in range(50)]
    for column, most in zip(zip(*drawn, strict=True), (8, 16, 32), strict=True):
        assert all(pause is not None and 0 <= pause <= most for pause in column)
        assert len(set(column)) > 10


def test_very_many_attempts_do_not_overflow_g16() -> None:
    policy = retry(attempts=10**6, jitter=False)
    task = Task(anyio.sleep_forever)
    task.attempt = 99_999
    assert policy(task, ValueError()) == 60


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
        ({"jitter": 0.5}, TypeError),
    ],
)
def test_bad_settings_are_refused_by_name_g16(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        retry(**settings)


async def fail() -> NoReturn:
    raise ConnectionError


async def outcome_with(policy: Any, func: Any = fail, **settings: Any) -> tuple[TaskStatus, int]:
    async with TaskHost() as host:
        task = host.task(retry=policy, **settings).schedule(func)
        await task.wait()
    return task.status, task.attempt


async def test_a_handler_is_called_once_after_the_last_attempt_of_a_retried_task_g4_g16() -> None:
    heard: list[tuple[int, str]] = []

    def tell(task: Task[Any], error: Exception) -> None:
        heard.append((task.attempt, type(error).__name__))

    async with TaskHost(config=TaskConfig(on_error=tell)) as host:  # as an error tracker is set up
        await host.task(retry=retry(attempts=3, backoff=0)).schedule(fail).wait()
        await host.task(retry=retry(attempts=3, backoff=0)).schedule(Flaky(2)).wait()
    assert heard == [(3, "ConnectionError")]


@pytest.mark.parametrize("pause", [0, 0.0, timedelta(0), timedelta(milliseconds=1), 0.001], ids=repr)
async def test_a_policy_returns_seconds_or_a_timedelta_g16(pause: Any) -> None:
    assert await outcome_with(lambda task, error: pause if task.attempt < 3 else None) == (S.FAILED, 3)


BAD = [True, "1", -1, math.nan, math.inf, timedelta(seconds=-1), object(), [0]]


@pytest.mark.parametrize("answer", BAD, ids=lambda answer: type(answer).__name__ + repr(answer)[:4])
async def test_any_other_answer_of_a_policy_counts_as_none_and_is_logged_g16(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert await outcome_with(lambda task, error: answer, name="t") == (S.FAILED, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "the retry policy of task 't' failed; there is no further attempt",
        "task 't' failed in attempt 1",
    ]


async def test_a_policy_that_raises_counts_as_none_and_is_logged_g3_g16(caplog: pytest.LogCaptureFixture) -> None:
    for error in (LookupError(), SystemExit(), asyncio.CancelledError()):
        caplog.clear()

        def policy(task: Task[Any], raised: Exception, error: BaseException = error) -> NoReturn:
            raise error

        assert await outcome_with(policy) == (S.FAILED, 1)
        assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
        assert caplog.records[0].exc_info is not None


async def test_a_policy_that_returns_a_coroutine_is_told_so_and_leaves_no_warning_g16(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def too_late() -> None: ...

    assert await outcome_with(lambda task, error: too_late()) == (S.FAILED, 1)
    gc.collect()
    assert "the answer of retry= must be a number of seconds or a timedelta, not coroutine" in caplog.text


async def test_the_answer_of_a_policy_is_in_no_log_record_g3_g4_g16(caplog: pytest.LogCaptureFixture) -> None:
    """The answer may be an argument of the task by mistake."""

    class Payload:
        def __repr__(self) -> str:
            return "Payload(password='hunter2')"

    assert await outcome_with(lambda task, error: Payload()) == (S.FAILED, 1)  # type: ignore[arg-type, return-value]
    assert "not Payload" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_policy_runs_in_the_loop_in_the_context_of_the_attempt_g6_g16() -> None:
    seen: list[tuple[object, object, bool]] = []

    async def work() -> None:
        variable.set("set by the attempt")
        raise ConnectionError

    def policy(task: Task[Any], error: Exception) -> float | None:
        seen.append((variable.get(), current_task(), get_ident() == thread))
        return 0 if task.attempt < 2 else None

    variable: ContextVar[str] = ContextVar("variable", default="")
    thread = get_ident()
    async with TaskHost() as host:
        task = host.task(retry=policy).schedule(work)
        await task.wait()
    assert seen == [("set by the attempt", task, True)] * 2


async def test_a_policy_that_cancels_its_task_ends_the_attempts_g4_g9() -> None:
    heard: list[int] = []

    def policy(task: Task[Any], error: Exception) -> float:
        task.cancel()
        return 0

    async def handler(task: Task[Any], error: Exception) -> None:
        heard.append(task.attempt)

    assert await outcome_with(policy, on_error=handler) == (S.FAILED, 1)
    assert heard == [1]


async def test_nobody_asks_the_policy_of_a_task_that_was_told_to_stop_g9_g16() -> None:
    async def fail_while_unwinding() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError

    asked: list[Exception] = []

    def policy(task: Task[Any], error: Exception) -> float:
        asked.append(error)
        return 0

    async with TaskHost() as host:
        task = host.task(retry=policy).schedule(fail_while_unwinding)
        await task.started.wait()
        task.cancel()
        await task.wait()
    assert (task.status, type(task.exception), task.attempt, asked) == (S.FAILED, ValueError, 1, [])


@pytest.mark.parametrize("on_error", [None, lambda task, error: None])
def test_an_interrupt_in_a_policy_goes_on_and_the_task_has_ended_g2_g3(on_error: Any) -> None:
    tasks: list[Task[Any]] = []

    def policy(task: Task[Any], error: Exception) -> NoReturn:
        raise KeyboardInterrupt

    async def main() -> None:
        async with TaskHost() as host:
            tasks.append(host.task(retry=policy, on_error=on_error).schedule(fail))
            await anyio.sleep_forever()

    for backend in ("asyncio", "trio"):
        with pytest.raises(BaseException) as caught:  # trio may put it into a group
            anyio.run(main, backend=backend)
        assert "KeyboardInterrupt" in repr(caught.value)
        assert tasks.pop().status is S.FAILED


async def test_an_inherited_policy_is_lifted_by_one_attempt_g16() -> None:
    async with TaskHost(config=TaskConfig(retry=retry(attempts=3, backoff=0))) as host:
        inherited = host.schedule(fail)
        lifted = host.task(retry=retry(attempts=1)).schedule(fail)
        await inherited.wait()
        await lifted.wait()
    assert (inherited.attempt, lifted.attempt) == (3, 1)


async def ask_slowly(task: Task[Any], error: Exception) -> float:
    return 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_error": retry()}, r"write retry=retry\(\.\.\.\)"),
        ({"retry": ask_slowly}, "a plain function, not an async one"),
        ({"retry": partial(ask_slowly)}, "a plain function, not an async one"),
        ({"retry": lambda: None}, "callable with"),
        ({"retry": 3}, "must be a policy, not 3"),
        ({"retry": retry}, "must be a policy"),
    ],
)
def test_a_policy_or_handler_that_cannot_be_one_is_refused_at_once_g4_g16(settings: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TaskConfig(**settings)


@pytest.mark.parametrize("answer", [1, 0.5, timedelta(1)], ids=repr)
async def test_a_handler_that_returns_a_pause_is_warned_of_once_g4(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(task: Task[Any], error: Exception) -> object:
        return answer

    handler.__qualname__ = f"handler_{uuid4().hex}"  # the process remembers by name which handler was warned of
    async with TaskHost() as host:
        for _ in range(2):
            await host.task(on_error=handler).schedule(fail).wait()
    assert len([record for record in caplog.records if "for further attempts write retry=" in record.getMessage()]) == 1


async def test_what_else_a_handler_returns_means_nothing_g4(caplog: pytest.LogCaptureFixture) -> None:
    for answer in (True, "text", object(), None):
        async with TaskHost() as host:
            task = host.task(on_error=lambda task, error, answer=answer: answer).schedule(fail)
            await task.wait()
        assert (task.status, task.attempt) == (S.FAILED, 1)
    assert {record.levelname for record in caplog.records} == {"ERROR"}
