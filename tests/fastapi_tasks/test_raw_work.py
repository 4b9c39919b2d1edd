"""G3, G12: raw work in `request.state.fastapi_tasks_tg` that fails touches no request and no task."""

import logging
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, Request, WebSocket
from tests.backends import turns, until
from tests.fastapi_tasks.apps import Journal, app_with_tasks, serving

from fastapi_tasks import Tasks, TasksScheduler


class Skipped(BaseException):
    """A BaseException that is no cancellation and no request to end the program."""


@pytest.fixture(params=[ValueError, Skipped])
def error(request: pytest.FixtureRequest) -> type[BaseException]:
    return request.param  # type: ignore[no-any-return]


def app_of(journal: Journal, error: type[BaseException]) -> FastAPI:
    async def bad() -> None:
        raise error

    async def fails(request: Request) -> None:
        request.state.fastapi_tasks_tg.start_soon(bad)

    async def fails_later(request: Request, tasks: Tasks) -> None:
        async def start_bad() -> None:
            request.state.fastapi_tasks_tg.start_soon(bad)

        tasks.after_response.schedule(start_bad)

    app = app_with_tasks()
    app.add_api_route("/fails", fails)
    app.add_api_route("/fails-later", fails_later)
    return app


async def failed(server: Any, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Have raw work fail, and wait until that is logged."""
    before = len(caplog.records)
    assert (await server.get(path)).status == 200
    await until(lambda: any(record.levelno == logging.ERROR for record in caplog.records[before:]))
    await turns()


@pytest.mark.parametrize("path", ["/fails", "/fails-later"])
async def test_the_group_of_a_request_can_be_used_after_raw_work_has_failed_g3(
    journal: Journal, error: type[BaseException], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def endpoint(request: Request) -> None:
        tg = request.state.fastapi_tasks_tg
        reached.set()
        await go_on.wait()
        assert request.state.fastapi_tasks_tg is tg
        tg.start_soon(journal.note, "raw")
        await tg.start(ready)
        journal.each_phase(TasksScheduler(tg), "by hand ")

    async def ready(*, task_status: Any) -> None:
        task_status.started()
        journal.append("ready")

    async def get() -> None:
        responses.append(await server.get("/"))

    responses: list[Any] = []
    reached, go_on = anyio.Event(), anyio.Event()
    app = app_of(journal, error)
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        async with anyio.create_task_group() as tg:
            tg.start_soon(get)
            await reached.wait()
            for _ in range(2):
                await failed(server, path, caplog)
            go_on.set()
        await turns()
        assert {"raw", "ready", "by hand immediate", "by hand after_route", "by hand after_response"} <= set(journal)
    assert (responses[0].status, responses[0].raised) == (200, None)


async def test_a_session_can_use_its_group_for_the_rest_of_its_life_g3_g12(
    journal: Journal, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            websocket.state.fastapi_tasks_tg.start_soon(journal.note, f"raw {text}")
            await TasksScheduler(websocket.state.fastapi_tasks_tg).schedule(journal.note, f"task {text}")
            await websocket.send_text(text)

    app = app_of(journal, error)
    app.add_api_websocket_route("/", handler)
    async with serving(app, journal) as server, server.websocket() as session:
        for number in "12":
            await session.send(number)
            assert await session.receive() == number
            await failed(server, "/fails", caplog)
            assert {f"raw {number}", f"task {number}"} <= set(journal)


async def test_raw_work_that_fails_ends_neither_the_lifespan_nor_any_task_g3(
    journal: Journal, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def endpoint(tasks: Tasks) -> None:
        kept.append(tasks.schedule(go_on.wait))

    kept: list[Any] = []
    go_on = anyio.Event()
    app = app_of(journal, error)
    app.add_api_route("/", endpoint)
    async with serving(app, journal, events=journal) as server:
        await server.get("/")
        for _ in range(2):
            await failed(server, "/fails", caplog)
        assert "shutdown.failed" not in journal
        assert kept[0].status == "running"
        await server.get("/")
        go_on.set()
    assert [task.status for task in kept] == ["succeeded"] * 2
    assert journal[-1] == "shutdown.complete"
