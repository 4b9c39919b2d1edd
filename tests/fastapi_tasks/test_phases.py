"""G1, G12: phases for every kind of response, as seen on the wire."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.types import ASGIApp, Receive, Scope, Send
from tests import wire
from tests.backends import turns, turns_of_a_barrier
from tests.fastapi_tasks.apps import (
    ASYNC_AND_DEF,
    FEW,
    ORDER,
    Journal,
    app_with_scopes,
    app_with_tasks,
    serving,
    taking_pushes,
)

from fastapi_tasks import Task, Tasks, TaskStatus


class Model(BaseModel):
    name: str


class Slow(Response):
    """Sends its body a while after its start."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await turns(FEW)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await turns(FEW)
        await send({"type": "http.response.body", "body": self.body})
        if self.background is not None:
            await self.background()


async def async_chunks() -> AsyncIterator[bytes]:
    yield b"one"
    await checkpoint()
    yield b"two"


def sync_chunks() -> Iterator[bytes]:
    yield b"one"
    yield b"two"


@dataclass
class Kind:
    """A kind of response: the answer of an endpoint, its request and its declaration."""

    name: str
    answer: Callable[[Journal], Any]
    status: int = 200
    body: bytes | None = b"onetwo"
    method: str = "GET"
    declared: dict[str, Any] = field(default_factory=dict)
    extensions: dict[str, Any] | None = None


def with_background(journal: Journal) -> Response:
    return PlainTextResponse("onetwo", background=BackgroundTask(journal.note_late, "background"))


THIS = Path(__file__)
PATHSEND: dict[str, Any] = {"http.response.pathsend": {}}
KINDS = [
    Kind("json", lambda _: {"a": 1}, body=b'{"a":1}'),
    Kind("response model", lambda _: {"name": "x"}, body=b'{"name":"x"}', declared={"response_model": Model}),
    Kind("json response", lambda _: JSONResponse("x"), body=b'"x"'),
    Kind("html", lambda _: "onetwo", declared={"response_class": HTMLResponse}),
    Kind("plain text", lambda _: "onetwo", declared={"response_class": PlainTextResponse}),
    Kind("204", lambda _: None, 204, b"", declared={"status_code": 204, "response_model": None}),
    Kind("redirect", lambda _: RedirectResponse("/other"), 307, b""),
    Kind("redirect by class", lambda _: "/other", 307, b"", declared={"response_class": RedirectResponse}),
    Kind("head", lambda _: {"a": 1}, body=b"", method="HEAD"),
    Kind("async stream", lambda _: StreamingResponse(async_chunks())),
    Kind("sync stream", lambda _: StreamingResponse(sync_chunks())),
    Kind("file", lambda _: FileResponse(THIS), body=THIS.read_bytes()),
    Kind("file by head", lambda _: FileResponse(THIS), body=b"", method="HEAD"),
    Kind("file by pathsend", lambda _: FileResponse(THIS), body=b"", extensions=PATHSEND),
    Kind("custom response", lambda _: Slow("onetwo")),
    Kind("background of its own", with_background),
]  # fmt: skip


def endpoint_of(journal: Journal, kind: Kind, is_async: bool) -> Callable[..., Any]:
    def answer(tasks: Tasks, background: BackgroundTasks) -> Any:
        journal.each_phase(tasks)
        background.add_task(journal.note_late, "background")
        journal.append("route")
        return kind.answer(journal)

    async def async_answer(tasks: Tasks, background: BackgroundTasks) -> Any:
        return answer(tasks, background)

    return async_answer if is_async else answer


@ASYNC_AND_DEF
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_each_task_starts_in_its_phase_g1_g12(journal: Journal, kind: Kind, is_async: bool) -> None:
    app = app_with_scopes(journal, endpoint_of(journal, kind, is_async), methods=[kind.method], **kind.declared)
    async with serving(app, journal) as server:
        response = await server.request(kind.method, extensions=kind.extensions)
    assert (response.status, response.body) == (kind.status, kind.body)
    assert journal.without("immediate", "body", "returned") == ORDER
    journal.assert_order("immediate", "after_route")
    journal.assert_order("final", "returned")
    if is_async:
        journal.assert_order("route", "immediate")


async def test_a_task_may_schedule_for_the_same_request_g1_g14(journal: Journal) -> None:
    async def immediate(tasks: Tasks) -> None:
        journal.append("immediate")
        journal.each_phase(tasks, "by immediate: ")

    async def after_response(tasks: Tasks) -> None:
        journal.append("after_response")
        ended.extend(journal.each_phase(tasks, "by after_response: "))

    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(after_response, tasks)
        await tasks.schedule(immediate, tasks)
        journal.append("route")

    ended: list[Task[None]] = []
    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        await server.get()
    journal.assert_order("immediate", "by immediate: immediate", "by immediate: after_route", "start", "final")
    journal.assert_order("route", "by immediate: after_route", "final", "by immediate: after_response")
    assert [task.status for task in ended] == [TaskStatus.SUCCEEDED] * 3


