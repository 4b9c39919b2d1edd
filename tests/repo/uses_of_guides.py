"""How tests use the blocks of docs/getting-started.md, docs/tutorial/, docs/how-to/ and a few others.

The expected output is in the pages. The rows of the migration guides are in uses_of_migration.py.
"""

from __future__ import annotations

import gc
import logging
import re
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import chdir, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import anyio
import pytest
from fastapi import WebSocketDisconnect
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Message
from tests import wire
from tests.repo.uses import Use, logged, requests, serving

from fastapi_tasks import Task
from fastapi_tasks.testing import JumpClock, record_tasks
from taskphase.testing import simulate

TOLD_WITHIN = 10.0  # seconds


def reports_from_a_process(module: ModuleType) -> None:
    expect_from_a_process(module, "docs/tutorial/settings.md#cpu-work-in-a-process", "report of 1000 lines")


def reports_from_a_main_module(module: ModuleType) -> None:
    """The tests of scripts run the same program as a main module."""
    expect_from_a_process(module, "docs/tutorial/settings.md#a-program-that-starts-its-own-server", "report 1000")


def expect_from_a_process(module: ModuleType, program: str, report: str) -> None:
    """Let a worker process import the program, so from a file."""
    from tests.repo.test_scripts import source_of

    with TemporaryDirectory() as folder:
        Path(folder, "main.py").write_text(source_of(program))
        sys.path.insert(0, folder)
        try:
            with serving(module) as client:
                assert client.post("/reports/1000").json() == report
        finally:
            sys.path.remove(folder)


def one_by_one(*expected: tuple[str, str, int]) -> Callable[[ModuleType], None]:
    """Like `requests`, but all tasks of one request end, within the app's `drain_timeout`, before the next request."""

    def run(module: ModuleType) -> None:
        for request in expected:
            requests(request)(module)

    return run


def answers(*expected: tuple[str, str, int, object]) -> Callable[[ModuleType], None]:
    """Like `requests`, with the JSON of each answer; in virtual time, because a busy machine changes the order."""

    def run(module: ModuleType) -> None:
        async def send_all() -> None:
            async with wire.lifespan(module.app) as state:
                for method, target, status, json in expected:
                    path, _, query = target.partition("?")
                    response = await wire.request(module.app, method, path, query=query.encode(), state=state)
                    assert (response.status, response.json()) == (status, json), target
                    await anyio.sleep(0.01)

        simulate(send_all).result()

    return run


def use_getting_started(module: ModuleType) -> None:
    clock = JumpClock()
    with serving(module, clock) as client:
        with record_tasks(module.app) as tasks:
            assert client.post("/orders/7").json() == {"order": 7}
            tasks.of(module.publish).wait_all()
            tasks.of(module.send_mail).wait_all()
            clock.jump(10)
            tasks.wait_all()
        with record_tasks(module.app) as tasks:
            tasks.of(module.refund).expect_failure(ConnectionError)
            assert client.post("/refunds/7").json() == {"status": "accepted"}
            tasks.wait_all()
        assert client.post("/payments/7").status_code == 200
    with redirect_stdout(StringIO()):  # what the test of the page prints is not in the page
        module.test_each_task_has_its_phase()


def use_watched_shutdown(module: ModuleType) -> None:
    with serving(module, JumpClock()) as client, record_tasks(module.app) as tasks:
        assert client.post("/orders").status_code == 200
        tasks.of("count").wait_all()


def use_router(module: ModuleType) -> None:
    with serving(module) as client:
        assert client.delete("/orders/7", headers={"user": "admin"}).status_code == 200
        assert client.delete("/orders/7", headers={"user": "guest"}).status_code == 403


def use_request_ids(module: ModuleType) -> None:
    logging.getLogger("fastapi_tasks").setLevel(logging.WARNING)  # how long the drain took is not in the page
    with serving(module) as client:
        assert client.post("/orders/7", headers={"x-request-id": "r-1"}).status_code == 200
    logging.getLogger("fastapi_tasks").setLevel(logging.NOTSET)


