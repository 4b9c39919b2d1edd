"""Random apps: plain descriptions of an app, of its requests and of its tasks, and the app that one of them means.

A description is frozen and prints itself. All times are virtual seconds; no two of them that matter to each other are
equal, so that which comes first is never a matter of luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import anyio
from anyio.lowlevel import checkpoint
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection

from fastapi_tasks import TaskConfig, Tasks, add_tasks, current_host, get_tasks
from property_tests.wire_model import CANCELLED_AT, GIVES_UP_AT, ROUTE_TAKES, Journal

FILE = Path(__file__).with_name("__init__.py")
HEADERS = [(b"accept-encoding", b"gzip")]
PATHSEND: dict[str, Any] = {"http.response.pathsend": {}}


class Compact:
    """Prints itself without what is left to its default."""

    def __repr__(self) -> str:
        mine = ((f.name, getattr(self, f.name), f.default) for f in fields(self))  # type: ignore[arg-type]
        shown = (f"{name}={value!r}" for name, value, default in mine if value != default)
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Plan(Compact):
    """One task: how it is scheduled, what it does, and what it schedules itself."""

    phase: str = "immediate"
    when: str | None = None
    does: str = "return"  # or: turns, sleep, sleep long, raise, sync, sync raise
    shield: bool = False
    then: tuple[Plan, ...] = ()


@dataclass(frozen=True, repr=False)
class Dep(Compact):
    """A generator dependency, before or after `tasks` among the parameters. `deep`: it has `tasks` from another one."""

    scope: str = "request"
    enter: tuple[Plan, ...] = ()
    leave: tuple[Plan, ...] = ()
    raises: str | None = None  # or: enter, leave
    first: bool = False
    is_def: bool = False
    deep: bool = False


@dataclass(frozen=True, repr=False)
class Client(Compact):
    """Who asks: how many messages it stays for, when its server cancels the call, whether `send` takes turns."""

    leaves_after: int | None = None
    cancelled_at: float | None = None
    slow: bool = False


@dataclass(frozen=True, repr=False)
class Route(Compact):
    """One route, asked once. `chunks`: of a stream, or frames of a session."""

    kind: str = "json"
    plans: tuple[Plan, ...] = ()
    deps: tuple[Dep, ...] = ()
    is_def: bool = False
    takes: float = 0
    chunks: int = 2
    breaks: bool = False
    in_stream: tuple[Plan, ...] = ()
    background: str | None = None  # or: fine, raises
    in_background: tuple[Plan, ...] = ()
    client: Client = Client()


@dataclass(frozen=True, repr=False)
class Layer(Compact):
    """A middleware, added before or after `add_tasks`; the later one is around the earlier one."""

    kind: str = "pass"
    late: bool = False


@dataclass(frozen=True, repr=False)
class Described(Compact):
    """An app, whose routes are asked at the same time, and its server.

    `stops_at`: None for when all have answered. `cancelled`: the server cancels the lifespan, and asks for no shutdown.
    """

    routes: tuple[Route, ...] = (Route(),)
    layers: tuple[Layer, ...] = ()
    place: str = "app"  # or: router, mount, mount both (each with tasks)
    override: bool = False
    one_slot: bool = False
    mode: str = "lifespan"  # or: none, after lifespan, hold, hold in lifespan
    when: str | None = None  # for all tasks of the app
    patience: float = 1000
    stops_at: float | None = None
    cancelled: bool = False


# Strategies. What is left out, and why:
# - a function-scope dependency that swallows the exception of its route: README, "What is not promised"
# - a `def` route that takes time while its call is cancelled: whether it then fails depends on whether FastAPI comes to
#   a checkpoint after its thread, which differs from response to response

STREAMS = ("stream", "sync stream", "events")
FAILING = ("http error", "handled", "unhandled", "invalid request", "invalid response")
ANSWERS = ("json", "rendered", "response", "file", "pathsend", "redirect", "empty", "head")
SESSIONS = ("ws return", "ws close", "ws raise", "ws left", "ws caught", "ws refused")
WITH_BACKGROUND = (*STREAMS, "response", "head", "redirect", "file", "pathsend")
BACKGROUNDS = (None, "fine", "raises")
DOES = ("return", "turns", "sleep", "raise", "sync", "sync raise", "sleep long")
WHENS = (None, "always", "failure", "success")
LAYERS = ("pass", "base", "gzip", "buffer", "linger")
ROUGH_LAYERS = (*LAYERS, *LAYERS, "raise before", "raise after", "gives up", "gives up at start", "answers")

leaves = st.builds(
    Plan,
    phase=st.sampled_from(["immediate", "after_route", "after_response"]),
    when=st.sampled_from(WHENS),
    does=st.sampled_from(DOES),
    shield=st.booleans(),
)


def _with_children(plan: Plan, then: list[Plan]) -> Plan:
    return Plan(plan.phase, plan.when, plan.does, plan.shield, tuple(then))


parents = st.builds(_with_children, leaves, st.lists(leaves, min_size=1, max_size=2))
plans = leaves | leaves | parents | st.builds(_with_children, leaves, st.lists(parents, min_size=1, max_size=2))
some_plans = st.lists(plans, max_size=2).map(tuple)
many_plans = st.lists(plans, min_size=1, max_size=5).map(tuple)
# One that schedules nothing, and does not take `tasks`, may be entered before these are.
dep_plans = st.just(()) | some_plans
deps = st.builds(
    Dep,
    scope=st.sampled_from(["request", "function"]),
    enter=dep_plans,
    leave=dep_plans,
    first=st.booleans(),
    is_def=st.booleans(),
    deep=st.booleans(),
)
clients = st.builds(Client, slow=st.booleans())
rough_clients = st.builds(Client, st.none() | st.integers(0, 3)) | st.builds(Client, cancelled_at=st.just(CANCELLED_AT))
rough_deps = st.builds(
    Dep,
    scope=st.sampled_from(["request", "function"]),
    enter=dep_plans,
    leave=dep_plans,
    raises=st.sampled_from([None, "enter", "leave"]),
    first=st.booleans(),
)


@st.composite
def routes(
    draw: st.DrawFn, kinds: tuple[str, ...], deps: st.SearchStrategy[Dep] = deps, *, rough: bool = False
) -> Route:
    """Return a route of one of these kinds. `rough`: it may take its time, and its client may leave or be cut off."""
    kind = draw(st.sampled_from(kinds))
    streams, is_session = kind in STREAMS, kind in SESSIONS
    background = draw(st.sampled_from(BACKGROUNDS)) if kind in WITH_BACKGROUND else None
    takes = ROUTE_TAKES if rough and not is_session and draw(st.booleans()) else 0
    return Route(
        kind=kind,
        plans=draw(many_plans),
        deps=tuple(draw(st.lists(deps, max_size=2))),
        is_def=not is_session and not takes and draw(st.booleans()),
        takes=takes,
        chunks=draw(st.integers(0, 5)) if streams or is_session else 0,
        breaks=streams and draw(st.booleans()),
        in_stream=draw(some_plans) if streams else (),
        background=background,
        in_background=draw(some_plans) if background else (),
        client=Client() if is_session else draw(rough_clients if rough else clients),
    )


def layers(kinds: tuple[str, ...]) -> st.SearchStrategy[tuple[Layer, ...]]:
    """Return stacks of up to three of these."""
    return st.lists(st.builds(Layer, st.sampled_from(kinds), st.booleans()), max_size=3).map(tuple)


def apps(routes: st.SearchStrategy[Route], most: int = 1, **more: Any) -> st.SearchStrategy[Described]:
    """Return apps with these routes, in every place."""
    return st.builds(
        Described,
        routes=st.lists(routes, min_size=1, max_size=most).map(tuple),
        place=st.sampled_from(["app", "router", "mount", "mount both"]),
        override=st.booleans(),
        **{"layers": layers(LAYERS), "one_slot": st.booleans(), "when": st.sampled_from(WHENS), **more},
    )


# Building.


class Unhandled(Exception):
    """Nobody handles it."""


class Handled(Exception):
    """The app has a handler for it."""


class GaveUp(Exception):
    """A middleware has no answer, and cannot send another."""


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
    """Makes the app that a description means; what happens in it goes to the journal."""

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
        settings: dict[str, Any] = {"max_running": 1} if self.described.one_slot else {}
        hold = self.described.mode.startswith("hold")
        config = TaskConfig(when=self.described.when)  # type: ignore[arg-type]
        add_tasks(outer, config=config, drain_timeout=self.described.patience, hold=hold, **settings)
        if self.described.place == "mount both":
            add_tasks(inner)
        for layer in self.described.layers:
            if layer.late:
                self._add_layer(outer, layer.kind)

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
                await _turns(2)
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
    """What one route does when it is asked."""

    def __init__(self, journal: Journal, request: int, route: Route) -> None:
        self.journal, self.request, self.route = journal, request, route

    def declared(self) -> dict[str, Any]:
        """Return how it is declared."""
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
        """Return it as a `def`."""

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
        await _turns(2)
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
    """The body of a stream. No generator: Starlette leaves one that is broken off to the garbage collector."""

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
            answer.journal.schedule(answer.request, self.tasks, route.in_stream, "stream")
        if self.sent == route.chunks:
            if route.breaks:
                raise Unhandled
            raise StopAsyncIteration
        self.sent += 1
        answer.journal.note(answer.request, "chunk")
        return b"data: chunk\n\n"


class Pure:
    """A middleware without Starlette's help, for HTTP only."""

    def __init__(self, app: Any, kind: str, journal: Journal) -> None:
        self.app, self.kind, self.journal = app, kind, journal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await getattr(self, f"_{self.kind.replace(' ', '_')}")(scope, receive, send)
        finally:
            self.journal.note(request_of(scope), "layer")

    async def _pass(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(dict(scope), receive, send)

    async def _buffer(self, scope: Any, receive: Any, send: Any) -> None:
        messages: list[Any] = []

        async def keep(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive, keep)
        for message in messages:
            await checkpoint()
            await send(message)

    async def _linger(self, scope: Any, receive: Any, send: Any) -> None:
        async def linger(message: Any) -> None:
            await send(message)
            await _turns(2)

        await self.app(scope, receive, linger)
        await _turns(3)

    async def _raise_before(self, *_: Any) -> None:
        raise Unhandled

    async def _raise_after(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)
        raise Unhandled

    async def _answers(self, scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("mine")(scope, receive, send)

    async def _gives_up(self, scope: Any, receive: Any, send: Any, *, at_start: bool = False) -> None:
        sent: list[Any] = []
        give_up = anyio.CancelScope(deadline=math.inf if at_start else anyio.current_time() + GIVES_UP_AT)

        async def count(message: Any) -> None:
            if at_start:
                give_up.cancel()
            await send(message)
            sent.append(message)

        with give_up:
            await self.app(scope, receive, count)
        if give_up.cancelled_caught and not sent:
            await PlainTextResponse("too late", 504)(scope, receive, send)
        elif give_up.cancelled_caught:
            raise GaveUp

    async def _gives_up_at_start(self, scope: Any, receive: Any, send: Any) -> None:
        await self._gives_up(scope, receive, send, at_start=True)


def request_of(scope: Any) -> int:
    """Return the number of the request: the end of its path."""
    return int(scope["path"][-1])


async def _turns(count: int) -> None:
    with anyio.CancelScope(shield=True):
        for _ in range(count):
            await checkpoint()
