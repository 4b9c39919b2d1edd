"""G20, G21: one PRODUCER span for each hand-over to a queue, the span in its worker, and metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, use_span
from tests.backends import until
from tests.handed import DownQueue, ListQueue, Refusal, send_mail
from tests.telemetry import Telemetry, id_of, of, spans_of_records

from taskphase import HandOverFailed, Task, TaskHost

FUNCTION = "tests.handed.send_mail"
RUN_WITHIN = 60  # seconds for one program, which needs about 1


@pytest.fixture
def sdk() -> Telemetry:
    return Telemetry()


def ids(header: str) -> tuple[int, int]:
    """Return the trace and the span of a `traceparent`."""
    _, trace_id, span_id, _ = header.split("-")
    return int(trace_id, 16), int(span_id, 16)


def messaging(span: Any) -> dict[str, Any]:
    return {name: value for name, value in span.attributes.items() if name.startswith("messaging.")}


class TestTheSpanOfAHandOver:
    @pytest.mark.parametrize("phase", ["immediate", "after_route", "after_response"])
    async def test_a_hand_over_has_one_producer_span_in_the_trace_of_the_request_g20_g21(
        self, sdk: Telemetry, phase: str
    ) -> None:
        later = ListQueue("later", [send_mail], system="redis")
        async with TaskHost(observers=[sdk.observer()], queues=[later]) as host:
            with sdk.tracer.start_as_current_span("request") as request:
                async with host.scope() as tasks, tasks.route():
                    here = tasks.task(name="mail 7")
                    task = (here if phase == "immediate" else getattr(here, phase)).schedule(send_mail, 7)
            await task.wait()
        [span] = [each for each in sdk.exporter.get_finished_spans() if each.name != "request"]
        assert (span.name, span.kind, span.parent) == ("send later", SpanKind.PRODUCER, request.get_span_context())
        assert messaging(span) == {
            "messaging.system": "redis",
            "messaging.destination.name": "later",
            "messaging.message.id": task.message_id,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
        }
        assert of(span, "id", "name", "phase", "code.function.name", "attempt") == (
            task.id, "mail 7", phase, FUNCTION, None,
        )  # fmt: skip
        assert of(span, "taskphase.handover.outcome", "error.type") == ("handed_over", None)
        assert span.status.status_code is StatusCode.UNSET
        [(_, headers)] = later.published
        assert ids(headers["traceparent"]) == (span.context.trace_id, id_of(span))

    async def test_a_queue_that_does_not_know_its_broker_names_none_g20(self, sdk: Telemetry) -> None:
        async with TaskHost(observers=[sdk.observer()], queues=[ListQueue("later", [send_mail])]) as host:
            await host.schedule(send_mail).wait()
        [span] = sdk.spans("send ")
        assert "messaging.system" not in span.attributes

    async def test_all_attempts_to_publish_are_in_one_span_g20_g21(self, sdk: Telemetry) -> None:
        later = ListQueue("later", [send_mail])
        later.errors = [Refusal(), OSError()]
        async with TaskHost(observers=[sdk.observer()], queues=[later]) as host:
            task = host.schedule(send_mail)
            await task.wait()
        assert task.status == "handed_over"
        [span] = sdk.exporter.get_finished_spans()
        assert of(span, "taskphase.handover.outcome") == ("handed_over",)
        assert span.status.status_code is StatusCode.UNSET

    @pytest.mark.parametrize(("error", "outcome"), [(Refusal(), "refused"), (OSError(), "unknown")])
    async def test_a_hand_over_that_fails_is_an_error_and_its_handler_is_inside_g20_g21(
        self, sdk: Telemetry, error: Exception, outcome: str
    ) -> None:
        seen: list[int] = []

        async def handle(task: Task[Any], error: Exception) -> None:
            seen.append(trace.get_current_span().get_span_context().span_id)

        later = ListQueue("later", [send_mail], deadline=0.05)
        later.errors = [error] * 1000
        with spans_of_records() as records:
            async with TaskHost(observers=[sdk.observer()], queues=[later]) as host:
                task = host.task(on_error=handle).schedule(send_mail)
                await task.wait()
        assert isinstance(task.exception, HandOverFailed)
        [span] = sdk.exporter.get_finished_spans()
        assert of(span, "taskphase.handover.outcome", "error.type") == (outcome, "taskphase.HandOverFailed")
        assert (span.status.status_code, span.status.description, span.events) == (StatusCode.ERROR, None, ())
        assert seen == [id_of(span)]
        assert [record[1:] for record in records if record[0] == "ERROR"] == [(id_of(span), True)]

    async def test_a_cancelled_hand_over_is_no_error_g9_g20_g21(self, sdk: Telemetry) -> None:
        later = ListQueue("later", [send_mail])
        later.go_on = anyio.Event()
        async with TaskHost(observers=[sdk.observer()], queues=[later]) as host:
            task = host.schedule(send_mail)
            await until(lambda: task.status == "handing_over")
            task.cancel()
            await task.wait()
        [span] = sdk.exporter.get_finished_spans()
        assert of(span, "taskphase.handover.outcome", "error.type") == ("cancelled", None)
        assert span.status.status_code is StatusCode.UNSET

    async def test_a_refused_hand_over_that_runs_here_has_an_internal_span_behind_it_g20_g21(
        self, sdk: Telemetry
    ) -> None:
        later = DownQueue("later", [send_mail], fallback="here")
        async with TaskHost(observers=[sdk.observer()], queues=[later], drain_timeout=5) as host:
            with sdk.tracer.start_as_current_span("request") as request:
                task = host.schedule(send_mail)
            await task.wait()
        assert task.status == "succeeded"
        sent, ran = sdk.spans("send ", "task ")
        assert (sent.name, ran.name) == ("send later", f"task {FUNCTION}")
        assert of(sent, "taskphase.handover.outcome", "error.type") == ("refused", "taskphase.HandOverFailed")
        assert sent.status.status_code is StatusCode.ERROR
        assert (ran.kind, messaging(ran)) == (SpanKind.INTERNAL, {})
        assert of(ran, "attempt", "outcome") == (1, "succeeded")
        assert sent.parent == ran.parent == request.get_span_context()
        assert sent.end_time <= ran.start_time

    async def test_a_task_that_runs_here_has_no_attribute_of_messaging_g20_g21(self, sdk: Telemetry) -> None:
        later = ListQueue("later", [send_mail])
        async with TaskHost(observers=[sdk.observer()], queues=[later], drain_timeout=5) as host:
            await host.task(queue="here").schedule(send_mail).wait()
        [span] = sdk.exporter.get_finished_spans()
        assert (span.name, span.kind, messaging(span)) == (f"task {FUNCTION}", SpanKind.INTERNAL, {})

    async def test_a_linked_hand_over_begins_a_trace_of_its_own_g20_g21(self, sdk: Telemetry) -> None:
        later = ListQueue("later", [send_mail])
        async with TaskHost(observers=[sdk.observer(trace="link")], queues=[later]) as host:
            with sdk.tracer.start_as_current_span("request") as request:
                task = host.schedule(send_mail)
            await task.wait()
        [span] = sdk.spans("send ")
        assert (span.parent, [link.context for link in span.links]) == (None, [request.get_span_context()])
        assert ids(later.published[0][1]["traceparent"])[0] == span.context.trace_id

    async def test_a_request_that_is_not_sampled_tells_the_worker_so_g20_g21(self, sdk: Telemetry) -> None:
        later = ListQueue("later", [send_mail])
        request = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0)))
        async with TaskHost(observers=[sdk.observer()], queues=[later]) as host:
            with use_span(request):
                task = host.schedule(send_mail)
            await task.wait()
        assert sdk.exporter.get_finished_spans() == ()
        [(_, headers)] = later.published
        assert (ids(headers["traceparent"])[0], headers["traceparent"][-2:]) == (1, "00")

    async def test_without_the_observer_the_worker_gets_the_trace_of_the_request_g21(self, sdk: Telemetry) -> None:
        later = ListQueue("later", [send_mail])
        async with TaskHost(queues=[later]) as host:
            with sdk.tracer.start_as_current_span("request") as request:
                task = host.schedule(send_mail)
            await task.wait()
        context = request.get_span_context()
        assert ids(later.published[0][1]["traceparent"]) == (context.trace_id, context.span_id)

    async def test_a_trace_that_the_program_carries_is_not_replaced_g21(self, sdk: Telemetry) -> None:
        own: ContextVar[str] = ContextVar("own", default="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
        own.set(own.get())
        later = ListQueue("later", [send_mail], carry={"Traceparent": own})
        async with TaskHost(observers=[sdk.observer()], queues=[later]) as host:
            await host.schedule(send_mail).wait()
        assert later.published[0][1] == {"Traceparent": own.get()}


class TestMetrics:
    async def test_hand_overs_are_measured_by_queue_and_outcome_and_are_no_attempts_g20_g21(
        self, sdk: Telemetry
    ) -> None:
        later = DownQueue("later", [send_mail], fallback="here")
        async with TaskHost(observers=[sdk.observer()], queues=[later], drain_timeout=5) as host:
            await host.schedule(send_mail).wait()
        works = ListQueue("works", [send_mail])
        async with TaskHost(observers=[sdk.observer()], queues=[works]) as host:
            for _ in range(2):
                await host.schedule(send_mail).wait()
        assert sdk.counts("taskphase.handover.duration") == {
            ("send_mail", "error=taskphase.HandOverFailed", "outcome=refused", "queue=later"): 1,
            ("send_mail", "outcome=handed_over", "queue=works"): 2,
        }
        assert sdk.counts("taskphase.task.duration") == {("send_mail", "outcome=succeeded", "phase=immediate"): 1}
        assert sdk.counts("taskphase.task.wait") == {("send_mail", "phase=immediate"): 1}
        assert sdk.points("taskphase.task.retried") == {}
        refused = next(
            point for labels, point in sdk.points("taskphase.handover.duration").items() if "queue=later" in labels
        )
        assert 0.049 <= refused.sum < 5  # uvloop counts milliseconds
        assert refused.explicit_bounds[:2] == (0.005, 0.01)

    async def test_a_hand_over_has_a_state_of_its_own_and_ends_in_none_g20_g21(self, sdk: Telemetry) -> None:
        later = ListQueue("later", [send_mail])
        later.go_on = anyio.Event()
        observer = sdk.observer()
        async with TaskHost(observers=[observer], queues=[later]) as host:
            task = host.schedule(send_mail)
            await until(lambda: task.status == "handing_over")
            assert sdk.points("taskphase.tasks") == {("send_mail", "state=handing_over"): 1}
            later.go_on.set()
            await task.wait()
            assert sdk.points("taskphase.tasks") == {("send_mail", "state=handing_over"): 0}
        assert observer._lives == {}


PROGRAM = """
import contextvars, json, sys
import anyio
from opentelemetry import baggage, context, trace
from tests.handed import ListQueue, send_mail
from tests.telemetry import Telemetry
from taskphase import TaskHost
from taskphase.opentelemetry import TraceTasks
from taskphase.queues import running