def use_lines(module: ModuleType) -> None:
    """All seconds are 0.001 in the page."""
    [handler] = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    lines = StringIO()
    handler.setStream(lines)
    logging.getLogger("fastapi_tasks").setLevel(logging.WARNING)  # how long the drain took is not in the page
    requests(("POST", "/orders/7", 200))(module)
    logging.getLogger("fastapi_tasks").setLevel(logging.NOTSET)
    sys.stdout.write(re.sub(r"\b0\.\d{3} s\b", "0.001 s", lines.getvalue()))


def use_structlog(module: ModuleType) -> None:
    import structlog

    [handler] = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    lines = StringIO()
    handler.setStream(lines)
    try:
        use_request_ids(module)
    finally:
        structlog.reset_defaults()
    shown = [line for line in lines.getvalue().splitlines() if line.startswith("level=")]
    sys.stdout.write("".join(f"{line.partition(' exception=')[0]}\n" for line in shown))


def use_metrics(module: ModuleType) -> None:
    part = re.compile(r"taskphase_(tasks\{|\w+_count|\w+_ended_total)")
    with record_tasks(module.app) as tasks, serving(module) as client:
        assert client.post("/orders/7").status_code == 200
        tasks.wait_all()
        lines = client.get("/metrics").text.splitlines()
    sys.stdout.write("".join(f"{line}\n" for line in lines if part.match(line)))


def use_watch(module: ModuleType) -> None:
    def tell(task: Task) -> None:
        original(task)
        told.release()

    told = threading.Semaphore(0)
    original, module.tell = module.tell, tell
    with TestClient(module.app) as client:
        assert client.post("/catalogues/7").status_code == 200
        assert told.acquire(timeout=TOLD_WITHIN)
        assert told.acquire(timeout=TOLD_WITHIN)  # the page has two tasks


@contextmanager
def empty_folder() -> Generator[None]:
    """Have relative paths lead into a folder that is gone afterwards."""
    with TemporaryDirectory() as folder, chdir(folder):
        yield


def use_database(module: ModuleType) -> None:
    with empty_folder(), serving(module) as client:
        assert client.post("/orders/1").status_code == 200
        assert client.post("/quick-orders/2").status_code == 200
        assert client.post("/refused-orders/3").status_code == 409


def use_delay(module: ModuleType) -> None:
    clock = JumpClock()
    with serving(module, clock) as client, record_tasks(module.app) as tasks:
        assert [client.post(f"/orders/{order}").status_code for order in (7, 8)] == [200, 200]
        tasks.wait_until("delayed")
        clock.jump(599)
        tasks.wait_until("delayed")
        clock.jump(1)
        tasks.wait_all()


def use_key(module: ModuleType) -> None:
    clock = JumpClock()
    with serving(module, clock) as client, record_tasks(module.app) as tasks:
        shops = ("rome", "rome", "oslo")
        assert [client.get(f"/prices/{shop}").json() for shop in shops] == ["starting", "dropped", "starting"]
        clock.jump(1)
        tasks.wait_all()


def use_customers(module: ModuleType) -> None:
    orders = ("1?customer=ada", "2?customer=ada", "3?customer=bob")
    answers(*(("POST", f"/orders/{order}", 200, None) for order in orders))(module)
    gc.collect()
    assert not module.limits


def expect_guard(client: TestClient, path: str) -> None:
    """Expect that a browser would ask for the password, and ask again after a wrong one."""
    for auth in (None, ("admin", "guess"), ("secret", "")):
        refused = client.get(path, auth=auth)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Basic")


def use_inspector(module: ModuleType) -> None:
    with pytest.MonkeyPatch.context() as patch, serving(module) as client:
        patch.setenv("ADMIN_PASSWORD", "secret")
        assert client.post("/users?email=ada").status_code == 200
        for path in ("/_tasks/", "/_tasks/json"):
            expect_guard(client, path)
        client.auth = ("admin", "secret")
        assert "<html" in client.get("/_tasks/").text
        assert {task["function"] for task in all_told(client)} == {"main.send_mail"}


def all_told(client: TestClient) -> list[dict[str, object]]:
    """Return the tasks that the inspector knows."""
    known = client.get("/_tasks/json").json()
    return [*known["alive"], *known["tasks"]]


