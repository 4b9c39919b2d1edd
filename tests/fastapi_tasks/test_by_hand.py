"""G1, G2, G5, G12, G13, G15: a `TasksScheduler` made by hand with the task group of a request.

It belongs to the request: its batches start with the phases of that, and nothing piles up in the host.
"""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from tests import wire
from tests.backends import native_cancel_only, turns
from tests.fastapi_tasks.apps import ASYNC_AND_DEF, UNCLOSED_STREAM, Journal, app_with_tasks, serving

from fastapi_tasks import TaskConfig, Tasks, TasksScheduler, TaskStatus, add_tasks

pytestmark = UNCLOSED_STREAM


def by_hand(journal: Journal, connection: HTTPConnection, prefix: str = "", when: Any = None) -> TasksScheduler:
    """Schedule in each phase, with a scheduler that is made by hand."""
    scheduler = TasksScheduler(connection.state.fastapi_tasks_tg)
    journal.each_phase(scheduler, prefix, TaskConfig(when=when))
    return scheduler


class Pure:
    """A middleware that schedules before and after the app, without Starlette's help."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self.app, self.journal = app, journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        by_hand(self.journal, HTTPConnection(scope), "before ")
        await self.app(scope, receive, send)
        self.journal.append("app returned")
        by_hand(self.journal, HTTPConnection(scope), "after ")


PHASES = ("immediate", "after_route", "after_response")


def check(journal: Journal, prefix: str = "") -> None:
    """Check that the tasks from before the response have started in their phase."""
    immediate, after_route, after_response = (f"{prefix}{phase}" for phase in PHASES)
    journal.assert_order(immediate, "start", "final", after_response)
    journal.assert_order(after_route, "start")
    if "route" in journal:
        journal.assert_order("route", after_route)


async def nothing_is_left(app: FastAPI) -> None:
    await turns()
    assert current_host_of(app).deferred == 0


def current_host_of(app: FastAPI) -> Any:
    [host] = app._fastapi_tasks.open  # type: ignore[attr-defined]
    return host


@ASYNC_AND_DEF
@pytest.mark.parametrize("with_tasks", [False, True], ids=["", "with Tasks"])
@pytest.mark.parametrize("place", ["endpoint", "dependency", "function-scope dependency"])
async def test_tasks_scheduled_by_hand_in_a_route_start_in_their_phases_g1(
    journal: Journal, is_async: bool, with_tasks: bool, place: str
) -> None:
    def schedule(request: Request) -> None:
        if place == "endpoint":
            by_hand(journal, request)
        journal.append("route")

    async def schedule_async(request: Request) -> None:
        schedule(request)

    async def dependency(request: Request) -> AsyncIterator[None]:
        by_hand(journal, request)
        yield

    def def_dependency(request: Request) -> Iterator[None]:
        by_hand(journal, request)
        yield

    async def get_tasks_as_well(tasks: Tasks) -> None: ...

    scope: Any = "function" if place.startswith("function") else "request"
    dependencies = [] if place == "endpoint" else [Depends(dependency if is_async else def_dependency, scope=scope)]
    dependencies += [Depends(get_tasks_as_well)] if with_tasks else []
    app = app_with_tasks()
    app.add_api_route("/", schedule_async if is_async else schedule, dependencies=dependencies)
    async with serving(app, journal) as server:
        for _ in range(2):
            journal.clear()
            assert (await server.get()).status == 200
            await nothing_is_left(app)
            if with_tasks or place == "endpoint":
                check(journal)
            assert sorted(journal.only(*PHASES)) == sorted(PHASES)


@pytest.mark.parametrize("with_tasks", [False, True], ids=["", "with Tasks"])
async def test_tasks_by_hand_of_a_pure_middleware_start_in_the_request_s_phases_g1(
    journal: Journal, with_tasks: bool
) -> None:
    async def endpoint() -> None:
        journal.append("route")

    async def endpoint_with_tasks(tasks: Tasks) -> None:
        journal.each_phase(tasks)
        journal.append("route")

    app = FastAPI()
    app.add_middleware(Pure, journal=journal)
    app.add_api_route("/", endpoint_with_tasks if with_tasks else endpoint)
    async with serving(app_with_tasks(app), journal) as server:
        assert (await server.get()).status == 200
        await nothing_is_left(app)
    check(journal, "before ")
    journal.assert_order("app returned", "after immediate", "after after_response")
    journal.assert_order("app returned", "after after_route", "after after_response")
    if with_tasks:
        check(journal)
    assert len(journal.without("route", "start", "final", "app returned", "returned")) == (9 if with_tasks else 6)


@pytest.mark.parametrize("with_tasks", [False, True], ids=["", "with Tasks"])
async def test_tasks_by_hand_of_a_base_middleware_start_in_the_request_s_phases_g1(
    journal: Journal, with_tasks: bool
) -> None:
    async def dispatch(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        by_hand(journal, request, "before ")
        response = await call_next(request)
        by_hand(journal, request, "after ")
        return response

    async def endpoint() -> None:
        journal.append("route")

    async def endpoint_with_tasks(tasks: Tasks) -> None:
        journal.each_phase(tasks)
        journal.append("route")

    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app.add_api_route("/", endpoint_with_tasks if with_tasks else endpoint)
    async with serving(app_with_tasks(app), journal) as server:
        assert (await server.get()).status == 200
        await nothing_is_left(app)
    for prefix in ("before ", "after ", *([""] if with_tasks else [])):
        check(journal, prefix)


async def test_tasks_scheduled_by_hand_in_a_session_start_in_its_phases_g1_g12(journal: Journal) -> None:
    async def handler(websocket: WebSocket) -> None:
        by_hand(journal, websocket, "early ")
        await websocket.accept()
        by_hand(journal, websocket, "late ")
        await websocket.receive_text()
        journal.append("route")

    async def handler_with_tasks(websocket: WebSocket, tasks: Tasks) -> None:
        await handler(websocket)

    app = app_with_tasks()
    app.add_api_websocket_route("/", handler)
    app.add_api_websocket_route("/tasks", handler_with_tasks)
    async with serving(app, journal) as server:
        for path in ("/", "/tasks"):
            journal.clear()
            async with server.websocket(path) as session:
                await session.accept()
                await turns()
                assert {"early immediate", "late immediate"} <= set(journal)
                await session.send("end")
                await session.wait()
            await nothing_is_left(app)
            for prefix in ("early ", "late "):
                journal.assert_order("route", f"{prefix}after_response")
                assert f"{prefix}after_route" in journal
                if path == "/tasks":
                    journal.assert_order("route", f"{prefix}after_route", f"{prefix}after_response")


@pytest.mark.parametrize("with_tasks", [False, True], ids=["", "with Tasks"])
async def test_tasks_by_hand_after_the_route_start_at_once_or_with_the_end_g1(
    journal: Journal, with_tasks: bool
) -> None:
    """In a stream, in a background task, and in the exit of a request-scope dependency."""

    async def get_tasks_as_well(tasks: Tasks) -> None: ...

    async def leaving(request: Request) -> AsyncIterator[None]:
        yield
        by_hand(journal, request, "exit ")
        await journal.note_late("exit")

    async def in_background(request: Request) -> None:
        by_hand(journal, request, "background ")
        await journal.note_late("background")

    async def endpoint(request: Request, background: BackgroundTasks) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"one"
            by_hand(journal, request, "stream ")
            await turns()
            journal.append("stream")
            yield b"two"

        background.add_task(in_background, request)
        return StreamingResponse(chunks())

    app = FastAPI(dependencies=[Depends(leaving), *([Depends(get_tasks_as_well)] if with_tasks else [])])
    app.add_api_route("/", endpoint)
    async with serving(app_with_tasks(app), journal) as server:
        assert (await server.get()).body == b"onetwo"
        await nothing_is_left(app)
    for place in ("stream", "background", "exit"):
        journal.assert_order(f"{place} immediate", place)
        journal.assert_order(f"{place} after_route", place)
        journal.assert_order("exit", f"{place} after_response")


class Handled(Exception): ...


@pytest.mark.parametrize("with_tasks", [False, True], ids=["", "with Tasks"])
async def test_tasks_by_hand_of_an_exception_handler_have_the_outcome_of_the_route_g1_g5(
    journal: Journal, with_tasks: bool
) -> None:
    async def handler(request: Request, exc: Exception) -> Response:
        for when in ("success", "failure", "always"):
            by_hand(journal, request, f"{when} ", when)
        return JSONResponse("handled", 400)

    async def endpoint() -> None:
        raise Handled

    async def endpoint_with_tasks(tasks: Tasks) -> None:
        raise Handled

    app = FastAPI(exception_handlers={Handled: handler})
    app.add_api_route("/", endpoint_with_tasks if with_tasks else endpoint)
    async with serving(app_with_tasks(app), journal) as server:
        assert (await server.get()).status == 400
        await nothing_is_left(app)
    ran = ("always", "failure" if with_tasks else "success")  # without `Tasks` the end of the route is unknown
    for when in ("success", "failure", "always"):
        deferred = journal.only(f"{when} after_route", f"{when} after_response")
        assert deferred == ([f"{when} after_route", f"{when} after_response"] if when in ran else [])
        journal.assert_order(f"{when} immediate", "start")
    for when in ran:
        journal.assert_order(f"{when} after_route", "start", "final", f"{when} after_response")


@pytest.mark.parametrize("fails", [False, True])
async def test_tasks_in_a_route_have_its_outcome_and_outside_the_last_route_s_g5(journal: Journal, fails: bool) -> None:
    async def dispatch(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        for when in ("success", "failure", "always"):
            by_hand(journal, request, f"outside {when} ", when)
        return await call_next(request)

    async def endpoint(request: Request, tasks: Tasks) -> None:
        for when in ("success", "failure", "always"):
            by_hand(journal, request, f"inside {when} ", when)
        if fails:
            raise HTTPException(418)

    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app.add_api_route("/", endpoint)
    async with serving(app_with_tasks(app), journal) as server:
        assert (await server.get()).status == (418 if fails else 200)
        await nothing_is_left(app)
    runs = {"always", "failure" if fails else "success"}
    for place in ("inside", "outside"):
        ran = {event for event in journal if event.startswith(place) and not event.endswith("immediate")}
        assert ran == {f"{place} {when} {phase}" for when in runs for phase in PHASES[1:]}
        for when in runs:
            check(journal, f"{place} {when} ")


@pytest.mark.parametrize("fails", [False, True])
async def test_tasks_by_hand_of_a_background_have_the_outcome_of_the_route_g5(journal: Journal, fails: bool) -> None:
    """The response has begun. The exception handler makes the response of a failed route."""

    def answer(request: Request) -> Response:
        return PlainTextResponse("mine", background=BackgroundTask(in_background, request))

    async def in_background(request: Request) -> None:
        for when in ("success", "failure", "always"):
            by_hand(journal, request, f"background {when} ", when)

    async def handler(request: Request, exc: Exception) -> Response:
        return answer(request)

    async def endpoint(request: Request, tasks: Tasks) -> Response:
        if fails:
            raise Handled
        return answer(request)

    app = FastAPI(exception_handlers={Handled: handler})
    app.add_api_route("/", endpoint)
    async with serving(app_with_tasks(app), journal) as server:
        assert (await server.get()).body == b"mine"
        await nothing_is_left(app)
    runs = ("always", "failure" if fails else "success")
    ran = {event for event in journal if event.startswith("background") and not event.endswith("immediate")}
    assert ran == {f"background {when} {phase}" for when in runs for phase in PHASES[1:]}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("before", [False, True], ids=["", "and before the route"])
async def test_tasks_by_hand_of_a_dependency_exit_have_the_outcome_of_the_route_g5(
    journal: Journal, fails: bool, before: bool
) -> None:
    async def leaving(request: Request) -> AsyncIterator[None]:
        if before:
            by_hand(journal, request, "before ", "always")
        try:
            yield
        finally:
            for when in ("success", "failure", "always"):
                by_hand(journal, request, f"exit {when} ", when)

    async def endpoint(tasks: Tasks) -> None:
        if fails:
            raise HTTPException(418)

    app = FastAPI(dependencies=[Depends(leaving)])
    app.add_api_route("/", endpoint)
    async with serving(app_with_tasks(app), journal) as server:
        await server.get()
        await nothing_is_left(app)
    ran = {event for event in journal if event.startswith("exit") and not event.endswith("immediate")}
    assert ran == {
        f"exit {when} {phase}" for when in ("always", "failure" if fails else "success") for phase in PHASES[1:]
    }


@pytest.mark.parametrize("status", [200, 500])
async def test_outside_of_any_route_the_outcome_is_success_unless_the_call_raises_g5(
    journal: Journal, status: int
) -> None:
    """A middleware that answers by itself, or raises; there is no route."""

    class Alone:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
                return
            by_hand(journal, HTTPConnection(scope))
            if status == 500:
                raise LookupError
            await PlainTextResponse("mine")(scope, receive, send)

    app = FastAPI()
    app.add_middleware(Alone)
    async with serving(app_with_tasks(app), journal) as server:
        assert (await server.get()).status == status
        await nothing_is_left(app)
    check(journal)


async def test_outside_of_routes_the_outcome_is_failure_if_only_an_error_comes_g5(journal: Journal) -> None:
    """Instrumentation around all middleware raises, so no response is sent, not even an error response."""

    async def raises(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await stack(scope, receive, send)
            return
        for when in ("success", "failure", "always"):
            by_hand(journal, HTTPConnection(scope), f"{when} ", when)
        raise LookupError

    app = FastAPI()
    stack = app.build_middleware_stack()
    app.build_middleware_stack = lambda: raises  # type: ignore[method-assign]
    async with serving(app_with_tasks(app), journal) as server:
        assert isinstance((await server.get()).raised, LookupError)
        await nothing_is_left(app)
    deferred = {event for event in journal if event.endswith(PHASES[1:])}
    assert deferred == {f"{when} {phase}" for when in ("failure", "always") for phase in PHASES[1:]}


@ASYNC_AND_DEF
async def test_without_a_lifespan_the_call_returns_when_tasks_by_hand_have_ended_g13(
    journal: Journal, warned: Callable[[], list[str]], is_async: bool
) -> None:
    def endpoint(request: Request) -> None:
        scheduler = by_hand(journal, request)
        scheduler.after_response.schedule(journal.note_late, "ended")

    async def async_endpoint(request: Request) -> None:
        endpoint(request)

    app = FastAPI()
    add_tasks(app)
    app.add_api_route("/", async_endpoint if is_async else endpoint)
    for _ in range(2):
        journal.clear()
        assert (await wire.request(app, events=journal)).status == 200
        check(journal)
        journal.assert_order("final", "after_response", "ended", "returned")
    assert len(warned()) == 1


@ASYNC_AND_DEF
async def test_tasks_scheduled_by_hand_take_no_place_of_later_requests_g2_g15(journal: Journal, is_async: bool) -> None:
    """The arguments of an ended task are deleted without a run of the garbage collector for the request."""

    class Data: ...

    async def use(data: Data) -> None:
        used.append(1)

    def endpoint(request: Request) -> None:
        data = Data()
        refs.append(weakref.ref(data))
        TasksScheduler(request.state.fastapi_tasks_tg).after_response.schedule(use, data)
        TasksScheduler(request.state.fastapi_tasks_tg).after_route.schedule(use, data)

    async def async_endpoint(request: Request) -> None:
        endpoint(request)

    used: list[int] = []
    refs: list[weakref.ref[Data]] = []
    app = app_with_tasks(max_pending=2)
    app.add_api_route("/", async_endpoint if is_async else endpoint)
    async with serving(app) as server:
        for _ in range(20):
            response = await server.get()
            assert (response.status, response.raised) == (200, None)
        await nothing_is_left(app)
        gc.collect()
        assert len(used) == 40
        assert [ref() for ref in refs] == [None] * 20


async def test_the_start_of_a_batch_by_hand_starts_its_tasks_and_ends_no_route_g1(
    journal: Journal,
) -> None:
    async def endpoint(request: Request, tasks: Tasks) -> None:
        tasks.after_route.schedule(journal.note, "of the route")
        tasks.after_response.schedule(journal.note, "of the request")
        scheduler = TasksScheduler(request.state.fastapi_tasks_tg)
        for number in range(2):
            scheduler.after_route.schedule(journal.note, f"by hand {number}")
            scheduler.after_route.__start__(scheduler)
            await turns()
        scheduler.after_response.schedule(journal.note, "by hand, later")
        journal.append("route")

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        assert (await server.get()).status == 200
    assert journal[:3] == ["by hand 0", "by hand 1", "route"]
    journal.assert_order("route", "of the route", "start", "final", "of the request")
    journal.assert_order("final", "by hand, later")


async def test_a_scheduler_of_another_group_is_not_the_request_s_g1(journal: Journal) -> None:
    async def endpoint(tasks: Tasks) -> None:
        async with anyio.create_task_group() as tg:
            scheduler = TasksScheduler(tg)
            journal.each_phase(scheduler)
            await turns()
            assert journal == ["immediate"]
            scheduler.after_route.__start__(scheduler)
            await turns()
            scheduler.after_response.__start__(scheduler)
        journal.append("route")

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        assert (await server.get()).status == 200
    assert journal.without("returned") == ["immediate", "after_route", "after_response", "route", "start", "final"]


@native_cancel_only
@pytest.mark.parametrize("with_tasks", [False, True], ids=["", "with Tasks"])
async def test_tasks_by_hand_after_the_end_of_the_call_start_at_once_g1_g2(journal: Journal, with_tasks: bool) -> None:
    """By a task of asyncio that the endpoint has left behind."""

    async def left_behind(request: Request) -> None:
        await go_on.wait()
        by_hand(journal, request)
        done.set()

    async def endpoint(request: Request) -> None:
        kept.append(asyncio.create_task(left_behind(request)))

    async def endpoint_with_tasks(request: Request, tasks: Tasks) -> None:
        await endpoint(request)

    kept: list[Any] = []
    go_on, done = anyio.Event(), anyio.Event()
    app = app_with_tasks()
    app.add_api_route("/", endpoint_with_tasks if with_tasks else endpoint)
    async with serving(app) as server:
        assert (await server.get()).status == 200
        go_on.set()
        await done.wait()
        await nothing_is_left(app)
        assert sorted(journal) == sorted(PHASES)


async def test_a_group_of_the_app_may_schedule_by_hand_when_the_call_has_returned_g1_g2(journal: Journal) -> None:
    """A child task of a group of the app, on trio as well."""

    async def left_behind(request: Request) -> None:
        await go_on.wait()
        by_hand(journal, request)
        done.set()

    async def endpoint(request: Request) -> None:
        tg.start_soon(left_behind, request)

    go_on, done = anyio.Event(), anyio.Event()
    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with anyio.create_task_group() as tg, serving(app) as server:
        assert (await server.get()).status == 200
        go_on.set()
        await done.wait()
        await nothing_is_left(app)
        assert sorted(journal) == sorted(PHASES)


async def test_tasks_by_hand_of_a_task_belong_to_no_request_and_drop_with_the_scheduler_g2(
    journal: Journal,
) -> None:
    """A task has no phases of its own."""

    async def task(tg: Any) -> None:
        scheduler = TasksScheduler(tg)
        immediate, after_route, after_response = journal.each_phase(scheduler)
        dropped.extend([after_route, after_response])
        await immediate

    async def endpoint(request: Request, tasks: Tasks) -> None:
        tasks.schedule(task, request.state.fastapi_tasks_tg)

    dropped: list[Any] = []
    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        assert (await server.get()).status == 200
        await turns()
        gc.collect()
        await nothing_is_left(app)
    assert journal == ["immediate"]
    assert [task.status for task in dropped] == [TaskStatus.DROPPED] * 2
