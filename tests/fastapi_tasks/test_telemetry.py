"""G6, G13, G20: `add_tasks(telemetry=...)`, beside the telemetry of FastAPI and of OpenTelemetry's instrumentation.

OpenTelemetry takes a global provider once, so each test with a global provider is a new process.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, HTTPException
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.trace import get_current_span
from tests import wire
from tests.fastapi_tasks.apps import app_with_tasks, host_of, serving
from tests.telemetry import Telemetry, id_of, of, spans_of_records

from fastapi_tasks import LogTasks, Tasks, add_tasks, retry

PHASES = ["immediate", "after_route", "after_response"]

# FastAPI has telemetry of its own since 0.142.
by_fastapi = pytest.mark.skipif(
    "telemetry" not in inspect.signature(FastAPI.__init__).parameters, reason="this FastAPI has no telemetry"
)


@pytest.fixture
def sdk() -> Telemetry:
    return Telemetry()


class Work:
    """The functions of an app's tasks. Each notes if the current span records, and sets an attribute of the span."""

    def __init__(self) -> None:
        self.records: list[bool] = []

    def look(self) -> None:
        span = get_current_span()
        span.set_attribute("mine", True)
        self.records.append(span.is_recording())

    async def run(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.look()

    async def fail(self) -> None:
        await self.run()
        raise LookupError

    def app(self, app: FastAPI, func: Callable[[], Any], **settings: Any) -> FastAPI:
        """Return `app` with an endpoint that schedules `func` in each phase, and an endpoint that fails."""

        async def endpoint(tasks: Tasks) -> None:
            define = tasks.task(retry=retry(attempts=2, backoff=0, jitter=False))
            define.after_response.schedule(func)
            define.after_route.schedule(func)
            define.schedule(func)

        async def refuse(tasks: Tasks) -> None:
            tasks.after_response.schedule(func)
            raise HTTPException(418)

        app = app_with_tasks(app, **settings)
        app.add_api_route("/orders/{order}", endpoint, methods=["POST"])
        app.add_api_route("/refused", refuse)
        return app


def check(sdk: Telemetry, parent: str, *, attempts: int = 1) -> None:
    """Check the spans of one request: one for each attempt in each phase, children of the span `parent`."""
    spans = sdk.spans()
    assert sorted(of(span, "phase", "attempt") for span in spans) == sorted(
        (phase, attempt) for phase in PHASES for attempt in range(1, attempts + 1)
    )
    [cause] = sdk.spans(parent)
    assert {span.parent.span_id for span in spans if span.parent is not None} == {id_of(cause)}
    assert {span.context.trace_id for span in spans} == {cause.context.trace_id}
    assert {span.attributes.get("mine") for span in spans} == {True}


class TestBesideFastAPI:
    @by_fastapi
    @pytest.mark.parametrize("kind", ["async", "def", "partial"])
    async def test_the_tasks_of_a_request_are_in_the_trace_of_fastapi_g6_g20(self, sdk: Telemetry, kind: str) -> None:
        work = Work()
        func: Callable[[], Any] = {"async": work.run, "def": work.look, "partial": partial(work.run)}[kind]
        app = work.app(FastAPI(telemetry=sdk.providers), func, telemetry=sdk.providers)
        async with serving(app) as server:
            assert (await server.request("POST", "/orders/7")).status == 200
        check(sdk, "fastapi.endpoint")
        assert work.records == [True] * 3
        [request] = sdk.spans("POST /orders/{order}")
        assert {span.context.trace_id for span in sdk.exporter.get_finished_spans()} == {request.context.trace_id}
        assert sum(sdk.counts("taskphase.task.duration").values()) == 3

    @by_fastapi
    async def test_each_attempt_has_a_span_and_the_log_record_has_its_id_g4_g16_g20(self, sdk: Telemetry) -> None:
        work = Work()
        app = work.app(FastAPI(telemetry=sdk.providers), work.fail, telemetry=sdk.providers)
        with spans_of_records() as records:
            async with serving(app) as server:
                await server.request("POST", "/orders/7")
        check(sdk, "fastapi.endpoint", attempts=2)
        failed = {id_of(span) for span in sdk.spans() if of(span, "outcome", "error.type") == ("failed", "LookupError")}
        assert len(failed) == 3
        assert {record[1:] for record in records if record[0] == "ERROR"} == {(each, True) for each in failed}

    @by_fastapi
    async def test_a_task_that_is_dropped_with_its_route_has_no_span_g5_g20(self, sdk: Telemetry) -> None:
        work = Work()
        app = work.app(FastAPI(telemetry=sdk.providers), work.run, telemetry=sdk.providers)
        async with serving(app) as server:
            assert (await server.get("/refused")).status == 418
        assert sdk.spans() == []
        assert sdk.points("taskphase.task.dropped") == {("run", "phase=after_response"): 1}

    @by_fastapi
    async def test_a_link_leads_to_the_endpoint_g20(self, sdk: Telemetry) -> None:
        work = Work()
        app = work.app(FastAPI(telemetry=sdk.providers), work.run, telemetry={**sdk.providers, "trace": "link"})
        async with serving(app) as server:
            await server.request("POST", "/orders/7")
        [endpoint] = sdk.spans("fastapi.endpoint")
        assert [[link.context for link in span.links] for span in sdk.spans()] == [[endpoint.context]] * 3
        assert [span.parent for span in sdk.spans()] == [None] * 3


class TestBesideInstrumentation:
    """`opentelemetry-instrumentation-fastapi` wraps the middleware of the app."""

    @pytest.mark.parametrize("order", ["before add_tasks()", "after add_tasks()"])
    async def test_the_tasks_of_a_request_are_in_the_trace_of_the_instrumentation_g6_g20(
        self, sdk: Telemetry, order: str
    ) -> None:
        work = Work()
        app = FastAPI()
        if order == "before add_tasks()":
            FastAPIInstrumentor.instrument_app(app, **sdk.providers)
        work.app(app, work.fail, telemetry=sdk.providers)
        if order == "after add_tasks()":
            FastAPIInstrumentor.instrument_app(app, **sdk.providers)
        async with serving(app) as server:
            await server.request("POST", "/orders/7")
        FastAPIInstrumentor.uninstrument_app(app)
        [request] = [span for span in sdk.spans("POST /orders/{order}") if span.kind.name == "SERVER"]
        assert [span.parent for span in sdk.spans()] == [request.context] * 6
        assert sorted(of(span, "phase", "attempt") for span in sdk.spans()) == sorted(
            (phase, attempt) for phase in PHASES for attempt in (1, 2)
        )
        assert work.records == [True] * 6

    @pytest.mark.parametrize("order", ["before add_tasks()", "after add_tasks()"])
    async def test_the_spans_stay_when_the_instrumentation_is_taken_away_again_g20(
        self, sdk: Telemetry, order: str
    ) -> None:
        work = Work()
        app = FastAPI()
        if order == "before add_tasks()":
            FastAPIInstrumentor.instrument_app(app, **sdk.providers)
        work.app(app, work.run, telemetry=sdk.providers)
        if order == "after add_tasks()":
            FastAPIInstrumentor.instrument_app(app, **sdk.providers)
        FastAPIInstrumentor.uninstrument_app(app)
        async with serving(app) as server:
            await server.request("POST", "/orders/7")
        assert [span.parent for span in sdk.spans()] == [None] * 3
        assert sdk.spans("POST") == []


class TestExplicit:
    async def test_other_observers_are_told_inside_of_the_span_g20(self, sdk: Telemetry) -> None:
        app = Work().app(FastAPI(), anyio.lowlevel.checkpoint, telemetry=sdk.providers, observers=[LogTasks()])
        with spans_of_records() as records:
            async with serving(app) as server:
                await server.request("POST", "/orders/7")
        assert sorted(records) == sorted(("DEBUG", id_of(span), True) for span in sdk.spans() * 2)
        assert len(records) == 6

    async def test_tasks_of_the_startup_have_spans_too_g14_g20(self, sdk: Telemetry) -> None:
        work = Work()
        app = work.app(FastAPI(), work.run, telemetry=sdk.providers)
        async with serving(app):
            await host_of(app).schedule(work.run).wait()
            assert len(sdk.spans()) == 1

    @pytest.mark.parametrize("hold", [True, False])
    async def test_a_request_with_a_host_of_its_own_has_spans_g13_g20(
        self, sdk: Telemetry, hold: bool, warned: Callable[[], list[str]]
    ) -> None:
        work = Work()
        app = work.app(FastAPI(), work.run, telemetry=sdk.providers, hold=hold)
        for _ in range(2):
            assert (await wire.request(app, "POST", "/orders/7")).status == 200
        assert len(sdk.spans()) == 6
        assert len(warned()) == (0 if hold else 1)

    @pytest.mark.parametrize(
        ("telemetry", "error", "message"),
        [
            (True, TypeError, "telemetry must be None, False or a dict, not True"),
            (0, TypeError, "telemetry must be None, False or a dict, not 0"),
            ("link", TypeError, "telemetry must be None, False or a dict, not 'link'"),
            ({"traces": "link"}, TypeError, "telemetry has no setting 'traces': its settings are tracer_provider, "),
            ({"trace": "links"}, ValueError, 'trace must be "child" or "link", not \'links\''),
            ({"tracer_provider": object}, TypeError, "tracer_provider must be a TracerProvider of OpenTelemetry"),
            ({"meter_provider": 1}, TypeError, "meter_provider must be a MeterProvider of OpenTelemetry, not 1"),
        ],
    )
    def test_wrong_settings_are_refused_at_once(self, telemetry: Any, error: type[Exception], message: str) -> None:
        app = FastAPI()
        with pytest.raises(error, match=message):
            add_tasks(app, telemetry=telemetry)
        add_tasks(app, telemetry={})

    def test_an_observer_for_opentelemetry_beside_the_settings_is_refused_g20(self, sdk: Telemetry) -> None:
        app = FastAPI()
        with pytest.raises(ValueError, match="observers has a TraceTasks, and telemetry="):
            add_tasks(app, observers=[sdk.observer()], telemetry=sdk.providers)
        add_tasks(app, observers=[sdk.observer()])


HEAD = """
import sys
from contextlib import asynccontextmanager
import anyio
from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from fastapi_tasks import TaskObserver, Tasks, add_tasks, current_host
from tests import wire

exporter = InMemorySpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
looks = 0
get = trace.get_tracer_provider

def counting():
    global looks
    looks += sys._getframe(1).f_globals["__name__"].startswith("fastapi_tasks")
    return get()

trace.get_tracer_provider = counting

async def early(): ...
async def work(): ...

def app_of(app=None, **settings):
    app = app or FastAPI()
    add_tasks(app, drain_timeout=5, **settings)
    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_route.schedule(work)
    return app

def show():
    names = [span.name for span in exporter.get_finished_spans() if span.name.startswith("task ")]
    print(*[f"{name} {names.count(name)}," for name in dict.fromkeys(names)], f"{looks} looks")
    exporter.clear()

async def serve(app, requests=3):
    async with wire.lifespan(app):
        for _ in range(requests):
            assert (await wire.request(app)).status == 200
    show()

async def serve_alone(app, requests=3):
    for _ in range(requests):
        assert (await wire.request(app)).status == 200
    show()
"""


def run(code: str, backend: str = "asyncio", *, head: str = HEAD, **environment: str) -> list[str]:
    """Run `code`, which may define `main()`, in a new process. Return the lines of its output."""
    tail = f"\nif 'main' in globals():\n    anyio.run(main, backend={backend!r})\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", head + code + tail],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return (done.stdout + done.stderr).splitlines()