def use_admin(module: ModuleType) -> None:
    with pytest.MonkeyPatch.context() as patch, serving(module) as client:
        patch.setenv("ADMIN_PASSWORD", "secret")
        assert client.post("/orders/7").status_code == 200
        client.portal.call(anyio.wait_all_tasks_blocked)
        expect_guard(client, "/admin/tasks")
        client.auth = ("admin", "secret")
        found = client.get("/admin/tasks").json()
        assert all(task.pop("age") >= 0 and task.pop("id") for task in found)
        assert [list(task.values()) for task in found] == [
            ["recommend for 7", "immediate", "running", 1],
            ["main.recommend", "after_response", "delayed", 0],
        ]
        id = client.get("/admin/tasks").json()[1]["id"]  # noqa: A001
        assert [client.delete(f"/admin/tasks/{id}").status_code for _ in range(2)] == [200, 404]
        assert len(client.get("/admin/tasks").json()) == 1


def use_files(module: ModuleType) -> None:
    with serving(module) as client:
        for path, name, content in (
            ("/texts", "text", b"to be or not to be"),
            ("/videos", "video", b"v" * 2000),
            ("/pictures", "picture", b"p" * 2000),
        ):
            with record_tasks(module.app) as tasks:
                assert client.post(path, files={name: content}).status_code == 200
                tasks.wait_all()


def use_websockets(module: ModuleType) -> None:
    with serving(module) as client:
        with client.websocket_connect("/chat") as session:
            session.send_text("hello")
            assert session.receive_text() == "got hello"
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/numbers") as session:
            session.send_text("1")
            assert session.receive_text() == "2"
        with pytest.raises(ValueError, match="hello"), client.websocket_connect("/numbers") as session:
            session.send_text("hello")
            session.receive_text()


def use_broken_stream(module: ModuleType) -> None:
    with serving(module) as client:
        assert client.get("/exports/2").text == "0\n1\n"
        with pytest.raises(LookupError):
            client.get("/exports/5")


def use_leaving_clients(module: ModuleType) -> None:
    with record_tasks(module.app) as tasks, serving(module) as client:
        assert client.get("/conversions/a?stop=false").text == "data: 0\n\ndata: 50\n\ndata: 100\n\n"
        client.portal.call(leave, module.app, "/conversions/b", b"stop=false")
        tasks.wait_all()
        client.portal.call(leave, module.app, "/conversions/c", b"stop=true")


async def leave(app: ASGIApp, path: str, query: bytes) -> None:
    """Send a request, and leave when the body of the response begins."""
    begun = anyio.Event()

    async def receive() -> Message:
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message.get("body"):
            begun.set()

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET"}
    await app({**scope, "path": path, "query_string": query, "headers": [], "state": {}}, receive, send)


def use_two_workers(module: ModuleType) -> None:
    with TemporaryDirectory() as folder, chdir(folder), serving(module) as first:
        assert first.portal is not None
        first.portal.call(anyio.wait_all_tasks_blocked)
        with serving(module):
            pass


