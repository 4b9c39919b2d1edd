"""Builds the app of a description."""

from __future__ import annotations

from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection

from fastapi_tasks import TaskConfig, Tasks, TasksScheduler, add_tasks, current_host, get_tasks
from property_tests.apps import SESSIONS, Dep, Described, Route
from property_tests.journal import Journal
from property_tests.middleware import Pure, Unhandled, request_of, turns

FILE = Path(__file__).with_name("__init__.py")
HEADERS = [(b"accept-encoding", b"gzip")]
PATHSEND: dict[str, Any] = {"http.response.pathsend": {}}


class Handled(Exception):
    """An exception for which the app has a handler."""


class Model(BaseModel):
    name: str


async def _recover(request: Request, exc: Exception) -> JSONResponse:
    return JSONResponse("recovered", 202)


async def _passed_on(connection: HTTPConnection) -> Any:
    return await get_tasks(connection)


async def _sub(tasks: Annotated[Any, Depends(get_tasks, use_cache=False)]) -> Any:
    return tasks


_TASKS = Parameter("tasks", Parameter.KEYWORD_ONLY, annotation=Tasks)
_DEEP = Parameter("tasks", Parameter.KEYWORD_ONLY, annotation=Annotated[Any, Depends(_sub)])


def _declare(func: Any, *parameters: Parameter) -> Any:
    func.__signature__ = Signature(list(parameters))
    return func


def _parameter(name: str, annotation: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation)