on_each_loop = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@on_each_loop
class TestGlobalProvider:
    def test_a_provider_that_the_program_has_set_is_found_once_g20(self, backend: str) -> None:
        code = """
trace.set_tracer_provider(provider)
async def main():
    await serve(app_of())
"""
        assert run(code, backend) == ["task __main__.work 3, 1 looks"]

    def test_a_provider_that_the_startup_sets_is_found_and_tasks_before_have_no_span_g20(self, backend: str) -> None:
        code = """
@asynccontextmanager
async def lifespan(app):
    await current_host().schedule(early)
    if not looks:
        trace.set_tracer_provider(provider)
    current_host().schedule(early)
    yield
async def main():
    app = app_of(FastAPI(lifespan=lifespan))
    await serve(app)
    await serve(app)  # the second lifespan has the provider from its start
"""
        assert run(code, backend) == ["task __main__.work 3, 1 looks", "task __main__.work 3, 1 looks"]

    def test_other_observers_are_told_inside_of_the_span_g20(self, backend: str) -> None:
        code = """
class Tenant(TaskObserver):
    def started(self, task, /):
        trace.get_current_span().set_attribute("tenant", "acme")
async def main():
    app = app_of(observers=[Tenant()])
    trace.set_tracer_provider(provider)
    async with wire.lifespan(app):
        await wire.request(app)
    print([span.attributes.get("tenant") for span in exporter.get_finished_spans() if span.name.startswith("task ")])
"""
        assert run(code, backend) == ["['acme']"]

    def test_without_a_lifespan_the_first_request_finds_the_provider_g13_g20(self, backend: str) -> None:
        code = """
async def main():
    app = app_of(hold=True)
    late = app_of(hold=True)
    trace.set_tracer_provider(provider)
    await serve_alone(app)
    await serve_alone(late)
"""
        assert run(code, backend) == ["task __main__.work 3, 1 looks", "task __main__.work 3, 2 looks"]

    def test_without_a_provider_the_app_looks_once_and_observes_nothing_g20(self, backend: str) -> None:
        code = """
async def main():
    app, alone = app_of(), app_of(hold=True)
    await serve(app)
    await serve_alone(alone)
    await serve(app)  # another lifespan looks again
    trace.set_tracer_provider(provider)
    await serve(app)
    print("taskphase.opentelemetry" in sys.modules)
"""
        assert run(code, backend) == ["1 looks", "2 looks", "3 looks", "task __main__.work 3, 4 looks", "True"]

    def test_false_switches_telemetry_off_g20(self, backend: str) -> None:
        code = """
trace.set_tracer_provider(provider)
async def main():
    await serve(app_of(telemetry=False))
    await serve_alone(app_of(telemetry=False, hold=True))
    print("taskphase.opentelemetry" in sys.modules)
"""
        assert run(code, backend) == ["0 looks", "0 looks", "False"]

    def test_an_app_with_the_observer_has_one_span_for_each_task_g20(self, backend: str) -> None:
        code = """
from taskphase.opentelemetry import TraceTasks
trace.set_tracer_provider(provider)
async def main():
    await serve(app_of(observers=[TraceTasks()]))
    await serve(app_of(telemetry={}))
"""
        assert run(code, backend) == ["task __main__.work 3, 1 looks"] * 2

    def test_a_meter_provider_alone_is_found_g20(self, backend: str) -> None:
        code = """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
async def main():
    await serve(app_of())
    scopes = reader.get_metrics_data().resource_metrics[0].scope_metrics
    print(*[metric.name for scope in scopes if scope.scope.name == "taskphase" for metric in scope.metrics])
"""
        assert run(code, backend) == ["1 looks", "taskphase.task.wait taskphase.task.duration"]

    @by_fastapi
    def test_beside_fastapi_all_spans_of_a_request_have_one_trace_g6_g20(self, backend: str) -> None:
        code = """
async def main():
    trace.set_tracer_provider(provider)
    async with wire.lifespan(app := app_of()):
        await wire.request(app)
    spans = exporter.get_finished_spans()
    print(len({span.context.trace_id for span in spans}), *sorted(span.name for span in spans))
"""
        names = "GET / fastapi.dependencies fastapi.endpoint fastapi.serialization task __main__.work"
        assert run(code, backend) == [f"1 {names}"]

    def test_the_instrumentation_of_all_apps_is_put_on_and_taken_off_g12_g20(self, backend: str) -> None:
        code = """
import fastapi
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
trace.set_tracer_provider(provider)
instrumentor = FastAPIInstrumentor()
async def main():
    instrumentor.instrument()
    app = app_of(fastapi.FastAPI())
    async with wire.lifespan(app):
        await wire.request(app)
    spans = exporter.get_finished_spans()
    names = [span.name for span in spans if "http send" not in span.name]
    print(len({span.context.trace_id for span in spans}), *names)
    exporter.clear()
    instrumentor.uninstrument()
    await serve(app_of(fastapi.FastAPI()))
"""
        assert run(code, backend) == ["1 task __main__.work GET /", "task __main__.work 3, 2 looks"]