USES = {
    "docs/getting-started.md#one-line-one-endpoint": Use(logged(use_getting_started, logging.INFO)),
    "docs/tutorial/phases.md#the-state-of-the-request": Use(
        requests(("POST", "/orders", 200), ("POST", "/function-scope", 200))
    ),
    "docs/tutorial/phases.md#if-the-route-fails": Use(
        logged(requests(("POST", "/uploads?size=1", 200), ("POST", "/uploads?size=900", 413)), logging.DEBUG)
    ),
    "docs/tutorial/settings.md#cpu-work-in-a-process": Use(reports_from_a_process),
    "docs/tutorial/settings.md#a-program-that-starts-its-own-server": Use(reports_from_a_main_module),
    "docs/tutorial/settings.md#for-the-app-a-group-one-task": Use(requests(("POST", "/orders/7", 200))),
    "docs/tutorial/settings.md#delay-a-task": Use(use_delay),
    "docs/tutorial/settings.md#run-once-a-key": Use(use_key),
    "docs/tutorial/errors.md#what-is-logged": Use(
        logged(requests(("POST", "/mails?address=ada", 200), ("POST", "/alarms?address=ada", 200)))
    ),
    "docs/tutorial/errors.md#waiting-for-a-task": Use(
        answers(
            ("GET", "/offers/bell", 200, {"price": 7}),
            ("GET", "/offers/unicorn", 200, {"error": "LookupError('not in the catalogue')"}),
            (
                "GET",
                "/states",
                200,
                ["succeeded 7", "failed LookupError('not in the catalogue')", "cancelled", "cancelled"],
            ),
        )
    ),
    "docs/retries.md#the-first-step": Use(
        logged(one_by_one(("POST", "/events/a?fails=2", 200), ("POST", "/events/b?fails=4", 200)), logging.INFO)
    ),
    "docs/retries.md#your-own-policy": Use(requests(("POST", "/mails?address=ada", 200))),
    "docs/limits.md#example-a-queue-and-a-503": Use(
        answers(
            ("POST", "/uploads/1", 202, {"running": 1, "waiting": 0}),
            ("POST", "/uploads/2", 202, {"running": 1, "waiting": 1}),
            ("POST", "/uploads/3", 202, {"running": 1, "waiting": 2}),
            ("POST", "/uploads/4", 503, {"running": 1, "waiting": 2}),
        )
    ),
    "docs/limits.md#limit-one-kind-of-task": Use(
        answers(
            ("POST", "/pictures/1", 202, {"running": 1, "limited": 0}),
            ("POST", "/pictures/2", 202, {"running": 2, "limited": 0}),
            ("POST", "/pictures/3", 202, {"running": 2, "limited": 1}),
            ("POST", "/pictures/4", 429, {"waiting": 1}),
        )
    ),
    "docs/limits.md#one-at-a-time-for-each-customer": Use(use_customers),
    "docs/shutdown.md#example": Use(logged(use_watched_shutdown, logging.INFO)),
    "docs/tutorial/scopes.md#dependencies": Use(use_router),
    "docs/tutorial/scopes.md#no-request-at-hand": Use(requests(("GET", "/shares?total=7&people=0", 422))),
    "docs/how-to/databases.md#what-a-task-sees": Use(logged(use_database)),
    "docs/how-to/databases.md#a-transaction-in-a-context-variable": Use(
        logged(
            one_by_one(*(("POST", path, 200) for path in ("/inside/1", "/after/2", "/copied/3", "/dependency/4"))),
        )
    ),
    "docs/how-to/files.md#bytes-or-a-copy": Use(use_files),
    "docs/how-to/websockets-and-streams.md#a-websocket-session": Use(logged(use_websockets)),
    "docs/how-to/websockets-and-streams.md#a-stream": Use(use_broken_stream),
    "docs/how-to/websockets-and-streams.md#when-the-client-leaves": Use(use_leaving_clients),
    "docs/how-to/periodic.md#in-one-process-of-several-with-a-lock-file": Use(use_two_workers),
    "docs/how-to/survive-a-crash.md#survive-a-crash": Use(
        requests(("POST", "/orders/7", 200), ("GET", "/admin/failures", 200)),
        printed=("mail for order 7", "order 7: 995 cents, recovered: False"),
    ),
    "docs/how-to/observability.md#a-line-for-each-start-and-each-end": Use(use_lines),
    "docs/how-to/observability.md#structlog": Use(use_structlog),
    "docs/how-to/observability.md#prometheus": Use(use_metrics),
    "docs/how-to/observability.md#request-ids-and-traces": Use(use_request_ids),
    "docs/how-to/observability.md#traces-and-metrics-opentelemetry": Use(requests(("POST", "/orders/7", 200))),
    "docs/how-to/observability.md#observers": Use(requests(("POST", "/orders/7", 200))),
    "docs/how-to/observability.md#an-admin-page-list-the-running-tasks-and-cancel-one": Use(use_admin),
    "docs/how-to/observability.md#inspector": Use(use_inspector),
    "docs/how-to/observability.md#a-task-that-hangs": Use(use_watch),
}
