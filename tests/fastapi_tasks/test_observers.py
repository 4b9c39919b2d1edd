"""G3, G13, G20: the observers of an app are told of its requests, scopes and tasks."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope
from tests import wire
from tests.backends import turns, until
from tests.fastapi_tasks.apps import ASYNC_AND_DEF, DRAIN, Journal, host_of, serving
from tests.fastapi_tasks.test_late_routes import Impatient, group, nowhere

from fastapi_tasks import (
    Scope,
    Task,
    TaskHost,
    TaskObserver,
    Tasks,
    TasksClosedError,
    TasksError,
    TasksScheduler,
    add_tasks,
    current_host,
)
from fastapi_tasks.errors import FastAPITasksAlreadyAddedError

Warned = Callable[[], list[str]]


class Diary(TaskObserver):
    """Writes down each call. Scopes are numbered in the order in which the diary hears of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.scopes: list[Scope] = []
        self.threads: list[tuple[str, int]] = []

    def number(self, scope: Scope | None) -> str:
        if scope is None:
            return "no scope"
        if scope not in self.scopes:
            self.scopes.append(scope)
        return f"scope {self.scopes.index(scope)}"

    def write(self, hook: str, *what: object) -> None:
        self.calls.append(" ".join(map(str, (hook, *what))))
        self.threads.append((hook, threading.get_ident()))

    def scheduled(self, task: Task[Any], scope: Scope | None) -> None:
        self.write("scheduled", task.name, "in", self.number(scope))

    def refused(self, func: Callable[..., Any], error: TasksError) -> None:
        self.write("refused", type(error).__name__)

    def started(self, task: Task[Any]) -> None:
        self.write("started", task.name)

    def ended(self, task: Task[Any]) -> None:
        self.write("ended", task.name, task.status.value)

    def scope_changed(self, scope: Scope, change: str) -> None:
        self.write(self.number(scope), change)

    def drained(self, report: object) -> None:
        self.write("drained")

    def changes(self) -> list[str]:
        return [call for call in self.calls if call.startswith("scope ")]

    def scheduled_in(self) -> dict[str, str]:
        """Return the scope of each task, by the name of the task."""
        found = [call.split(" ", 3) for call in self.calls if call.startswith("scheduled ")]
        return {name: scope for _, name, _, scope in found}


@pytest.fixture
def diary() -> Diary:
    return Diary()


async def work() -> None:
    await anyio.lowlevel.checkpoint()


def app_of(diary: Diary, **settings: Any) -> FastAPI:
    app = FastAPI()
    add_tasks(app, observers=[diary], **{"drain_timeout": DRAIN, **settings})
    return app


