"""The CPU time of one load of the inspector's page, in-process, while the rings of its history are full."""

from __future__ import annotations

import logging
from typing import Any

from anyio import sleep_forever
from anyio.lowlevel import checkpoint
from fastapi import FastAPI

from fastapi_tasks import Tasks, add_tasks, inspector

from .measure import BACKENDS, Group, Stopwatch, in_a_loop
from .requests import lifespan, scope_of

LOADS = 10  # in one sample
KEEP, FAILURES = 1000, 200  # the default sizes of the rings
FILES = ("", "page.css", "page.js", "page-parts.js", "waterfall.js", "icon.svg")
ENDPOINT, RINGS, EMPTY = "one request of the app, no tasks", "full rings", "empty rings"


async def nothing() -> None: ...


async def fail() -> None:
    raise ValueError("no such order")


def make_app() -> tuple[FastAPI, inspector.History]:
    """Return an app with the page at `/_tasks/`, and the history of the page."""
    app, history = FastAPI(), inspector.History(KEEP, FAILURES)
    add_tasks(app, observers=[history])
    app.include_router(inspector.router(history, prefix="/_tasks", allow_unauthenticated=True))

    @app.get("/")
    async def no_tasks() -> None: ...

    @app.get("/tasks")
    async def one_in_each_phase(tasks: Tasks) -> None:
        tasks.schedule(nothing)
        tasks.after_route.schedule(nothing)
        tasks.after_response.schedule(nothing)

    @app.get("/failures")
    async def one_failure(tasks: Tasks) -> None:
        tasks.after_response.schedule(fail)

    return app, history


async def receive() -> dict[str, Any]:
    """Wait, as with a client who stays: a stream looks for the client's end."""
    await sleep_forever()
    raise AssertionError


async def get(app: FastAPI, state: dict[str, Any], path: str) -> int:
    """Answer one request; return the number of bytes."""
    size = 0

    async def count(message: Any) -> None:
        nonlocal size
        size += len(message.get("body", b""))

    await app({**scope_of(state), "path": path, "raw_path": path.encode()}, receive, count)
    await checkpoint()
    return size


async def sample(what: str, loads: int) -> float:
    """Return the microseconds for one load of the page: its files and its data, and no time between them.

    :raises RuntimeError: if the data has not what the rings hold
    """
    app, history = make_app()
    logging.getLogger("taskphase").setLevel(logging.CRITICAL)
    watch = Stopwatch()
    async with lifespan(app) as state:
        if what == RINGS:
            for _ in range(FAILURES):
                await get(app, state, "/failures")
            for _ in range(KEEP // 3 + 1):
                await get(app, state, "/tasks")
            if (len(history._stories.ended), len(history._stories.failed)) != (KEEP, FAILURES):
                raise RuntimeError("the rings are not full")
        paths = ["/"] if what == ENDPOINT else [f"/_tasks/{name}" for name in (*FILES, "json")]
        sizes = [await get(app, state, path) for path in paths]
        if what == RINGS and sizes[-1] < KEEP * 100:
            raise RuntimeError(f"the data has only {sizes[-1]} bytes")
        with watch:
            for _ in range(loads):
                for path in paths:
                    await get(app, state, path)
    return watch.seconds / loads * 1e6


def groups(library: str, *, quick: bool) -> dict[str, Group]:  # noqa: ARG001 - there is no other such page
    """Return the groups by title."""
    loads = 1 if quick else LOADS
    return {
        f"one load of the inspector's page, {backend}": Group(
            ENDPOINT, {what: in_a_loop(backend, sample, what, loads) for what in (ENDPOINT, EMPTY, RINGS)}
        )
        for backend in BACKENDS
    }
