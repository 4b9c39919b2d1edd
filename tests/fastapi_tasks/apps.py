"""Shared tools of the tests of the binding: a journal of events, and a server for one app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests import wire
from tests.backends import turns

from fastapi_tasks import Task, TaskConfig, TaskHost, TasksScheduler, add_tasks
from fastapi_tasks._app import installation_of
from fastapi_tasks.testing import AppTaskRecorder, record_tasks

GENERATORS: list[tuple[str, dict[str, Any]]] = []
"""The options of endpoints that are generators, with a name for each."""

try:
    from fastapi.sse import EventSourceResponse
except ImportError:
    pass  # FastAPI before 0.135: endpoints were no generators either
else:
    GENERATORS = [
        ("stream", {"response_class": StreamingResponse}),
        ("json lines", {}),
        ("sse", {"response_class": EventSourceResponse}),
    ]

ASYNC_AND_DEF = pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
# The BaseHTTPMiddleware of Starlette 0.49 leaves a generator to the garbage collector, of which trio complains.
UNCLOSED_STREAM = pytest.mark.filterwarnings(
    "ignore:Async generator 'starlette.requests.Request.stream':ResourceWarning"
)

DRAIN = 5  # seconds for all tasks to end by themselves when a server stops; they need none, so it means "wait for them"
FEW = 3  # turns: more than a task needs to start, were it allowed to


class Journal(list[str]):
    """All events, in order. The wire writes to this list, too."""

    async def note(self, event: str) -> None:
        self.append(event)

    async def note_late(self, event: str) -> None:
        """Give every task that may start the time to start, then note `event`."""
        await turns(FEW)
        self.append(event)

    def each_phase(
        self, tasks: TasksScheduler, prefix: str = "", config: TaskConfig | None = None
    ) -> tuple[Task[None], Task[None], Task[None]]:
        """Schedule a task in each phase that notes its phase. The last phase comes first, so that the order of the
        calls cannot be the reason for the order of the starts. Return the tasks in the order of the phases.
        """
        define = tasks.task(when=config and config.when, name=config and config.name)
        after_response = define.after_response.schedule(self.note, f"{prefix}after_response")
        after_route = define.after_route.schedule(self.note, f"{prefix}after_route")
        return define.schedule(self.note, f"{prefix}immediate"), after_route, after_response

    def only(self, *events: str) -> list[str]:
        return [event for event in self if event in events]

    def without(self, *events: str) -> list[str]:
        return [event for event in self if event not in events]

    def assert_order(self, *events: str) -> None:
        """Assert that all of `events` happened, each for the first time after the last time of the event before."""
        for earlier, later in pairwise(events):
            assert earlier in self, self
            assert later in self, self
            last = len(self) - 1 - self[::-1].index(earlier)
            assert last < self.index(later), f"{later!r} before {earlier!r}: {self}"


def app_with_tasks(app: FastAPI | None = None, **settings: Any) -> FastAPI:
    """Return an app whose shutdown waits for its tasks."""
    app = FastAPI() if app is None else app
    add_tasks(app, **{"drain_timeout": DRAIN, **settings})
    return app


def host_of(app: FastAPI) -> TaskHost:
    """Return the host of the lifespan of `app` that was opened last."""
    installation = installation_of(app)
    assert installation is not None
    return list(installation.open)[-1]


def app_with_scopes(journal: Journal, endpoint: Callable[..., Any], **declared: Any) -> FastAPI:
    """Return an app with one route whose dependencies would exit after `Tasks` if `Tasks` relied on their order."""

    async def request_scope() -> AsyncIterator[None]:
        yield
        await journal.note_late("request.exit")

    async def function_scope() -> AsyncIterator[None]:
        yield
        journal.append("function.exit")

    app = FastAPI(dependencies=[Depends(request_scope), Depends(function_scope, scope="function")])
    app.add_api_route("/", endpoint, **declared)
    return app_with_tasks(app)


# The events in such an app, except "immediate", whose place depends on whether the route is a thread. "background"
# comes from a background task of the response, "route" from the end of the route.
ORDER = ["route", "function.exit", "after_route", "start", "final", "background", "request.exit", "after_response"]


def taking_pushes(app: FastAPI, journal: Journal) -> ASGIApp:
    """Return `app` behind a server that takes push promises, and notes them in the journal."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def take(message: Message) -> None:
            if message["type"] == "http.response.push":
                journal.append("push")
            else:
                await send(message)

        await app({**scope, "extensions": {"http.response.push": {}}}, receive, take)

    return serve


@dataclass
class Server:
    """An app in its lifespan. All that passes over the wire is noted in the journal."""

    app: FastAPI
    journal: Journal
    state: dict[str, Any] | None

    async def get(self, path: str = "/", **options: Any) -> wire.Response:
        return await self.request("GET", path, **options)

    async def request(self, method: str, path: str = "/", **options: Any) -> wire.Response:
        return await wire.request(self.app, method, path, events=self.journal, state=self.state, **options)

    def websocket(self, path: str = "/") -> AbstractAsyncContextManager[wire.Session]:
        return wire.websocket(self.app, path, events=self.journal, state=self.state)


@asynccontextmanager
async def serving(
    app: FastAPI, journal: Journal | None = None, *, events: Journal | None = None
) -> AsyncIterator[Server]:
    """Serve `app`. At the exit the app has shut down, and its tasks have ended.

    :param journal: for the wire events of requests and websockets
    :param events: for the wire events of the lifespan
    """
    async with wire.lifespan(app, events=events) as state:
        yield Server(app, Journal() if journal is None else journal, state)


@asynccontextmanager
async def recording(app: FastAPI, journal: Journal | None = None) -> AsyncIterator[tuple[Server, AppTaskRecorder]]:
    """Serve `app`, and record its tasks; left, they have ended."""
    with record_tasks(app) as tasks:
        async with serving(app, journal) as server:
            yield server, tasks
