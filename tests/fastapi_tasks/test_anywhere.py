"""G14: the host and its task group are found wherever a request's code runs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import anyio.abc
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from tests import wire
from tests.backends import turns
from tests.fastapi_tasks.apps import ASYNC_AND_DEF, UNCLOSED_STREAM, Journal, app_with_tasks, serving

from fastapi_tasks import (
    NoCurrentError,
    Task,
    TaskConfig,
    Tasks,
    TasksScheduler,
    TaskStatus,
    current_host,
    current_task,
)

EVERYWHERE = {
    *("pure lifespan", "lifespan", "pure http", "base", "dependency", "exit", "def dependency", "endpoint", "stream"),
    *("background", "task", "def endpoint", "exception handler"),
}


@UNCLOSED_STREAM
async def test_current_host_is_the_app_s_wherever_a_request_runs_g14(journal: Journal) -> None:
    class Pure:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            found[f"pure {scope['type']}"] = current_host()
            await self.app(scope, receive, send)

    async def base(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        found["base"] = current_host()
        return await call_next(request)

    async def dependency() -> AsyncIterator[None]:
        found["dependency"] = current_host()
        yield
        found["exit"] = current_host()

    def in_thread() -> None:
        found["def dependency"] = current_host()

    async def endpoint(background: BackgroundTasks) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            found["stream"] = current_host()
            yield b""

        found["endpoint"] = current_host()
        current_host().schedule(of_task)
        background.add_task(of_background)
        return StreamingResponse(chunks(), background=None)

    def def_endpoint(background: BackgroundTasks) -> None:
        found["def endpoint"] = current_host()
        background.add_task(of_background)
        raise LookupError

    async def of_task() -> None:
        found["task"] = current_host()
        assert current_task().func is of_task

    async def of_background() -> None:
        found["background"] = current_host()

    async def handler(request: Request, exc: Exception) -> Response:
        found["exception handler"] = current_host()
        return JSONResponse("handled")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        found["lifespan"] = current_host()
        yield

    found: dict[str, Any] = {}
    app = FastAPI(
        lifespan=lifespan,
        dependencies=[Depends(dependency), Depends(in_thread)],
        exception_handlers={LookupError: handler},
    )
    app_with_tasks(app)
    app.add_middleware(BaseHTTPMiddleware, dispatch=base)
    app.add_middleware(Pure)
    app.add_api_route("/", endpoint)
    app.add_api_route("/def", def_endpoint)
    async with serving(app) as server:
        for path in ("/", "/def"):
            assert (await server.get(path)).status == 200
            with pytest.raises(NoCurrentError):
                current_host()
    assert set(found) == EVERYWHERE
    assert set(map(id, found.values())) == {id(found["lifespan"])}


async def test_the_request_s_state_has_the_app_s_task_group_g14(journal: Journal) -> None:
    async def endpoint(request: Request, tasks: Tasks) -> None:
        tg = request.state.fastapi_tasks_tg
        assert isinstance(tg, anyio.abc.TaskGroup)
        assert tg is tasks.tg is current_host().tg
        tg.start_soon(journal.note, "in the group")

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        for state in ({}, {"x": 1}, None):
            assert (await wire.request(app, state=state)).status == 200
        assert server.state == {}
    assert journal == ["in the group"] * 3


@ASYNC_AND_DEF
async def test_a_scheduler_made_by_hand_works_as_the_reference_shows_g14(journal: Journal, is_async: bool) -> None:
    made: list[tuple[TasksScheduler, list[Task[None]]]] = []

    def advanced(request: Request) -> dict[str, str]:
        scheduler = TasksScheduler(request.state.fastapi_tasks_tg)
        assert scheduler.tg is request.state.fastapi_tasks_tg
        made.append((scheduler, list(journal.each_phase(scheduler))))
        return {"status": "ok"}

    async def async_advanced(request: Request) -> dict[str, str]:
        return advanced(request)

    app = app_with_tasks(config=TaskConfig(name="of the app"))
    app.add_api_route("/", async_advanced if is_async else advanced)
    async with serving(app, journal) as server:
        assert (await server.get()).json() == {"status": "ok"}
        await turns()
        [(_, tasks)] = made
        assert [task.config.name for task in tasks] == ["of the app"] * 3
    assert journal.only("after_route", "start", "final", "after_response") == [
        "after_route",
        "start",
        "final",
        "after_response",
    ]
    assert "immediate" in journal
    assert [task.status for task in tasks] == [TaskStatus.SUCCEEDED] * 3


async def test_the_dependency_of_the_reference_works_beside_ours_g14(journal: Journal) -> None:
    async def get_scheduler(request: Request) -> AsyncIterator[TasksScheduler]:
        scheduler = TasksScheduler(request.state.fastapi_tasks_tg)
        yield scheduler
        scheduler.after_route.__start__(scheduler)

    async def endpoint(
        scheduler: Annotated[TasksScheduler, Depends(get_scheduler, scope="function")], tasks: Tasks
    ) -> None:
        assert scheduler is not tasks
        scheduler.after_route.schedule(journal.note, "theirs")
        tasks.after_route.schedule(journal.note, "ours")
        task = Task(func=journal.note, args=("by hand",), kwargs={})
        task.__start__(scheduler)

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        assert (await server.get()).status == 200
    assert {"theirs", "ours", "by hand"} == set(journal.without("start", "final", "returned"))
    journal.assert_order("ours", "start")
