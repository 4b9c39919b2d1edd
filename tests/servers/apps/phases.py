"""An app with an endpoint for each kind of response. Each endpoint schedules a task in each phase. The app journals all
events.

The query string of a request is its case: the subject of every record about the request. Requests that belong to no
case (`/ready`, `/release`, `/port`) have no query string.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.requests import HTTPConnection, Request
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from tests.servers.harness import record

from fastapi_tasks import Tasks, add_tasks


class Gate:
    """Held until a client releases it, for coroutines and for threads."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.thread_event = threading.Event()

    def release(self) -> None:
        self.event.set()
        self.thread_event.set()


gates: defaultdict[str, Gate] = defaultdict(Gate)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    record("up")
    yield
    record("down")


async def query(connection: HTTPConnection) -> str:
    return connection.url.query


Case = Annotated[str, Depends(query)]


async def transaction(case: Case) -> AsyncIterator[None]:
    try:
        yield
    finally:
        record("function.exit", case)


async def session(case: Case) -> AsyncIterator[None]:
    try:
        yield
    finally:
        record("request.exit", case)


# The app's own dependencies enter before an endpoint's dependencies, so they exit last: after `Tasks`.
fastapi_app = FastAPI(
    lifespan=lifespan,
    dependencies=[Depends(session), Depends(transaction, scope="function")],
)
add_tasks(fastapi_app)


async def note(event: str, case: str) -> None:
    record(event, case)


def schedule_each_phase(tasks: Tasks, case: str) -> None:
    tasks.schedule(note, "immediate", case)
    tasks.after_route.task(name=f"{case}-after-route").schedule(note, "after_route", case)
    tasks.after_response.task(name=f"{case}-after-response").schedule(note, "after_response", case)


@fastapi_app.get("/ready")
async def ready() -> None:
    pass


@fastapi_app.post("/release/{case}")
async def release(case: str) -> None:
    gates[case].release()


@fastapi_app.get("/port")
async def port(request: Request) -> int | None:
    """Return the client's port: two requests with the same port used the same connection."""
    return request.client and request.client.port


@fastapi_app.get("/async-def")
async def async_def(tasks: Tasks, case: Case) -> str:
    schedule_each_phase(tasks, case)
    record("route.returned", case)
    return "json"


@fastapi_app.get("/plain-def")
def plain_def(tasks: Tasks, case: Case) -> str:
    schedule_each_phase(tasks, case)
    record("route.returned", case)
    return "json"


@fastapi_app.get("/stream")
async def stream(tasks: Tasks, case: Case) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"one,"
        yield b"two"

    schedule_each_phase(tasks, case)
    record("route.returned", case)
    return StreamingResponse(body())


@fastapi_app.get("/held-stream")
async def held_stream(tasks: Tasks, case: Case) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"one,"
        await gates[case].event.wait()
        yield b"two"

    schedule_each_phase(tasks, case)
    record("route.returned", case)
    return StreamingResponse(body())


@fastapi_app.get("/file")
async def file(tasks: Tasks, case: Case) -> FileResponse:
    schedule_each_phase(tasks, case)
    record("route.returned", case)
    return FileResponse(__file__)


@fastapi_app.get("/redirect")
async def redirect(tasks: Tasks, case: Case) -> RedirectResponse:
    schedule_each_phase(tasks, case)
    record("route.returned", case)
    return RedirectResponse("/ready")


@fastapi_app.get("/error")
async def error(tasks: Tasks, case: Case) -> None:
    schedule_each_phase(tasks, case)
    tasks.after_route.task(when="always").schedule(note, "after_route.always", case)
    tasks.after_response.task(when="failure").schedule(note, "after_response.failure", case)
    record("route.raised", case)
    raise HTTPException(418)


@fastapi_app.websocket("/websocket")
async def websocket(websocket: WebSocket, tasks: Tasks, case: Case) -> None:
    await websocket.accept()
    schedule_each_phase(tasks, case)
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()
    record("route.returned", case)


@fastapi_app.get("/long")
async def long(tasks: Tasks, case: Case, request: Request) -> int | None:
    async def in_the_loop() -> None:
        record("loop.started", case)
        await gates[case].event.wait()
        record("loop.ended", case)

    def in_a_thread() -> None:
        record("thread.started", case)
        gates[case].thread_event.wait()
        record("thread.ended", case)

    gates[case]  # made here: an event has to belong to the loop, not to a thread
    tasks.after_response.schedule(in_the_loop)
    tasks.after_response.schedule(in_a_thread)
    return await port(request)


FIRST = ("http.response.start", "websocket.accept")


def is_last(message: Message) -> bool:
    match message["type"]:
        case "http.response.body":
            return not message.get("more_body", False)
        case "http.response.pathsend" | "websocket.close":
            return True
        case _:
            return False


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Journal the first message before the server gets it, and the last one after; as the outermost layer."""
    if scope["type"] == "lifespan":
        return await fastapi_app(scope, receive, send)
    case = scope["query_string"].decode()

    async def observed_send(message: Message) -> None:
        if message["type"] in FIRST:
            record("wire.start", case)
        try:
            await send(message)
        finally:  # hypercorn on trio raises Cancelled from the last send of a stream, after the delivery
            if is_last(message):
                record("wire.final", case)

    try:
        await fastapi_app(scope, receive, observed_send)
    finally:
        record("wire.returned", case)