class TestScopes:
    @ASYNC_AND_DEF
    async def test_each_way_to_schedule_in_a_request_tells_its_scope_g20(self, diary: Diary, is_async: bool) -> None:
        app = app_of(diary)

        def schedule(tasks: TasksScheduler) -> None:
            tasks.task(name="by-tasks").schedule(work)
            tasks.task(name="later").after_response.schedule(work)
            current_host().task(name="by-host").schedule(work)
            TasksScheduler(tasks.tg).task(name="by-hand").schedule(work)

        async def endpoint(tasks: Tasks) -> None:
            schedule(tasks)

        def def_endpoint(tasks: Tasks) -> None:
            schedule(tasks)

        app.add_api_route("/", endpoint if is_async else def_endpoint)
        async with serving(app) as server:
            assert (await server.get()).status == 200
        names = ("by-tasks", "later", "by-host", "by-hand")
        assert diary.scheduled_in() == dict.fromkeys(names, "scope 0")
        assert diary.changes() == [f"scope 0 {change}" for change in ("route_succeeded", "first_message", "ended")]
        in_loop = {thread == threading.get_ident() for hook, thread in diary.threads if hook == "scheduled"}
        assert in_loop == {is_async}
        assert {thread for hook, thread in diary.threads if hook != "scheduled"} == {threading.get_ident()}

    @ASYNC_AND_DEF
    async def test_a_request_without_a_scheduler_has_a_scope_too_g14_g20(self, diary: Diary, is_async: bool) -> None:
        app = app_of(diary)

        async def endpoint() -> None:
            current_host().task(name="a").schedule(work)

        def def_endpoint() -> None:
            current_host().task(name="a").schedule(work)

        app.add_api_route("/items/{number}", endpoint if is_async else def_endpoint)
        async with serving(app) as server:
            assert (await server.get("/items/1")).status == 200
        assert diary.scheduled_in() == {"a": "scope 0"}
        assert diary.changes() == [f"scope 0 {change}" for change in ("route_succeeded", "first_message", "ended")]
        assert diary.scopes[0].info == {"method": "GET", "route": "/items/{number}", "path": "/items/1"}

    async def test_a_task_of_a_task_has_no_scope_but_a_parent_g17_g20(self, diary: Diary) -> None:
        app = app_of(diary)
        found: list[Task[Any]] = []

        async def nest() -> None:
            found.append(current_host().task(name="child").schedule(work))

        async def endpoint(tasks: Tasks) -> None:
            found.append(tasks.task(name="parent").schedule(nest))

        app.add_api_route("/", endpoint)
        async with serving(app) as server:
            await server.get()
        assert diary.scheduled_in() == {"parent": "scope 0", "child": "no scope"}
        parent, child = found
        assert child.parent == parent.id

    async def test_what_a_request_has_left_behind_schedules_in_no_scope_g20(self, diary: Diary) -> None:
        over = anyio.Event()

        async def left_behind() -> None:
            await over.wait()
            current_host().task(name="a").schedule(work)

        async with group() as tg:
            app = app_of(diary)

            async def endpoint() -> None:
                tg.start_soon(left_behind)

            app.add_api_route("/", endpoint)
            async with serving(app) as server:
                await server.get()
                over.set()
                await until(lambda: diary.scheduled_in())
        assert diary.scheduled_in() == {"a": "no scope"}

    async def test_startup_code_and_services_schedule_in_no_scope_g14_g20(self, diary: Diary) -> None:
        app = app_of(diary)
        async with serving(app):
            host_of(app).task(name="a").schedule(work)
        assert diary.scheduled_in() == {"a": "no scope"}

    @pytest.mark.parametrize("error", [HTTPException(418), LookupError()])
    async def test_a_route_that_fails_has_failed_before_its_error_is_sent_g5_g20(
        self, diary: Diary, error: Exception
    ) -> None:
        app = app_of(diary)

        async def endpoint(tasks: Tasks) -> None:
            raise error

        app.add_api_route("/", endpoint)
        async with serving(app) as server:
            await server.get()
        assert diary.changes() == [f"scope 0 {change}" for change in ("route_failed", "first_message", "ended")]

    async def test_a_route_of_a_middleware_that_answers_itself_is_told_of_late_g1_g20(self, diary: Diary) -> None:
        reached, go_on = anyio.Event(), anyio.Event()
        ended: list[str] = []

        async def endpoint(tasks: Tasks) -> None:
            tasks.task(name="a").after_response.schedule(work)
            reached.set()
            await go_on.wait()

        async with group() as tg:
            app = app_of(diary)
            app.add_api_route("/", endpoint)

            async def run_on(app: ASGIApp, scope: AsgiScope, receive: Receive) -> None:
                await app(scope, receive, nowhere)
                ended.append("route")

            def beside(app: ASGIApp, scope: AsgiScope, receive: Receive, send: Send) -> None:
                tg.start_soon(run_on, app, scope, receive)

            app.add_middleware(Impatient, beside=beside, reached=reached, fails=False)
            async with serving(app) as server:
                assert (await server.get()).status == 504
                assert diary.changes() == ["scope 0 first_message"]
                go_on.set()
                await until(lambda: ended)
        assert diary.changes() == [f"scope 0 {change}" for change in ("first_message", "route_succeeded", "ended")]
        assert "ended a succeeded" in diary.calls

    async def test_each_route_of_a_request_has_its_changes_g1_g20(self, diary: Diary) -> None:
        """A middleware calls the app again after the first route has failed."""

        class Again:
            def __init__(self, app: ASGIApp) -> None:
                self.app = app

            async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
                if scope["type"] == "http":
                    current_host().task(name="outside").schedule(work)
                    await self.app(dict(scope), receive, nowhere)
                await self.app(scope, receive, send)

        app = app_of(diary)
        numbers = iter([1, 2])

        async def endpoint(name: str, tasks: Tasks) -> None:
            number = next(numbers)
            tasks.task(name=f"of-route-{number}").schedule(work)
            if number == 1:
                raise HTTPException(418)

        app.add_api_route("/{name}", endpoint)
        app.add_middleware(Again)
        async with serving(app) as server:
            assert (await server.get("/a")).status == 200
        assert diary.scheduled_in() == {"outside": "scope 0", "of-route-1": "scope 1", "of-route-2": "scope 2"}
        for scope, first in (("scope 1", "route_failed"), ("scope 2", "route_succeeded")):
            changes = [change for change in diary.changes() if change.startswith(scope)]
            assert (changes[0], changes[-1]) == (f"{scope} {first}", f"{scope} ended")
        assert len(set(diary.changes())) == len(diary.changes())
        info = diary.scopes[0].info
        assert info == {"method": "GET", "route": "/{name}", "path": "/a"}
        assert all(scope.info is info for scope in diary.scopes)

    async def test_a_thread_that_streams_has_its_scope_changed_in_the_loop_g8_g20(self, diary: Diary) -> None:
        """The response has begun, and only then somebody schedules, in a thread."""
        app = app_of(diary)

        def generate() -> Iterator[str]:
            yield "a"
            current_host().task(name="a").schedule(work)
            yield "b"

        async def endpoint() -> StreamingResponse:
            return StreamingResponse(generate())

        app.add_api_route("/", endpoint)
        async with serving(app) as server:
            assert (await server.get()).body == b"ab"
            await turns()
            assert host_of(app)._runner.is_busy is False
        assert diary.scheduled_in() == {"a": "scope 0"}
        assert diary.changes() == ["scope 0 route_succeeded", "scope 0 ended"]
        threads = {thread for hook, thread in diary.threads if hook.startswith("scope")}
        assert threads == {threading.get_ident()}

    async def test_the_first_message_is_told_of_once_in_a_stream_g20(self, diary: Diary) -> None:
        app = app_of(diary)
        journal = Journal()

        async def generate() -> AsyncIterator[str]:
            for letter in "abc":
                yield letter
                journal.extend(diary.changes())

        async def endpoint(tasks: Tasks) -> StreamingResponse:
            tasks.schedule(work)
            return StreamingResponse(generate())

        app.add_api_route("/", endpoint)
        async with serving(app) as server:
            assert (await server.get()).body == b"abc"
        assert journal == ["scope 0 route_succeeded", "scope 0 first_message"] * 3
        assert diary.changes() == [f"scope 0 {change}" for change in ("route_succeeded", "first_message", "ended")]

    async def test_the_first_message_of_a_session_is_told_of_once_g12_g20(self, diary: Diary) -> None:
        """Each of these two messages may begin a response. The first one waits for the task."""
        app = app_of(diary)

        async def endpoint(websocket: WebSocket, tasks: Tasks) -> None:
            tasks.schedule(work)
            await websocket.accept()
            await websocket.close()

        app.add_api_websocket_route("/", endpoint)
        async with serving(app) as server, server.websocket("/") as session:
            await session.accept()
            await session.wait()
        assert diary.changes().count("scope 0 first_message") == 1


