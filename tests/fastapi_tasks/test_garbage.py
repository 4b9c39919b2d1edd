"""G2, G12: a request leaves nothing behind for the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, HTTPException, Request
from tests.backends import turns
from tests.fastapi_tasks.apps import app_with_tasks, host_of, serving

from fastapi_tasks import LogTasks, TaskHost, TaskObserver, Tasks, current_host


class Exchange:
    """One request, as a server holds it: its `send` refers to the scope."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        self.statuses: list[int] = []

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Any) -> None:
        if "status" in message:
            self.statuses.append(message["status"])


@pytest.fixture
def by_hand() -> Iterator[None]:
    """Have the garbage collector do nothing by itself."""
    gc.disable()
    yield
    gc.enable()


async def nothing_scheduled(tasks: Tasks) -> None: ...


async def one_in_each_phase(tasks: Tasks) -> None:
    tasks.schedule(anyio.sleep, 0)
    tasks.after_route.schedule(anyio.sleep, 0)
    tasks.after_response.schedule(anyio.sleep, 0)


async def not_asked() -> None: ...


@pytest.mark.parametrize("endpoint", [not_asked, nothing_scheduled, one_in_each_phase])
async def test_a_request_is_gone_when_it_is_over_without_the_garbage_collector_g2(endpoint: Any, by_hand: None) -> None:
    app = FastAPI()
    app_with_tasks(app)
    app.add_api_route("/", endpoint)
    async with serving(app):
        for _ in range(2):  # the first fills caches
            exchange = Exchange()
            gone = weakref.ref(exchange)
            await app(exchange.scope, exchange.receive, exchange.send)
            assert exchange.statuses == [200]
            del exchange
            await turns()
        assert gone() is None


@pytest.mark.parametrize("observers", [[], [LogTasks()]], ids=["fast", "observed"])
async def test_a_task_that_outlives_its_request_does_not_keep_the_task_of_the_route_g2(
    observers: list[TaskObserver], by_hand: None
) -> None:
    """The middleware runs the route in a native task, which keeps the exception of the route, with its frames."""
    gone: list[weakref.ref[Any]] = []
    app = FastAPI()
    app_with_tasks(app, observers=observers)

    @app.middleware("http")
    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    @app.get("/{status}")
    async def endpoint(tasks: Tasks, status: int) -> None:
        gone.append(weakref.ref(host_of(app)._runner.seam.running()))
        tasks.schedule(anyio.sleep_forever)
        if status != 200:
            raise HTTPException(status)

    async with serving(app) as server:
        for status in (200, 418):
            assert (await server.get(f"/{status}")).status == status
        await turns()
        gc.collect()
        assert [ref() for ref in gone] == [None, None]
        for task in host_of(app).tasks():
            task.cancel()


@pytest.mark.parametrize("endpoint", [not_asked, nothing_scheduled, one_in_each_phase])
async def test_a_request_makes_no_reference_cycle_g2(endpoint: Any, by_hand: None) -> None:
    requests = 20
    app = FastAPI()
    app_with_tasks(app)
    app.add_api_route("/", endpoint)

    async def serve() -> None:
        for _ in range(requests):
            exchange = Exchange()
            await app(exchange.scope, exchange.receive, exchange.send)
            assert exchange.statuses == [200]
            await turns()

    async with serving(app):
        await serve()  # fills caches
        gc.collect()
        await serve()
        assert gc.collect() < requests  # unreachable objects: not one for each request


async def test_what_is_sent_when_the_call_has_returned_is_refused_g12() -> None:
    async def keep_sending(scope: Any, receive: Any, send: Any) -> None:
        kept.append(send)
        await app_without_routes(scope, receive, send)

    kept: list[Any] = []
    app = FastAPI()
    app_with_tasks(app)
    app_without_routes = FastAPI()
    app.mount("/", keep_sending)
    async with serving(app):
        exchange = Exchange()
        await app(exchange.scope, exchange.receive, exchange.send)
        assert exchange.statuses == [404]
        with pytest.raises(RuntimeError, match=r"http\.response\.body was sent after the call of the app had returned"):
            await kept[0]({"type": "http.response.body", "body": b"late"})


def objects_of(snapshot: list[Any], before: list[Any]) -> int:
    """Return how many objects of `snapshot` are not in `before`, without the nodes of contexts: their number depends on
    the addresses of all context variables of the process.
    """
    known = {id(each) for each in before}
    return sum(id(each) not in known and not type(each).__name__.startswith("hamt") for each in snapshot)


async def test_a_request_that_waits_has_few_objects_of_its_own_g2(by_hand: None) -> None:
    # Python 3.11 collects at 700 new objects. Sixteen requests that wait have twice as many, without tasks.
    async def look() -> None:
        snapshots.append(gc.get_objects())

    async def nothing() -> None: ...

    async def plain() -> None:
        await look()

    async def asks(tasks: Tasks) -> None:
        await look()

    async def schedules(tasks: Tasks) -> None:
        tasks.after_route.schedule(nothing)
        tasks.after_response.schedule(nothing)
        await look()

    counts: list[int] = []
    snapshots: list[list[Any]] = []
    for endpoint in (plain, asks, schedules):
        app = FastAPI()
        if endpoint is not plain:
            app_with_tasks(app)
        app.add_api_route("/", endpoint)
        async with serving(app):
            for _ in range(2):  # the first fills caches
                exchange = Exchange()
                await app(exchange.scope, exchange.receive, exchange.send)
                await turns()
            exchange = Exchange()
            before = gc.get_objects()
            await app(exchange.scope, exchange.receive, exchange.send)
        counts.append(objects_of(snapshots[-1], before))
    without, asking, scheduling = counts
    assert asking - without <= 14
    assert scheduling - asking <= 2 * 2 + 1  # each task and its context; a dict of the scope


async def test_an_app_without_a_lifespan_keeps_no_host_of_a_request_g2_g13() -> None:
    hosts: list[weakref.ref[TaskHost]] = []

    async def endpoint(tasks: Tasks) -> None:
        hosts.append(weakref.ref(current_host()))

    app = FastAPI()
    app_with_tasks(app, hold=True)
    app.add_api_route("/", endpoint)
    exchange = Exchange()
    await app(exchange.scope, exchange.receive, exchange.send)
    assert exchange.statuses == [200]
    del exchange
    await turns()
    gc.collect()
    assert [host() for host in hosts] == [None]
