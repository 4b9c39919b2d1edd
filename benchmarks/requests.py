"""The CPU time of one request, in-process.

The driver calls an app as a server does: the lifespan runs, each request has a new scope with the lifespan's state, and
the loop turns once after each request, as before a server reads the next. Tasks run meanwhile; the sample ends when all
tasks have ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp

from .apps import make_apps, runs
from .measure import Group, Stopwatch, in_a_loop

COUNT = 300  # requests in one sample
WARM_UP = 20
TURNS = 10  # of the loop; more than the tasks of the last request need

BASE = "no tasks"


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncGenerator[dict[str, Any]]:
    """Run the lifespan of `app`, and yield its state."""
    state: dict[str, Any] = {}
    to_app, from_app = anyio.create_memory_object_stream[Any](2), anyio.create_memory_object_stream[Any](2)
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}

    async def ask(what: str) -> None:
        await to_app[0].send({"type": f"lifespan.{what}"})
        answer = await from_app[1].receive()
        if answer["type"] != f"lifespan.{what}.complete":
            raise RuntimeError(f"the app answered {answer}")

    with to_app[0], to_app[1], from_app[0], from_app[1]:
        async with anyio.create_task_group() as group:
            group.start_soon(app, scope, to_app[1].receive, from_app[0].send)
            await ask("startup")
            yield state
            await ask("shutdown")


def scope_of(state: dict[str, Any]) -> dict[str, Any]:
    """Return the scope of one request, like uvicorn's."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"benchmark"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": state.copy(),
    }


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(_message: Any) -> None: ...


async def status_of(app: ASGIApp, state: dict[str, Any]) -> int:
    statuses: list[int] = []

    async def note(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope_of(state), receive, note)
    return statuses[0]


async def serve(app: ASGIApp, state: dict[str, Any], count: int) -> None:
    for _ in range(count):
        await app(scope_of(state), receive, send)
        await checkpoint()
    for _ in range(TURNS):
        await checkpoint()


async def sample(app: ASGIApp, tasks: int, count: int) -> float:
    """Return the microseconds for one request.

    :param tasks: the number of tasks of each request
    :raises RuntimeError: if a response is wrong, or a task did not run
    """
    watch = Stopwatch()
    async with lifespan(app) as state:
        if await status_of(app, state) != 200:
            raise RuntimeError("the app does not answer as it should")
        await serve(app, state, WARM_UP)
        before = next(runs)
        with watch:
            await serve(app, state, count)
        ran = next(runs) - before - 1
    if ran != count * tasks:
        raise RuntimeError(f"{ran} tasks ran of {count * tasks}")
    return watch.seconds / count * 1e6


def groups(library: str, *, quick: bool) -> dict[str, Group]:
    """Return the groups by title. `library`: the `fastapi_tasks` of this environment, "ours" or "theirs"."""
    count = 20 if quick else COUNT
    apps = make_apps(library)
    return {
        f"one request, {backend}": Group(
            BASE, {name: in_a_loop(backend, sample, app, tasks, count) for name, (app, tasks) in apps.items()}
        )
        for backend in ("uvloop", "asyncio")
    }
