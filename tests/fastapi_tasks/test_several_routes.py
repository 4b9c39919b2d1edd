"""G1, G5, G13: a middleware calls the app again. Each route decides about its own tasks."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests import wire
from tests.backends import turns
from tests.fastapi_tasks.apps import (
    ASYNC_AND_DEF,
    UNCLOSED_STREAM,
    Journal,
    app_with_tasks,
    host_of,
    recording,
    serving,
)

from fastapi_tasks import Task, TaskConfig, Tasks, TasksScheduler, TaskStatus, add_tasks, current_host

pytestmark = UNCLOSED_STREAM

WHENS: tuple[Any, ...] = ("success", "failure", "always")


class Lost(Exception):
    """A connection to a database."""


class Again:
    """Calls the app a second time: if the first has failed, or always. Sends the last response only.

    :param change: makes the scope of the second call
    """

    def __init__(self, app: ASGIApp, change: Callable[[Scope], Scope]) -> None:
        self.app, self.change = app, change

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        kept: list[Message] = []

        async def keep(message: Message) -> None:
            kept.append(message)

        try:
            await self.app(scope, receive, keep)
        except Lost:
            pass
        else:
            if kept[0]["status"] != 503 and ALWAYS not in scope["headers"]:
                for message in kept:
                    await send(message)
                return
        await self.app(self.change(scope), receive, send)


def same(scope: Scope) -> Scope:
    return scope


def copied(scope: Scope) -> Scope:
    return dict(scope)


async def again_by_base(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """A middleware cannot repeat a call that raised. The first call returns after the answer of the second one."""
    response = await call_next(request)
    if response.status_code != 503 and ALWAYS not in request.scope["headers"]:
        return response
    async for _ in response.body_iterator:  # type: ignore[attr-defined]
        pass
    return await call_next(request)


ALWAYS = (b"always", b"1")
# The way to add the middleware, and the exception of a route that is called again.
MIDDLEWARE: dict[str, tuple[Callable[[FastAPI], None], Exception]] = {
    "the same scope": (lambda app: app.add_middleware(Again, change=same), Lost()),
    "a copied scope": (lambda app: app.add_middleware(Again, change=copied), Lost()),
    "by status": (lambda app: app.add_middleware(Again, change=copied), HTTPException(503)),
}
if not version("starlette").startswith("0.49."):  # its `call_next()` works once
    MIDDLEWARE["base"] = (
        lambda app: app.add_middleware(BaseHTTPMiddleware, dispatch=again_by_base),
        HTTPException(503),
    )
middlewares = pytest.mark.parametrize(("add", "error"), MIDDLEWARE.values(), ids=MIDDLEWARE)


def app_of(journal: Journal, *outcomes: bool, error: Exception, is_async: bool = True) -> FastAPI:
    """Return an app whose route succeeds and fails in turn, and schedules a task for each phase and outcome."""

    def endpoint(tasks: Tasks) -> str:
        number = len(calls)
        calls.append(number)
        for when in WHENS:
            journal.each_phase(tasks, f"{number} {when} ", TaskConfig(when=when))
        journal.append(f"{number} route")
        if not outcomes[number]:
            raise error
        return str(number)

    async def async_endpoint(tasks: Tasks) -> str:
        return endpoint(tasks)

    calls: list[int] = []
    app = app_with_tasks()
    app.add_api_route("/", async_endpoint if is_async else endpoint)
    return app


def deferred(journal: Journal, number: int) -> set[str]:
    phases = ("after_route", "after_response")
    return {event.split(" ", 1)[1] for event in journal if event.startswith(f"{number} ") and event.endswith(phases)}


def of_success() -> set[str]:
    return {f"{when} {phase}" for when in ("success", "always") for phase in ("after_route", "after_response")}


def of_failure() -> set[str]:
    return {f"{when} {phase}" for when in ("failure", "always") for phase in ("after_route", "after_response")}


@ASYNC_AND_DEF
@middlewares
async def test_tasks_of_a_successful_second_route_run_and_of_a_failed_first_do_not_g1_g5(
    journal: Journal, add: Any, error: Exception, is_async: bool
) -> None:
    app = app_of(journal, False, True, error=error, is_async=is_async)
    add(app)
    async with serving(app, journal) as server:
        response = await server.get()
    assert (response.status, response.json()) == (200, "1")
    assert deferred(journal, 0) == of_failure()
    assert deferred(journal, 1) == of_success()
    journal.assert_order("0 route", "0 failure after_route", "start", "final", "0 failure after_response")
    journal.assert_order("1 route", "1 success after_route", "start", "final", "1 success after_response")
    journal.assert_order("1 success immediate", "start")


@middlewares
async def test_both_routes_may_fail_g1_g5(journal: Journal, add: Any, error: Exception) -> None:
    app = app_of(journal, False, False, error=error)
    add(app)
    async with serving(app, journal) as server:
        response = await server.get()
    assert response.status == (503 if response.raised is None else 500)
    for number in range(2):
        assert deferred(journal, number) == of_failure()
        journal.assert_order(f"{number} failure after_route", "start", "final", f"{number} failure after_response")


@pytest.mark.parametrize("second", [True, False])
@middlewares
async def test_a_second_route_changes_nothing_for_a_successful_first_route_g1_g5(
    journal: Journal, add: Any, error: Exception, second: bool
) -> None:
    app = app_of(journal, True, second, error=error)
    add(app)
    async with serving(app, journal) as server:
        response = await server.get(headers=[ALWAYS])
    assert (response.status == 200) is second
    assert deferred(journal, 0) == of_success()
    assert deferred(journal, 1) == (of_success() if second else of_failure())
    for number in range(2):
        journal.assert_order(f"{number} route", f"{number} always after_route", "start", "final")
        journal.assert_order("final", f"{number} always after_response")


@pytest.mark.parametrize("with_tasks", [0, 1])
@middlewares
async def test_a_single_route_of_several_may_take_tasks_g1_g5(
    journal: Journal, add: Any, error: Exception, with_tasks: int
) -> None:
    """A dependency may fail before the parameter, and succeed in the second call."""

    async def endpoint(tasks: Tasks) -> None:
        for when in WHENS:
            journal.each_phase(tasks, f"{when} ", TaskConfig(when=when))
        if with_tasks == 0:
            raise error

    async def check() -> None:
        """Is asked before `Tasks` is."""
        calls.append(1)
        if len(calls) == 1 and with_tasks == 1:
            raise error
        if len(calls) == 2 and with_tasks == 0:
            raise HTTPException(418)

    calls: list[int] = []
    app = app_with_tasks()
    app.add_api_route("/", endpoint, dependencies=[Depends(check)])
    add(app)
    async with serving(app, journal) as server:
        response = await server.get()
    assert response.status == (200 if with_tasks else 418)
    when, other = ("success", "failure") if with_tasks else ("failure", "success")
    journal.assert_order(f"{when} immediate", f"{when} after_route", "start", "final", f"{when} after_response")
    assert journal.only(f"{other} after_route", f"{other} after_response") == []


@middlewares
async def test_without_a_lifespan_the_call_waits_for_the_tasks_of_both_routes_g1_g13(
    journal: Journal, add: Any, error: Exception
) -> None:
    async def endpoint(tasks: Tasks) -> None:
        calls.append(1)
        for when in WHENS:
            tasks.task(when=when).after_response.schedule(journal.note_late, f"{len(calls)} {when}")
        if len(calls) == 1:
            raise error

    calls: list[int] = []
    app = FastAPI()
    add_tasks(app, hold=True)
    app.add_api_route("/", endpoint)
    add(app)
    async with serving(app, journal) as server:
        assert (await server.get()).status == 200
    ends = {"1 failure", "1 always", "2 success", "2 always"}
    assert set(journal.without("body")) == {*ends, "start", "final", "returned"}
    assert journal[-1] == "returned"


async def test_tasks_by_hand_between_two_routes_have_the_outcome_of_the_last_route_g1_g5(
    journal: Journal,
) -> None:
    class Retry:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
                return
            try:
                await self.app(scope, receive, send)
            except Lost:
                scheduler = TasksScheduler(HTTPConnection(scope).state.fastapi_tasks_tg)
                for when in WHENS:
                    journal.each_phase(scheduler, f"between {when} ", TaskConfig(when=when))
                await self.app(scope, receive, send)

    app = app_of(journal, False, True, error=Lost())
    app.add_middleware(Retry)
    async with serving(app, journal) as server:
        assert (await server.get()).status == 200
    between = {event for event in journal if event.startswith("between") and not event.endswith("immediate")}
    assert between == {f"between {rest}" for rest in of_success()}
    for when in ("success", "always"):
        journal.assert_order("1 route", f"between {when} after_route", "start", "final")
        journal.assert_order("final", f"between {when} after_response")


async def test_a_third_and_a_fourth_route_are_no_different_g1_g5(journal: Journal) -> None:
    class Often:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def swallow(message: Message) -> None: ...

            for _ in range(3 if scope["type"] == "http" else 0):
                await self.app(dict(scope), receive, swallow)
            await self.app(scope, receive, send)

    outcomes = (False, True, False, True)
    app = app_of(journal, *outcomes, error=HTTPException(503))
    app.add_middleware(Often)
    async with serving(app, journal) as server:
        assert (await server.get()).json() == "3"
        await turns()
        assert host_of(server.app).deferred == 0
    for number, outcome in enumerate(outcomes):
        assert deferred(journal, number) == (of_success() if outcome else of_failure())


@pytest.mark.parametrize("first_fails", [True, False])
async def test_tasks_of_an_earlier_route_start_before_the_response_of_the_last_one_g1(
    journal: Journal, first_fails: bool
) -> None:
    """Without another task, and without a turn of the loop between the end of the first route and the response."""

    async def endpoint(tasks: Tasks) -> None:
        journal.append("route")
        if len(journal) == 1:
            tasks.schedule(journal.note, "immediate")
            tasks.after_route.task(when="always").schedule(journal.note, "after_route")
            if first_fails:
                raise Lost

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    app.add_middleware(Again, change=copied)
    async with serving(app, journal) as server:
        assert (await server.get(headers=[ALWAYS])).status == 200
    journal.assert_order("immediate", "start")
    journal.assert_order("after_route", "start")


async def test_a_middleware_that_answers_by_itself_after_a_failed_route_drops_its_tasks_g5(journal: Journal) -> None:
    class Answers:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await self.app(scope, receive, send)
            except Lost:
                await PlainTextResponse("later", 503)(scope, receive, send)

    app = app_of(journal, False, error=Lost())
    app.add_middleware(Answers)
    async with recording(app, journal) as (server, tasks):
        assert (await server.get()).status == 503
    assert deferred(journal, 0) == of_failure()
    assert len(tasks.dropped) == 2


async def test_a_failed_session_without_an_answer_decides_for_tasks_outside_of_it_g1_g5() -> None:
    """A middleware swallows the exception, and sends nothing: the route has failed, although the call returns."""
    made: list[Task[None]] = []

    class Swallows:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
                return
            outside = TasksScheduler(current_host().tg)
            made.append(outside.task(when="success").after_route.schedule(turns, 0))
            made.append(outside.task(when="failure").after_route.schedule(turns, 0))
            with suppress(LookupError):
                await self.app(scope, receive, send)

    async def fails(websocket: WebSocket, tasks: Tasks) -> None:
        raise LookupError

    app = app_with_tasks()
    app.add_middleware(Swallows)
    app.add_api_websocket_route("/", fails)
    async with serving(app) as server:
        with pytest.raises(wire.WireError):
            async with server.websocket():
                await turns()
    assert [task.status for task in made] == [TaskStatus.DROPPED, TaskStatus.SUCCEEDED]
