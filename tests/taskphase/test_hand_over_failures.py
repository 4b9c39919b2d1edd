"""G4, G21: attempts to publish that fail: probe, deadline, outcome, `on_error`, `fallback`, `cancel()`."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import anyio
import pytest
from tests.backends import native_cancel_only, turns, until
from tests.queueing import RAN, REQUEST, FakeQueue, Lost, Refused, Step, archive, fail_here, send_mail
from tests.virtual import on_each_loop, run

from taskphase import (
    HandOverFailed,
    Limit,
    StrayCancellation,
    Task,
    TaskCancelled,
    TaskConfig,
    TaskFailed,
    TaskHandedOver,
    TaskHost,
    TasksSaturatedError,
    TaskStatus,
    current_task,
    retry,
)
from taskphase.queues import Call, Queue

S = TaskStatus
Logged = Callable[[], list[tuple[str, str]]]
pytestmark = pytest.mark.usefixtures("cleared")


class Heard:
    """An error handler that keeps its calls."""

    def __init__(self) -> None:
        self.errors: list[HandOverFailed] = []
        self.tasks: list[Task[Any]] = []
        self.times: list[float] = []

    async def __call__(self, task: Task[Any], error: Exception) -> None:
        assert isinstance(error, HandOverFailed)
        assert current_task() is task
        self.tasks.append(task)
        self.errors.append(error)
        self.times.append(anyio.current_time())

    @property
    def outcomes(self) -> list[str]:
        return [error.outcome for error in self.errors]


@on_each_loop
class TestAttempts:
    """In virtual time."""

    @pytest.mark.parametrize("step", ["refuse", "fail", "hang", "group", "publish, then fail", "publish, then hang"])
    def test_a_failed_attempt_is_followed_by_another_until_the_queue_confirms_g21(
        self, backend: Any, step: Step
    ) -> None:
        async def main() -> None:
            queue, heard = FakeQueue(steps=(step, step)), Heard()
            async with TaskHost(queues=[queue], config=TaskConfig(on_error=heard)) as host:
                task = host.schedule(send_mail, "ada")
                await task.wait()
                assert task.status is S.HANDED_OVER
            assert heard.errors == []
            assert [message for message, _ in queue.attempts] == [task.message_id] * 3
            assert set(queue.ids) == {task.message_id}
            assert len(queue.ids) == (3 if step.startswith("publish") else 1)

        run(main, backend)

    def test_an_attempt_is_cut_off_after_its_timeout_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(steps=("hang",), attempt_timeout=timedelta(seconds=2))
            async with TaskHost(queues=[queue]) as host:
                await host.schedule(send_mail, "ada").wait()
            [(_, first), (_, second)] = queue.attempts
            assert 2 <= second - first <= 2 + 0.2

        run(main, backend)

    def test_an_attempt_that_the_deadline_cuts_short_does_not_take_the_queue_down_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(then="slow", deadline=1.5, attempt_timeout=1.25, most=1)
            async with TaskHost(queues=[queue]) as host:
                tasks = [host.schedule(archive, number) for number in range(2)]
                await anyio.sleep(1.25)
                tasks.append(host.schedule(archive, 2))
                began = anyio.current_time() - 1.25
            assert [task.status for task in tasks] == [S.HANDED_OVER, S.FAILED, S.HANDED_OVER]
            assert [time - began for _, time in queue.attempts] == [0, 1, 1.5]

        run(main, backend)

    @pytest.mark.parametrize("steps", [(), ("refuse",)])
    @pytest.mark.parametrize("shield", [None, 3])
    def test_the_cause_is_the_attempt_that_was_cut_off_not_an_earlier_one_g21(
        self, backend: Any, shield: float | None, steps: tuple[Step, ...]
    ) -> None:
        """The deadline cuts it off, or the shutdown."""

        async def main() -> None:
            queue, heard = FakeQueue(steps=steps, then="hang", deadline=5, attempt_timeout=10), Heard()
            async with TaskHost(queues=[queue], shield_timeout=shield) as host:
                host.task(on_error=heard).schedule(send_mail, "ada")
            [error] = heard.errors
            assert (error.attempts, error.outcome) == (len(steps) + 1, "unknown")
            assert type(error.__cause__) is (TimeoutError if shield is None else type(None))

        run(main, backend)

    def test_the_deadline_ends_the_attempts_and_nothing_is_tried_after_that_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue, heard = FakeQueue(then="fail", deadline=5), Heard()
            async with TaskHost(queues=[queue]) as host:
                began = anyio.current_time()
                task = host.task(on_error=heard).schedule(send_mail, "ada")
                await task.wait()
                assert anyio.current_time() == began + 5
                assert task.status is S.FAILED
                await anyio.sleep(20)
            [error] = heard.errors
            assert task.exception is error
            assert isinstance(error.__cause__, Lost)
            assert (error.queue, error.message_id, error.outcome) == ("later", task.message_id, "unknown")
            assert error.attempts == len(queue.attempts) > 5
            assert max(time for _, time in queue.attempts) <= began + 5

        run(main, backend)

    @pytest.mark.parametrize(
        ("steps", "then", "outcome"),
        [
            ((), "refuse", "refused"),
            ((), "fail", "unknown"),
            ((), "hang", "unknown"),
            (("refuse", "fail"), "refuse", "unknown"),
            (("hang",), "refuse", "unknown"),
            (("publish, then fail",), "refuse", "unknown"),
            ((), "group", "unknown"),
        ],
    )
    def test_one_attempt_of_an_unknown_end_makes_the_outcome_unknown_for_good_g21(
        self, backend: Any, steps: tuple[Step, ...], then: Step, outcome: str
    ) -> None:
        async def main() -> None:
            queue, heard = FakeQueue(steps=steps, then=then), Heard()
            async with TaskHost(queues=[queue]) as host:
                await host.task(on_error=heard).schedule(send_mail, "ada").wait()
            assert heard.outcomes == [outcome]

        run(main, backend)

    def test_an_error_says_if_a_hand_over_had_no_attempt_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue, heard = FakeQueue(then="hang", most=1, deadline=5, attempt_timeout=9), Heard()
            async with TaskHost(queues=[queue]) as host:
                host.task(on_error=heard).schedule(send_mail, "ada")
                host.task(on_error=heard).schedule(send_mail, "bob")
            assert sorted("which was down or busy" in str(error) for error in heard.errors) == [False, True]

        run(main, backend)

    @pytest.mark.parametrize("step", ["refuse", "fail", "hang", "group"])
    def test_a_task_whose_queue_has_no_connection_is_refused_g21(self, backend: Any, step: Step) -> None:
        async def main() -> None:
            queue, heard = FakeQueue(opening=(step,) * 99, deadline=4), Heard()
            async with TaskHost(queues=[queue]) as host:
                await host.task(on_error=heard).schedule(send_mail, "ada").wait()
            assert heard.outcomes == ["refused"]
            assert queue.attempts == []
            assert set(queue.connections) == {"open"}

        run(main, backend)

    def test_a_slow_connection_counts_for_the_timeout_of_the_attempt_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(opening=("slow", "confirm"), steps=("hang",), attempt_timeout=3)
            async with TaskHost(queues=[queue]) as host:
                began = anyio.current_time()
                await host.schedule(send_mail, "ada").wait()
            assert queue.connections == ["open", "close"]
            [(_, first), (_, second)] = queue.attempts
            assert first - began == 1
            assert 2 <= second - first <= 2.2

        run(main, backend)

    def test_a_slow_error_handler_holds_up_no_other_hand_over_g3_g4_g21(self, backend: Any) -> None:
        async def handle(_task: Task[Any], _error: Exception) -> None:
            await anyio.sleep(60)

        async def main() -> None:
            queue = FakeQueue(steps=("refuse", "hang"), most=1, deadline=5, attempt_timeout=5)
            async with TaskHost(queues=[queue]) as host:
                first = host.task(on_error=handle).schedule(archive, 1)
                await anyio.sleep(4)
                second = host.schedule(archive, 2)
                await second.wait()
                assert (first.status, second.status) == (S.HANDLING, S.HANDED_OVER)

        run(main, backend)

    def test_one_hand_over_probes_a_queue_that_is_down_and_no_other_attempt_is_made_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(steps=("fail", *("slow",) * 5), then="hang", deadline=60, attempt_timeout=0.5)
            async with TaskHost(queues=[queue]) as host:
                tasks = [host.schedule(archive, 0)]
                await turns()
                queue.most = 0
                tasks += [host.schedule(archive, number) for number in range(1, 50)]
                assert host.statistics().handing_over == 50
                await anyio.sleep(30)
                assert queue.most == 1
                assert {task.status for task in tasks} == {S.HANDING_OVER}
                queue.then = "confirm"
                await anyio.sleep(2)
                assert {task.status for task in tasks} == {S.HANDED_OVER}
            assert sorted(queue.args) == [(number,) for number in range(50)]

        run(main, backend)

    @pytest.mark.parametrize("then", ["slow", "hang"])
    def test_no_more_attempts_than_allowed_go_on_at_once_whatever_fails_g21(self, backend: Any, then: Step) -> None:
        async def main() -> None:
            steps: tuple[Step, ...] = ("fail", "slow", "slow", "fail", "slow", "hang", "fail")
            for most in (1, 2, 3):
                queue = FakeQueue(steps=steps * 3, then=then, most=most, deadline=30, attempt_timeout=2)
                async with TaskHost(queues=[queue]) as host:
                    for number in range(20):
                        host.schedule(archive, number)
                        await anyio.sleep(0.15)
                    await anyio.sleep(40)
                assert queue.most == most

        run(main, backend)

    def test_the_probe_of_a_queue_that_is_up_again_takes_a_turn_like_others_g21(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("taskphase._drive.outlet.random.uniform", lambda _least, most: most)

        async def main() -> None:
            queue = FakeQueue(steps=("slow", "fail"), then="slow", most=2, deadline=30)
            async with TaskHost(queues=[queue]) as host:
                host.schedule(archive, 0)
                await anyio.sleep(0.9)
                host.schedule(archive, 1)  # fails, and then waits beyond the end of the first attempt
                await anyio.sleep(0.11)
                for number in range(2, 6):
                    host.schedule(archive, number)
                await anyio.sleep(10)
            assert queue.most == 2
            assert sorted(queue.args) == [(number,) for number in range(6)]

        run(main, backend)

    def test_a_probe_that_goes_on_when_the_queue_is_up_again_has_a_turn_g21(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("taskphase._drive.outlet.random.uniform", lambda _least, most: most)

        async def main() -> None:
            queue = FakeQueue(steps=("slow", "fail"), then="slow", most=2, deadline=30)
            async with TaskHost(queues=[queue]) as host:
                host.schedule(archive, 0)
                await anyio.sleep(0.5)
                host.schedule(archive, 1)  # probes from 0.7 to 1.7; the first attempt is confirmed meanwhile
                await anyio.sleep(0.6)
                for number in range(2, 5):
                    host.schedule(archive, number)
                await anyio.sleep(10)
            assert queue.most == 2
            assert sorted(queue.args) == [(number,) for number in range(5)]

        run(main, backend)

    def test_a_turn_that_is_given_when_the_queue_is_down_is_no_attempt_g21(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("taskphase._drive.outlet.random.uniform", lambda _least, most: most)

        async def main() -> None:
            queue = FakeQueue(then="hang", most=1, deadline=60, attempt_timeout=0.5)
            async with TaskHost(queues=[queue], shield_timeout=0) as host:
                began = anyio.current_time()
                for number in range(5):
                    host.schedule(archive, number)
                await anyio.sleep(1)
            assert [time - began for _, time in queue.attempts] == [0, 0.7]

        run(main, backend)

    def test_a_hand_over_whose_turn_is_older_than_the_failure_of_another_waits_g21(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("taskphase._drive.outlet.random.uniform", lambda _least, most: most)

        async def main() -> None:
            queue = FakeQueue(then="fail", deadline=60)
            async with TaskHost(queues=[queue], shield_timeout=0) as host:
                for number in range(5):
                    host.schedule(archive, number)
                await turns()
                assert len(queue.attempts) == 1

        run(main, backend)

    def test_a_hand_over_that_waits_for_the_probe_counts_as_pending_g15_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(then="fail")
            async with TaskHost(queues=[queue], max_pending=1, shield_timeout=0) as host:
                host.schedule(archive, 1)
                await until(lambda: queue.attempts)
                await turns()
                with pytest.raises(TasksSaturatedError):
                    host.schedule(archive, 2)

        run(main, backend)

    def test_a_call_that_the_queue_never_takes_does_not_keep_others_from_it_for_long_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(deadline=8)

            def refuse_the_first(call: Any) -> None:
                if call.args == (0,):
                    raise Lost

            queue.on_attempt = refuse_the_first
            async with TaskHost(queues=[queue]) as host:
                tasks = [host.schedule(archive, number) for number in range(10)]
                await anyio.sleep(3)
                assert [task.status for task in tasks] == [S.HANDING_OVER, *[S.HANDED_OVER] * 9]
                await tasks[0].wait()
                assert tasks[0].status is S.FAILED

        run(main, backend)

    @pytest.mark.parametrize("most", [2, 100])
    def test_calls_that_the_queue_never_takes_do_not_delay_others_after_a_success_g21(
        self, backend: Any, most: int
    ) -> None:
        async def main() -> None:
            queue = FakeQueue(deadline=math.inf, most=most)
            queue.on_attempt = refuse_negative_numbers
            async with TaskHost(queues=[queue]) as host:
                never = [host.schedule(archive, number) for number in (-1, -2, -3)]
                await anyio.sleep(10)
                await host.schedule(archive, 0).wait()
                queue.attempts.clear()
                for number in range(1, 50):
                    await anyio.sleep(0.1)
                    task, began = host.schedule(archive, number), anyio.current_time()
                    await task.wait()
                    assert anyio.current_time() == began
                    assert host.statistics().waiting + host.statistics().handing_over == 3
                assert 3 * 4 <= len(queue.attempts) - 49 <= 3 * 5  # one of each in a second
                for task in never:
                    task.cancel()

        run(main, backend)

    def test_a_call_that_the_queue_never_takes_is_tried_with_pauses_while_it_is_down_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(deadline=30)
            attempts = 0

            def never_take_it(call: Any) -> None:
                nonlocal attempts
                attempts += call.args == (0,)
                if (call.args == (0,) and attempts < 1000) or call.args == (2,):
                    raise Lost

            queue.on_attempt = never_take_it
            async with TaskHost(queues=[queue]) as host:
                never = host.schedule(archive, 0)
                await turns()
                await host.schedule(archive, 1).wait()
                down = host.schedule(archive, 2)
                await until(lambda: down.message_id in dict(queue.attempts))
                down.cancel()
                await never.wait()
                assert never.status is S.FAILED
            assert attempts < 1000

        run(main, backend)

    def test_a_call_that_has_not_failed_yet_probes_before_calls_that_have_g21(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("taskphase._drive.outlet.random.uniform", lambda _least, most: most)

        async def main() -> None:
            queue = FakeQueue(deadline=60)
            queue.on_attempt = refuse_negative_numbers
            async with TaskHost(queues=[queue]) as host:
                for number in range(-10, 0):
                    host.schedule(archive, number)
                await anyio.sleep(20.5)
                task, began = host.schedule(archive, 1), anyio.current_time()
                await task.wait()
                assert anyio.current_time() - began <= 2  # the pause of a probe that has begun, and one more

        run(main, backend)

    @pytest.mark.parametrize("earlier", [0, 1], ids=["at-first", "after-a-success"])
    def test_a_function_that_the_queue_never_takes_does_not_hold_up_other_functions_g21(
        self, backend: Any, earlier: int
    ) -> None:
        async def main() -> None:
            queue = FakeQueue(most=4)

            def refuse_archive(call: Call) -> None:
                if call.function.endswith("archive"):
                    raise Lost

            queue.on_attempt = refuse_archive
            async with TaskHost(queues=[queue], shield_timeout=0) as host:
                for _ in range(earlier):
                    await host.schedule(send_mail, "ada").wait()
                refused = [host.schedule(archive, number) for number in range(40)]
                tasks = [host.schedule(send_mail, "bob") for _ in range(10)]
                with anyio.fail_after(5):
                    for task in tasks:
                        await task.wait()
                assert {task.status for task in tasks} == {S.HANDED_OVER}
                assert {task.status for task in refused} == {S.HANDING_OVER}

        run(main, backend)

    def test_many_calls_that_the_queue_never_takes_let_each_new_call_pass_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(deadline=600)
            queue.on_attempt = refuse_negative_numbers
            async with TaskHost(queues=[queue], shield_timeout=0) as host:
                refused = [host.schedule(archive, -number) for number in range(1, 50)]
                await anyio.sleep(100)
                for number in range(10):
                    with anyio.fail_after(3):
                        assert await host.schedule(archive, number).wait() is None
                    assert {task.status for task in refused} == {S.HANDING_OVER}

        run(main, backend)

    @pytest.mark.parametrize("most", [1, 4, 100])
    def test_calls_that_the_queue_takes_do_not_fail_behind_calls_that_it_never_takes_g21(
        self, backend: Any, most: int
    ) -> None:
        """Calls of the same function, which all begin at once."""

        async def main() -> None:
            queue = FakeQueue(most=most, deadline=20)
            queue.on_attempt = refuse_negative_numbers
            async with TaskHost(queues=[queue]) as host:
                refused = [host.schedule(archive, -number) for number in range(1, 21)]
                tasks = [host.schedule(archive, number) for number in range(20)]
                for task in tasks:
                    await task.wait()
                assert {task.status for task in tasks} == {S.HANDED_OVER}
                assert {task.status for task in refused} == {S.HANDING_OVER}

        run(main, backend)


def refuse_negative_numbers(call: Call) -> None:
    if call.args[0] < 0:
        raise Lost


@on_each_loop
def test_a_group_with_a_failure_inside_is_the_cause_of_the_failed_hand_over_g21(backend: Any) -> None:
    async def main() -> None:
        async with TaskHost(queues=[queue]) as host:
            await host.task(on_error=heard).schedule(send_mail, "ada").wait()

    queue, heard = FakeQueue(then="group"), Heard()
    run(main, backend)
    [error] = heard.errors
    assert isinstance(error.__cause__, BaseExceptionGroup)


@native_cancel_only
async def test_a_cancellation_that_nobody_asked_for_is_a_failed_attempt_g2_g21() -> None:
    queue, heard = FakeQueue(steps=("stray",)), Heard()
    async with TaskHost(queues=[queue], config=TaskConfig(on_error=heard)) as host:
        task = host.schedule(send_mail, "ada")
        await task.wait()
        assert task.status is S.HANDED_OVER
        stray = FakeQueue(then="stray", deadline=0.05)
    async with TaskHost(queues=[stray], config=TaskConfig(on_error=heard)) as host:
        await host.schedule(send_mail, "ada").wait()
    [error] = heard.errors
    assert isinstance(error.__cause__, StrayCancellation)


async def test_a_failed_hand_over_is_logged_once_with_its_ids_and_without_arguments_g4_g21(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = FakeQueue(then="refuse", deadline=0.05)
    async with TaskHost(queues=[queue]) as host:
        task = host.task(name="mail").schedule(send_mail, "s3cret")
        await task.wait()
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelno == logging.ERROR
    attributes = vars(record)
    assert attributes["task_message_id"] == task.message_id
    assert attributes["task_name"] == "mail"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], HandOverFailed)
    assert "s3cret" not in caplog.text


class TestHandlers:
    async def test_a_sync_handler_hears_of_a_failed_hand_over_once_in_a_thread_g4_g21(self) -> None:
        heard: list[tuple[Exception, bool]] = []
        here = threading.get_ident()

        def handle(_task: Task[Any], error: Exception) -> None:
            heard.append((error, threading.get_ident() == here))

        queue = FakeQueue(then="refuse", deadline=0.05)
        async with TaskHost(queues=[queue]) as host:
            task = host.task(on_error=handle).schedule(send_mail, "ada")
            await task.wait()
        assert heard == [(task.exception, False)]

    async def test_a_handler_that_raises_changes_nothing_and_is_logged_g3_g4_g21(self, logged: Logged) -> None:
        async def handle(_task: Task[Any], _error: Exception) -> None:
            raise RuntimeError("handler")

        queue = FakeQueue(then="refuse", deadline=0.05)
        async with TaskHost(queues=[queue]) as host:
            task = host.task(on_error=handle).schedule(send_mail, "ada")
            await task.wait()
        assert isinstance(task.exception, HandOverFailed)
        assert [level for level, _ in logged() if level == "ERROR"] == ["ERROR", "ERROR"]

    @pytest.mark.parametrize("step", ["confirm", "publish, then fail", "refuse"])
    async def test_no_handler_hears_of_a_hand_over_that_the_queue_confirms_in_the_end_g21(self, step: Step) -> None:
        heard = Heard()
        queue = FakeQueue(steps=(step,))
        async with TaskHost(queues=[queue], config=TaskConfig(on_error=heard)) as host:
            await host.schedule(send_mail, "ada").wait()
        assert heard.errors == []


async def fallen_back(queue: FakeQueue, func: Any, *args: Any, **settings: Any) -> Task[Any]:
    """Schedule in a host that runs refused tasks itself; return the task when it has ended."""
    async with TaskHost(queues=[queue], config=TaskConfig(**settings)) as host:
        task = host.schedule(func, *args)
        await task.wait()
    return task


def refusing(*functions: Callable[..., Any]) -> FakeQueue:
    return FakeQueue(*functions, then="refuse", deadline=0.05, fallback="here")


class TestFallback:
    async def test_a_refused_task_runs_here_with_its_message_id_and_attempts_from_1_g21(self, logged: Logged) -> None:
        heard, queue, seen = Heard(), refusing(), []
        async with TaskHost(queues=[queue], config=TaskConfig(on_error=heard)) as host:
            task = host.schedule(send_mail, "ada", subject="news")
            seen.append((task.message_id, task.config.queue))
            assert await task == "ada"
            assert (task.message_id, task.attempt, task.config.queue) == (seen[0][0], 1, "here")
            assert seen[0][1] is queue
            assert host.statistics().succeeded == 1
        assert RAN == [("send_mail", "ada", "news")]
        assert heard.errors == []
        assert [level for level, _ in logged() if level == "ERROR"] == []
        assert "WARNING" in [level for level, _ in logged()]

    async def test_a_sync_function_runs_here_in_a_thread_g21(self) -> None:
        assert (await fallen_back(refusing(), archive, 7)).return_value == 7

    async def test_an_async_function_runs_here_without_a_thread_g8_g21(self) -> None:
        release = threading.Event()
        async with TaskHost(queues=[refusing()], max_threads=1) as host:
            try:
                blocker = host.schedule(release.wait)
                await blocker.started.wait()
                assert await host.schedule(send_mail, "ada") == "ada"
            finally:
                release.set()
            await blocker

    @on_each_loop
    @pytest.mark.parametrize("step", ["fail", "hang", "publish, then fail"])
    def test_a_task_that_a_worker_may_have_does_not_run_here_g21(self, step: Step, backend: Any) -> None:
        async def main() -> None:
            task = await fallen_back(queue, send_mail, "ada", on_error=heard)
            assert task.status is S.FAILED

        heard = Heard()
        queue = FakeQueue(steps=(step,), then="refuse", deadline=2, attempt_timeout=1, fallback="here")
        run(main, backend)
        assert (heard.outcomes, RAN) == (["unknown"], [])

    async def test_a_run_here_sees_no_context_variable_that_its_hand_over_has_set_g6_g21(self) -> None:
        async def look(_task: Task[Any], error: Exception) -> None:
            assert isinstance(error, LookupError)
            seen.append(REQUEST.get())

        queue, seen = refusing(fail_here), list[str | None]()
        queue.on_attempt = lambda _: REQUEST.set("of the queue")
        REQUEST.set("of schedule()")
        await fallen_back(queue, fail_here, on_error=look)
        assert seen == ["of schedule()"]

    async def test_a_run_here_that_fails_is_told_to_the_handler_once_with_its_own_error_g21(self) -> None:
        heard: list[Exception] = []

        async def handle(_task: Task[Any], error: Exception) -> None:
            heard.append(error)

        task = await fallen_back(refusing(fail_here), fail_here, on_error=handle)
        assert [type(error) for error in heard] == [LookupError]
        assert task.exception is heard[0]

    async def test_a_run_here_has_the_retry_and_the_timeout_of_its_host_g16_g21(self) -> None:
        task = await fallen_back(refusing(fail_here), fail_here, retry=retry(attempts=3, backoff=0))
        assert (task.attempt, len(RAN)) == (3, 3)
        task = await fallen_back(refusing(archive), archive, 3, timeout=math.inf)
        assert task.status is S.SUCCEEDED

    @on_each_loop
    def test_a_run_here_waits_for_its_limit_and_its_slot_g15_g19_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(archive, then="refuse", deadline=1, fallback="here")
            one = Limit(1)
            async with TaskHost(queues=[queue], config=TaskConfig(limit=one), max_running=2) as host:
                blocker = host.schedule(anyio.sleep, 10)
                task = host.schedule(archive, 1)
                await anyio.sleep(2)
                assert task.status is S.LIMITED
                full = [host.task(limit=Limit(math.inf)).schedule(anyio.sleep, 20)]
                blocker.cancel()
                await anyio.sleep(1)
                assert task.status is S.SUCCEEDED
                del full

        run(main, backend)

    async def test_a_run_here_keeps_its_key_g24_g21(self) -> None:
        queue = refusing(send_mail)
        async with TaskHost(queues=[queue]) as host:
            first = host.task(key="a").schedule(send_mail, "ada")
            second = host.task(key="a").schedule(send_mail, "bob")
            assert second.status is S.DROPPED
            await first.wait()
            third = host.task(key="a").schedule(send_mail, "cyd")
            await third.wait()
        assert [name for _, name, _ in RAN] == ["ada", "cyd"]

    async def test_a_run_here_can_be_cancelled_g17_g21(self) -> None:
        queue = FakeQueue(archive, send_mail, then="refuse", deadline=0.05, fallback="here")
        queue.takes = lambda func: func is anyio.sleep_forever  # type: ignore[method-assign]
        async with TaskHost(queues=[queue]) as host:
            task = host.schedule(anyio.sleep_forever)
            await until(lambda: task.status is S.RUNNING and task.config.queue == "here")
            await turns()
            task.cancel()
            await task.wait()
            assert task.status is S.CANCELLED

    @on_each_loop
    @pytest.mark.parametrize(("others", "status"), [(1, S.SUCCEEDED), (2, S.FAILED)])
    def test_a_refused_task_fails_if_max_pending_tasks_wait_already_g15_g21(
        self, backend: Any, others: int, status: TaskStatus
    ) -> None:
        async def main() -> None:
            queue = FakeQueue(archive, opening=("hang",), deadline=1, attempt_timeout=2, fallback="here")
            heard = Heard()
            async with TaskHost(queues=[queue], max_running=1, max_pending=2, drain_timeout=20) as host:
                task = host.task(on_error=heard).schedule(archive, 1)
                for _ in range(1 + others):
                    host.schedule(anyio.sleep, 3)
                await anyio.sleep(1.5)
                await task.wait()
            assert task.status is status
            assert heard.outcomes == (["refused"] if status is S.FAILED else [])

        run(main, backend)

    async def test_a_hand_over_that_waits_for_nothing_is_not_pending_g15_g21(self) -> None:
        async with TaskHost(queues=[FakeQueue()], max_pending=0) as host:
            await host.schedule(archive, 1).wait()
            assert host.statistics().handed_over == 1

    @on_each_loop
    def test_only_a_hand_over_that_waits_counts_as_pending_g15_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(archive, then="hang", most=2)
            async with TaskHost(queues=[queue], max_running=1, max_pending=2) as host:
                tasks = [host.schedule(archive, number) for number in range(4)]
                with pytest.raises(TasksSaturatedError, match="2 handing_over tasks have reached") as caught:
                    host.schedule(archive, 4)
                assert caught.value.handing_over == 2
                running = host.schedule(anyio.sleep, 1)
                assert running.status is S.STARTING
                with pytest.raises(TasksSaturatedError):
                    host.schedule(anyio.sleep, 1)
                tasks[0].cancel()
                await turns()
                host.schedule(archive, 5)
                with pytest.raises(TasksSaturatedError):
                    host.schedule(archive, 6)
                assert (host.running, host.handing_over) == (1, 4)
                for task in host.tasks():
                    task.cancel()

        run(main, backend)

    @on_each_loop
    def test_a_closing_host_runs_no_refused_task_after_stage_1_g9_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue, heard = FakeQueue(archive, then="refuse", deadline=3, fallback="here"), Heard()
            async with TaskHost(queues=[queue], drain_timeout=1, config=TaskConfig(on_error=heard)) as host:
                late = host.schedule(archive, 1)
                early = host.task(queue="here").schedule(archive, 2)
                await anyio.sleep(1)
            assert (late.status, heard.outcomes) == (S.FAILED, ["refused"])
            assert early.status is S.SUCCEEDED
            assert RAN == [("archive", 2)]

        run(main, backend)

    @on_each_loop
    def test_stage_1_of_a_drain_still_runs_a_refused_task_here_g9_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(archive, then="refuse", deadline=1, fallback="here")
            async with TaskHost(queues=[queue], drain_timeout=5) as host:
                task = host.schedule(archive, 1)
            assert task.status is S.SUCCEEDED

        run(main, backend)


class TestCancel:
    @on_each_loop
    @pytest.mark.parametrize("where", ["deferred", "delayed", "starting", "publishing", "probing", "turn"])
    def test_a_task_can_be_cancelled_until_it_is_handed_over_g17_g21(self, backend: Any, where: str) -> None:
        async def main() -> None:
            heard = Heard()
            steps: tuple[Step, ...] = ("fail",) if where == "probing" else ("hang",) if where == "publishing" else ()
            queue = FakeQueue(steps=steps, most=1, then="hang" if where == "turn" else "confirm")
            async with TaskHost(queues=[queue], config=TaskConfig(on_error=heard)) as host, host.scope() as tasks:
                if where == "turn":
                    blocker = host.schedule(archive, 0)
                async with tasks.route():
                    definition = host.task(delay=5) if where == "delayed" else tasks
                    task = (tasks.after_route if where == "deferred" else definition).schedule(send_mail, "ada")
                    if where != "starting":
                        await anyio.sleep(0 if where == "probing" else 0.001)
                    if where == "probing":
                        await turns()
                    expected = {"deferred": S.DEFERRED, "delayed": S.DELAYED, "starting": S.STARTING}
                    assert task.status is expected.get(where, S.HANDING_OVER)
                    task.cancel()
                    if where in ("publishing", "probing", "turn"):
                        assert task.status is S.WITHDRAWING
                    await task.wait()
                    assert task.status is S.CANCELLED
                    with pytest.raises(TaskCancelled):
                        await task
                if where == "turn":
                    blocker.cancel()
            assert (heard.errors, queue.published) == ([], [])
            assert host.statistics().handing_over == 0

        run(main, backend)

    async def test_a_thread_can_cancel_a_hand_over_g8_g21(self) -> None:
        queue = FakeQueue(then="hang")
        async with TaskHost(queues=[queue]) as host:
            task = host.schedule(send_mail, "ada")
            await until(lambda: task.status is S.HANDING_OVER)
            await anyio.to_thread.run_sync(task.cancel)
            await task.wait()
            assert task.status is S.CANCELLED

    async def test_a_hand_over_that_is_confirmed_after_cancel_is_handed_over_g2_g21(self) -> None:
        queue = FakeQueue(then="cling")
        async with TaskHost(queues=[queue]) as host:
            task = host.schedule(send_mail, "ada")
            await until(lambda: task.status is S.HANDING_OVER)
            await turns()
            task.cancel()
            task.cancel()
            assert task.status is S.WITHDRAWING
            await task.wait()
            assert task.status is S.HANDED_OVER
            task.cancel()
            with pytest.raises(TaskHandedOver):
                await task
        assert queue.ids == [task.message_id]

    @native_cancel_only
    async def test_a_native_cancellation_ends_a_hand_over_as_cancelled_g2_g21(self) -> None:
        heard, queue = Heard(), FakeQueue(then="hang")
        async with TaskHost(queues=[queue], config=TaskConfig(on_error=heard)) as host:
            task = host.schedule(send_mail, "ada")
            await until(lambda: queue.attempts)
            native: Any = host._runner.alive[task]
            native.cancel()
            await task.wait()
            assert (task.status, heard.errors) == (S.CANCELLED, [])

    async def test_a_cancelled_hand_over_gives_its_turn_to_the_next_g21(self) -> None:
        queue = FakeQueue(steps=("hang",), most=1)
        async with TaskHost(queues=[queue]) as host:
            first, second = host.schedule(archive, 1), host.schedule(archive, 2)
            await until(lambda: first.status is S.HANDING_OVER)
            first.cancel()
            await second.wait()
            assert second.status is S.HANDED_OVER
        assert queue.args == [(2,)]

    async def test_a_handler_that_is_cancelled_leaves_its_task_failed_g4_g21(self) -> None:
        async def handle(task: Task[Any], _error: Exception) -> None:
            task.cancel()
            await anyio.sleep_forever()

        queue = FakeQueue(then="refuse", deadline=0.01)
        async with TaskHost(queues=[queue]) as host:
            task = host.task(on_error=handle).schedule(send_mail, "ada")
            await task.wait()
            with pytest.raises(TaskFailed):
                await task


async def test_a_queue_that_does_not_tell_refusals_apart_is_in_doubt_g21() -> None:
    class Plain(FakeQueue):
        refused = Queue.refused

    heard = Heard()
    async with TaskHost(queues=[Plain(then="refuse", deadline=0.05, fallback="here")]) as host:
        await host.task(on_error=heard).schedule(send_mail, "ada").wait()
    assert heard.outcomes == ["unknown"]
    assert RAN == []


async def test_a_queue_whose_refused_method_raises_is_in_doubt_g3_g21() -> None:
    class Broken(FakeQueue):
        def refused(self, error: Exception) -> bool:
            raise RuntimeError(error)

    heard = Heard()
    async with TaskHost(queues=[Broken(then="refuse", deadline=0.05)]) as host:
        await host.task(on_error=heard).schedule(send_mail, "ada").wait()
    assert heard.outcomes == ["unknown"]
    assert isinstance(heard.errors[0].__cause__, Refused)


async def test_a_queue_that_asks_for_the_end_of_the_program_has_failed_once_g4_g21() -> None:
    class Exits(FakeQueue):
        async def publish(self, prepared: Call, headers: Mapping[str, str]) -> None:
            raise SystemExit(3)

    heard = Heard()
    async with TaskHost(queues=[Exits(deadline=0.05)]) as host:
        await host.task(on_error=heard).schedule(send_mail, "ada").wait()
    assert heard.outcomes == ["unknown"]
    assert isinstance(heard.errors[0].__cause__, SystemExit)
    assert heard.errors[0].attempts >= 1