class Builder:
    """Builds the app of a description. The journal records what happens in the app."""

    def __init__(self, described: Described, journal: Journal) -> None:
        self.described = described
        self.journal = journal

    def app(self) -> FastAPI:
        """Return the app."""
        outer = FastAPI(lifespan=self.journal.lifespan("lifespan"), exception_handlers={Handled: _recover})
        inner = FastAPI(exception_handlers={Handled: _recover}) if self.described.place.startswith("mount") else outer
        router = APIRouter(lifespan=self.journal.lifespan("router"))
        target = router if self.described.place == "router" else inner.router
        for request, route in enumerate(self.described.routes):
            self._add(target, request, route)
        if target is router:
            inner.include_router(router)
        if inner is not outer:
            outer.mount("/sub", inner)
        if self.described.override:
            inner.dependency_overrides[get_tasks] = _passed_on
        self._add_layers(outer, inner)
        return outer

    def _add_layers(self, outer: FastAPI, inner: FastAPI) -> None:
        early = [layer for layer in self.described.layers if not layer.late]
        for layer in early:
            self._add_layer(inner, layer.kind)
        if self.described.mode != "never":
            self._add_tasks(outer)
            if self.described.place == "mount both":
                add_tasks(inner)
        for layer in self.described.layers:
            if layer.late:
                self._add_layer(outer, layer.kind)

    def _add_tasks(self, app: FastAPI) -> None:
        settings: dict[str, Any] = {"max_running": 1} if self.described.one_slot else {}
        hold = self.described.mode.startswith("hold")
        config = TaskConfig(when=self.described.when)  # type: ignore[arg-type]
        add_tasks(app, config=config, drain_timeout=self.described.patience, hold=hold, **settings)

    def _add_layer(self, app: FastAPI, kind: str) -> None:
        if kind == "base":
            app.add_middleware(BaseHTTPMiddleware, dispatch=self._dispatch)
        elif kind == "gzip":
            app.add_middleware(GZipMiddleware, minimum_size=1)
        else:
            app.add_middleware(Pure, kind=kind, journal=self.journal)

    async def _dispatch(self, request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        self.journal.note(request_of(request.scope), "layer")
        return response

    def _add(self, router: Any, request: int, route: Route) -> None:
        parameters = [_parameter(f"dep{i}", self._dep(request, dep)) for i, dep in enumerate(route.deps)]
        first = [p for p, dep in zip(parameters, route.deps, strict=True) if dep.first]
        after = [p for p in parameters if p not in first]
        answer = Answer(self.journal, request, route)
        if route.kind in SESSIONS:
            socket = _parameter("websocket", WebSocket)
            router.add_api_websocket_route(f"/{request}", _declare(answer.session(), *first, _TASKS, *after, socket))
            return
        if route.kind == "invalid request":
            after.append(_parameter("number", int))
        after.append(_parameter("connection", HTTPConnection))
        endpoint = _declare(answer.by_thread() if route.is_def else answer.by_loop(), *first, _TASKS, *after)
        router.add_api_route(f"/{request}", endpoint, **answer.declared())

    def _dep(self, request: int, dep: Dep) -> Any:
        journal = self.journal
        left = f"{dep.scope} exit"

        def enter(tasks: Any) -> None:
            journal.schedule(request, tasks, dep.enter, "thread" if dep.is_def else "enter")
            journal.note(request, "enter")
            if dep.raises == "enter":
                raise Unhandled

        def leave(tasks: Any) -> None:
            journal.schedule(request, tasks, dep.leave, "thread" if dep.is_def else left)
            journal.note(request, left)
            if dep.raises == "leave":
                raise Unhandled

        async def by_loop(tasks: Any = None) -> Any:
            enter(tasks)
            try:
                yield
            finally:
                await turns(2)
                leave(tasks)

        def by_thread(tasks: Any = None) -> Any:
            enter(tasks)
            try:
                yield
            finally:
                leave(tasks)

        uses = dep.enter or dep.leave
        wanted = [_DEEP if dep.deep else _TASKS] if uses else []
        func = _declare(by_thread if dep.is_def else by_loop, *wanted)
        return Annotated[None, Depends(func, scope=dep.scope, use_cache=False)]


class Answer:
    """The behaviour of one route during a request."""

    def __init__(self, journal: Journal, request: int, route: Route) -> None:
        self.journal, self.request, self.route = journal, request, route

    def declared(self) -> dict[str, Any]:
        """Return the arguments of the route's decorator."""
        kind = self.route.kind
        declared: dict[str, Any] = {"methods": ["HEAD"] if kind == "head" else ["GET"], "response_model": None}
        if kind == "invalid response":
            declared["response_model"] = Model
        if kind == "empty":
            declared["status_code"] = 204
        if kind == "rendered":
            declared["response_class"] = self._noted()
        return declared

    def by_loop(self) -> Any:
        """Return the endpoint as an `async def`."""

        async def endpoint(*, tasks: Any, connection: HTTPConnection, **_: Any) -> Any:
            self._begin(tasks, "route", connection)
            try:
                if self.route.takes:
                    await anyio.sleep(self.route.takes)
                return self._answer(tasks)
            finally:
                self.journal.note(self.request, "route end")

        return endpoint

    def by_thread(self) -> Any:
        """Return the endpoint as a `def`."""

        def endpoint(*, tasks: Any, connection: HTTPConnection, **_: Any) -> Any:
            self._begin(tasks, "thread", connection)
            try:
                return self._answer(tasks)
            finally:
                self.journal.note(self.request, "route end")

        return endpoint

    def session(self) -> Any:
        """Return the handler of a websocket."""

        async def handler(*, websocket: WebSocket, tasks: Any, **_: Any) -> None:
            self._begin(tasks, "route", websocket)
            try:
                await self._talk(websocket)
            finally:
                self.journal.note(self.request, "route end")

        return handler

    async def _talk(self, websocket: WebSocket) -> None:
        kind = self.route.kind
        if kind == "ws refused":
            await websocket.close()
            return
        await websocket.accept()
        try:
            for _ in range(self.route.chunks + (kind in {"ws left", "ws caught"})):
                await websocket.send_text(await websocket.receive_text())
        except WebSocketDisconnect:
            if kind != "ws caught":
                raise
        if kind == "ws raise":
            raise Unhandled
        if kind == "ws close":
            await websocket.close()

    def _begin(self, tasks: Any, origin: str, connection: HTTPConnection) -> None:
        self.journal.note(self.request, "route")
        if not (tasks.tg is connection.state.fastapi_tasks_tg is current_host().tg):
            self.journal.faults.append(f"G14: request {self.request} finds another's task group or host")
        if self.route.by_hand:
            tasks = TasksScheduler(connection.state.fastapi_tasks_tg)
        self.journal.schedule(self.request, tasks, self.route.plans, origin)

    def _answer(self, tasks: Any) -> Any:
        errors = {"http error": HTTPException(418), "handled": Handled(), "unhandled": Unhandled()}
        if self.route.kind in errors:
            raise errors[self.route.kind]
        background = BackgroundTask(self._background, tasks) if self.route.background else None
        match self.route.kind:
            case "response" | "head":
                return PlainTextResponse("plain", background=background)
            case "redirect":
                return RedirectResponse("/other", background=background)
            case "file" | "pathsend":
                return FileResponse(FILE, background=background)
            case "stream":
                return StreamingResponse(Chunks(self, tasks), background=background)
            case "events":
                return StreamingResponse(Chunks(self, tasks), media_type="text/event-stream", background=background)
            case "sync stream":
                return StreamingResponse(self._sync_chunks(tasks), background=background)
            case "empty":
                return None
        return {"a": 1}

    async def _background(self, tasks: Any) -> None:
        await turns(2)
        if self.route.by_hand:
            tasks = TasksScheduler(tasks.tg)
        self.journal.schedule(self.request, tasks, self.route.in_background, "background")
        self.journal.note(self.request, "background")
        if self.route.background == "raises":
            raise Unhandled

    def _sync_chunks(self, tasks: Any) -> Any:
        self.journal.schedule(self.request, tasks, self.route.in_stream, "racing")
        for _ in range(self.route.chunks):
            self.journal.note(self.request, "chunk")
            yield b"chunk"
        if self.route.breaks:
            raise Unhandled

    def _noted(self) -> Any:
        answer = self

        class Noted(JSONResponse):
            def render(self, content: Any) -> bytes:
                answer.journal.note(answer.request, "built")
                return super().render(content)

        return Noted


class Chunks:
    """The body of a stream. Not a generator: Starlette leaves an interrupted generator to the garbage collector."""

    def __init__(self, answer: Answer, tasks: Any) -> None:
        self.answer, self.tasks = answer, tasks
        self.sent = 0

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        answer, route = self.answer, self.answer.route
        if self.sent:
            await anyio.sleep(0.25)
        else:
            tasks = TasksScheduler(self.tasks.tg) if route.by_hand else self.tasks
            answer.journal.schedule(answer.request, tasks, route.in_stream, "stream")
        if self.sent == route.chunks:
            if route.breaks:
                raise Unhandled
            raise StopAsyncIteration
        self.sent += 1
        answer.journal.note(answer.request, "chunk")
        return b"data: chunk\n\n"
