"""G3, G11, G13, G14: without a lifespan each request owns its tasks, and its call waits for them."""

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from tests import wire
from tests.backends import turns
from tests.fastapi_tasks.apps import Journal, serving

from fastapi_tasks import Journal as KeptTasks
from fastapi_tasks import Tasks, TasksSaturatedError, TasksScheduler, add_tasks, current_host
from fastapi_tasks.testing import record_tasks

Warned = Callable[[], list[str]]


async def work(journal: Journal, name: str) -> None:
    await turns()
    journal.append(name)


async def send() -> None: ...


def app_of(journal: Journal, **settings: Any) -> FastAPI:
    app = FastAPI()
    add_tasks(app, **settings)

    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(work, journal, "immediate")
        tasks.after_route.schedule(work, journal, "after_route")
        tasks.after_response.schedule(work, journal, "after_response")

    async def without() -> None: ...

    app.add_api_route("/", endpoint)
    app.add_api_route("/without", without)
    return app


async def test_the_call_returns_when_its_tasks_have_ended_with_a_single_warning_g13(
    journal: Journal, warned: Warned
) -> None:
    app = app_of(journal)
    assert (await wire.request(app, path="/without")).status == 200
    assert warned() == []
    for _ in range(2):
        journal.clear()
        assert (await wire.request(app, events=journal)).status == 200
        assert journal[:2] == ["start", "final"]
        assert journal[2:-1] == ["immediate", "after_route", "after_response"]
    await wire.request(app_of(journal))
    assert len(warned()) == 1
    assert warned()[0].startswith("WARNING: tasks were used while no lifespan of the app was running")
    for remedy in ("--lifespan on", "with TestClient(app)", "on its parent", "hold=True"):
        assert remedy in warned()[0]


@pytest.mark.usefixtures("warned")
async def test_a_log_filter_that_raises_at_the_warning_fails_no_request_g3_g13(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise OSError("the disk is full")

    logging.getLogger("fastapi_tasks").addFilter(refuse)
    try:
        assert (await wire.request(app_of(journal))).status == 200
    finally:
        logging.getLogger("fastapi_tasks").removeFilter(refuse)
    assert "fastapi_tasks could not log: tasks were used while no lifespan" in capsys.readouterr().err


async def test_with_a_journal_the_warning_does_not_advise_what_is_refused_g13(warned: Warned, tmp_path: Path) -> None:
    app = FastAPI()
    add_tasks(app, journal=KeptTasks(tmp_path / "tasks.db", [send]))

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(send)

    await wire.request(app)
    assert len(warned()) == 1
    assert "and the journal keeps nothing: run the lifespan" in warned()[0]
    assert "hold" not in warned()[0]


@pytest.mark.parametrize("way", ["delayed", "by hand"])
async def test_a_call_that_lasts_for_tasks_without_a_slot_is_warned_of_too_g13(
    journal: Journal, warned: Warned, way: str
) -> None:
    """No endpoint has the parameter `tasks: Tasks`."""

    class Schedules:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)
            if way == "delayed":
                current_host().task(delay=0.001).schedule(journal.note, "ended")
            else:
                TasksScheduler(current_host().tg).after_response.schedule(work, journal, "ended")

    app = FastAPI()
    add_tasks(app)
    app.add_middleware(Schedules)
    await wire.request(app, events=journal)
    assert journal == ["start", "final", "ended", "returned"]
    assert len(warned()) == 1


@pytest.mark.parametrize("with_lifespan", [False, True])
async def test_hold_asks_for_that_without_a_warning_g13(journal: Journal, warned: Warned, with_lifespan: bool) -> None:
    app = app_of(journal, hold=True)
    if with_lifespan:
        async with serving(app, journal) as server:
            await server.get()
    else:
        await wire.request(app, events=journal)
    assert journal == ["start", "final", "immediate", "after_route", "after_response", "returned"]
    assert warned() == []


async def test_with_a_lifespan_the_call_does_not_wait_and_nobody_is_warned_g13(
    journal: Journal, warned: Warned
) -> None:
    async with serving(app_of(journal, drain_timeout=5), journal) as server:
        await server.get()
        assert journal == ["start", "final", "returned"]
    assert journal[3:] == ["immediate", "after_route", "after_response"]
    assert warned() == []


async def test_a_request_after_the_lifespan_owns_its_tasks_again_g13(journal: Journal, warned: Warned) -> None:
    app = app_of(journal)
    async with serving(app):
        pass
    await wire.request(app, events=journal)
    assert journal[2:] == ["immediate", "after_route", "after_response", "returned"]
    assert len(warned()) == 1


