"""G1, G3, G4, G5: outcome policy and errors, for requests."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import anyio
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import ResponseValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.background import BackgroundTask
from tests.fastapi_tasks.apps import Journal, app_with_tasks, recording, serving

from fastapi_tasks import Task, TaskConfig, Tasks, TaskStatus

Logged = Callable[[], list[tuple[str, str]]]

REASONS = {
    True: (
        'its route failed; with when="success" (the default) it runs only after a success: .task(when="always") runs '
        "it in both cases"
    ),
    False: 'its route succeeded; with when="failure" it runs only after a failure',
}
"""Why a task was dropped, by whether its route has failed."""


class Handled(Exception):
    """The app has a handler for it, which answers with 200."""


class Unhandled(Exception):
    pass


async def fine() -> None: ...


async def http_exception() -> None:
    raise HTTPException(418)


def http_exception_in_thread() -> None:
    raise HTTPException(418)


async def handled() -> None:
    raise Handled


async def unhandled() -> None:
    raise Unhandled


async def invalid_request(number: int) -> None: ...


async def invalid_response() -> int:
    return "x"  # type: ignore[return-value]


async def no_json() -> JSONResponse:
    return JSONResponse(object())


async def dependency_refuses(_: Annotated[None, Depends(http_exception)]) -> None: ...


async def dependency_raises(_: Annotated[None, Depends(unhandled)]) -> None: ...


async def raises_in_exit() -> AsyncIterator[None]:
    yield
    raise Unhandled


async def exit_raises(_: Annotated[None, Depends(raises_in_exit, scope="function")]) -> None: ...


async def request_exit_raises(_: Annotated[None, Depends(raises_in_exit)]) -> None: ...


async def stream_raises() -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        raise Unhandled

    return StreamingResponse(chunks())


async def thread_stream_raises() -> StreamingResponse:
    def chunks() -> Iterator[bytes]:
        yield b"one"
        raise Unhandled

    return StreamingResponse(chunks())


async def background_raises() -> PlainTextResponse:
    return PlainTextResponse(background=BackgroundTask(unhandled))


# The endpoint, the status of the response, and the exception of the app.
FAILED: list[tuple[Callable[..., Any], int, type[Exception] | None]] = [
    (http_exception, 418, None),
    (http_exception_in_thread, 418, None),
    (handled, 200, None),
    (unhandled, 500, Unhandled),
    (invalid_request, 422, None),
    (invalid_response, 500, ResponseValidationError),
    (no_json, 500, TypeError),
    (dependency_refuses, 418, None),
    (dependency_raises, 500, Unhandled),
    (exit_raises, 500, Unhandled),
]
# A later error does not make a successful route fail.
SUCCEEDED: list[tuple[Callable[..., Any], int, type[Exception] | None]] = [
    (fine, 200, None),
    (request_exit_raises, 200, Unhandled),
    (stream_raises, 200, Unhandled),
    (thread_stream_raises, 200, Unhandled),
    (background_raises, 200, Unhandled),
]
CASES = [(*case, True) for case in FAILED] + [(*case, False) for case in SUCCEEDED]


async def recover(request: Request, exc: Exception) -> JSONResponse:
    return JSONResponse("recovered")


def outcome_app(journal: Journal, endpoint: Callable[..., Any], when: Any) -> FastAPI:
    async def schedule(tasks: Tasks) -> None:
        journal.each_phase(tasks, config=TaskConfig(when=when, name="it"))

    app = FastAPI(exception_handlers={Handled: recover}, dependencies=[Depends(schedule)])
    app.add_api_route("/", endpoint)
    return app_with_tasks(app)


@pytest.mark.parametrize("when", [None, "success", "failure", "always"])
@pytest.mark.parametrize(
    ("endpoint", "status", "raised", "failed"),
    CASES,
    ids=lambda value: getattr(value, "__name__", None) and value.__name__,
)
async def test_deferred_tasks_run_or_are_dropped_by_the_outcome_of_the_route_g5(
    journal: Journal, logged: Logged, endpoint: Any, status: int, raised: Any, failed: bool, when: Any
) -> None:
    async with recording(outcome_app(journal, endpoint, when), journal) as (server, tasks):
        response = await server.get()
    assert response.status == status
    assert (None if response.raised is None else type(response.raised)) == raised
    runs = {"success": not failed, "failure": failed, "always": True}[when or "success"]
    deferred = TaskStatus.SUCCEEDED if runs else TaskStatus.DROPPED
    assert [task.status for task in tasks] == [deferred, deferred, TaskStatus.SUCCEEDED]
    wire_order = journal.without("body", "returned", "raised")
    if runs:
        *before, last = (
            "immediate",
            "after_route",
            "start",
            *(["final"] if response.complete else []),
            "after_response",
        )
        assert wire_order == [*before, last]
        assert logged() == []
    else:
        assert wire_order == ["immediate", "start", *(["final"] if response.complete else [])]
        level = "WARNING" if when is None else "DEBUG"
        assert logged() == [(level, f"task 'it' was dropped: {REASONS[failed]}")] * 2


async def test_a_task_scheduled_after_the_route_has_failed_follows_the_outcome_g5() -> None:
    async def session(tasks: Tasks) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for define in (tasks.task(when="success"), tasks.task(when="failure")):
                define.after_route.schedule(anyio.sleep, 0)
                define.after_response.schedule(anyio.sleep, 0)

    app = app_with_tasks()
    app.add_api_route("/", http_exception, dependencies=[Depends(session)])
    async with recording(app) as (server, scheduled):
        assert (await server.get()).status == 418
    assert [task.status for task in scheduled] == [TaskStatus.DROPPED] * 2 + [TaskStatus.SUCCEEDED] * 2


@pytest.mark.parametrize("scope", ["request", "function"])
async def test_an_exception_swallowed_by_a_dependency_is_a_failure_g1_g5(scope: Any) -> None:
    """FastAPI has no response then, and sends a 500."""

    async def swallows() -> AsyncIterator[None]:
        try:
            yield
        except Unhandled:
            pass

    async def endpoint(tasks: Tasks, _: Annotated[None, Depends(swallows, scope=scope)]) -> None:
        Journal().each_phase(tasks)
        raise Unhandled

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with recording(app) as (server, scheduled):
        assert (await server.get()).status == 500
    assert (len(scheduled), len(scheduled.immediate.succeeded), len(scheduled.dropped)) == (3, 1, 2)


@pytest.mark.parametrize("scope", ["request", "function"])
async def test_an_error_in_an_exit_that_another_dependency_swallows_leaves_a_success_g1_g5(scope: Any) -> None:
    """The response was built before, and is sent."""

    async def swallows() -> AsyncIterator[None]:
        try:
            yield
        except Unhandled:
            pass

    async def exits(_: Annotated[None, Depends(swallows, scope=scope)]) -> AsyncIterator[None]:
        yield
        raise Unhandled

    async def endpoint(tasks: Tasks, _: Annotated[None, Depends(exits, scope=scope)]) -> None:
        Journal().each_phase(tasks)

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with recording(app) as (server, scheduled):
        assert (await server.get()).status == 200
    assert len(scheduled.succeeded) == 3


async def test_a_route_that_a_middleware_calls_in_an_except_block_can_succeed_g1_g5() -> None:
    async def endpoint(request: Request, tasks: Tasks) -> None:
        Journal().each_phase(tasks)
        if request.scope["first"]:
            raise Unhandled

    async def try_twice(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        try:
            await inner({**scope, "first": True}, receive, send)
        except Unhandled:
            await inner({**scope, "first": False}, receive, send)

    app = FastAPI()
    app.add_api_route("/", endpoint)
    inner: Any = None

    class TriesTwice:
        def __init__(self, app: Any) -> None:
            nonlocal inner
            inner = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await try_twice(scope, receive, send)

    app.add_middleware(TriesTwice)
    async with recording(app_with_tasks(app)) as (server, scheduled):
        assert (await server.get()).status == 200
    assert (len(scheduled.succeeded), len(scheduled.dropped)) == (4, 2)


async def test_a_failing_task_touches_no_request_and_is_logged_once_g3_g4(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(secret: str) -> None:
        raise LookupError("of the task")

    async def handle(task: Task[Any], error: Exception) -> None:
        journal.append(f"{task.name} {task.phase}: {error}")

    async def endpoint(tasks: Tasks) -> str:
        for define in (tasks, tasks.after_route, tasks.after_response):
            define.schedule(fail, "password")
            define.task(name="mine", on_error=handle).schedule(fail, "password")
        return "fine"

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        for _ in range(2):
            response = await server.get()
            assert (response.status, response.json(), response.raised) == (200, "fine", None)
    for phase in ("immediate", "after_route", "after_response"):
        assert journal.count(f"mine {phase}: of the task") == 2
    records = [record for record in caplog.records if record.name == "taskphase"]
    assert len(records) == 12
    assert all(record.levelname == "ERROR" and record.exc_info for record in records)
    assert "password" not in caplog.text
