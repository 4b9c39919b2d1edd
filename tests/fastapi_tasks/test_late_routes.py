"""G1, G2, G5, G9, G13: a middleware answers by itself and lets the route run on.

The tasks of that route wait for its outcome. No other code waits for the route, unless the host is the request's own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.abc
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from tests import wire
from tests.backends import native_cancel_only, turns, until
from tests.fastapi_tasks.apps import FEW, Journal, app_with_tasks, host_of, recording, serving

from fastapi_tasks import TaskConfig, Tasks, TasksClosedError, TasksScheduler, TaskStatus, add_tasks
from fastapi_tasks.testing import record_tasks

WHENS: tuple[Any, ...] = ("success", "failure", "always")


class Impatient:
    """Answers as soon as the route is reached, and lets the route run on.

    :param beside: runs the app beside this call, for as long as it takes
    """

    def __init__(
        self, app: ASGIApp, beside: Callable[[ASGIApp, Scope, Receive, Send], None], reached: anyio.Event, fails: bool
    ) -> None:
        self.app, self.beside, self.reached, self.fails = app, beside, reached, fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        self.beside(self.app, scope, receive, nowhere)
        await self.reached.wait()
        if self.fails:
            raise LookupError
        await PlainTextResponse("too late", 504)(scope, receive, send)


async def nowhere(message: Any) -> None:
    """Take a message for which there is no place any more."""


class Shop:
    """An app behind an `Impatient` middleware. Its route waits for `go_on`."""

    def __init__(self, journal: Journal, tg: anyio.abc.TaskGroup, *, schedules: str = "early", **settings: Any) -> None:
        self.journal, self.tg, self.schedules = journal, tg, schedules
        self.reached, self.go_on = anyio.Event(), anyio.Event()
        self.error: Exception | None = None
        self.refused: Exception | None = None
        self.app = FastAPI()
        self.app.add_api_route("/", self.endpoint)
        self.app.add_api_route("/def", self.def_endpoint)
        fails = settings.pop("fails", False)
        by_asyncio = settings.pop("by_asyncio", False)
        beside = self.by_asyncio if by_asyncio else self.by_group
        self.app.add_middleware(Impatient, beside=beside, reached=self.reached, fails=fails)
        add_tasks(self.app, **settings)

    def by_group(self, app: ASGIApp, *call: Any) -> None:
        self.tg.start_soon(self.run_on, app, *call)

    def by_asyncio(self, app: ASGIApp, *call: Any) -> None:
        self.call = asyncio.create_task(self.run_on(app, *call))

    async def run_on(self, app: ASGIApp, *call: Any) -> None:
        try:
            await app(*call)
        except (LookupError, TasksClosedError) as exc:
            self.refused = exc
        self.journal.append("route call ended")

    def schedule(self, tasks: Tasks) -> None:
        for when in WHENS:
            self.journal.each_phase(tasks, f"{when} ", TaskConfig(when=when))

    async def endpoint(self, tasks: Tasks) -> None:
        if self.schedules == "early":
            self.schedule(tasks)
        self.reached.set()
        await self.go_on.wait()
        if self.schedules == "late":
            self.schedule(tasks)
        self.journal.append("route")
        if self.error is not None:
            raise self.error

    def def_endpoint(self, tasks: Tasks) -> None:
        anyio.from_thread.run(self.endpoint, tasks)

    def deferred(self) -> list[str]:
        return [event for event in self.journal if event.endswith(("after_route", "after_response"))]

    def check(self, runs: set[str]) -> None:
        """Check that the deferred tasks of these outcomes have run, and in which order."""
        assert sorted(self.deferred()) == sorted(f"{w} {p}" for w in runs for p in ("after_route", "after_response"))
        for when in runs:
            for later in runs:
                self.journal.assert_order("route", f"{when} after_route", f"{later} after_response")


def runs_of(error: Exception | None) -> set[str]:
    return {"always", "success" if error is None else "failure"}


schedules = pytest.mark.parametrize("schedules", ["early", "late"])
errors = pytest.mark.parametrize("error", [None, HTTPException(418), LookupError()])
SETTINGS: dict[str, Any] = {"drain_timeout": 5}


@asynccontextmanager
async def group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Open a task group of the app, that its middleware starts calls in."""
    async with anyio.create_task_group() as tg:
        yield tg


