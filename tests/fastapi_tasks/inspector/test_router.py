"""G10, G13: the page of an inspector, its guard, its headers, its data and its event stream."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from tests import wire

import fastapi_tasks.inspector
from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.errors import FastAPITasksUninitializedAppError
from fastapi_tasks.inspector import History, router
from fastapi_tasks.inspector._picture import KINDS
from fastapi_tasks.inspector._router import STREAM

REFERENCE = Path(__file__).parents[3] / "docs/reference/fastapi_tasks_inspector.md"
FOLDER = Path(fastapi_tasks.inspector.__file__).parent
ASSETS = ["page.css", "page.js", "page-parts.js", "journal.js", "waterfall.js", "icon.svg"]
PATHS = ["", "json", "events", *ASSETS]
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="taskphase")


def admin(request: Request) -> None:
    if request.headers.get("authorization") != "secret":
        raise HTTPException(403)


def make_app(*, guarded: bool = False, prefix: str = "/_tasks", **settings: Any) -> FastAPI:
    app = FastAPI()
    history = History()
    add_tasks(app, observers=[history], **settings)
    guard: dict[str, Any] = {"dependencies": [Depends(admin)]} if guarded else {"allow_unauthenticated": True}
    app.include_router(router(history, prefix=prefix, **guard))

    async def fail() -> None:
        raise ValueError(EVIL)

    @app.post("/orders/{order}")
    async def place(order: str, tasks: Tasks) -> None:
        tasks.task(name=EVIL).after_route.schedule(anyio.lowlevel.checkpoint)
        tasks.after_response.schedule(fail)

    return app


async def begin(app: FastAPI, path: str, **options: Any) -> wire.Response:
    """Make a request whose client leaves with the first message of a stream."""
    return await get(app, path, disconnect_after=1 if path.endswith("events") else None, **options)


async def get(app: FastAPI, path: str, **options: Any) -> wire.Response:
    path, _, query = path.partition("?")
    return await wire.request(app, "GET", path, query=query.encode(), **options)


def headers_of(response: wire.Response) -> dict[str, str]:
    return {name.decode().lower(): value.decode() for name, value in response.headers}


def events_of(response: wire.Response) -> list[dict[str, Any]]:
    lines = response.body.decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


class TestGuard:
    def test_a_router_without_a_guard_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no guard"):
            router(History())
        with pytest.raises(ValueError, match="no guard"):
            router(History(), dependencies=[], allow_unauthenticated=1)  # type: ignore[arg-type]

    def test_a_router_takes_a_history(self) -> None:
        with pytest.raises(TypeError, match="must be a History"):
            router([], allow_unauthenticated=True)  # type: ignore[arg-type]

    @pytest.mark.parametrize("path", PATHS)
    async def test_each_path_has_the_guard(self, path: str) -> None:
        app = make_app(guarded=True)
        async with wire.lifespan(app) as state:
            assert (await get(app, f"/_tasks/{path}", state=state)).status == 403
            allowed = await begin(app, f"/_tasks/{path}", state=state, headers=[(b"authorization", b"secret")])
            assert allowed.status == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    @pytest.mark.parametrize("path", PATHS)
    async def test_the_page_is_read_only(self, path: str, method: str) -> None:
        app = make_app()
        async with wire.lifespan(app) as state:
            assert (await wire.request(app, method, f"/_tasks/{path}", state=state)).status == 405

    def test_the_paths_are_not_in_the_schema(self) -> None:
        assert list(make_app().openapi()["paths"]) == ["/orders/{order}"]


class TestHeaders:
    @pytest.mark.parametrize("path", PATHS)
    async def test_each_answer_is_strict(self, path: str) -> None:
        app = make_app()
        async with wire.lifespan(app) as state:
            headers = headers_of(await begin(app, f"/_tasks/{path}", state=state))
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"

    def test_the_page_has_no_inline_code_and_loads_only_its_own_files(self) -> None:
        links: list[str] = []

        class Reader(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                names = dict(attrs)
                assert not {"style"} & set(names)
                assert not [name for name in names if name.startswith("on")]
                assert tag != "style"
                assert tag != "script" or names["src"]
                links.extend(names[key] or "" for key in ("src", "href") if key in names)

        reader = Reader()
        reader.feed((FOLDER / "page.html").read_text())
        assert {link for link in links if not link.startswith("#")} == {"icon.svg", "json", "page.css", "page.js"}

    @pytest.mark.parametrize("name", ["page.js", "page-parts.js", "journal.js", "waterfall.js", "page.css"])
    def test_the_scripts_write_no_html_and_name_no_other_host(self, name: str) -> None:
        text = (FOLDER / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?:|url\(", text)

    def test_each_file_of_the_page_is_served(self) -> None:
        files = {path.name for path in FOLDER.iterdir() if path.suffix not in (".py", "")}
        assert files == {*ASSETS, "page.html"}


class TestData:
    async def test_the_data_has_the_requests_with_their_tasks_g20(self) -> None:
        app = make_app()
        async with wire.lifespan(app) as state:
            await wire.request(app, "POST", "/orders/7", state=state)
            await anyio.sleep(0)
            while True:
                response = await get(app, "/_tasks/json", state=state)
                picture = json.loads(response.body)
                if len(picture["tasks"]) == 2:
                    break
        assert headers_of(response)["content-type"] == "application/json"
        [request] = picture["requests"]
        assert (request["method"], request["route"], request["path"]) == ("POST", "/orders/{order}", "/orders/7")
        first, second = sorted(picture["tasks"], key=lambda task: task["id"])
        assert first["request"] == second["request"] == request["id"]
        assert (first["phase"], second["phase"]) == ("after_route", "after_response")
        began = request["began"]
        started = {
            task["phase"]: task["scheduled"]
            - began
            + next(start for kind, start, *_ in task["segments"] if kind == "run")
            for task in picture["tasks"]
        }
        assert request["route_ended"] <= started["after_route"] <= request["first_message"] <= request["ended"]
        assert request["ended"] <= started["after_response"]
        [group] = picture["failures"]
        assert (group["error"], group["message"], group["count"], group["request"]) == (
            "ValueError",
            EVIL,
            1,
            request["id"],
        )

    async def test_the_reference_names_each_key_and_each_kind_of_a_segment_g20(self) -> None:
        app = make_app()
        async with wire.lifespan(app) as state:
            await wire.request(app, "POST", "/orders/7", state=state)
            picture = json.loads((await get(app, "/_tasks/json", state=state)).body)
        rows = [*picture["requests"], *picture["tasks"], *picture["alive"], *picture["failures"]]
        keys = {key for each in (picture, *rows) for key in each} | set(KINDS.values())
        assert keys - set(re.findall(r"`(\w+)`", REFERENCE.read_text())) == set()

    async def test_an_app_without_tasks_is_told_g13(self) -> None:
        app = FastAPI()
        app.include_router(router(History(), allow_unauthenticated=True))
        with pytest.raises(FastAPITasksUninitializedAppError, match="add_tasks"):
            response = await get(app, "/json")
            raise response.raised or AssertionError(response.status)

    async def test_a_mounted_app_shows_the_tasks_of_its_parent_g12(self) -> None:
        history, parent, child = History(), FastAPI(), FastAPI()
        add_tasks(parent, observers=[history])
        parent.mount("/child", child)
        child.include_router(router(history, allow_unauthenticated=True))
        async with wire.lifespan(parent) as state:
            assert json.loads((await get(parent, "/child/json", state=state)).body)["counts"]["running"] == 0

    async def test_tasks_of_requests_with_hosts_of_their_own_are_shown_g13(self) -> None:
        app = make_app(hold=True)
        await wire.request(app, "POST", "/orders/7")
        picture = json.loads((await get(app, "/_tasks/json")).body)
        assert len(picture["tasks"]) == 2

    async def test_a_prefix_may_be_empty(self) -> None:
        app = make_app(prefix="")
        async with wire.lifespan(app) as state:
            page = await get(app, "/", state=state)
        assert page.body == (FOLDER / "page.html").read_bytes()
        assert headers_of(page)["content-type"].startswith("text/html")


class TestStream:
    async def test_a_stream_ends_by_itself_g10(self) -> None:
        app = make_app()
        async with wire.lifespan(app) as state:
            response = await get(app, "/_tasks/events", state=state)
        assert response.complete
        assert STREAM <= 2
        assert headers_of(response)["content-type"].startswith("text/event-stream")
        [first] = events_of(response)
        assert first["whole"] is True

    async def test_a_stream_sends_what_has_changed(self) -> None:
        app = make_app()
        found: list[wire.Response] = []
        async with wire.lifespan(app) as state, anyio.create_task_group() as group:
            has_begun = anyio.Event()

            async def note(message: Any) -> None:
                if message.get("body", b"").startswith(b"data: "):
                    has_begun.set()

            async def read() -> None:
                found.append(await get(app, "/_tasks/events", state=state, on_send=note))

            group.start_soon(read)
            await has_begun.wait()
            await wire.request(app, "POST", "/orders/7", state=state)
        [first, second, *_] = events_of(found[0])
        assert (first["tasks"], second["whole"]) == ([], False)
        assert len(second["tasks"]) == 2
        again = f"/_tasks/events?after={second['cursor']}"
        async with wire.lifespan(app) as state:
            [event, *_] = events_of(await get(app, again, state=state))
        assert (event["whole"], event["tasks"]) == (False, [])

    @pytest.mark.parametrize("middleware", [BaseHTTPMiddleware, GZipMiddleware])
    async def test_the_page_works_behind_middleware_g12(self, middleware: Any) -> None:
        app = make_app()
        options: dict[str, Any] = {}
        if middleware is BaseHTTPMiddleware:
            options = {"dispatch": lambda request, call_next: call_next(request)}
        app.add_middleware(middleware, **options)
        async with wire.lifespan(app) as state:
            assert (await get(app, "/_tasks/json", state=state)).status == 200
            assert events_of(await get(app, "/_tasks/events", state=state))

    async def test_a_reader_who_leaves_ends_the_stream_g11(self) -> None:
        app = make_app()
        async with wire.lifespan(app) as state:
            response = await get(app, "/_tasks/events", state=state, disconnect_after=2)
        assert not response.complete
