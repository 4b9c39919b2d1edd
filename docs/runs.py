"""Runs a small app, and notes the order of events, which `docs/diagrams.py` draws for `docs/timing.md`."""

from collections.abc import AsyncGenerator
from typing import Annotated

import anyio
from anyio.lowlevel import checkpoint
from docs.svg import Step
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_tasks import Task, Tasks, add_tasks

CLIENT, SERVER, MIDDLEWARE = "client", "server", "your\nmiddleware"
REQUEST_SCOPE, FUNCTION_SCOPE = "dependency,\nrequest scope", "dependency,\nfunction scope"
ENDPOINT, TASK = "endpoint", "task"
LANES = [CLIENT, SERVER, MIDDLEWARE, REQUEST_SCOPE, FUNCTION_SCOPE, ENDPOINT, TASK]


def run(phase: str, *, fails: bool = False, backend: str = "asyncio") -> list[Step]:
    """Return the events of one request whose endpoint schedules one task.

    :param phase: "immediate", "after_route" or "after_response"
    :param fails: whether the endpoint raises an HTTPException; its task then has `when="failure"`
    :param backend: "asyncio" or "trio"
    """
    request = Request(phase, fails)
    with TestClient(Server(request), backend=backend) as client:
        client.get("/")
        assert client.portal is not None
        assert request.task is not None
        client.portal.call(request.task.started.wait)
        client.portal.call(request.may_end.set)
        client.portal.call(request.task.wait)
    return request.steps


class Request:
    """One request: everything that takes part, except the server and the middleware."""

    def __init__(self, phase: str, fails: bool) -> None:
        self.phase = phase
        self.fails = fails
        self.steps: list[Step] = []
        self.task: Task[None] | None = None
        self.may_end = anyio.Event()

    def note(self, who: str, to: str, what: str, kind: str = "call") -> None:
        """Note an event."""
        self.steps.append(Step(who, to, what, kind))

    async def request_scope(self) -> AsyncGenerator[None]:
        """The dependency that FastAPI exits after it has sent the response."""
        self.note(MIDDLEWARE, REQUEST_SCOPE, "enter", "begin")
        try:
            yield
        finally:
            await checkpoint()
            self.note(REQUEST_SCOPE, REQUEST_SCOPE, "exits", "end")

    async def function_scope(self) -> AsyncGenerator[None]:
        """The dependency that FastAPI exits after the endpoint has returned."""
        self.note(REQUEST_SCOPE, FUNCTION_SCOPE, "enter", "begin")
        try:
            yield
        finally:
            await checkpoint()
            self.note(FUNCTION_SCOPE, FUNCTION_SCOPE, "exits", "end")

    async def work(self) -> None:
        """The task."""
        self.note(TASK, TASK, "first step", "begin")
        await self.may_end.wait()
        self.note(TASK, TASK, "ends", "end")

    async def background(self) -> None:
        """The background task of the response."""
        self.note(ENDPOINT, ENDPOINT, "background runs")

    async def answer(self, tasks: Tasks) -> JSONResponse:
        """The endpoint."""
        self.note(FUNCTION_SCOPE, ENDPOINT, "call", "begin")
        target = tasks if self.phase == "immediate" else getattr(tasks, self.phase)
        self.task = (target.task(when="failure") if self.fails else target).schedule(self.work)
        self.note(ENDPOINT, TASK, "schedule()", "answer")
        await checkpoint()
        await checkpoint()
        self.note(ENDPOINT, ENDPOINT, "raises" if self.fails else "returns", "end")
        if self.fails:
            raise HTTPException(409)
        return JSONResponse({}, background=BackgroundTask(self.background))

    def app(self) -> FastAPI:
        """Return an app for this request."""
        app = FastAPI()
        add_tasks(app, drain_timeout=60)
        app.add_middleware(Middleware, request=self)

        @app.get("/", response_model=None)
        async def endpoint(
            tasks: Tasks,
            _request: Annotated[None, Depends(self.request_scope)],
            _function: Annotated[None, Depends(self.function_scope, scope="function")],
        ) -> JSONResponse:
            return await self.answer(tasks)

        return app


class Server:
    """Calls the app, and receives its messages."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.app = request.app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the app, and note the messages."""

        async def hear(message: Message) -> None:
            if message["type"].startswith("http.response."):
                what = "head" if message["type"] == "http.response.start" else "body"
                self.request.note(MIDDLEWARE, SERVER, what, "answer")
                self.request.note(SERVER, CLIENT, what, "answer")
            await send(message)

        if scope["type"] == "http":
            self.request.note(CLIENT, SERVER, "request")
        await self.app(scope, receive, hear)


class Middleware:
    """A middleware that changes nothing."""

    def __init__(self, app: ASGIApp, request: Request) -> None:
        self.request = request
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note that the request has arrived here."""
        if scope["type"] == "http":
            self.request.note(SERVER, MIDDLEWARE, "request")
        await self.app(scope, receive, send)