@schedules
@errors
@pytest.mark.parametrize("path", ["/", "/def"])
async def test_the_tasks_of_a_late_route_wait_until_it_has_decided_g1_g5(
    journal: Journal, schedules: str, error: Exception | None, path: str
) -> None:
    async with group() as tg:
        shop = Shop(journal, tg, schedules=schedules, **SETTINGS)
        shop.error = error
        async with serving(shop.app, journal) as server:
            response = await server.get(path)
            assert (response.status, response.raised) == (504, None)
            await turns()
            assert shop.deferred() == []
            shop.go_on.set()
            await until(lambda: "route call ended" in journal)
            await turns()
            assert host_of(server.app).deferred == 0
    shop.check(runs_of(error))
    journal.assert_order("returned", "route")


@native_cancel_only
@errors
async def test_a_route_that_a_middleware_shields_by_asyncio_is_no_different_g1_g5(
    journal: Journal, error: Exception | None
) -> None:
    async with group() as tg:
        shop = Shop(journal, tg, by_asyncio=True, **SETTINGS)
        shop.error = error
        async with serving(shop.app, journal) as server:
            assert (await server.get()).status == 504
            await turns()
            assert shop.deferred() == []
            shop.go_on.set()
            await shop.call
            await turns()
    shop.check(runs_of(error))


@schedules
@errors
@pytest.mark.parametrize("with_lifespan", [False, True], ids=["no lifespan", "hold"])
async def test_a_call_that_holds_its_tasks_waits_for_the_late_route_as_well_g1_g13(
    journal: Journal, schedules: str, error: Exception | None, with_lifespan: bool
) -> None:
    async def release() -> None:
        await until(lambda: "final" in journal)
        await turns()
        assert "returned" not in journal
        assert shop.deferred() == []
        shop.go_on.set()

    async with group() as tg, AsyncExitStack() as stack:
        shop = Shop(journal, tg, schedules=schedules, hold=True)
        shop.error = error
        if with_lifespan:
            await stack.enter_async_context(wire.lifespan(shop.app))
        tg.start_soon(release)
        assert (await wire.request(shop.app, events=journal)).status == 504
        assert "returned" in journal
        shop.check(runs_of(error))
        journal.assert_order("route", "returned")
        assert not isinstance(shop.refused, TasksClosedError)


@pytest.mark.parametrize("last", [0, 1], ids=["first", "second"])
async def test_a_call_that_holds_its_tasks_waits_for_both_of_its_late_routes_g1_g13(
    journal: Journal, last: int
) -> None:
    """A middleware has called the app twice. `last` is the route that ends last."""
    app = FastAPI()
    reached, go_on = [anyio.Event(), anyio.Event()], [anyio.Event(), anyio.Event()]

    @app.get("/{number}")
    async def route(number: int, tasks: Tasks) -> None:
        reached[number].set()
        await go_on[number].wait()
        journal.each_phase(tasks, f"{number} ")
        journal.append(f"route {number}")

    def beside(app: ASGIApp, scope: Scope, *channels: Any) -> None:
        async def call_twice() -> None:
            tg.start_soon(app, {**scope, "path": "/0"}, *channels)
            await reached[0].wait()
            await app({**scope, "path": "/1"}, *channels)

        tg.start_soon(call_twice)

    async def release() -> None:
        await until(lambda: "final" in journal)
        for number in (1 - last, last):
            await turns()
            assert "returned" not in journal
            go_on[number].set()

    async with group() as tg:
        app.add_middleware(Impatient, beside=beside, reached=reached[1], fails=False)
        add_tasks(app, hold=True)
        tg.start_soon(release)
        assert (await wire.request(app, events=journal)).status == 504
        assert "returned" in journal
    for number in range(2):
        journal.assert_order(f"route {number}", f"{number} after_route", f"{number} after_response", "returned")