class TestInfo:
    async def test_info_has_method_template_and_path_g20(self, diary: Diary) -> None:
        app = app_of(diary)

        async def endpoint(tasks: Tasks) -> None:
            tasks.schedule(work)

        app.add_api_route("/items/{number:int}", endpoint, methods=["GET", "POST"])
        async with serving(app) as server:
            await server.request("POST", "/items/7")
            await server.get("/items/8")
        assert [scope.info for scope in diary.scopes] == [
            {"method": "POST", "route": "/items/{number:int}", "path": "/items/7"},
            {"method": "GET", "route": "/items/{number:int}", "path": "/items/8"},
        ]

    async def test_info_of_an_included_router_has_the_template_with_its_prefixes_g12_g20(self, diary: Diary) -> None:
        app, outer, inner = app_of(diary), APIRouter(prefix="/v1"), APIRouter(prefix="/shop")

        async def endpoint(tasks: Tasks) -> None:
            tasks.schedule(work)

        inner.add_api_route("/items/{number}", endpoint)
        outer.include_router(inner)
        app.include_router(outer, prefix="/api")
        app.include_router(outer, prefix="/old/{tenant}")
        async with serving(app) as server:
            await server.get("/api/v1/shop/items/1")
            await server.get("/old/acme/v1/shop/items/1")
        assert [scope.info["route"] for scope in diary.scopes] == [
            "/api/v1/shop/items/{number}",
            "/old/{tenant}/v1/shop/items/{number}",
        ]

    @pytest.mark.parametrize(
        ("mount", "route", "path"),
        [
            ("/of/{tenant}", "/items/{number}", "/of/acme/items/1"),
            ("/of/{tenant}", "/{tenant_id:int}", "/of/acme/1"),
            ("/{tenant}/{shop}", "/items/{number}", "/1/12/items/1"),
            ("/{tenant}/{shop}", "/items/{number}", "/1/1/items/1"),
        ],
    )
    async def test_info_of_a_mount_with_parameters_has_no_value_of_them_g12_g20(
        self, diary: Diary, mount: str, route: str, path: str
    ) -> None:
        app, mounted = app_of(diary), FastAPI()

        async def endpoint(tasks: Tasks) -> None:
            tasks.schedule(work)

        mounted.add_api_route(route, endpoint)
        app.mount(mount, mounted)
        async with serving(app) as server:
            await server.get(path)
        assert diary.scopes[0].info["route"] == mount + route

    async def test_info_of_a_websocket_g12_g20(self, diary: Diary) -> None:
        app = app_of(diary)

        async def endpoint(room: str, websocket: WebSocket, tasks: Tasks) -> None:
            tasks.task(name="a").schedule(work)
            await websocket.accept()
            await websocket.send_text("hello")
            tasks.task(name="b").after_response.schedule(work)
            await websocket.close()

        app.add_api_websocket_route("/rooms/{room}", endpoint)
        async with serving(app) as server, server.websocket("/rooms/1") as session:
            await session.accept()
            await session.receive()
            await session.wait()
        assert diary.scopes[0].info == {"method": "WEBSOCKET", "route": "/rooms/{room}", "path": "/rooms/1"}
        assert diary.scheduled_in() == {"a": "scope 0", "b": "scope 0"}
        assert diary.changes() == [f"scope 0 {change}" for change in ("first_message", "route_succeeded", "ended")]

    async def test_info_of_a_mounted_app_has_the_template_of_its_route_g12_g20(self, diary: Diary) -> None:
        app, mounted = app_of(diary), FastAPI()

        async def endpoint(tasks: Tasks) -> None:
            tasks.schedule(work)

        mounted.add_api_route("/items/{number}", endpoint)
        app.mount("/shop", mounted)
        async with serving(app) as server:
            assert (await server.get("/shop/items/1")).status == 200
        assert diary.scopes[0].info == {"method": "GET", "route": "/shop/items/{number}", "path": "/shop/items/1"}

    async def test_a_middleware_schedules_before_the_route_is_known_g20(self, diary: Diary) -> None:
        early: list[dict[str, Any]] = []

        class Early:
            def __init__(self, app: ASGIApp) -> None:
                self.app = app

            async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
                if scope["type"] == "http":
                    current_host().task(name="early").schedule(work)
                    early.append(dict(diary.scopes[-1].info))
                await self.app(scope, receive, send)

        app = app_of(diary)

        async def with_tasks(number: int, tasks: Tasks) -> None:
            tasks.task(name="a").schedule(work)

        async def without(number: int) -> None: ...

        app.add_api_route("/with/{number}", with_tasks)
        app.add_api_route("/without/{number}", without)
        app.add_middleware(Early)
        async with serving(app) as server:
            await server.get("/with/1")
            await server.get("/without/2")
            await server.get("/nowhere")
        assert early == [
            {"method": "GET", "route": None, "path": path} for path in ("/with/1", "/without/2", "/nowhere")
        ]
        of_with, of_route, of_without, of_nowhere = diary.scopes
        assert of_with.info is of_route.info
        assert of_with.info["route"] == "/with/{number}"
        assert of_without.info["route"] == "/without/{number}"
        assert of_nowhere.info == {"method": "GET", "route": None, "path": "/nowhere"}

    async def test_each_change_of_an_early_scope_is_told_with_the_template_g20(self) -> None:
        seen: list[tuple[str, str | None]] = []

        class Templates(Diary):
            def scope_changed(self, scope: Scope, change: str) -> None:
                seen.append((change, scope.info["route"]))

        class Early:
            def __init__(self, app: ASGIApp) -> None:
                self.app = app

            async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
                if scope["type"] != "lifespan":
                    current_host().schedule(work)
                await self.app(scope, receive, send)

        async def endpoint(number: int) -> None: ...

        async def fails(room: str, websocket: WebSocket) -> None:
            raise LookupError

        app = app_of(Templates())
        app.add_middleware(Early)
        app.add_api_route("/items/{number}", endpoint)
        app.add_api_websocket_route("/rooms/{room}", fails)
        async with serving(app) as server:
            await server.get("/items/1")
            assert seen == [(change, "/items/{number}") for change in ("route_succeeded", "first_message", "ended")]
            seen.clear()
            async with server.websocket("/rooms/1") as session:
                with pytest.raises(wire.Denied):
                    await session.accept()
            assert seen == [(change, "/rooms/{room}") for change in ("route_failed", "ended")]

    async def test_a_middleware_that_copies_the_scope_hides_no_template_g20(self, diary: Diary) -> None:
        class Copies:
            def __init__(self, app: ASGIApp) -> None:
                self.app = app

            async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
                await self.app(dict(scope), receive, send)

        app = app_of(diary)

        async def endpoint(tasks: Tasks) -> None:
            tasks.schedule(work)

        app.add_api_route("/items/{number}", endpoint)
        app.add_middleware(Copies)
        async with serving(app) as server:
            await server.get("/items/1")
        assert diary.scopes[0].info["route"] == "/items/{number}"