def test_an_import_of_the_binding_adds_nothing_of_opentelemetry() -> None:
    code = """
import sys, fastapi, fastapi.applications
def names(): return {name for name in sys.modules if name.partition(".")[0] == "opentelemetry"}
before = names()
import fastapi_tasks, fastapi_tasks.testing
app = fastapi.FastAPI()
fastapi_tasks.add_tasks(app)
print(names() - before, "taskphase.opentelemetry" in sys.modules)
"""
    assert run(code, head="") == ["set() False"]


@by_fastapi
def test_providers_that_fastapi_configures_itself_are_found_g20() -> None:
    """FastAPI sets its provider when the server asks for the startup: after the host has opened."""
    code = """
from types import ModuleType
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
sent = []

class OTLPSpanExporter(SpanExporter):
    def __init__(self, endpoint): ...
    def export(self, spans):
        sent.extend(span.name for span in spans)
        return SpanExportResult.SUCCESS
    def shutdown(self): ...

# The package with the real exporters needs a server.
for name, of_signal in (("trace", "Span"), ("metric", "Metric"), ("_log", "Log")):
    module = ModuleType(f"opentelemetry.exporter.otlp.proto.http.{name}_exporter")
    setattr(module, f"OTLP{of_signal}Exporter", OTLPSpanExporter)
    sys.modules[module.__name__] = module

async def main():
    await serve(app_of(FastAPI(telemetry={"auto_configure": True, "metrics": False, "logs": False})), requests=1)
    print(sent.count("task __main__.work"), "fastapi.endpoint" in sent)
"""
    assert run(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1") == ["1 looks", "1 True"]