@schedules
async def test_a_call_that_raises_waits_for_the_late_route_as_well_g1_g13(journal: Journal, schedules: str) -> None:
    async def release() -> None:
        await until(lambda: "final" in journal)
        await turns()
        assert "raised" not in journal
        shop.go_on.set()

    async with group() as tg:
        shop = Shop(journal, tg, schedules=schedules, hold=True, fails=True)
        tg.start_soon(release)
        response = await wire.request(shop.app, events=journal)
        assert (response.status, type(response.raised)) == (500, LookupError)
        journal.assert_order("route", "raised")
        shop.check({"success", "always"})
        assert shop.refused is None


@schedules
async def test_a_call_that_is_cancelled_waits_for_the_late_route_as_well_g11_g13(
    journal: Journal, schedules: str
) -> None:
    async def get() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await wire.request(shop.app, events=journal)
        journal.append("cancelled")

    scopes: list[anyio.CancelScope] = []
    async with group() as tg:
        shop = Shop(journal, tg, schedules=schedules, hold=True)
        shop.reached = anyio.Event()  # the middleware never answers
        tg.start_soon(get)
        await shop.reached.wait()
        scopes[0].cancel()
        await turns()
        assert "cancelled" not in journal
        shop.go_on.set()
    shop.check({"success", "always"})
    journal.assert_order("route", "cancelled")


@schedules
@pytest.mark.parametrize("shield", [False, True])
async def test_the_drain_ends_what_a_late_route_has_not_decided_g1_g9(
    journal: Journal, schedules: str, shield: bool
) -> None:
    """It does not wait for the route, for which there is no limit of time."""
    async with group() as tg:
        shop = Shop(journal, tg, schedules=schedules, config=TaskConfig(shield=shield))
        with record_tasks(shop.app) as tasks:
            async with serving(shop.app, journal) as server:
                assert (await server.get()).status == 504
                await turns()
            assert shop.deferred() == []
            ends = [task.status for task in tasks if task.phase != "immediate"]
            assert ends == ([TaskStatus.DROPPED] * 6 if schedules == "early" else [])
            shop.go_on.set()
            await until(lambda: "route call ended" in journal)
            await turns()
    assert shop.deferred() == []
    assert isinstance(shop.refused, TasksClosedError) is (schedules == "late")


async def test_the_drain_timeout_is_time_for_a_late_route_to_decide_g1_g9(journal: Journal) -> None:
    async def release(closing: Any) -> None:
        await closing.wait()
        await turns(FEW)
        shop.go_on.set()

    async with group() as tg:
        shop = Shop(journal, tg, drain_timeout=5)
        async with serving(shop.app, journal) as server:
            assert (await server.get()).status == 504
            tg.start_soon(release, host_of(server.app).closing)
    shop.check({"success", "always"})


async def test_only_the_tasks_of_the_late_route_wait_for_it_g1(journal: Journal) -> None:
    """The tasks of another route of the request, which has ended, start when the request is over."""

    class Both:
        def __init__(self, app: ASGIApp, late_first: bool) -> None:
            self.app, self.late_first = app, late_first

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
                return
            late = {**scope, "path": "/late", "raw_path": b"/late"}
            if self.late_first:
                tg.start_soon(self.app, late, receive, nowhere)
                await reached.wait()
                await self.app(scope, receive, send)
            else:
                await self.app(scope, receive, nowhere)
                tg.start_soon(self.app, late, receive, nowhere)
                await reached.wait()
                await PlainTextResponse("mine")(scope, receive, send)

    async def endpoint(tasks: Tasks) -> None:
        journal.each_phase(tasks, "prompt ")

    async def late(tasks: Tasks) -> None:
        journal.each_phase(tasks, "late ")
        reached.set()
        await go_on.wait()
        journal.append("late route")

    for late_first in (True, False):
        journal.clear()
        reached, go_on = anyio.Event(), anyio.Event()
        app = FastAPI()
        app.add_middleware(Both, late_first=late_first)
        app.add_api_route("/", endpoint)
        app.add_api_route("/late", late)
        app_with_tasks(app)
        async with anyio.create_task_group() as tg, serving(app, journal) as server:
            assert (await server.get()).status == 200
            await turns()
            journal.assert_order("prompt after_route", "start", "final", "prompt after_response")
            assert journal.only("late after_route", "late after_response") == []
            go_on.set()
            await until(lambda: "late after_response" in journal)
        journal.assert_order("late route", "late after_route", "late after_response")


