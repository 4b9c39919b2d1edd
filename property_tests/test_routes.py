"""Requests with several routes (G1, G5): a middleware calls the app several times, and waits for some of the calls.

Each route decides about the tasks that were scheduled in it, whenever it ends: before the response, or long after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, HTTPException
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests import wire

from fastapi_tasks import Phase, Task, Tasks, TaskStatus, add_tasks
from property_tests.compact import Compact

WHENS = ("success", "failure", "always")


@dataclass(frozen=True, repr=False)
class Route(Compact):
    """One call of the app.

    :ivar fails: whether its endpoint raises
    :ivar runs_on: whether the middleware answers while the endpoint still waits
    :ivar rank: the order in which the routes with `runs_on` end
    """

    fails: bool = False
    runs_on: bool = False
    rank: int = 0


routes = st.builds(Route, fails=st.booleans(), runs_on=st.booleans(), rank=st.integers(0, 3))


async def nothing() -> None: ...


class Request:
    """A request with these `routes`."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self.tasks: list[dict[tuple[Phase, str], Task[None]]] = []
        self.go_on = [anyio.Event() for _ in routes]
        self.reached = [anyio.Event() for _ in routes]
        self.app = FastAPI()
        self.app.add_api_route("/", self.endpoint)
        self.app.add_middleware(self._middleware)
        add_tasks(self.app, drain_timeout=5)

    async def endpoint(self, tasks: Tasks) -> str:
        number = len(self.tasks)
        scheduled: dict[tuple[Phase, str], Task[None]] = {}
        for when in WHENS:
            define = tasks.task(when=when)  # type: ignore[arg-type]
            for phase, target in zip(Phase, (define, define.after_route, define.after_response), strict=True):
                scheduled[phase, when] = target.schedule(nothing)
        self.tasks.append(scheduled)
        self.reached[number].set()
        if self.routes[number].runs_on:
            await self.go_on[number].wait()
        if self.routes[number].fails:
            raise HTTPException(503)
        return "answered"

    def _middleware(self, app: ASGIApp) -> ASGIApp:
        async def swallow(message: Message) -> None: ...

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            for number, route in enumerate(self.routes):
                if route.runs_on:
                    self.group.start_soon(app, dict(scope), receive, swallow)
                    await self.reached[number].wait()
                else:
                    await app(dict(scope), receive, swallow)
            await PlainTextResponse("by the middleware")(scope, receive, send)

        return call

    async def main(self) -> None:
        async with anyio.create_task_group() as self.group, wire.lifespan(self.app):
            assert (await wire.request(self.app)).status == 200
            await anyio.wait_all_tasks_blocked()
            late = [number for number, route in enumerate(self.routes) if route.runs_on]
            for number in sorted(late, key=lambda number: self.routes[number].rank):
                deferred = [task for (phase, _), task in self.tasks[number].items() if phase is not Phase.IMMEDIATE]
                assert {task.status for task in deferred} == {TaskStatus.DEFERRED}
                self.go_on[number].set()
                for task in deferred:
                    await task.wait()
            for scheduled in self.tasks:
                for task in scheduled.values():
                    await task.wait()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(routes=st.lists(routes, min_size=1, max_size=4))
def test_each_route_decides_for_its_own_tasks_whenever_it_ends_g1_g5(backend: Any, routes: list[Route]) -> None:
    async def main() -> Request:
        with anyio.fail_after(10):
            request = Request(routes)
            await request.main()
        return request

    request = anyio.run(main, backend=backend)
    for route, scheduled in zip(routes, request.tasks, strict=True):
        for (phase, when), task in scheduled.items():
            fits = phase is Phase.IMMEDIATE or when in ("always", "failure" if route.fails else "success")
            assert task.status is (TaskStatus.SUCCEEDED if fits else TaskStatus.DROPPED), (route, phase, when)
