"""G1, G5, G12, G22: the hooks of `before_route_ends()` in FastAPI, through any middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope
from tests import wire
from tests.backends import turns
from tests.fastapi_tasks.apps import UNCLOSED_STREAM, Journal, app_with_tasks, serving
from tests.fastapi_tasks.test_middleware import Pure, stacks
from tests.fastapi_tasks.test_several_routes import Again, same

from fastapi_tasks import Scope, Task, TaskObserver, Tasks, add_tasks, current_host

pytestmark = UNCLOSED_STREAM


class Full(Exception):
    """A disk is full."""


class Hooking(TaskObserver):
    """Adds a hook to each scope, as soon as the scope schedules.

    :param error: the hook raises this
    """

    def __init__(self, journal: Journal, error: BaseException | None = None) -> None:
        self.journal, self.error = journal, error
        self.scopes: list[Scope] = []

    def scheduled(self, task: Task[Any], scope: Scope | None, /) -> None:
        if scope is not None and scope.outcome is None and scope not in self.scopes:
            self.scopes.append(scope)
            scope.before_route_ends(self.hook)

    async def hook(self, outcome: str) -> None:
        await self.journal.note_late(f"hook: {outcome}")
        if self.error is not None:
            raise self.error


def app_of(journal: Journal, hooking: Hooking) -> FastAPI:
    async def dependency() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await journal.note_late("function.exit")

    async def json(tasks: Tasks) -> str:
        journal.each_phase(tasks)
        failure = tasks.task(when="failure")
        failure.after_route.schedule(journal.note, "failed after_route")
        failure.after_response.schedule(journal.note, "failed after_response")
        return "answer"

    async def stream(tasks: Tasks) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(3):
                await turns(2)
                yield b"chunk"

        await json(tasks)
        return StreamingResponse(chunks())

    async def fails(tasks: Tasks) -> None:
        await json(tasks)
        raise HTTPException(418)

    def thread(tasks: Tasks) -> str:
        journal.each_phase(tasks)
        return "answer"

    app = FastAPI(dependencies=[Depends(dependency, scope="function")])
    for endpoint in (json, stream, fails, thread):
        app.add_api_route(f"/{endpoint.__name__}", endpoint)

    @app.exception_handler(Full)
    async def answer(_request: Request, _exc: Full) -> JSONResponse:
        journal.append("handler")
        return JSONResponse("full", 507)

    return app


@stacks
async def test_a_hook_comes_after_dependencies_and_before_after_route_g1_g22(
    journal: Journal, stack: list[Middleware]
) -> None:
    hooking = Hooking(journal)
    app = app_of(journal, hooking)
    app.user_middleware.extend(stack)
    async with serving(app_with_tasks(app, observers=[hooking]), journal) as server:
        for path in ("/json", "/stream", "/thread"):
            journal.clear()
            response = await server.get(path)
            await turns()
            assert (response.status, response.complete, response.raised) == (200, True, None)
            journal.assert_order("function.exit", "hook: success", "after_route", "start", "final", "after_response")
            assert journal.count("hook: success") == 1
        journal.clear()
        assert (await server.get("/fails")).status == 418
        await turns()
        journal.assert_order("function.exit", "hook: failure", "failed after_route", "start", "failed after_response")
        assert journal.only("after_route", "after_response") == []


@stacks
@pytest.mark.parametrize(
    ("error", "status"), [(HTTPException(503), 503), (Full(), 507), (LookupError(), 500)], ids=["http", "own", "other"]
)
async def test_the_exception_of_a_hook_becomes_a_proper_response_g5_g22(
    journal: Journal, stack: list[Middleware], error: Exception, status: int
) -> None:
    hooking = Hooking(journal, error)
    app = app_of(journal, hooking)
    app.user_middleware.extend(stack)
    async with serving(app_with_tasks(app, observers=[hooking]), journal) as server:
        for path, expected in (("/json", "success"), ("/stream", "success"), ("/fails", "failure")):
            journal.clear()
            response = await server.get(path)
            await turns()
            assert (response.status, response.complete) == (status, True)
            assert type(response.raised) is (LookupError if status == 500 else type(None))
            journal.assert_order(
                *("immediate", f"hook: {expected}", "failed after_route", "start", "final", "failed after_response")
            )
            assert journal.only("after_route", "after_response") == []
        assert {scope.outcome for scope in hooking.scopes} == {"failure"}


async def test_each_of_several_routes_calls_its_own_hook_once_g1_g22(journal: Journal) -> None:
    async def endpoint(tasks: Tasks) -> PlainTextResponse:
        journal.each_phase(tasks)
        calls.append(None)
        return PlainTextResponse("answer", 503 if len(calls) == 1 else 200)

    calls: list[None] = []
    hooking = Hooking(journal)
    app = FastAPI()
    app.add_api_route("/", endpoint)
    app.add_middleware(Again, change=same)
    async with serving(app_with_tasks(app, observers=[hooking]), journal) as server:
        assert (await server.get()).status == 200
        await turns()
    assert len(hooking.scopes) == 2
    assert journal.count("hook: success") == 2
    assert journal.count("after_response") == 2


class GivesUp(Pure):
    """Gives the app up as soon as `reached` is set, and answers by itself."""

    reached: anyio.Event

    async def request(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self.app, scope, receive, send)
            await self.reached.wait()
            tg.cancel_scope.cancel()
        await PlainTextResponse("too late", 504)(scope, receive, send)


async def test_a_request_that_is_cancelled_while_its_hook_waits_has_failed_g11_g22(journal: Journal) -> None:
    class Hanging(Hooking):
        async def hook(self, outcome: str) -> None:
            journal.append(f"hook: {outcome}")
            GivesUp.reached.set()
            await anyio.sleep_forever()

    GivesUp.reached = anyio.Event()
    app = app_of(journal, hooking := Hanging(journal))
    app.add_middleware(GivesUp)
    async with serving(app_with_tasks(app, observers=[hooking]), journal) as server:
        assert (await server.get("/json")).status == 504
        await turns()
    journal.assert_order("hook: success", "failed after_route", "start", "failed after_response")
    assert journal.only("after_route", "after_response") == []


async def test_a_middleware_that_answers_while_a_hook_waits_starts_nothing_early_g1_g22(journal: Journal) -> None:
    class Answers:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
                return

            async def nowhere(_message: Message) -> None: ...

            routes.start_soon(self.app, scope, receive, nowhere)
            await waits.wait()
            await PlainTextResponse("mine")(scope, receive, send)

    class Slow(Hooking):
        async def hook(self, outcome: str) -> None:
            waits.set()
            await go_on.wait()
            await super().hook(outcome)

    waits, go_on = anyio.Event(), anyio.Event()
    app = app_of(journal, hooking := Slow(journal))
    app.add_middleware(Answers)
    served = serving(app_with_tasks(app, observers=[hooking]), journal)
    async with anyio.create_task_group() as routes, served as server:
        assert (await server.get("/json")).body == b"mine"
        await turns()
        assert journal.only("hook: success", "after_route", "after_response") == []
        go_on.set()
        await turns()
    journal.assert_order("hook: success", "after_route", "after_response")


async def test_a_websocket_session_calls_its_hook_when_the_handler_has_ended_g12_g22(journal: Journal) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        await websocket.accept()
        journal.each_phase(tasks)
        journal.append("route")

    hooking = Hooking(journal)
    app = FastAPI()
    app.add_api_websocket_route("/", handler)
    async with serving(app_with_tasks(app, observers=[hooking]), journal) as server, server.websocket() as session:
        await session.accept()
        await turns()
    journal.assert_order("route", "hook: success", "after_route", "after_response")


async def test_a_hook_of_a_scope_outside_of_any_route_runs_before_the_response_g1_g22(journal: Journal) -> None:
    hooking = Hooking(journal)
    app = app_of(journal, hooking)

    class Schedules(Pure):
        async def request(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
            current_host().schedule(journal.note, "of the middleware")
            await self.app(scope, receive, send)

    app.add_middleware(Schedules)
    async with serving(app_with_tasks(app, observers=[hooking]), journal) as server:
        assert (await server.get("/json")).status == 200
        await turns()
        assert len(hooking.scopes) == 2
        journal.assert_order("hook: success", "start", "after_response")
        assert journal.count("hook: success") == 2
        journal.clear()
        hooking.error = Full()
        response = await server.get("/nowhere")  # there is no route that could fail: the server answers
        assert (response.status, type(response.raised)) == (None, Full)
        await turns()
        assert all(scope.outcome is not None for scope in hooking.scopes)


async def test_a_request_without_a_lifespan_awaits_hooks_g13_g22(journal: Journal) -> None:
    hooking = Hooking(journal)
    app = app_of(journal, hooking)
    add_tasks(app, hold=True, observers=[hooking])
    response = await wire.request(app, path="/json", events=journal)
    assert response.status == 200
    journal.assert_order("hook: success", "after_route", "start", "final", "after_response")
    journal.clear()
    hooking.error = HTTPException(503)
    assert (await wire.request(app, path="/json", events=journal)).status == 503
    journal.assert_order("hook: success", "failed after_route", "start", "failed after_response")


async def test_a_call_that_holds_ends_with_a_late_route_whose_hook_raises_g13_g22(journal: Journal) -> None:
    class Answers(Pure):
        async def request(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
            routes.start_soon(self.app, scope, receive, nowhere)
            await waits.wait()
            await PlainTextResponse("mine")(scope, receive, send)
            left.set()

    class Slow(Hooking):
        async def hook(self, outcome: str) -> None:
            waits.set()
            await left.wait()
            await super().hook(outcome)

    async def nowhere(_message: Message) -> None: ...

    waits, left = anyio.Event(), anyio.Event()
    app = app_of(journal, hooking := Slow(journal, Full()))
    app.add_middleware(Answers)
    add_tasks(app, hold=True, observers=[hooking])
    async with anyio.create_task_group() as routes:
        assert (await wire.request(app, path="/json", events=journal)).body == b"mine"
        journal.assert_order("hook: success", "failed after_route", "failed after_response")