async def test_a_late_route_whose_dependency_fails_has_failed_g1_g5(journal: Journal) -> None:
    """After the answer of the middleware, and before the endpoint."""

    async def slow(tasks: Tasks) -> None:
        shop.schedule(tasks)
        shop.reached.set()
        await shop.go_on.wait()
        journal.append("route")
        raise HTTPException(403)

    async def endpoint() -> None:
        raise AssertionError("it is not reached")

    async with group() as tg:
        shop = Shop(journal, tg, **SETTINGS)
        shop.app.add_api_route("/slow", endpoint, dependencies=[Depends(slow)])
        async with serving(shop.app, journal) as server:
            assert (await server.get("/slow")).status == 504
            await turns()
            shop.go_on.set()
            await until(lambda: "route call ended" in journal)
            await turns()
    shop.check({"failure", "always"})


async def test_the_response_of_a_middleware_waits_for_immediate_tasks_alone_g1(
    journal: Journal,
) -> None:
    async with group() as tg:
        shop = Shop(journal, tg, **SETTINGS)
        async with recording(shop.app, journal) as (server, _):
            assert (await server.get()).status == 504
            for when in WHENS:
                journal.assert_order(f"{when} immediate", "start")
            shop.go_on.set()


@errors
@pytest.mark.parametrize("by_hand", [False, True])
async def test_the_tasks_of_a_route_that_begins_when_the_request_is_over_start_g1_g2(
    journal: Journal, error: Exception | None, by_hand: bool
) -> None:
    class Postponing:
        """Answers at once, and calls the app when that has gone."""

        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
                return
            tg.start_soon(self.run_on, scope, receive)
            await PlainTextResponse("accepted", 202)(scope, receive, send)

        async def run_on(self, scope: Scope, receive: Receive) -> None:
            await go_on.wait()
            with suppress(LookupError):
                await self.app(scope, receive, nowhere)
            ended.set()

    async def endpoint(tasks: Tasks, request: Request) -> None:
        scheduler = TasksScheduler(request.state.fastapi_tasks_tg) if by_hand else tasks
        for when in WHENS:
            journal.each_phase(scheduler, f"{when} ", TaskConfig(when=when))
        await turns()
        journal.append("route")
        if error is not None:
            raise error

    go_on, ended = anyio.Event(), anyio.Event()
    app = FastAPI()
    app.add_middleware(Postponing)
    app.add_api_route("/", endpoint)
    app_with_tasks(app)
    async with anyio.create_task_group() as tg, serving(app, journal) as server:
        assert (await server.get()).status == 202
        go_on.set()
        await ended.wait()
        await turns()
        assert host_of(app).deferred == 0
        for when in runs_of(error):
            journal.assert_order("returned", "route", f"{when} after_route", f"{when} after_response")


@pytest.mark.parametrize("settings", [{}, {"hold": True}], ids=["shared host", "hold"])
@errors
async def test_each_call_of_the_app_with_the_same_scope_is_a_request_g1_g2(
    journal: Journal, settings: dict[str, Any], error: Exception | None
) -> None:
    """A wrapper around the app that tries again."""

    async def endpoint(tasks: Tasks) -> None:
        journal.each_phase(tasks)
        journal.append("route")
        if len(calls) == 1 and error is not None:
            raise error

    async def twice(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(1)
        with suppress(LookupError):
            await app(scope, receive, nowhere)
        await turns()
        journal.clear()
        calls.append(2)
        await app(scope, receive, send)

    calls: list[int] = []
    app = app_with_tasks(**settings)
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        assert (await wire.request(twice, events=journal, state=server.state)).status == 200
        await turns()
        assert host_of(app).deferred == 0
        journal.assert_order("route", "after_route", "start", "final", "after_response")