sdk = Telemetry()
trace.set_tracer_provider(sdk.tracer_provider)
engine = sdk.tracer_provider.get_tracer("engine")
later = ListQueue("later", [send_mail], system="redis")
notes = {}

async def main():
    async with TaskHost(observers=[TraceTasks()], queues=[later]) as host:
        with sdk.tracer.start_as_current_span("request"):
            token = context.attach(baggage.set_baggage("user", "ada"))
            task = host.schedule(send_mail)
            context.detach(token)
        await task.wait()
        notes["message_id"] = task.message_id

def work(fails=False):
    call, headers = later.published[0]
    with running(later, call.function, call.id, headers):
        trace.get_current_span().set_attribute("seen", str(baggage.get_baggage("user")))
        if fails:
            raise LookupError("a secret")

def work_in_engine():
    with engine.start_as_current_span("engine"):
        work()

def worker():
    assert not trace.get_current_span().get_span_context().is_valid
    work()
    assert not trace.get_current_span().get_span_context().is_valid and baggage.get_all() == {}
    work_in_engine()
    try:
        work(fails=True)
    except LookupError:
        pass

anyio.run(main, backend=sys.argv[1])
contextvars.Context().run(worker)  # as in another process: nothing of the context above is here
print(json.dumps({"notes": notes, "spans": [json.loads(span.to_json()) for span in sdk.exporter.get_finished_spans()]}))
"""


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def in_worker(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the notes and the spans of a program with a global provider, which a process can set only once."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_WITHIN, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)  # type: ignore[no-any-return]


class TestTheSpanInAWorker:
    def test_the_span_in_a_worker_is_in_the_trace_of_the_request_g20_g21(self, in_worker: dict[str, Any]) -> None:
        request, sent, processed = in_worker["spans"][:3]
        assert [span["name"] for span in (request, sent, processed)] == ["request", "send later", "process later"]
        assert processed["kind"] == "SpanKind.CONSUMER"
        assert processed["parent_id"] == sent["context"]["span_id"]
        assert sent["parent_id"] == request["context"]["span_id"]
        assert len({span["context"]["trace_id"] for span in (request, sent, processed)}) == 1
        assert processed["attributes"] == {
            "messaging.system": "redis",
            "messaging.destination.name": "later",
            "messaging.message.id": in_worker["notes"]["message_id"],
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "code.function.name": FUNCTION,
            "seen": "ada",
        }
        assert processed["status"] == {"status_code": "UNSET"}

    def test_the_span_in_a_worker_is_a_child_of_the_engine_s_own_span_g21(self, in_worker: dict[str, Any]) -> None:
        inside, engine = in_worker["spans"][3:5]
        assert (inside["name"], engine["name"]) == ("process later", "engine")
        assert inside["parent_id"] == engine["context"]["span_id"]

    def test_an_error_in_a_worker_is_named_without_its_message_g4_g20_g21(self, in_worker: dict[str, Any]) -> None:
        failed = in_worker["spans"][5]
        assert failed["status"] == {"status_code": "ERROR"}
        assert (failed["attributes"]["error.type"], failed["events"]) == ("LookupError", [])
        assert "secret" not in json.dumps(in_worker)
