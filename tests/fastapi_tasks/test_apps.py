"""G9, G12, G13: `add_tasks` and the app, with mounted apps and routers."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import pytest
from fastapi import APIRouter, FastAPI, Request, Response, WebSocket
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send
from tests import wire
from tests.fastapi_tasks.apps import Journal, Server, app_with_tasks, serving

from fastapi_tasks import (
    TaskConfig,
    Tasks,
    TasksClosedError,
    add_tasks,
)
from fastapi_tasks.errors import (
    FastAPITasksAlreadyAddedError,
    FastAPITasksError,
    FastAPITasksUninitializedAppError,
    FastAPITasksUnsupportedError,
)


class TestRefused:
    def test_a_second_call_is_refused_and_says_so_g13(self) -> None:
        app = FastAPI()
        add_tasks(app, max_running=1)
        with pytest.raises(FastAPITasksAlreadyAddedError, match="was called on this app before; call it once"):
            add_tasks(app)
        assert issubclass(FastAPITasksAlreadyAddedError, FastAPITasksError)

    async def test_after_a_second_call_the_first_stays_in_force_g13(self) -> None:
        async def endpoint(tasks: Tasks) -> str | None:
            return tasks.schedule(anyio.sleep, 0).config.name

        app = app_with_tasks(config=TaskConfig(name="first"))
        with pytest.raises(FastAPITasksAlreadyAddedError):
            add_tasks(app, config=TaskConfig(name="second"))
        app.add_api_route("/", endpoint)
        async with serving(app) as server:
            assert (await server.get()).json() == "first"

    async def test_an_app_that_has_been_started_is_refused(self) -> None:
        app = FastAPI()
        async with serving(app):
            with pytest.raises(RuntimeError, match="has been started"):
                add_tasks(app)

    @pytest.mark.parametrize("thing", [APIRouter(), Starlette(), None, FastAPI, lambda scope, receive, send: None])
    def test_anything_but_a_fastapi_app_is_refused(self, thing: Any) -> None:
        with pytest.raises(
            TypeError, match=r"add_tasks\(\) takes a FastAPI app, .*: call it on the app that the server runs"
        ):
            add_tasks(thing)

    @pytest.mark.parametrize(
        ("settings", "error"),
        [
            ({"config": {"name": "x"}}, TypeError),
            ({"max_running": 0}, ValueError),
            ({"max_pending": -1}, ValueError),
            ({"max_threads": 0}, ValueError),
            ({"max_threads": None}, TypeError),
            ({"drain_timeout": -1}, ValueError),
            ({"drain_timeout": None}, TypeError),
            ({"shield_timeout": "5"}, TypeError),
            ({"hold": "yes"}, TypeError),
            ({"hold": 1}, TypeError),
        ],
    )
    def test_bad_settings_are_refused_at_once_by_name(self, settings: dict[str, Any], error: type[Exception]) -> None:
        app = FastAPI()
        with pytest.raises(error, match=next(iter(settings))):
            add_tasks(app, **settings)
        add_tasks(app)  # nothing has changed

    async def test_without_add_tasks_the_error_says_what_to_call_g13(self) -> None:
        async def endpoint(tasks: Tasks) -> None:
            raise AssertionError("it is not reached")

        app = FastAPI()
        app.add_api_route("/", endpoint)
        async with serving(app) as server:
            response = await server.get()
        assert response.status == 500
        assert isinstance(response.raised, FastAPITasksUninitializedAppError)
        assert "call add_tasks(app)" in str(response.raised)

    async def test_a_route_that_is_none_of_fastapi_s_is_refused(self) -> None:
        from fastapi_tasks import get_tasks

        async def endpoint(request: Request) -> Response:
            with pytest.raises(FastAPITasksUnsupportedError, match="needs a route of FastAPI"):
                await get_tasks(request)
            return Response("fine")

        app = app_with_tasks()
        app.add_route("/", endpoint)
        async with serving(app) as server:
            assert (await server.get()).body == b"fine"

    @pytest.mark.parametrize("phase", ["immediate", "after_route", "after_response"])
    async def test_a_host_that_has_closed_takes_no_task_and_the_request_fails_g9(self, phase: str) -> None:
        """uvicorn and granian may shut the lifespan down while requests run."""

        async def endpoint(tasks: Tasks) -> None:
            reached.set()
            await go_on.wait()
            (tasks if phase == "immediate" else getattr(tasks, phase)).schedule(anyio.sleep, 0)

        async def get(server: Server) -> None:
            responses.append(await server.get())

        reached, go_on = anyio.Event(), anyio.Event()
        responses: list[wire.Response] = []
        app = app_with_tasks()
        app.add_api_route("/", endpoint)
        async with anyio.create_task_group() as tg:
            async with serving(app) as server:
                tg.start_soon(get, server)
                await reached.wait()
            go_on.set()
        assert responses[0].status == 500
        assert isinstance(responses[0].raised, TasksClosedError)


class TestUnchanged:
    def test_the_app_s_class_looks_as_before_g12(self) -> None:
        class MyApp(FastAPI):
            """Mine."""

        for base in (FastAPI, MyApp):
            app = base(title="x")
            add_tasks(app)
            assert isinstance(app, base)
            kind = type(app)
            assert (kind.__name__, kind.__qualname__) == (base.__name__, base.__qualname__)
            assert (kind.__module__, kind.__doc__) == (base.__module__, base.__doc__)
            assert type(base()) is base

    def test_the_schema_is_as_before_g12(self) -> None:
        async def with_tasks(number: int, tasks: Tasks) -> dict[str, str]:
            return {}

        async def without(number: int) -> dict[str, str]:
            return {}

        schemas = []
        for endpoint in (without, with_tasks):
            app = FastAPI()
            app.add_api_route("/", endpoint, name="endpoint", operation_id="endpoint")
            if endpoint is with_tasks:
                add_tasks(app)
            schemas.append(app.openapi())
        assert schemas[0] == schemas[1]

    async def test_a_subclass_with_a_call_of_its_own_keeps_it_g12(self, journal: Journal) -> None:
        class MyApp(FastAPI):
            __slots__ = ("mine",)

            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                journal.append(f"{scope['type']} in")
                await super().__call__(scope, receive, send)
                await journal.note_late(f"{scope['type']} out")

        app = app_with_tasks(MyApp())

        async def endpoint(tasks: Tasks) -> None:
            journal.each_phase(tasks)

        app.add_api_route("/", endpoint)
        async with serving(app, journal) as server:
            assert (await server.get()).status == 200
        journal.assert_order(
            "lifespan in", "http in", "immediate", "start", "http out", "after_response", "lifespan out"
        )

    async def test_other_apps_of_the_class_have_no_tasks_g13(self) -> None:
        async def endpoint(tasks: Tasks) -> None: ...

        app_with_tasks()
        other = FastAPI()
        other.add_api_route("/", endpoint)
        async with serving(other) as server:
            assert isinstance((await server.get()).raised, FastAPITasksUninitializedAppError)


class TestMounted:
    @staticmethod
    def pair(journal: Journal, *with_tasks: str) -> FastAPI:
        async def endpoint(tasks: Tasks) -> str | None:
            journal.each_phase(tasks)
            return tasks.schedule(anyio.sleep, 0).config.name

        made = {"parent": FastAPI(), "child": FastAPI()}
        for name in with_tasks:
            config = TaskConfig(name=name) if name == with_tasks[0] else None
            add_tasks(made[name], config=config, drain_timeout=5)
        made["child"].add_api_route("/", endpoint)
        made["parent"].mount("/child", made["child"])
        return made["parent"]

    @pytest.mark.parametrize("with_tasks", [("parent",), ("parent", "child")])
    async def test_a_mounted_app_has_the_tasks_of_its_parent_g12(
        self, journal: Journal, warned: Callable[[], list[str]], with_tasks: tuple[str, ...]
    ) -> None:
        async with serving(self.pair(journal, *with_tasks), journal) as server:
            assert (await server.get("/child/")).json() == "parent"
        assert journal.without("returned") == ["immediate", "after_route", "start", "final", "after_response"]
        assert warned() == []

    @pytest.mark.parametrize(
        "settings",
        [
            {"config": TaskConfig(name="x")},
            {"max_running": 1},
            {"max_pending": 1},
            {"max_threads": 1},
            {"telemetry": {}},
            {"telemetry": False},
        ],
    )
    async def test_a_mounted_app_with_settings_that_its_parent_overrules_says_so_g13(
        self, settings: dict[str, Any]
    ) -> None:
        async def endpoint() -> None: ...

        child, parent = FastAPI(), app_with_tasks()
        add_tasks(child, **settings)
        child.add_api_route("/", endpoint)
        parent.mount("/child", child)
        async with serving(parent) as server:
            response = await server.get("/child/")
        assert isinstance(response.raised, FastAPITasksAlreadyAddedError)
        assert "to the add_tasks() of the parent" in str(response.raised)

    @pytest.mark.parametrize("settings", [{"config": TaskConfig(name="x")}, {"max_pending": 1}])
    async def test_a_session_of_a_mounted_app_with_overruled_settings_says_so_too_g12_g13(
        self, settings: dict[str, Any]
    ) -> None:
        async def session(websocket: WebSocket) -> None:
            raise AssertionError("it is not reached")

        async def endpoint(tasks: Tasks) -> None: ...

        child, parent, router = FastAPI(), app_with_tasks(), APIRouter()
        add_tasks(child, **settings)
        child.add_api_websocket_route("/", session)
        router.add_api_route("/included", endpoint)
        parent.include_router(router)
        parent.mount("/child", child)
        async with serving(parent) as server:
            async with server.websocket("/child/") as refused:
                await refused.wait()
            assert isinstance(refused.raised, FastAPITasksAlreadyAddedError)
            assert (await server.get("/included")).status == 200

    @pytest.mark.parametrize("copies", [False, True])
    async def test_a_middleware_that_calls_its_own_app_again_is_no_parent_of_it_g12_g13(
        self, journal: Journal, copies: bool
    ) -> None:
        class Redirecting:
            def __init__(self, app: ASGIApp) -> None:
                self.app = app

            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                if scope["type"] == "http" and scope["path"] == "/old":
                    there = {"path": "/", "raw_path": b"/"}
                    if copies:
                        scope = {**scope, **there}
                    else:
                        scope.update(there)
                    await app(scope, receive, send)
                else:
                    await self.app(scope, receive, send)

        async def endpoint(tasks: Tasks) -> str | None:
            journal.each_phase(tasks)
            return tasks.schedule(anyio.sleep, 0).config.name

        app = app_with_tasks(config=TaskConfig(name="its own"), max_pending=5)
        app.add_middleware(Redirecting)
        app.add_api_route("/", endpoint)
        async with serving(app, journal) as server:
            assert (await server.get("/old")).json() == "its own"
        assert journal.without("returned", "immediate") == ["after_route", "start", "final", "after_response"]

    async def test_a_mounted_app_whose_parent_has_none_holds_them_and_warns_g13(
        self, journal: Journal, warned: Callable[[], list[str]]
    ) -> None:
        """No server runs the lifespan of the mounted app."""
        async with serving(self.pair(journal, "child"), journal) as server:
            assert (await server.get("/child/")).json() == "child"
        order = ["immediate", "after_route", "start", "final", "after_response", "returned"]
        assert journal == order
        assert len(warned()) == 1
        assert "a mounted app: add_tasks() on its parent" in warned()[0]

    async def test_a_mounted_app_without_any_says_so_g13(self, journal: Journal) -> None:
        async with serving(self.pair(journal)) as server:
            response = await server.get("/child/")
        assert isinstance(response.raised, FastAPITasksUninitializedAppError)
        assert "on its parent" in str(response.raised)

    async def test_routers_nest_as_deep_as_they_like_g12(self, journal: Journal) -> None:
        async def endpoint(tasks: Tasks) -> None:
            journal.each_phase(tasks)

        inner, outer, child = APIRouter(), APIRouter(), FastAPI()
        inner.add_api_route("/end", endpoint)
        outer.include_router(inner, prefix="/inner")
        child.include_router(outer, prefix="/outer")
        between = Starlette()
        between.mount("/child", child)
        app = app_with_tasks()
        app.include_router(outer, prefix="/outer")
        app.mount("/between", between)
        for path in ("/outer/inner/end", "/between/child/outer/inner/end"):
            journal.clear()
            async with serving(app, journal) as server:
                assert (await server.get(path)).status == 200
            assert journal.without("returned") == ["immediate", "after_route", "start", "final", "after_response"]
