"""The lifespan in an async test, and a startup that fails: which host there is, and what its tasks find open.

docs/testing.md has the first, "The lifespan in an async test"; docs/shutdown.md the second, "A startup that fails".
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import anyio
import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi import FastAPI, Request
from tests import wire

from fastapi_tasks import NoCurrentError, Task, TaskHost, Tasks, add_tasks, current_host

journal: list[str] = []


@asynccontextmanager
async def open_pool() -> AsyncGenerator[None]:
    try:
        yield
    finally:
        journal.append("the pool is closed")


async def load() -> None:
    await anyio.sleep(0.05)
    journal.append("loaded")


def load_in_a_thread() -> None:
    time.sleep(0.05)
    journal.append("loaded")


each_kind = pytest.mark.parametrize("function", [load, load_in_a_thread], ids=["async", "sync"])


@each_kind
async def test_a_lifespan_manager_runs_the_lifespan_that_has_the_host_g10_g13(function) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[dict[str, TaskHost]]:
        async with open_pool():
            yield {"host": current_host()}

    async def endpoint(request: Request, tasks: Tasks) -> bool:
        tasks.after_response.schedule(function)
        return request.state.host is current_host()

    journal.clear()
    app = FastAPI(lifespan=lifespan)
    add_tasks(app, drain_timeout=5)
    app.add_api_route("/", endpoint)
    async with LifespanManager(app, shutdown_timeout=10) as manager:
        transport = httpx.ASGITransport(manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/")).json() is True
    assert journal == ["loaded", "the pool is closed"]


async def test_the_lifespan_context_of_the_router_opens_no_host_g13() -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        with pytest.raises(NoCurrentError):
            current_host()
        yield
        journal.append("the lifespan is over")

    journal.clear()
    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    async with app.router.lifespan_context(app):
        pass
    assert journal == ["the lifespan is over"]


async def start_up(app: FastAPI) -> None:
    with pytest.raises(RuntimeError, match="no cache server"):
        async with wire.lifespan(app):
            raise AssertionError("it has started")


@each_kind
async def test_the_clean_up_of_a_failed_startup_runs_before_the_drain_g10(function) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with open_pool():
            tasks.append(current_host().task(shield=True).schedule(function))
            await tasks[0].started.wait()
            raise ConnectionError("no cache server")
            yield

    journal.clear()
    tasks: list[Task[None]] = []
    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    await start_up(app)
    await tasks[0].wait()
    assert journal == ["the pool is closed", "loaded"]


@each_kind
async def test_a_failed_startup_that_closes_the_host_first_keeps_the_pool_open_g10(function) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with open_pool(), aclosing(current_host()) as host:
            await host.task(shield=True).schedule(function).started.wait()
            raise ConnectionError("no cache server")
            yield

    journal.clear()
    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    await start_up(app)
    assert journal == ["loaded", "the pool is closed"]


@each_kind
async def test_closing_the_host_in_the_lifespan_changes_no_ordinary_shutdown_g10(function) -> None:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with open_pool(), aclosing(current_host()) as host:
            host.task(shield=True).schedule(function)
            yield
            journal.append("the yield is over")

    journal.clear()
    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    async with wire.lifespan(app):
        journal.append("started")
    assert journal == ["started", "loaded", "the yield is over", "the pool is closed"]
