"""G6, G8, G16, G20: a span for each attempt of a task, and metrics, with OpenTelemetry's SDK."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider, Observation
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    get_current_span,
    use_span,
)
from tests.backends import end_time_of_thread, turns, until
from tests.telemetry import Telemetry, id_of, of, spans_of_records

from taskphase import Limit, Task, TaskHost, TasksClosedError, TasksSaturatedError, current_task, retry
from taskphase._metering import counts_of
from taskphase.opentelemetry import TraceTasks
from taskphase.testing import simulate

PATIENCE = 10  # seconds; a thread that waits for longer fails its test
DRAIN = 5  # seconds for what a test has left

on_each_loop = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def sdk() -> Telemetry:
    return Telemetry()


class Work:
    """A function for tasks, in several kinds. Each piece of code notes the current span, and if that span records."""

    def __init__(self, outcome: str) -> None:
        self.outcome = outcome
        self.seen: list[tuple[str, int, bool]] = []
        self.go_on = threading.Event()

    def look(self, where: str) -> None:
        span = get_current_span()
        span.set_attribute(f"seen.{where}", True)
        self.seen.append((where, span.get_span_context().span_id, span.is_recording()))

    def ends(self) -> None:
        if self.outcome == "raise" or (self.outcome == "retry" and current_task().attempt == 1):
            raise LookupError

    async def run(self) -> None:
        with anyio.CancelScope(shield=True):  # on a busy machine the time may be over before the thread has looked
            self.look("function")
            await anyio.lowlevel.checkpoint()
            await anyio.to_thread.run_sync(self.look, "thread")
        if self.outcome in ("timeout", "cancel"):
            await anyio.sleep_forever()
        self.ends()

    def run_sync(self) -> None:
        self.look("function")
        anyio.from_thread.run_sync(self.look, "loop")
        if self.outcome in ("timeout", "cancel"):
            self.go_on.wait(PATIENCE)
        self.ends()

    async def handle(self, task: Task[Any], error: Exception) -> None:
        self.look("handler")
        await anyio.lowlevel.checkpoint()

    def handle_sync(self, task: Task[Any], error: Exception) -> None:
        self.look("handler")


EXPECTED: dict[str, list[tuple[int, str, str | None]]] = {
    "success": [(1, "succeeded", None)],
    "raise": [(1, "failed", "LookupError")],
    "timeout": [(1, "failed", "TimeoutError")],
    "retry": [(1, "retried", "LookupError"), (2, "succeeded", None)],
    "cancel": [(1, "cancelled", None)],
    "drop": [],
}


@pytest.mark.parametrize("phase", ["immediate", "after_route", "after_response"])
@pytest.mark.parametrize("kind", ["async", "def", "partial"])
@pytest.mark.parametrize("outcome", EXPECTED)
async def test_each_attempt_has_one_span_that_records_until_its_end_g20(
    sdk: Telemetry, phase: str, kind: str, outcome: str
) -> None:
    work = Work(outcome)
    func: Callable[[], Any] = {"async": work.run, "def": work.run_sync, "partial": partial(work.run)}[kind]
    expected = EXPECTED[outcome]
    if outcome == "cancel" and kind == "def":
        expected = EXPECTED["success"]  # a sync function that has begun runs to its end
    again = (lambda task, error: 0 if task.attempt == 1 else None) if outcome == "retry" else None
    timeout = PATIENCE if kind == "def" else 0.02
    with spans_of_records() as records:
        async with TaskHost(observers=[sdk.observer()]) as host:
            with sdk.tracer.start_as_current_span("request") as request:
                async with host.scope() as tasks:
                    with suppress(ZeroDivisionError):
                        async with tasks.route():
                            define = tasks.task(
                                name="a",
                                timeout=timeout if outcome == "timeout" else None,
                                on_error=work.handle_sync if kind == "def" else work.handle,
                                retry=again,
                            )
                            here: Any = define if phase == "immediate" else getattr(define, phase)
                            task: Task[Any] = here.schedule(func)
                            if outcome == "drop":
                                task.cancel() if phase == "immediate" else None
                                raise ZeroDivisionError
            if outcome == "timeout" and kind == "def":
                await until(lambda: len(work.seen) == 2)
                end_time_of_thread(task)
            if outcome == "cancel":
                await task.started.wait()
                await until(lambda: len(work.seen) == 2)
                task.cancel()
                work.go_on.set()
            await task.wait()
            work.go_on.set()
    spans = sdk.spans()
    assert [of(span, "attempt", "outcome", "error.type") for span in spans] == expected
    for span in spans:
        assert span.name == f"task {task.function}"
        assert span.name.endswith(("Work.run", "Work.run_sync"))
        assert (span.kind, span.instrumentation_scope.name) == (SpanKind.INTERNAL, "taskphase")
        assert of(span, "id", "name", "phase", "code.function.name") == (task.id, "a", phase, task.function)
        assert span.parent == request.get_span_context()
        assert span.context.trace_id == request.get_span_context().trace_id
        assert span.events == ()  # the exception is in the log record
        is_error = span.attributes["taskphase.task.outcome"] in ("failed", "retried")
        assert span.status.status_code is (StatusCode.ERROR if is_error else StatusCode.UNSET)
        assert span.status.description is None
    # All code of an attempt saw the span of its attempt, which recorded.
    places = ["function", "loop" if kind == "def" else "thread"]
    own = [[place for place, seen, records in work.seen if seen == id_of(span) and records] for span in spans]
    failed = [["handler"] if outcome in ("raise", "timeout") else [] for _ in spans]
    assert own == [places + handler for handler in failed]
    assert len(work.seen) == sum(map(len, own))
    for each, span in zip(own, spans, strict=True):
        assert {f"seen.{place}" for place in each} <= set(span.attributes)
    assert [record[1:] for record in records if record[0] == "ERROR"] == [
        (id_of(span), True) for span in spans if of(span, "outcome") == ("failed",)
    ]
    assert [record[1:] for record in records if record[0] == "INFO"] == [
        (id_of(span), True) for span in spans if of(span, "outcome") == ("retried",)
    ]


class TestSpans:
    async def test_the_drain_cancels_without_an_error_g9_g20(self, sdk: Telemetry) -> None:
        async with TaskHost(observers=[sdk.observer()]) as host:
            task = host.schedule(anyio.sleep_forever)
            await task.started.wait()
        [span] = sdk.spans()
        assert of(span, "outcome", "error.type") == ("cancelled", None)
        assert span.status.status_code is StatusCode.UNSET
        assert sdk.counts("taskphase.task.duration") == {("sleep_forever", "outcome=cancelled", "phase=immediate"): 1}

    async def test_the_span_of_a_task_is_the_parent_of_its_own_tasks_g6_g14(self, sdk: Telemetry) -> None:
        async def outer() -> Task[None]:
            return host.schedule(anyio.lowlevel.checkpoint)

        async with TaskHost(observers=[sdk.observer()]) as host:
            await (await host.schedule(outer)).wait()
        first, second = sdk.spans()
        assert (first.parent, second.parent) == (None, first.context)

    async def test_the_span_of_a_task_is_current_nowhere_else_g6(self, sdk: Telemetry) -> None:
        async def look() -> tuple[int, bool]:
            await anyio.lowlevel.checkpoint()
            span = get_current_span()
            return span.get_span_context().span_id, span.is_recording()

        async with TaskHost(observers=[sdk.observer()]) as host:
            with sdk.tracer.start_as_current_span("request") as request:
                tasks = [host.schedule(look) for _ in range(3)]
                host.task(retry=retry(attempts=2, backoff=0)).schedule(look)
                seen = [await task for task in tasks]
                assert get_current_span() is request
        assert not get_current_span().get_span_context().is_valid
        assert set(seen) == {(id_of(span), True) for span in sdk.spans() if (id_of(span), True) in seen}
        assert len(set(seen)) == 3

    async def test_the_span_before_is_current_again_when_an_attempt_has_ended_g6_g20(self, sdk: Telemetry) -> None:
        seen: list[object] = []

        class Last(TraceTasks):
            def ended(self, task: Task[Any], /) -> None:
                super().ended(task)
                seen.append(get_current_span())

        with sdk.tracer.start_as_current_span("request") as request:
            async with TaskHost(observers=[Last(**sdk.providers)]) as host:
                await host.schedule(anyio.lowlevel.checkpoint).wait()
        assert seen == [request]

    @pytest.mark.parametrize("trace", ["child", "link"])
    async def test_baggage_reaches_the_task_and_nothing_else_g6(self, sdk: Telemetry, trace: Any) -> None:
        async def look() -> object:
            value = baggage.get_baggage("user")
            attach(baggage.set_baggage("user", "of the task"))
            return value

        class Users(SpanProcessor):
            def on_start(self, span: Span, parent_context: Context | None = None) -> None:
                span.set_attribute("user", str(baggage.get_baggage("user", parent_context)))

        sdk.tracer_provider.add_span_processor(Users())
        async with TaskHost(observers=[sdk.observer(trace=trace)]) as host:
            token = attach(baggage.set_baggage("user", "ada"))
            first, second = host.schedule(look), host.schedule(look)
            detach(token)
            assert (await first, await second) == ("ada", "ada")
        assert baggage.get_all() == {}
        assert [(span.attributes["user"],) for span in sdk.spans()] == [("ada",)] * 2

    async def test_a_linked_span_begins_a_trace_of_its_own(self, sdk: Telemetry) -> None:
        async with TaskHost(observers=[sdk.observer(trace="link")]) as host:
            with sdk.tracer.start_as_current_span("request") as request:
                await host.task(retry=retry(attempts=2, backoff=0, jitter=False)).schedule(Work("retry").run).wait()
            await host.schedule(anyio.lowlevel.checkpoint).wait()
        first, second, alone = sdk.spans()
        assert [span.parent for span in (first, second, alone)] == [None] * 3
        cause = request.get_span_context()
        assert [[link.context for link in span.links] for span in (first, second, alone)] == [[cause], [cause], []]
        assert len({span.context.trace_id for span in (first, second, alone)} | {cause.trace_id}) == 4

    async def test_a_request_that_is_not_sampled_has_no_span_of_a_task(self, sdk: Telemetry) -> None:
        request = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0)))
        async with TaskHost(observers=[sdk.observer()]) as host:
            with use_span(request):
                await host.schedule(anyio.lowlevel.checkpoint).wait()
        assert sdk.exporter.get_finished_spans() == ()
        assert sdk.counts("taskphase.task.duration") == {("checkpoint", "outcome=succeeded", "phase=immediate"): 1}

    async def test_a_name_that_no_exporter_can_encode_is_escaped(self, sdk: Telemetry) -> None:
        async with TaskHost(observers=[sdk.observer()]) as host:
            await host.task(name="import \udcff é").schedule(anyio.lowlevel.checkpoint).wait()
        [span] = sdk.spans()
        assert of(span, "name") == ("import \\udcff é",)

    async def test_an_exception_is_named_as_fastapi_names_it(self, sdk: Telemetry) -> None:
        async def fail() -> None:
            raise anyio.BrokenResourceError

        async with TaskHost(observers=[sdk.observer()]) as host:
            await host.schedule(fail).wait()
        [span] = sdk.spans()
        cls = anyio.BrokenResourceError
        assert of(span, "error.type") == (f"{cls.__module__}.{cls.__qualname__}",)

    async def test_tasks_of_many_threads_have_one_span_each_g8(self, sdk: Telemetry) -> None:
        async with TaskHost(observers=[sdk.observer()], drain_timeout=DRAIN) as host:

            def schedule() -> None:
                with sdk.tracer.start_as_current_span("request"):
                    for _ in range(20):
                        host.schedule(anyio.lowlevel.checkpoint)

            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(anyio.to_thread.run_sync, schedule)
        requests = {id_of(span) for span in sdk.spans("request")}
        parents = [span.parent.span_id for span in sdk.spans() if span.parent is not None]
        assert {parents.count(request) for request in requests} == {20}
        assert len(parents) == 80
        assert set(sdk.points("taskphase.tasks").values()) <= {0}

    async def test_no_task_is_kept_alive_g2_g20(self, sdk: Telemetry) -> None:
        observer = sdk.observer()

        async def fail() -> None:
            raise LookupError

        async def run() -> list[weakref.ref[Task[Any]]]:
            tasks: list[Task[Any]] = [host.schedule(fail), host.schedule(anyio.lowlevel.checkpoint)]
            for task in tasks:
                await task.wait()
            return [weakref.ref(task) for task in tasks]

        async with TaskHost(observers=[observer]) as host:
            refs = await run()
            await turns(3)
            gc.collect()
            assert [ref() for ref in refs] == [None, None]
        assert observer._lives == {}

    async def test_an_observer_added_later_knows_only_tasks_that_are_scheduled_later_g20(self, sdk: Telemetry) -> None:
        go_on = anyio.Event()
        async with TaskHost() as host:
            with pytest.raises(TypeError, match="must be instances of a subclass of TaskObserver"):
                host.add_observer(object())  # type: ignore[arg-type]
            async with host.scope() as tasks:
                early = [
                    host.schedule(go_on.wait),
                    tasks.after_response.schedule(anyio.lowlevel.checkpoint),
                    host.task(retry=retry(attempts=2, backoff=0, jitter=False)).schedule(Work("retry").run),
                ]
                await early[0].started.wait()
                host.add_observer(sdk.observer())
                late = host.schedule(anyio.lowlevel.checkpoint)
            go_on.set()
            for task in [*early, late]:
                await task.wait()
        assert [of(span, "id") for span in sdk.spans()] == [(late.id,)]
        assert set(sdk.points("taskphase.tasks").values()) <= {0}

    async def test_a_host_that_is_not_open_takes_no_observer_g20(self, sdk: Telemetry) -> None:
        with pytest.raises(TasksClosedError):
            TaskHost().add_observer(sdk.observer())

    @pytest.mark.parametrize("where", ["on_start", "on_end"])
    async def test_a_span_processor_that_raises_costs_no_other_span_g3_g20(
        self, sdk: Telemetry, logged: Callable[[], list[tuple[str, str]]], where: str
    ) -> None:
        class RaisesTwice(SpanProcessor):
            calls = 0

            def fail(self) -> None:
                self.calls += 1
                if self.calls in {2, 4}:
                    raise LookupError("the processor")

            def on_start(self, span: Span, parent_context: Context | None = None) -> None:
                if where == "on_start":
                    self.fail()

            def on_end(self, span: ReadableSpan) -> None:
                if where == "on_end":
                    self.fail()

        sdk.tracer_provider.add_span_processor(RaisesTwice())
        observer = sdk.observer()
        with sdk.tracer.start_as_current_span("cause") as cause:
            async with TaskHost(observers=[observer]) as host:
                for _ in range(6):
                    await host.schedule(anyio.lowlevel.checkpoint)
            assert get_current_span() is cause
        text = "OpenTelemetry raised at the begin or end of an attempt; its further exceptions are not logged"
        assert logged() == [("ERROR", text)]
        assert len(sdk.spans()) == (4 if where == "on_start" else 6)
        assert list(sdk.counts("taskphase.task.duration").values()) == [6]
        assert observer._lives == {}


class TestMetrics:
    async def test_ends_are_counted_by_function_phase_and_outcome_g20(self, sdk: Telemetry) -> None:
        async def fail() -> None:
            raise LookupError

        again = retry(attempts=3, backoff=0, jitter=False)
        async with TaskHost(observers=[sdk.observer()], max_pending=1) as host:
            with suppress(ZeroDivisionError):
                async with host.scope() as tasks, tasks.route():
                    tasks.after_route.schedule(anyio.lowlevel.checkpoint)
                    with pytest.raises(TasksSaturatedError):
                        tasks.after_route.schedule(fail)
                    raise ZeroDivisionError
            await host.task(name="a name is no label", retry=again).schedule(fail).wait()
            await host.schedule(anyio.lowlevel.checkpoint).wait()
        with pytest.raises(TasksClosedError):
            host.schedule(fail)
        assert sdk.counts("taskphase.task.duration") == {
            ("fail", "error=LookupError", "outcome=retried", "phase=immediate"): 2,
            ("fail", "error=LookupError", "outcome=failed", "phase=immediate"): 1,
            ("checkpoint", "outcome=succeeded", "phase=immediate"): 1,
        }
        assert sdk.counts("taskphase.task.wait") == {
            ("fail", "phase=immediate"): 3,
            ("checkpoint", "phase=immediate"): 1,
        }
        assert sdk.points("taskphase.task.retried") == {("fail", "phase=immediate"): 2}
        assert sdk.points("taskphase.task.dropped") == {("checkpoint", "phase=after_route"): 1}
        assert sdk.points("taskphase.task.refused") == {
            ("fail", "error=taskphase.TasksSaturatedError"): 1,
            ("fail", "error=taskphase.TasksClosedError"): 1,
        }

    async def test_tasks_are_counted_by_state_g20(self, sdk: Telemetry) -> None:
        go_on = anyio.Event()

        async def wait() -> None:
            await go_on.wait()

        async def flaky() -> None:
            if current_task().attempt == 1:
                raise LookupError

        def states() -> dict[tuple[str, ...], int]:
            return {(name, state.removeprefix("state=")): value for (name, state), value in tasks_by_state().items()}

        def tasks_by_state() -> dict[tuple[str, ...], int]:
            return sdk.points("taskphase.tasks")

        limit = Limit(1)
        async with TaskHost(observers=[sdk.observer()]) as host:
            async with host.scope() as tasks:
                deferred = tasks.after_response.schedule(wait)
                running = host.task(limit=limit).schedule(wait)
                limited = host.task(limit=limit).schedule(wait)
                retrying = host.task(retry=lambda task, error: 60).schedule(flaky)
                delayed = host.task(delay=60).schedule(wait)
                moved = host.task(delay=0.001, limit=limit).schedule(wait)
                await running.started.wait()
                await until(lambda: (retrying.status.value, moved.status.value) == ("retrying", "limited"))
                assert states() == {
                    ("wait", "deferred"): 1,
                    ("wait", "running"): 1,
                    ("wait", "limited"): 2,
                    ("wait", "delayed"): 1,
                    ("flaky", "retrying"): 1,
                }
            retrying.cancel()
            delayed.cancel()
            await deferred.started.wait()
            assert states() == {
                ("wait", "deferred"): 0,
                ("wait", "running"): 2,
                ("wait", "limited"): 2,
                ("wait", "delayed"): 0,
                ("flaky", "retrying"): 0,
            }
            go_on.set()
            for task in (running, limited, moved, deferred):
                await task.wait()
        assert set(states().values()) == {0}

    @on_each_loop
    def test_durations_and_waits_are_seconds_without_delays_and_pauses_g16_g18(
        self, sdk: Telemetry, backend: Any
    ) -> None:
        limit = Limit(1)

        async def work() -> None:
            await anyio.sleep(2)
            if current_task().attempt == 1:
                raise LookupError

        async def handle(task: Task[Any], error: Exception) -> None:
            await anyio.sleep(3)

        async def main() -> None:
            async with TaskHost(observers=[sdk.observer()], drain_timeout=1000) as host:
                host.task(name="first", delay=10, retry=lambda task, error: 20, limit=limit).schedule(work)
                host.task(name="second", delay=11, on_error=handle, limit=limit).schedule(work)

        simulate(main, backend=backend).result()
        assert [
            (*of(span, "name", "attempt"), pytest.approx(of(span, "wait")[0], abs=0.01)) for span in sdk.spans()
        ] == [("first", 1, 0), ("second", 1, 1), ("first", 2, 0)]
        durations = sdk.points("taskphase.task.duration")
        assert {labels[2]: (point.count, pytest.approx(point.sum)) for labels, point in durations.items()} == {
            "outcome=retried": (1, 2),
            "outcome=failed": (1, 5),
            "phase=immediate": (1, 2),
        }
        [waits] = sdk.points("taskphase.task.wait").values()
        assert (waits.count, waits.sum) == (3, pytest.approx(1))
        assert waits.explicit_bounds[:2] == (0.005, 0.01)

    async def test_observers_of_one_provider_are_counted_together_g20(self, sdk: Telemetry) -> None:
        async with (
            TaskHost(observers=[sdk.observer()], max_pending=0) as first,
            TaskHost(observers=[sdk.observer()], max_pending=0) as second,
        ):
            for host in (first, second):
                host.schedule(anyio.sleep_forever)
                async with host.scope() as tasks:
                    with pytest.raises(TasksSaturatedError):
                        tasks.after_response.schedule(anyio.sleep_forever)
            await turns(3)
            assert sdk.points("taskphase.tasks") == {("sleep_forever", "state=running"): 2}
            assert list(sdk.points("taskphase.task.refused").values()) == [2]

    async def test_a_provider_keeps_no_observer_g20(self, sdk: Telemetry) -> None:
        def of_one_host() -> weakref.ref[TraceTasks]:
            return weakref.ref(sdk.observer())

        gone = [of_one_host() for _ in range(3)]
        gc.collect()
        assert [ref() for ref in gone] == [None] * 3
        assert counts_of(sdk.meter_provider)._lives == []
        async with TaskHost(observers=[sdk.observer()]) as host:
            host.schedule(anyio.sleep_forever)
            await turns(3)
            assert sdk.points("taskphase.tasks") == {("sleep_forever", "state=running"): 1}

    def test_each_provider_has_counts_of_its_own_though_all_are_equal_g20(self) -> None:
        @dataclass
        class Provider(NoOpMeterProvider):  # a dataclass without a hash
            pass

        first, second = Provider(), Provider()
        assert counts_of(first) is counts_of(first)
        assert counts_of(first) is not counts_of(second)

    @pytest.mark.parametrize("metric", ["taskphase.task.duration", "taskphase.task.wait"])
    async def test_a_measurement_is_an_example_of_its_span(self, sdk: Telemetry, metric: str) -> None:
        async with TaskHost(observers=[sdk.observer()]) as host:
            await host.schedule(anyio.lowlevel.checkpoint).wait()
        [span] = sdk.spans()
        [point] = sdk.points(metric).values()
        assert [each.span_id for each in point.exemplars] == [id_of(span)]

    async def test_code_that_the_reader_of_metrics_calls_can_schedule_g8(self, sdk: Telemetry) -> None:
        async with TaskHost(observers=[sdk.observer()], drain_timeout=DRAIN) as host:

            def observe(_: CallbackOptions) -> list[Observation]:
                host.schedule(anyio.lowlevel.checkpoint)
                return []

            sdk.meter_provider.get_meter("taskphase").create_observable_gauge("mine", [observe])
            sdk.points("mine")
            await anyio.to_thread.run_sync(sdk.points, "mine")
        assert len(sdk.spans()) == 2

    async def test_a_finalizer_can_schedule_while_the_sdk_has_a_lock_g8(self, sdk: Telemetry) -> None:
        """The locks of the SDK are not reentrant, so `schedule()` itself must not measure."""
        views: list[Any] = []
        async with TaskHost(observers=[sdk.observer()], max_pending=1) as host:
            await host.schedule(anyio.lowlevel.checkpoint).wait()
            sdk.points("taskphase.tasks")
            for storage in sdk.meter_provider._measurement_consumer._reader_storages.values():
                for matches in storage._instrument_view_instrument_matches.values():
                    for match in matches:
                        views += [match, *match._attributes_aggregation.values()]
            assert len(views) == 4  # of two histograms
            for view in views:
                view._lock.acquire()
            try:
                async with host.scope() as tasks:
                    tasks.after_response.schedule(anyio.lowlevel.checkpoint)
                    with pytest.raises(TasksSaturatedError):
                        tasks.after_response.schedule(anyio.lowlevel.checkpoint)
                    host.schedule(anyio.lowlevel.checkpoint).cancel()
                    for task in host.tasks():
                        task.cancel()
            finally:
                for view in views:
                    view._lock.release()


class TestSettings:
    @pytest.mark.parametrize("name", ["tracer_provider", "meter_provider"])
    def test_a_provider_of_another_kind_is_refused(self, sdk: Telemetry, name: str) -> None:
        wrong = {"tracer_provider": sdk.meter_provider, "meter_provider": sdk.tracer_provider}[name]
        with pytest.raises(TypeError, match=f"{name} must be a .* of OpenTelemetry, not"):
            TraceTasks(**{name: wrong})  # type: ignore[arg-type]

    def test_an_unknown_trace_is_refused(self) -> None:
        with pytest.raises(ValueError, match='trace must be "child" or "link", not \'parent\''):
            TraceTasks(trace="parent")  # type: ignore[arg-type]


def run(code: str) -> str:
    """Run `code` in a new process: OpenTelemetry takes a global provider once."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_the_core_imports_opentelemetry_only_with_its_module() -> None:
    found = "[name for name in sys.modules if name.startswith('opentelemetry')]"
    assert run(f"import sys, taskphase, taskphase.testing; print({found})") == "[]\n"