class TestHosts:
    async def test_the_host_of_a_lifespan_is_drained_g9_g20(self, diary: Diary) -> None:
        async with serving(app_of(diary)) as server:
            await server.get("/nowhere")
            assert diary.calls == []
        assert diary.calls == ["drained"]

    @pytest.mark.parametrize("hold", [False, True])
    async def test_the_host_of_a_single_request_tells_of_all_but_its_drain_g13_g20(
        self, diary: Diary, hold: bool, warned: Warned
    ) -> None:
        app = app_of(diary, hold=hold)

        async def endpoint(tasks: Tasks) -> None:
            tasks.task(name="a").after_response.schedule(work)

        app.add_api_route("/", endpoint)
        for _ in range(2):
            diary.calls.clear()
            await wire.request(app)
            number = len(diary.scopes) - 1
            assert diary.calls == [
                f"scheduled a in scope {number}",
                f"scope {number} route_succeeded",
                f"scope {number} first_message",
                f"scope {number} ended",
                "started a",
                "ended a succeeded",
            ]
        assert len(warned()) == (not hold)

    @pytest.mark.parametrize("with_lifespan", [False, True])
    async def test_an_observer_that_raises_is_not_called_again_in_any_host_g3_g20(
        self, with_lifespan: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls: list[str] = []

        class Broken(TaskObserver):
            def started(self, task: Task[Any]) -> None:
                calls.append("started")
                raise LookupError

        observer = Broken()
        app = FastAPI()
        add_tasks(app, observers=[observer], hold=not with_lifespan)

        async def endpoint(tasks: Tasks) -> None:
            tasks.schedule(work)

        app.add_api_route("/", endpoint)
        async with serving(app) as server:
            for _ in range(3):
                assert (await server.get()).status == 200
        async with TaskHost(observers=[observer]) as host:
            await host.schedule(work)
        assert calls == ["started"]
        assert caplog.text.count("it is not called again") == 1

    async def test_what_a_closed_app_refuses_is_told_of_g9_g20(self, diary: Diary) -> None:
        app = app_of(diary)
        async with serving(app):
            host = host_of(app)
        with pytest.raises(TasksClosedError):
            host.schedule(work)
        assert diary.calls == ["drained", "refused TasksClosedError"]

    @pytest.mark.parametrize("wrong", [[Diary], [None], 3])
    def test_an_app_refuses_what_is_no_observer_g20(self, wrong: Any) -> None:
        with pytest.raises(TypeError):
            add_tasks(FastAPI(), observers=wrong)

    async def test_any_iterable_holds_observers_for_each_host_g20(self, diary: Diary) -> None:
        app = FastAPI()
        add_tasks(app, observers=iter([diary]))
        for _ in range(2):
            async with serving(app):
                pass
        assert diary.calls == ["drained"] * 2

    async def test_a_mounted_app_with_observers_of_its_own_refuses_its_first_request_g13_g20(
        self, diary: Diary
    ) -> None:
        mounted, app = app_of(diary), FastAPI()
        add_tasks(app)
        app.mount("/shop", mounted)
        async with serving(app) as server:
            response = await server.get("/shop/")
        assert response.status == 500
        assert isinstance(response.raised, FastAPITasksAlreadyAddedError)
        assert "observers" in str(response.raised)
        assert diary.calls == []

    async def test_a_dependency_schedules_in_the_scope_of_its_request_g12_g20(self, diary: Diary) -> None:
        app = app_of(diary)

        async def depend(tasks: Tasks) -> AsyncIterator[None]:
            tasks.task(name="enter").schedule(work)
            yield
            tasks.task(name="exit").schedule(work)

        async def endpoint() -> PlainTextResponse:
            return PlainTextResponse("ok")

        app.add_api_route("/", endpoint, dependencies=[Depends(depend)])
        async with serving(app) as server:
            assert (await server.get()).status == 200
        assert diary.scheduled_in() == {"enter": "scope 0", "exit": "scope 0"}