async def test_the_settings_hold_for_each_request_g13_g15(journal: Journal) -> None:
    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(work, journal, "first")
        tasks.schedule(work, journal, "second")
        with pytest.raises(TasksSaturatedError):
            tasks.schedule(work, journal, "third")

    app = FastAPI()
    add_tasks(app, max_running=1, max_pending=1, hold=True)
    app.add_api_route("/", endpoint)
    async with anyio.create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(wire.request, app)
    assert journal == ["first"] * 3 + ["second"] * 3


async def test_an_exception_comes_out_as_itself_when_the_tasks_have_ended_g3_g13(journal: Journal) -> None:
    async def fails(tasks: Tasks) -> None:
        tasks.schedule(work, journal, "immediate")
        tasks.task(when="failure").after_response.schedule(work, journal, "after_response")
        raise LookupError

    app = FastAPI()
    add_tasks(app, hold=True)
    app.add_api_route("/", fails)
    response = await wire.request(app, events=journal)
    assert (response.status, type(response.raised)) == (500, LookupError)
    assert journal == ["start", "final", "immediate", "after_response", "raised"]


async def test_a_client_that_leaves_or_a_cancelled_call_cancels_no_task_g11_g13(journal: Journal) -> None:
    async def endpoint(tasks: Tasks) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"one"
            reached.set()
            await anyio.sleep_forever()

        tasks.schedule(work, journal, "immediate")
        tasks.after_response.schedule(work, journal, "after_response")
        return StreamingResponse(chunks())

    app = FastAPI()
    add_tasks(app, hold=True)
    app.add_api_route("/", endpoint)
    reached = anyio.Event()
    with record_tasks(app) as scheduled:
        await wire.request(app, disconnect_after=2)
        async with anyio.create_task_group() as tg:
            reached = anyio.Event()
            tg.start_soon(wire.request, app)
            await reached.wait()
            tg.cancel_scope.cancel()
    assert len(scheduled.succeeded) == len(scheduled) == 4


async def test_each_request_has_a_host_of_its_own_g13_g14(journal: Journal) -> None:
    async def endpoint(request: Request, tasks: Tasks) -> None:
        assert request.state.fastapi_tasks_tg is tasks.tg is current_host().tg
        hosts.append(current_host())
        current_host().schedule(work, journal, "of the host")
        tasks.tg.start_soon(work, journal, "of the group")

    hosts: list[Any] = []
    app = FastAPI()
    add_tasks(app, hold=True)
    app.add_api_route("/", endpoint)
    for _ in range(2):
        journal.clear()
        await wire.request(app)
        assert sorted(journal) == ["of the group", "of the host"]
    assert hosts[0] is not hosts[1]


async def test_dependencies_and_errors_are_no_different_g5_g13(journal: Journal) -> None:
    async def refuses(tasks: Tasks) -> None:
        journal.each_phase(tasks)
        tasks.task(when="failure").after_route.schedule(journal.note, "failure")
        raise HTTPException(403)

    async def endpoint() -> None: ...

    app = FastAPI()
    add_tasks(app, hold=True)
    app.add_api_route("/", endpoint, dependencies=[Depends(refuses)])
    assert (await wire.request(app, events=journal)).status == 403
    assert journal == ["immediate", "failure", "start", "final", "returned"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_test_client_without_with_sees_its_tasks_ended_g13(journal: Journal, warned: Warned, backend: Any) -> None:
    client = TestClient(app_of(journal), backend=backend)
    assert client.get("/").status_code == 200
    assert journal == ["immediate", "after_route", "after_response"]
    assert len(warned()) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_test_client_with_with_runs_the_lifespan_g13(journal: Journal, warned: Warned, backend: Any) -> None:
    with TestClient(app_of(journal, drain_timeout=5), backend=backend) as client:
        assert client.get("/").status_code == 200
    assert journal == ["immediate", "after_route", "after_response"]
    assert warned() == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_request_in_another_event_loop_than_the_lifespan_owns_its_tasks_g13(backend: Any, warned: Warned) -> None:
    """A test client without `with`, beside an open one, whose host must not be touched from here."""

    async def endpoint(tasks: Tasks) -> None:
        hosts.append(current_host())

    hosts: list[Any] = []
    app = FastAPI()
    add_tasks(app)
    app.add_api_route("/", endpoint)
    with TestClient(app, backend=backend) as running:
        running.get("/")
        running.get("/")
        TestClient(app, backend=backend).get("/")
    assert hosts[0] is hosts[1]
    assert hosts[2] is not hosts[0]
    [warning] = warned()
    assert warning.startswith("WARNING: tasks were used in another event loop than the lifespan of the app, so each")
    assert "give fixture and test one loop_scope" in warning
