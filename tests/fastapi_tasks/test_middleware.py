"""G1, G3, G11, G12: phases, behind any middleware and whenever it was added."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests import wire
from tests.backends import turns
from tests.fastapi_tasks.apps import UNCLOSED_STREAM, Journal, app_with_tasks, recording, serving

from fastapi_tasks import Task, Tasks, add_tasks, current_host

pytestmark = UNCLOSED_STREAM

GZIP = [(b"accept-encoding", b"gzip")]
BODY = "x" * 5000


class Pure:
    """A middleware without Starlette's help; `request` is called for all but the lifespan."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.app if scope["type"] == "lifespan" else self.request)(scope, receive, send)

    async def request(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class Buffering(Pure):
    """Sends the response when the app has returned, and takes its time."""

    async def request(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self.app(scope, receive, keep)
        for message in messages:
            await turns()
            await send(message)


class Lingering(Pure):
    """Waits after each message that it has passed on."""

    async def request(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def linger(message: Message) -> None:
            await send(message)
            await turns()

        await self.app(scope, receive, linger)


class Copying(Pure):
    """Hands on a copy of the scope."""

    async def request(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(dict(scope), receive, send)


async def pass_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


async def rebuild(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    body = b"".join([chunk async for chunk in response.body_iterator])  # type: ignore[attr-defined]
    return PlainTextResponse(body, response.status_code)


BASE = Middleware(BaseHTTPMiddleware, dispatch=pass_on)
STACKS = {
    "none": [],
    "base": [BASE],
    "two bases": [BASE, BASE],
    "rebuilding base": [Middleware(BaseHTTPMiddleware, dispatch=rebuild)],
    "gzip": [Middleware(GZipMiddleware)],
    "cors": [Middleware(CORSMiddleware, allow_origins=["*"])],
    "buffering": [Middleware(Buffering)],
    "copying": [Middleware(Copying)],
    "all": [Middleware(Buffering), BASE, Middleware(GZipMiddleware), Middleware(Copying), BASE],
}
stacks = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)


def base_app(journal: Journal) -> FastAPI:
    async def request_scope() -> AsyncIterator[None]:
        yield
        await journal.note_late("request.exit")

    async def json(tasks: Tasks, background: BackgroundTasks) -> str:
        journal.each_phase(tasks)
        background.add_task(journal.note_late, "background")
        return BODY

    async def stream(tasks: Tasks, background: BackgroundTasks) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(5):
                await turns(2)
                yield BODY[:1000].encode()

        await json(tasks, background)
        return StreamingResponse(chunks())

    async def fails(tasks: Tasks) -> None:
        journal.each_phase(tasks)
        failure = tasks.task(when="failure")
        failure.after_route.schedule(journal.note, "failed after_route")
        tasks.task(when="always").after_response.schedule(journal.note, "failed after_response")
        raise HTTPException(418)

    app = FastAPI(dependencies=[Depends(request_scope)])
    for endpoint in (json, stream, fails):
        app.add_api_route(f"/{endpoint.__name__}", endpoint)
    return app


async def check(app: FastAPI, journal: Journal) -> None:
    """Check the order of the events, for the first request, too."""
    async with serving(app, journal) as server:
        for path in ("/json", "/stream"):
            for _ in range(2):
                journal.clear()
                response = await server.get(path, headers=GZIP)
                await turns()
                assert (response.status, response.complete, response.raised) == (200, True, None)
                journal.assert_order("immediate", "after_route", "start", "final", "after_response")
                journal.assert_order("background", "request.exit", "after_response")
                assert journal.count("after_response") == 1
        journal.clear()
        assert (await server.get("/fails")).status == 418
        await turns()
        journal.assert_order("immediate", "failed after_route", "start", "final", "failed after_response")
        assert journal.only("after_route", "after_response") == []


@stacks
@pytest.mark.parametrize("place", ["constructor", "before", "after"])
async def test_the_phases_hold_through_middleware_added_at_any_time_g1_g12(
    journal: Journal, stack: list[Middleware], place: str
) -> None:
    app = base_app(journal)
    if place == "constructor":
        app.user_middleware.extend(stack)
    if place == "after":
        app_with_tasks(app)
    for middleware in stack if place != "constructor" else []:
        app.add_middleware(middleware.cls, **middleware.kwargs)  # type: ignore[arg-type]
    if place != "after":
        app_with_tasks(app)
    await check(app, journal)


@pytest.mark.parametrize("wrapper", [Buffering, Lingering])
async def test_the_phases_hold_through_what_wraps_the_middleware_stack_g1_g12(journal: Journal, wrapper: Any) -> None:
    """As instrumentation does, before the first call or by way of `build_middleware_stack`."""
    app = app_with_tasks(base_app(journal))
    app.middleware_stack = wrapper(app.build_middleware_stack())
    await check(app, journal)

    app = base_app(journal)
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: wrapper(build())  # type: ignore[method-assign]
    await check(app_with_tasks(app), journal)


async def test_after_response_waits_for_middleware_that_goes_on_after_the_last_message_g1(journal: Journal) -> None:
    app = base_app(journal)

    class GoesOn(Pure):
        async def request(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)
            await journal.note_late("middleware")

    app.add_middleware(GoesOn)
    async with serving(app_with_tasks(app), journal) as server:
        await server.get("/json")
    journal.assert_order("final", "middleware", "after_response")


async def test_middleware_that_gives_up_on_the_app_cancels_no_task_g11(journal: Journal) -> None:
    class Timeout(Pure):
        async def request(self, scope: Scope, receive: Receive, send: Send) -> None:
            async with anyio.create_task_group() as tg:
                tg.start_soon(self.app, scope, receive, send)
                await reached.wait()
                tg.cancel_scope.cancel()
            await PlainTextResponse("too late", 504)(scope, receive, send)

    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(go_on.wait)
        tasks.after_route.schedule(go_on.wait)
        tasks.after_response.schedule(go_on.wait)
        always = tasks.task(when="always")
        always.after_route.schedule(journal.note, "after_route")
        always.after_response.schedule(journal.note, "after_response")
        reached.set()
        await anyio.sleep_forever()

    reached, go_on = anyio.Event(), anyio.Event()
    app = app_with_tasks()
    app.add_middleware(Timeout)
    app.add_api_route("/", endpoint)
    async with recording(app, journal) as (server, scheduled):
        response = await server.get()
        assert (response.status, response.body) == (504, b"too late")
        await scheduled.immediate.await_until("running")
        go_on.set()
    assert [task.phase for task in scheduled.of(go_on.wait).dropped] == ["after_route", "after_response"]
    assert len(scheduled.succeeded) == 3
    journal.assert_order("after_route", "start", "final", "after_response")


async def test_a_middleware_that_gives_up_at_the_response_start_changes_nothing_g1_g3() -> None:
    """The cancellation does not come at the barrier before it: without tasks there would be no barrier."""

    class GivesUp(Pure):
        async def request(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def watch(message: Message) -> None:
                give_up.cancel()
                await send(message)

            with anyio.CancelScope() as give_up:
                await self.app(scope, receive, watch)

    app = FastAPI()
    add_tasks(app)
    app.add_middleware(GivesUp)
    tasks_of: list[Task[None]] = []

    @app.get("/{count}")
    async def endpoint(count: int, tasks: Tasks) -> str:
        tasks_of[:] = [tasks.schedule(anyio.sleep, 0) for _ in range(count)]
        return "answer"

    async def begun(_message: Message) -> None:
        assert all(task.attempt for task in tasks_of)

    async with serving(app) as server:
        for count in (0, 1):
            response = await wire.request(app, path=f"/{count}", state=server.state, on_send=begun)
            assert response.messages[0]["status"] == 200


async def test_middleware_may_answer_itself_and_schedule_g12_g14(journal: Journal) -> None:
    async def answer(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path == "/json":
            await call_next(request)
        current_host().schedule(journal.note, "of the middleware")
        return PlainTextResponse("mine")

    app = base_app(journal)
    app.add_middleware(BaseHTTPMiddleware, dispatch=answer)
    async with serving(app_with_tasks(app), journal) as server:
        assert (await server.get("/other")).body == b"mine"
        await turns()
        assert sorted(journal) == sorted(["start", "final", "returned", "of the middleware"])
        journal.clear()
        assert (await server.get("/json")).body == b"mine"
    journal.assert_order("immediate", "after_route", "start", "final", "after_response")


async def test_the_500_for_an_unhandled_exception_comes_before_after_response_g1_g5(journal: Journal) -> None:
    async def endpoint(tasks: Tasks) -> None:
        define = tasks.task(when="always")
        define.after_response.schedule(journal.note, "after_response")
        define.after_route.schedule(journal.note, "after_route")
        raise LookupError

    app = app_with_tasks()
    app.add_middleware(Lingering)
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        response = await server.get()
    assert (response.status, type(response.raised)) == (500, LookupError)
    assert journal.without("raised") == ["after_route", "start", "final", "after_response"]


async def test_the_first_request_without_a_lifespan_is_no_different_g1_g13(journal: Journal) -> None:
    for wrap in (False, True):
        app = base_app(journal)
        add_tasks(app, hold=True)
        app.add_middleware(Buffering)
        if wrap:
            app.middleware_stack = Buffering(app.build_middleware_stack())
        for _ in range(2):
            journal.clear()
            assert (await wire.request(app, path="/json", events=journal)).status == 200
            journal.assert_order("immediate", "after_route", "start", "final", "after_response", "returned")
            journal.assert_order("background", "request.exit", "after_response")