async def test_starts_within_a_phase_are_requested_in_the_order_of_schedule_g1(
    journal: Journal, backend_name: str
) -> None:
    """On trio the first steps of one batch come in random order; one slot makes the order of the requests visible."""

    async def endpoint(tasks: Tasks) -> None:
        for number in range(20):
            tasks.after_response.schedule(journal.note, f"after_response {number}")
            tasks.after_route.schedule(journal.note, f"after_route {number}")
            tasks.schedule(journal.note, f"immediate {number}")

    app = app_with_tasks(max_running=1 if backend_name == "trio" else None)
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        await server.get()
    phases = ("immediate", "after_route", "after_response")
    assert journal == [f"{phase} {number}" for phase in phases for number in range(20)]


@ASYNC_AND_DEF
async def test_all_tasks_of_the_earlier_phases_have_started_before_the_response_begins_g1(
    is_async: bool, backend_name: str
) -> None:
    """Repeated on trio, because trio runs ready tasks in random order."""

    def schedule(tasks: Tasks) -> None:
        for number in range(20):
            scheduled.append(tasks.schedule(anyio.sleep if number % 2 else int, 0))
            scheduled.append(tasks.after_route.schedule(anyio.sleep if number % 2 else int, 0))
            later.append(tasks.after_response.schedule(anyio.sleep, 0))

    async def schedule_async(tasks: Tasks) -> None:
        schedule(tasks)

    async def look(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert [task.started.is_set() for task in scheduled] == [True] * 40
        assert [task.started.is_set() for task in later] == [False] * 20

    app = app_with_tasks()
    app.add_api_route("/", schedule_async if is_async else schedule)
    async with serving(app) as server:
        for _ in range(20 if backend_name == "trio" else 2):
            scheduled: list[Task[Any]] = []
            later: list[Task[Any]] = []
            response = await server.get(on_send=look)
            assert (response.status, response.raised) == (200, None)
            assert len(scheduled) == 40
            for task in later:
                await task


@pytest.mark.parametrize("by", ["the route", "a middleware"])
async def test_a_push_promise_is_not_the_first_message_of_the_response_g1_g12(journal: Journal, by: str) -> None:
    """hypercorn takes push promises and early hints, with HTTP/2."""

    async def endpoint(request: Request, tasks: Tasks) -> None:
        journal.each_phase(tasks)
        if by == "the route":
            await request.send_push_promise("/style.css")

    class Pushes:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await Request(scope, receive, send).send_push_promise("/style.css")
            await self.app(scope, receive, send)

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    if by == "a middleware":
        app.add_middleware(Pushes)
    async with serving(app):
        assert (await wire.request(taking_pushes(app, journal), events=journal)).status == 200
    journal.assert_order("push", "after_route", "start", "final", "after_response")
    journal.assert_order("immediate", "after_route")


async def steps_beside(app: FastAPI) -> int:
    """Count the turns that another task has while a request is answered."""
    steps = 0

    async def compete() -> None:
        nonlocal steps
        while True:
            steps += 1
            await checkpoint()

    async with wire.lifespan(app) as state, anyio.create_task_group() as tg:
        tg.start_soon(compete)
        await turns()
        before = steps
        assert (await wire.request(app, state=state)).status == 200
        tg.cancel_scope.cancel()
        return steps - before


async def test_a_request_that_schedules_nothing_pays_no_checkpoint_g1(backend_name: str) -> None:
    async def without() -> None: ...

    async def nothing(tasks: Tasks) -> None: ...

    async def something(tasks: Tasks) -> None:
        tasks.schedule(checkpoint)

    async def only_later(tasks: Tasks) -> None:
        tasks.after_response.schedule(checkpoint)

    paid = {}
    for endpoint in (without, nothing, something, only_later):
        app = FastAPI()
        app.add_api_route("/", endpoint)
        if endpoint is not without:
            app_with_tasks(app)
        paid[endpoint] = await steps_beside(app)
    assert paid[nothing] == paid[without] == 0
    assert (paid[something] > 0) is (turns_of_a_barrier(backend_name) > 0)
    assert paid[only_later] == 0


@pytest.mark.parametrize("error", [HTTPException(418), LookupError()])
async def test_tasks_of_a_dependency_s_exit_have_started_before_the_error_response_g1(
    journal: Journal, error: Exception
) -> None:
    async def clean_up(tasks: Tasks) -> AsyncIterator[None]:
        try:
            yield
        finally:
            journal.append("exit")
            scheduled.extend(
                [tasks.schedule(anyio.sleep, 0), tasks.after_route.task(when="failure").schedule(anyio.sleep, 0)]
            )

    async def endpoint() -> None:
        raise error

    async def look(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert [task.started.is_set() for task in scheduled] == [True, True]

    scheduled: list[Task[Any]] = []
    app = app_with_tasks()
    app.add_api_route("/", endpoint, dependencies=[Depends(clean_up)])
    async with serving(app, journal) as server:
        response = await server.get(on_send=look)
    assert response.status == (418 if isinstance(error, HTTPException) else 500)
    assert journal[:2] == ["exit", "start"]