@pytest.mark.parametrize("package", ["taskphase", "fastapi_tasks"])
def test_an_import_without_opentelemetry_says_what_to_install(package: str) -> None:
    # FastAPI may have the package already: only the next import must fail.
    text = run(f"import sys, {package}; sys.modules['opentelemetry.context'] = None; import {package}.opentelemetry")
    assert text.splitlines()[-1] == (
        "ImportError: taskphase.opentelemetry needs the package opentelemetry-api: pip install opentelemetry-sdk"
    )


GLOBAL = """
import anyio, logging
from opentelemetry import metrics, trace
from tests.telemetry import Telemetry
from taskphase import TaskHost
from taskphase._metering import counts_of
from taskphase.opentelemetry import TraceTasks

async def main():
    sdk = Telemetry()
    early = TraceTasks()
    async with TaskHost(observers=[early]) as host:
        await host.schedule(anyio.lowlevel.checkpoint)
    trace.set_tracer_provider(sdk.tracer_provider)
    metrics.set_meter_provider(sdk.meter_provider)
    async with TaskHost(observers=[early]) as first, TaskHost(observers=[TraceTasks()]) as second:
        first.schedule(anyio.sleep_forever)
        second.schedule(anyio.sleep_forever)
        await anyio.sleep(0.01)
        print(*sdk.points("taskphase.tasks").values())
    print(*[span.name for span in sdk.spans()])

logging.disable()
anyio.run(main)
"""


def test_a_global_provider_is_used_from_the_moment_on_at_which_it_is_set() -> None:
    assert run(GLOBAL) == "2\ntask anyio.sleep_forever task anyio.sleep_forever\n"
