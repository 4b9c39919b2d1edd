"""The app of the servers. Requests order tasks; the journal records all events of the tasks.

Environment: SOAK_JOURNAL: the path of the journal; SOAK_SETTINGS: the settings of `add_tasks` as JSON; SOAK_HANG: the
seconds of a hanging task.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect, WebSocketException
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_tasks import Tasks, TasksClosedError, TasksSaturatedError, add_tasks, current_host

from .kinds import decode
from .memory import held
from .work import JOURNAL, REQUEST, ledger

PAUSE = 0.02  # seconds of a slow endpoint
FIRST = {"http.response.start": "first", "websocket.accept": "opened"}
LAST = ("http.response.body", "websocket.close")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    host = current_host()
    try:
        yield
    finally:
        JOURNAL.write("shutdown", host.running, host.waiting, host.deferred)
        ledger.reap(everything=True)
        JOURNAL.write("down")


fastapi_app = FastAPI(lifespan=lifespan)
add_tasks(fastapi_app, **json.loads(os.environ.get("SOAK_SETTINGS", "{}")))


@fastapi_app.exception_handler(TasksSaturatedError)
async def busy(_request: Request, _error: TasksSaturatedError) -> PlainTextResponse:
    return PlainTextResponse("saturated", 503)


@fastapi_app.exception_handler(TasksClosedError)
async def closing(_request: Request, _error: TasksClosedError) -> PlainTextResponse:
    return PlainTextResponse("closed", 503)


@contextmanager
def route(request: str) -> Iterator[None]:
    """Surround the whole body of an endpoint."""
    REQUEST.set(request)
    try:
        yield
    except BaseException:
        JOURNAL.write("failed", request)
        raise
    JOURNAL.write("returned", request)


def order(tasks: Tasks, request: str, plan: str) -> int:
    """Schedule the ordered tasks, and return their number."""
    return sum(ledger.schedule(tasks, request, entry) for entry in decode(plan) for _ in range(entry.count))


@fastapi_app.get("/ready")
async def ready() -> int:
    return os.getpid()


@fastapi_app.get("/ping")
async def ping() -> None:
    pass


@fastapi_app.get("/counts")
async def counts() -> dict[str, int]:
    host = current_host()
    return {"running": host.running, "waiting": host.waiting, "deferred": host.deferred}


@fastapi_app.get("/at-rest")
async def at_rest() -> bool:
    host = current_host()
    return not (host.running or host.waiting or host.deferred or host.statistics().threads)


@fastapi_app.get("/held")
async def holds(*, trim: bool = False) -> dict[str, Any]:
    """Return the objects that the process holds. Call this at rest: a task without an end is journalled as lost."""
    ledger.reap(everything=True)
    return held(trim=trim)


@fastapi_app.post("/async")
async def from_async_def(r: str, plan: str, tasks: Tasks) -> int:
    with route(r):
        return order(tasks, r, plan)


@fastapi_app.post("/sync")
def from_def(r: str, plan: str, tasks: Tasks) -> int:
    with route(r):
        return order(tasks, r, plan)


@fastapi_app.post("/pause")
async def from_slow(r: str, plan: str, tasks: Tasks) -> int:
    with route(r):
        await anyio.sleep(PAUSE / 2)
        count = order(tasks, r, plan)
        await anyio.sleep(PAUSE / 2)
        return count


@fastapi_app.post("/error")
async def from_failing(r: str, plan: str, tasks: Tasks) -> int:
    with route(r):
        order(tasks, r, plan)
        raise HTTPException(418)


@fastapi_app.post("/stream")
async def from_stream(r: str, plan: str, tasks: Tasks) -> StreamingResponse:
    async def body(count: int) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" "
            await anyio.sleep(PAUSE / 3)
        yield str(count).encode()

    with route(r):
        return StreamingResponse(body(order(tasks, r, plan)))


async def converse(socket: WebSocket, request: str, plan: str, tasks: Tasks) -> None:
    """Schedule the ordered tasks, and tell the client their number. The caller closes the session."""
    await socket.receive_text()
    await socket.send_text(str(order(tasks, request, plan)))


@fastapi_app.websocket("/session")
async def from_session(socket: WebSocket, r: str, plan: str, tasks: Tasks) -> None:
    await socket.accept()
    with route(r), suppress(WebSocketDisconnect):
        try:
            await converse(socket, r, plan, tasks)
        except TasksSaturatedError:
            await socket.close(1013)
        except TasksClosedError:
            await socket.close(1012)
        else:
            await socket.close()


@fastapi_app.websocket("/session-error")
async def from_failing_session(socket: WebSocket, r: str, plan: str, tasks: Tasks) -> None:
    await socket.accept()
    with route(r):
        with suppress(WebSocketDisconnect, TasksSaturatedError, TasksClosedError):
            await converse(socket, r, plan, tasks)
        raise WebSocketException(1008)


def request_of(scope: Scope) -> str:
    """Return the client's name of the request, or "" without a name."""
    query: bytes = scope.get("query_string", b"")
    return query[2:].split(b"&", 1)[0].decode() if query.startswith(b"r=") else ""


class Inside:
    """A middleware that journals the messages to the app inside of `add_tasks`, and the end of its call."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def observed() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                JOURNAL.write("drained")
            return message

        request = request_of(scope)
        try:
            await self._app(scope, observed if scope["type"] == "lifespan" else receive, send)
        finally:
            if request:
                JOURNAL.write("left", request)


fastapi_app.add_middleware(Inside)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The outermost layer. It journals the messages between the server and the app."""
    if scope["type"] == "lifespan":
        await fastapi_app(scope, _journalled_receive(receive), send)
        return
    ledger.reap()
    request = request_of(scope)
    await fastapi_app(scope, receive, _journalled_send(send, request) if request else send)


def _journalled_receive(receive: Receive) -> Receive:
    async def receive_and_tell() -> Message:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            JOURNAL.write("asked")
        return message

    return receive_and_tell


def _journalled_send(send: Send, request: str) -> Send:
    async def tell_and_send(message: Message) -> None:
        if message["type"] in FIRST:
            JOURNAL.write(FIRST[message["type"]], request)
        try:
            await send(message)
        finally:  # hypercorn on trio raises from the last send of a stream, although the client has the message
            if message["type"] in LAST and not message.get("more_body", False):
                JOURNAL.write("sent", request)

    return tell_and_send
