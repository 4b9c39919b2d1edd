"""The CPU time of one request, driven in-process, with and without tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from anyio.lowlevel import checkpoint
from fastapi import BackgroundTasks, FastAPI
from tests.wire import lifespan

from fastapi_tasks import Tasks, add_tasks

from .measure import medians

COUNT = 1_500


async def nothing() -> None: ...


async def no_tasks() -> dict[str, int]:
    return {"a": 1}


async def background(background: BackgroundTasks) -> dict[str, int]:
    for _ in range(3):
        background.add_task(nothing)
    return {"a": 1}


async def none_scheduled(tasks: Tasks) -> dict[str, int]:  # noqa: ARG001 - what it costs to ask for it
    return {"a": 1}


async def one_in_each_phase(tasks: Tasks) -> dict[str, int]:
    tasks.schedule(nothing)
    tasks.after_route.schedule(nothing)
    tasks.after_response.schedule(nothing)
    return {"a": 1}


def app_of(endpoint: Callable[..., Awaitable[dict[str, int]]], *, with_tasks: bool) -> FastAPI:
    app = FastAPI()
    if with_tasks:
        add_tasks(app)
    app.get("/")(endpoint)
    return app


APPS = {
    "no tasks": app_of(no_tasks, with_tasks=False),
    "bystander: add_tasks, no Tasks": app_of(no_tasks, with_tasks=True),
    "Tasks, nothing scheduled": app_of(none_scheduled, with_tasks=True),
    "Tasks, one in each phase": app_of(one_in_each_phase, with_tasks=True),
    "three BackgroundTasks": app_of(background, with_tasks=False),
}

SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"bench")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 80),
}


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None: ...


def requests_to(app: FastAPI) -> Callable[[int], Awaitable[None]]:
    async def run(count: int) -> None:
        for _ in range(count):
            await app({**SCOPE, "state": {}}, receive, send)
            await checkpoint()

    return run


async def in_process() -> dict[str, float]:
    async with AsyncExitStack() as stack:
        for app in APPS.values():
            await stack.enter_async_context(lifespan(app))
        return await medians({name: requests_to(app) for name, app in APPS.items()}, COUNT)
