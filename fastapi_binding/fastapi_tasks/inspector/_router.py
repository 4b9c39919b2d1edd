"""`router()`: the page of a `History`, its data, and its event stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import cast

import anyio
from fastapi import APIRouter, Query, Response
from fastapi.params import Depends
from fastapi.responses import StreamingResponse
from starlette.types import Send

from taskphase import NoCurrentError, TaskHost, current_host

from ..errors import FastAPITasksUninitializedAppError
from ._history import History
from ._picture import Picture

STREAM = 1.5
"""Seconds of one event stream. A server that shuts down waits for open streams, so a stream is short; the page asks for
the next one.
"""

PERIOD = 0.5
"""Seconds between two looks."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
"""The headers of each answer: nothing is stored, loaded from elsewhere, framed, or run inline."""

_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def router(
    history: History,
    *,
    prefix: str = "",
    dependencies: Sequence[Depends] = (),
    allow_unauthenticated: bool = False,
) -> APIRouter:
    """Return a router with a read-only page about the tasks of the app.

        app.include_router(inspector.router(history, prefix="/_tasks", dependencies=[Depends(admin)]))

    The page is at `{prefix}/`, and its data at `{prefix}/json`. Each path has the same guard: `dependencies`. The page
    loads nothing from elsewhere.

    :param history: an observer of the app
    :param prefix: of the paths, for example `"/_tasks"`
    :param dependencies: the guard: dependencies that raise for a client who may not see the page
    :param allow_unauthenticated: True to have no guard here: the network or the caller of `include_router()` has one
    :raises TypeError: if `history` is no `History`
    :raises ValueError: without a guard, unless `allow_unauthenticated` is True
    """
    if not isinstance(history, History):
        raise TypeError(f"history must be a History, not {history!r}")
    if not dependencies and allow_unauthenticated is not True:
        raise ValueError(
            "the page shows what the app does, and this router has no guard: pass dependencies=[Depends(...)] that "
            "refuse strangers, or allow_unauthenticated=True if something else refuses them"
        )
    routes = APIRouter(prefix=prefix, dependencies=list(dependencies), include_in_schema=False)
    for file in Path(__file__).parent.iterdir():
        if file.suffix in _MEDIA_TYPES:
            path = "" if file.name == "page.html" else file.name
            _add_file(routes, path, file.read_bytes(), _MEDIA_TYPES[file.suffix])

    @routes.get("/json")
    async def read_data(after: str = Query("")) -> Response:
        return _Stream(Picture(history, _host(), after).pieces(), headers=HEADERS, media_type="application/json")

    @routes.get("/events")
    async def read_events(after: str = Query("")) -> Response:
        headers = {**HEADERS, "X-Accel-Buffering": "no"}
        return _Stream(_events(Picture(history, _host(), after)), headers=headers, media_type="text/event-stream")

    return routes


def _add_file(routes: APIRouter, path: str, content: bytes, media_type: str) -> None:
    async def read_file() -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)

    routes.add_api_route(f"/{path}", read_file, methods=["GET"])


def _host() -> TaskHost:
    """Return the host of the running request."""
    try:
        return current_host()
    except NoCurrentError:
        raise FastAPITasksUninitializedAppError(
            "the inspector shows the tasks of an app: call add_tasks(app, observers=[history]) once"
        ) from None


class _Stream(StreamingResponse):
    """Closes its generator also if the client leaves. Otherwise the garbage collector does, and trio complains."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(cast("AsyncGenerator[str]", self.body_iterator)):
            await super().stream_response(send)


async def _events(picture: Picture) -> AsyncGenerator[str]:
    """Yield an event for each change, for `STREAM` seconds."""
    end = time.monotonic() + STREAM
    yield f"retry: {PERIOD * 1000:.0f}\n\n"
    while True:
        has_begun = False
        async with aclosing(picture.pieces()) as pieces:
            async for piece in pieces:
                yield piece if has_begun else f"data: {piece}"
                has_begun = True
        if has_begun:
            yield f"\nid: {picture.cursor}\n\n"
        if time.monotonic() + PERIOD > end:
            return
        await anyio.sleep(PERIOD)
