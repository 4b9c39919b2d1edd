"""README.md compares `BackgroundTasks` with this package, row by row; each ✓ and each ✗ of the table is tried here."""

# Without `from __future__ import annotations`: the annotations of the endpoints below use local names.

import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import pytest
from anyio import from_thread
from anyio.lowlevel import checkpoint
from anyio.to_thread import current_default_thread_limiter
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Response, WebSocket
from fastapi.testclient import TestClient
from starlette.background import BackgroundTask

from fastapi_tasks import Tasks, add_tasks, retry

README = Path(__file__).resolve().parents[2] / "README.md"
HOME = README.parent / "docs" / "index.md"
ROW = re.compile(r"^\| (.+?) \| ([✓✗]) \| ([✓✗]) \|$", re.MULTILINE)
TURNS = 20  # turns of the event loop: enough for a task beside another one to begin

Schedule = Callable[..., Any]


# Two ways to schedule. Each is a dependency: an endpoint that takes it does the same either way.


async def with_background_tasks(background: BackgroundTasks) -> Schedule:
    return background.add_task


async def with_tasks(tasks: Tasks) -> Schedule:
    return tasks.after_response.schedule


async def with_tasks_for_failures(tasks: Tasks) -> Schedule:
    return tasks.task(when="failure").after_response.schedule


async def with_tasks_and_retry(tasks: Tasks) -> Schedule:
    return tasks.task(retry=retry(attempts=2, backoff=0)).after_response.schedule


def app_of(endpoint: Callable[..., Any]) -> FastAPI:
    app = FastAPI()
    add_tasks(app, drain_timeout=10)
    app.add_api_route("/", endpoint)
    return app


def status_of(app: FastAPI) -> int:
    """Send one request, wait until all tasks have ended, and return the status of the response."""
    with TestClient(app, raise_server_exceptions=False) as client:
        return client.get("/").status_code


async def fail() -> None:
    raise ConnectionError("no answer")


# The claims of the rows


def a_task_that_raises_stops_no_other(way: Any) -> bool:
    seen: list[str] = []

    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(fail)
        schedule(seen.append, "the next one")

    status_of(app_of(endpoint))
    return bool(seen)


def tasks_run_at_the_same_time(way: Any) -> bool:
    seen: list[str] = []

    async def work() -> None:
        seen.append("begins")
        for _ in range(TURNS):
            await checkpoint()
        seen.append("ends")

    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(work)
        schedule(work)

    status_of(app_of(endpoint))
    assert len(seen) == 4
    return seen[:2] == ["begins", "begins"]


def the_session_is_committed_first(way: Any) -> bool:
    seen: list[str] = []

    async def session() -> AsyncGenerator[None]:
        yield
        seen.append("committed")

    async def endpoint(_: Annotated[None, Depends(session)], schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(seen.append, "task")

    status_of(app_of(endpoint))
    return seen == ["committed", "task"]


def a_task_runs_though_the_endpoint_raised(way: Any) -> bool:
    seen: list[str] = []

    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(seen.append, "audit")
        raise HTTPException(403)

    assert status_of(app_of(endpoint)) == 403
    return bool(seen)


def a_dropped_task_is_in_the_log(way: Any) -> bool:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    seen: list[str] = []
    handler = Handler(logging.WARNING)

    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(fail)
        raise HTTPException(403)

    logging.getLogger().addHandler(handler)
    try:
        assert status_of(app_of(endpoint)) == 403
    finally:
        logging.getLogger().removeHandler(handler)
    return any("fail" in line and "dropped" in line for line in seen)


def a_task_runs_beside_a_background_of_the_response(way: Any) -> bool:
    seen: list[str] = []

    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> Response:
        schedule(seen.append, "task")
        return Response(background=BackgroundTask(seen.append, "background"))

    status_of(app_of(endpoint))
    assert seen[0] == "background"
    return seen[1:] == ["task"]


def wrong_arguments_fail_the_request(way: Any) -> bool:
    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(fail, "too many arguments")

    return status_of(app_of(endpoint)) == 500


def context_variables_of_a_def_endpoint_are_seen(way: Any) -> bool:
    request_id = ContextVar("request_id", default="unset")
    seen: list[str] = []

    async def look() -> None:
        seen.append(request_id.get())

    def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        request_id.set("r-1")
        schedule(look)

    status_of(app_of(endpoint))
    return seen == ["r-1"]


def sync_tasks_take_no_thread_of_the_endpoints(way: Any) -> bool:
    async def threads_in_use() -> int:
        return int(current_default_thread_limiter().borrowed_tokens)

    seen: list[int] = []

    def look() -> None:
        seen.append(from_thread.run(threads_in_use))

    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(look)

    status_of(app_of(endpoint))
    return seen == [0]


def a_websocket_handler_can_schedule(way: Any) -> bool:
    app, seen = FastAPI(), list[str]()
    add_tasks(app, drain_timeout=10)

    @app.websocket("/")
    async def session(websocket: WebSocket, schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(seen.append, "task")
        await websocket.accept()
        await websocket.close()

    with TestClient(app) as client, client.websocket_connect("/"):
        pass
    return bool(seen)


def a_task_can_be_tried_again(way: Any) -> bool:
    seen: list[str] = []

    async def work() -> None:
        seen.append("attempt")
        if len(seen) == 1:
            raise ConnectionError("no answer")

    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(work)

    status_of(app_of(endpoint))
    return len(seen) == 2


def a_task_has_a_handle(way: Any) -> bool:
    seen: list[object] = []

    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        seen.append(schedule(fail))

    status_of(app_of(endpoint))
    return all(hasattr(seen[0], name) for name in ("cancel", "status", "exception", "__await__"))


def an_app_needs_no_set_up(way: Any) -> bool:
    app, seen = FastAPI(), list[str]()

    @app.get("/")
    async def endpoint(schedule: Annotated[Schedule, Depends(way)]) -> None:
        schedule(seen.append, "task")

    status_of(app)
    return bool(seen)


# In the order of the table. The other way of a row is `with_tasks`, unless the row names a setting.
CHECKS: list[tuple[Callable[[Any], bool], Any]] = [
    (a_task_that_raises_stops_no_other, with_tasks),
    (the_session_is_committed_first, with_tasks),
    (a_task_runs_though_the_endpoint_raised, with_tasks_for_failures),
    (a_dropped_task_is_in_the_log, with_tasks),
    (a_task_runs_beside_a_background_of_the_response, with_tasks),
    (wrong_arguments_fail_the_request, with_tasks),
    (context_variables_of_a_def_endpoint_are_seen, with_tasks),
    (sync_tasks_take_no_thread_of_the_endpoints, with_tasks),
    (tasks_run_at_the_same_time, with_tasks),
    (a_websocket_handler_can_schedule, with_tasks),
    (a_task_can_be_tried_again, with_tasks_and_retry),
    (a_task_has_a_handle, with_tasks),
    (an_app_needs_no_set_up, with_tasks),
]


def test_each_row_of_the_comparison_is_tried() -> None:
    assert len(ROW.findall(README.read_text())) == len(CHECKS)


def test_the_home_page_has_the_same_comparison() -> None:
    assert ROW.findall(HOME.read_text()) == ROW.findall(README.read_text())


@pytest.mark.parametrize("number", range(len(CHECKS)), ids=[check.__name__ for check, _ in CHECKS])
def test_each_tick_of_the_comparison_is_true(number: int) -> None:
    check, way = CHECKS[number]
    row, before, after = ROW.findall(README.read_text())[number]

    assert check(with_background_tasks) == (before == "✓"), row
    assert check(way) == (after == "✓"), row
