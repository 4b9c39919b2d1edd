"""G4, G20, G22: records, spans and metrics tell the run of a task that a journal has recovered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from opentelemetry.trace import SpanKind
from tests.backends import until
from tests.handed import ListQueue
from tests.taskphase.journal.hosts import MOMENT, Program, killed
from tests.telemetry import Telemetry, of

from taskphase import Journal, LogTasks, TaskHost
from taskphase.journal import _recovery

prometheus_client = pytest.importorskip("prometheus_client")
from taskphase.prometheus import PrometheusTasks  # noqa: E402

PATIENCE = 10  # seconds; a thread that waits for longer fails its test


async def send_on(argument: object = None) -> None: ...


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "tasks.db")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts look for tasks of dead hosts often."""
    monkeypatch.setattr(_recovery, "_PAUSE", MOMENT)


async def test_each_record_of_a_recovered_task_says_so_g4_g20_g22(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="taskphase")
    message_id = await killed(program, function="hold", name="my task")
    async with program.host(observers=[LogTasks()], drain_timeout=5) as host:
        await until(lambda: program.runs)
        own = host.task(name="other").schedule(program.fail)
        await own.wait()
        program.release.set()
        await program.has({str(own.message_id): "failed"})
    lines = [(each.getMessage(), vars(each)) for each in caplog.records if hasattr(each, "task_age")]
    (started, first), (ended, last) = [(line, each) for line, each in lines if "my task" in line]
    assert (started.partition(", ")[0], ended.partition(", ")[0]) == (
        "task 'my task' started attempt 1",
        "task 'my task' ended as succeeded",
    )
    assert started.endswith(" s after its recovery")
    assert " s after its recovery; attempt 1 took " in ended
    assert [(each["task_message_id"], each["task_recovered"]) for each in (first, last)] == [(message_id, True)] * 2
    assert {each["task_recovered"] for line, each in lines if "other" in line} == {False}
    (error,) = [vars(each) for each in caplog.records if each.levelno == logging.ERROR]
    assert error["task_recovered"] is False


async def test_the_error_record_of_a_recovered_task_says_so_g4_g22(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait_then_fail() -> None:
        runs.append(1)
        if len(runs) == 1:
            await program.release.wait()
        raise LookupError

    runs: list[int] = []
    journal = Journal(program.path, [wait_then_fail], sync="normal")
    async with TaskHost(journal=journal) as host:
        task = host.schedule(wait_then_fail)
        await until(lambda: runs)
    async with TaskHost(journal=journal):
        await program.has({str(task.message_id): "failed"})
    (error,) = [vars(each) for each in caplog.records if each.levelno == logging.ERROR]
    assert (error["task_recovered"], error["task_message_id"]) == (True, task.message_id)


async def test_the_span_of_a_recovered_run_is_in_the_trace_of_the_request_g20_g22(program: Program) -> None:
    first, second = Telemetry(), Telemetry()
    async with program.host(observers=[first.observer()]) as host:
        with first.tracer.start_as_current_span("request") as request:
            host.schedule(program.wait)
        await until(lambda: program.runs)
    async with program.host(observers=[second.observer()], drain_timeout=5) as host:
        await program.has({})
        await host.schedule(program.send).wait()
    (cut_off,) = first.spans()
    span, own = second.spans()
    caller = request.get_span_context()
    for each in (cut_off, span):
        assert each.parent is not None
        assert (each.parent.trace_id, each.parent.span_id) == (caller.trace_id, caller.span_id)
    assert [of(each, "recovered") for each in (cut_off, span, own)] == [(None,), (True,), (None,)]
    assert own.parent is None


async def test_a_linked_recovered_run_has_a_link_to_the_request_g20_g22(program: Program) -> None:
    sdk = Telemetry()
    async with program.host() as host:
        with sdk.tracer.start_as_current_span("request") as request:
            host.schedule(program.wait)
        await until(lambda: program.runs)
    async with program.host(observers=[sdk.observer(trace="link")]):
        await program.has({})
    (span,) = sdk.spans()
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [request.get_span_context().span_id]


async def test_a_recovered_hand_over_has_the_attribute_on_its_span_g20_g21_g22(program: Program) -> None:
    sdk = Telemetry()
    later = ListQueue("later", [send_on])
    journal = Journal(program.path, [send_on], sync="normal")
    async with TaskHost(journal=journal) as host:
        host.schedule(send_on)  # the shutdown comes before the first step
    async with TaskHost(observers=[sdk.observer()], queues=[later], journal=journal, drain_timeout=5):
        await program.has({})
    (span,) = sdk.spans("send later")
    assert (span.kind, of(span, "recovered")) == (SpanKind.PRODUCER, (True,))


async def test_metrics_count_recovered_tasks_by_function_g20_g22(program: Program) -> None:
    sdk, registry = Telemetry(), prometheus_client.CollectorRegistry()
    await killed(program, name="never a label")
    await killed(program)
    async with program.host(observers=[sdk.observer(), PrometheusTasks(registry)], drain_timeout=5) as host:
        await program.has({})
        await host.schedule(program.send).wait()
        assert host.statistics().recovered == 2
    assert sdk.points("taskphase.task.recovered") == {("wait", "phase=immediate"): 2}
    lines = prometheus_client.generate_latest(registry).decode().splitlines()
    (line,) = [each for each in lines if each.startswith("taskphase_tasks_recovered_total")]
    assert line.endswith('Program.wait"} 2.0')
    assert "never a label" not in "".join(lines)


async def test_the_report_of_a_drain_counts_the_tasks_that_stay_in_the_journal_g9_g22(
    program: Program, logged: Callable[[], list[tuple[str, str]]]
) -> None:
    def sleep_on() -> None:
        go_on.wait(PATIENCE)

    go_on = threading.Event()
    journal = Journal(program.path, [program.hold, sleep_on], sync="normal")
    try:
        async with TaskHost(journal=journal, shield_timeout=0) as host:
            for _ in range(2):
                host.task(name="kept").schedule(program.hold)
            host.task(name="lost").schedule(anyio.sleep_forever)
            thread = host.task(name="in a thread").schedule(sleep_on)
            forgotten = host.task(name="forgotten", shield=True).schedule(program.hold)
            await until(lambda: len(program.runs) == 3 and thread.status == "running")
            forgotten.cancel()
    finally:
        go_on.set()
    report = host.drain_report
    assert report is not None
    assert {name: report.cancelled[name] for name in ("kept", "lost")} == {"kept": 2, "lost": 1}
    assert report.abandoned == {"in a thread": 1}
    assert report.kept == {"kept": 2, "in a thread": 1}
    line = "closing the task host: 3 of these in the journal, for another process: kept (2), in a thread"
    assert logged()[-1] == ("INFO", line)
    assert len(program.rows()) == 3
