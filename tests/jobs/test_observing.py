"""The recipes of docs/how-to/observability.md, for async and sync functions: spans, metrics, a task that hangs.

Also the data that reaches an error tracker: no argument in a log line, but the local variables of the functions.
"""

import logging
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace
from tests.repo.test_docs import ROOT, executed, programs

from fastapi_tasks import TaskHost, Tasks
from fastapi_tasks.testing import record_tasks

WITHIN = 10.0  # seconds
each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@contextmanager
def recipe(heading: str) -> Generator[ModuleType]:
    page = ROOT / "docs/how-to/observability.md"
    [program] = [program for program in programs(page) if program.id.endswith(f"#{heading}")]
    with executed(program) as module:
        yield module


class RecordingTracer:
    """Replaces a tracer of OpenTelemetry's SDK: notes the begin, the end and the thread of each span."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []

    @contextmanager
    def start_as_current_span(self, name: str, *_: Any, links: list[trace.Link]) -> Generator[trace.Span]:
        assert len(links) == 1
        self.events.append(("begins", name, threading.get_ident()))
        try:
            with trace.use_span(trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)) as span:
                yield span
        finally:
            self.events.append(("ends", name, threading.get_ident()))


@each_backend
@pytest.mark.parametrize(("path", "name", "kind"), [("/orders/7", "mail", "async"), ("/invoices/7", "invoice", "sync")])
def test_a_span_lasts_as_long_as_an_async_and_a_sync_function_g7_g8(
    backend: str, path: str, name: str, kind: str
) -> None:
    with recipe("a-span-for-each-task") as module:
        module.tracer = tracer = RecordingTracer()
        module.print = lambda text: tracer.events.append(("works", text.split()[0], threading.get_ident()))
        with record_tasks(module.app) as tasks, TestClient(module.app, backend=backend) as client:
            assert client.portal is not None
            loop_thread = client.portal.call(threading.get_ident)
            client.post(path)
            tasks.wait_all()
    assert [event[:2] for event in tracer.events] == [("begins", name), ("works", name), ("ends", name)]
    [thread] = {event[2] for event in tracer.events}
    assert (thread == loop_thread) is (kind == "async")


@each_backend
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_each_hanging_task_is_told(backend: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait(WITHIN)

    async def begin(tasks: Tasks) -> None:
        for _ in range(2):
            tasks.task(name="twin").schedule(hang)

    with recipe("a-task-that-hangs") as module:
        told = spy_on(module, "tell")
        module.app.add_api_route("/sync", begin, methods=["POST"])
        with TestClient(module.app, backend=backend) as client:
            try:
                client.post("/catalogues/7" if kind == "async" else "/sync")
                assert told.wait(WITHIN)
            finally:
                go_on.set()
    pages = [f"catalogue 7, page {page} hangs: update_catalogue > fetch_prices" for page in (1, 2)]
    assert capsys.readouterr().out.splitlines() == (pages if kind == "async" else ["twin hangs: in a thread"] * 2)


@each_backend
@pytest.mark.parametrize("heading", ["metrics", "a-task-that-hangs"])
def test_a_watcher_in_another_host_ends_when_the_app_shuts_down_g9(
    backend: str, heading: str, caplog: pytest.LogCaptureFixture
) -> None:
    with recipe(heading) as module, TestClient(module.app, backend=backend):
        pass
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def spy_on(module: ModuleType, name: str) -> threading.Event:
    """Return an event that is set when the function of a recipe has been called."""
    called, function = threading.Event(), getattr(module, name)

    def spied(*args: Any) -> None:
        function(*args)
        called.set()

    setattr(module, name, spied)
    return called


async def charge(card: str) -> None:
    raise ValueError("declined")


def charge_in_a_thread(card: str) -> None:
    raise ValueError("declined")


@pytest.mark.parametrize("function", [charge, charge_in_a_thread], ids=["async", "sync"])
async def test_a_log_line_has_no_argument_but_the_local_variables_have_g4(
    function: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with TaskHost() as host:
        with anyio.fail_after(WITHIN):
            await host.schedule(function, "a secret").wait()
    [record] = caplog.records
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert error is not None
    assert "secret" not in logging.Formatter().format(record)
    with_locals = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert "secret" in "".join(with_locals.format())  # as a tracker shows them
