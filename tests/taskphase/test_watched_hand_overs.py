"""G4, G20, G21: `LogTasks`, `PrometheusTasks` and the recorder know the hand-over of a task to a queue."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import anyio
import pytest
from tests.backends import turns, until
from tests.handed import DownQueue, ListQueue, Refusal, send_mail, write_file
from tests.queueing import FakeQueue

from taskphase import HandOverFailed, HostStatistics, LogTasks, Task, TaskConfig, TaskHost, TaskStatus
from taskphase._machine.life import ENDS, IN_ATTEMPT, WAITS
from taskphase.testing import record_tasks, simulate

DRAIN = 5  # seconds for what a test has left; nothing needs them

Logged = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def later() -> ListQueue:
    return ListQueue("later", [send_mail])


def test_each_status_that_waits_has_a_count_of_the_host_g20() -> None:
    assert set(WAITS) == set(TaskStatus) - ENDS - (IN_ATTEMPT - {TaskStatus.HANDING_OVER}) - {TaskStatus.NEW}
    assert set(WAITS.values()) <= {field.name for field in fields(HostStatistics)}


class TestLines:
    def test_a_hand_over_is_two_lines_with_seconds_and_message_id_g20_g21(self, logged: Logged) -> None:
        tasks: list[Any] = []

        class Slow(ListQueue):
            async def publish(self, prepared: Any, headers: Any, /) -> None:
                await anyio.sleep(2)

        async def main() -> None:
            async with TaskHost(observers=[LogTasks()], queues=[Slow("later", [send_mail])]) as host:
                tasks.append(host.task(name="mail 7", delay=1).schedule(send_mail, 7))
                await tasks[0].wait()

        simulate(main).result()
        message = tasks[0].message_id
        end = f"task 'mail 7' was handed over to 'later' as message {message}, 3.000 s after schedule()"
        assert logged() == [
            ("DEBUG", "the hand-over of task 'mail 7' to 'later' began, 1.000 s after schedule()"),
            ("DEBUG", f"{end}; the hand-over took 2.000 s"),
        ]

    async def test_the_records_of_a_hand_over_have_its_attributes_g4_g20_g21(
        self, later: ListQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, logger="taskphase")
        async with TaskHost(observers=[LogTasks()], queues=[later]) as host:
            task = host.schedule(send_mail)
            await task.wait()
        began, ended = caplog.records
        assert [vars(each)["task_message_id"] for each in (began, ended)] == [task.message_id] * 2
        assert vars(ended)["task_status"] == "handed_over"
        assert 0 <= vars(ended)["task_running_for"] <= vars(ended)["task_age"]

    async def test_a_hand_over_that_fails_and_a_cancelled_one_have_the_line_of_an_end_g20_g21(
        self, logged: Logged
    ) -> None:
        async with TaskHost(observers=[LogTasks()], queues=[DownQueue("down", [send_mail])]) as host:
            await host.task(name="fails").schedule(send_mail).wait()
            host.task(name="early", delay=3600).schedule(send_mail).cancel()
        ends = [line.partition(",")[::2] for _, line in logged() if " ended as " in line]
        assert [end for end, _ in ends] == ["task 'fails' ended as failed", "task 'early' ended as cancelled"]
        assert ["the hand-over took" in more for _, more in ends] == [True, False]

    async def test_a_hand_over_that_fails_is_no_failed_attempt_in_the_log_g4_g21(self, logged: Logged) -> None:
        errors: list[Exception] = []

        async def keep(_task: object, error: Exception) -> None:
            errors.append(error)

        queue = FakeQueue(send_mail, then="hang", most=1)
        async with TaskHost(queues=[queue], shield_timeout=0) as host:
            for name in ("publishes", "waits"):
                host.task(name=name, on_error=keep).schedule(send_mail)
            await until(lambda: queue.attempts)
        assert sorted(error.attempts for error in errors if isinstance(error, HandOverFailed)) == [0, 1]
        assert sorted(text for level, text in logged() if level == "ERROR") == [
            f"the hand-over of task '{name}' to 'later' failed" for name in ("publishes", "waits")
        ]

    async def test_a_refused_task_that_runs_here_has_the_lines_of_an_attempt_g20_g21(self, logged: Logged) -> None:
        down = DownQueue("down", [send_mail], fallback="here")
        async with TaskHost(observers=[LogTasks()], queues=[down], drain_timeout=DRAIN) as host:
            await host.task(name="mail").schedule(send_mail).wait()
        assert [line.partition(",")[0] for _, line in logged()] == [
            "the hand-over of task 'mail' to 'down' began",
            "task 'mail' could not be handed over",
            "task 'mail' started attempt 1",
            "task 'mail' ended as succeeded",
        ]


class TestTheRecorder:
    async def test_a_task_that_is_handed_over_has_ended_and_shows_its_message_g20_g21(self, later: ListQueue) -> None:
        async with TaskHost(queues=[later]) as host:
            with record_tasks(host) as tasks:
                task = host.schedule(send_mail, 7)
                await tasks.await_all()
                assert tasks.handed_over.one() is task
                assert list(tasks.succeeded) == []
        assert f"send_mail(7) immediate handed_over to 'later' as {task.message_id}" in str(tasks)

    async def test_a_test_can_wait_until_tasks_are_being_handed_over_g20_g21(self, later: ListQueue) -> None:
        later.go_on = anyio.Event()
        async with TaskHost(queues=[later]) as host:
            with record_tasks(host) as tasks:
                host.schedule(send_mail)
                await tasks.await_until("handing_over")
                later.go_on.set()
                await tasks.await_all()
                with pytest.raises(ValueError, match="'handed_over' is an end"):
                    await tasks.await_until("handed_over")

    async def test_a_hand_over_that_fails_is_a_failure_that_a_test_can_expect_g20_g21(self) -> None:
        async with TaskHost(queues=[DownQueue("down", [send_mail])]) as host:
            with record_tasks(host) as tasks:
                tasks.expect_failure(HandOverFailed, match="does not have it")
                host.schedule(send_mail)
                await tasks.await_all()

    async def test_a_held_task_that_is_run_by_hand_in_its_open_host_is_handed_over_g20_g21(
        self, later: ListQueue
    ) -> None:
        async with TaskHost(queues=[later]) as host:
            with record_tasks(host, run="never") as tasks:
                host.schedule(send_mail, 7)
                await turns()
                assert later.published == []
                await tasks.arun_all()
                assert len(tasks.handed_over) == len(later.published) == 1

    @pytest.mark.parametrize("function", [send_mail, write_file])
    async def test_a_held_task_that_is_run_by_hand_without_a_host_runs_here_g20_g21(self, function: Any) -> None:
        later = ListQueue("later", [function])
        async with TaskHost(queues=[later]) as host:
            with record_tasks(host, run="never") as tasks:
                first, second = host.schedule(function), host.schedule(function)
                await until(lambda: all(task.status == "new" for task in tasks))
                await first()
        await tasks.arun_all()
        assert [task.status for task in (first, second)] == ["succeeded"] * 2
        assert [task.config.queue for task in (first, second)] == ["here"] * 2
        assert later.published == []

    async def test_a_task_for_a_queue_that_a_test_has_made_runs_where_it_is_called_g21(self, later: ListQueue) -> None:
        task = Task(send_mail, (7,), config=TaskConfig(queue=later))
        await task()
        assert (task.status, task.config.queue, later.published) == ("succeeded", "here", [])


class TestMetricsOfPrometheus:
    @pytest.fixture
    def metrics(self) -> Any:
        pytest.importorskip("prometheus_client")
        from tests.taskphase.test_prometheus import Metrics

        return Metrics()

    async def test_a_hand_over_is_counted_as_an_end_and_measured_apart_from_attempts_g20_g21(
        self, metrics: Any, later: ListQueue
    ) -> None:
        async with TaskHost(observers=[metrics.observer], queues=[later]) as host:
            for _ in range(2):
                await host.schedule(send_mail).wait()
        assert metrics.values("tasks_ended_total", "function", "phase", "outcome") == {
            ("send_mail", "immediate", "handed_over"): 2
        }
        assert metrics.values("handover_duration_seconds_count", "function", "queue", "outcome") == {
            ("send_mail", "later", "handed_over"): 2
        }
        for name in ("task_duration_seconds_count", "task_wait_seconds_count", "tasks_retried_total"):
            assert metrics.values(name, "function") == {}

    @pytest.mark.parametrize(("error", "outcome"), [(Refusal(), "refused"), (OSError(), "unknown")])
    async def test_a_hand_over_that_fails_has_its_outcome_g20_g21(
        self, metrics: Any, error: Exception, outcome: str
    ) -> None:
        down = ListQueue("down", [send_mail], deadline=0.05)
        down.errors = [error] * 1000
        async with TaskHost(observers=[metrics.observer], queues=[down]) as host:
            await host.schedule(send_mail).wait()
        assert metrics.values("tasks_ended_total", "outcome") == {("failed",): 1}
        assert metrics.values("handover_duration_seconds_count", "queue", "outcome") == {("down", outcome): 1}
        assert 0.049 <= metrics.values("handover_duration_seconds_sum")[()] < DRAIN  # uvloop counts milliseconds

    async def test_a_refused_hand_over_and_the_run_behind_it_are_measured_apart_g20_g21(self, metrics: Any) -> None:
        down = DownQueue("down", [send_mail], fallback="here")
        async with TaskHost(observers=[metrics.observer], queues=[down], drain_timeout=DRAIN) as host:
            await host.schedule(send_mail).wait()
        assert metrics.values("tasks_ended_total", "outcome") == {("succeeded",): 1}
        assert metrics.values("handover_duration_seconds_count", "queue", "outcome") == {("down", "refused"): 1}
        assert metrics.values("task_duration_seconds_count", "outcome") == {("succeeded",): 1}
        assert metrics.values("task_wait_seconds_count") == {(): 1}
        assert metrics.values("tasks_retried_total", "function") == {}

    async def test_the_gauge_counts_hand_overs_apart_g15_g20_g21(self, metrics: Any, later: ListQueue) -> None:
        later.go_on = anyio.Event()
        async with TaskHost(observers=[metrics.observer], queues=[later]) as host:
            tasks = [host.schedule(send_mail), host.schedule(send_mail)]
            await until(lambda: all(task.status == "handing_over" for task in tasks))
            assert {state: n for (state,), n in metrics.values("tasks", "state").items() if n} == {"handing_over": 2}
            assert host.statistics().handing_over == 2
            tasks[0].cancel()
            await tasks[0].wait()
            later.go_on.set()
            await tasks[1].wait()
            assert set(metrics.values("tasks", "state").values()) == {0}
        assert metrics.values("handover_duration_seconds_count", "outcome") == {("cancelled",): 1, ("handed_over",): 1}
        observer = metrics.observer
        assert (observer._states, observer._due_at, list(observer._changes.waiting)) == ({}, {}, [])
