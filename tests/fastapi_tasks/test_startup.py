"""G2, G10, G12, G14: startup and shutdown code of a lifespan that schedules tasks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, Request
from tests import wire
from tests.backends import turns
from tests.fastapi_tasks.apps import Journal, serving

from fastapi_tasks import Task, Tasks, TasksClosedError, TaskStatus, add_tasks, current_host
from fastapi_tasks.testing import record_tasks


async def test_startup_code_can_schedule_and_its_tasks_are_the_app_s_g14(journal: Journal) -> None:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        found.append(current_host())
        await found[0].schedule(journal.note, "warmed up")
        found[0].task(shield=True).schedule(go_on.wait)
        found[0].schedule(anyio.sleep_forever)
        yield
        journal.append("down")
        assert current_host() is found[0]
        with pytest.raises(TasksClosedError):
            current_host().schedule(anyio.sleep, 0)

    async def endpoint(tasks: Tasks) -> None:
        found.append(current_host())

    found: list[Any] = []
    go_on = anyio.Event()
    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    app.add_api_route("/", endpoint)
    with record_tasks(app) as tasks:
        async with serving(app, events=journal) as server:
            await server.get()
            go_on.set()
    assert found == [found[0]] * 2
    assert [task.status for task in tasks] == [TaskStatus.SUCCEEDED] * 2 + [TaskStatus.CANCELLED]
    assert journal == ["warmed up", "startup.complete", "shutdown", "down", "shutdown.complete"]


async def test_a_startup_that_fails_fails_as_without_tasks_and_ends_them_g2_g10(journal: Journal) -> None:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        tasks.append(current_host().schedule(anyio.sleep_forever))
        await turns(3)
        raise LookupError("no database")
        yield

    tasks: list[Task[Any]] = []
    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    with pytest.raises(RuntimeError, match="no database") as failure:
        async with serving(app, events=journal):
            raise AssertionError("it has not started")
    assert isinstance(failure.value.__cause__, LookupError)
    assert journal == ["startup.failed"]
    assert tasks[0].status is TaskStatus.CANCELLED


async def test_a_shutdown_that_fails_fails_as_without_tasks_g10(journal: Journal) -> None:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        raise LookupError("no database")

    async def work() -> None:
        await journal.note_late("shielded ended")

    async def endpoint(tasks: Tasks) -> None:
        tasks.task(shield=True).schedule(work)

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    app.add_api_route("/", endpoint)
    with pytest.raises(RuntimeError, match="no database") as failure:
        async with serving(app, events=journal) as server:
            await server.get()
    assert isinstance(failure.value.__cause__, LookupError)
    journal.assert_order("shielded ended", "shutdown.failed")


async def test_the_lifespan_s_state_reaches_the_requests_beside_the_group_g12(journal: Journal) -> None:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, str]]:
        yield {"pool": "the pool"}

    async def endpoint(request: Request, tasks: Tasks) -> str:
        assert request.state.fastapi_tasks_tg is tasks.tg
        return str(request.state.pool)

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        assert (await server.get()).json() == "the pool"
        assert server.state == {"pool": "the pool"}


async def test_an_app_has_new_tasks_in_each_of_its_lifespans_g2_g10(journal: Journal) -> None:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        journal.append("up")
        yield
        journal.append("down")

    async def endpoint(tasks: Tasks) -> None:
        hosts.append(current_host())
        kept.append(tasks.schedule(anyio.sleep_forever))
        journal.each_phase(tasks)

    hosts: list[Any] = []
    kept: list[Task[Any]] = []
    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    app.add_api_route("/", endpoint)
    for _ in range(2):
        journal.clear()
        async with serving(app, journal) as server:
            await server.get()
            await turns()
            assert kept[-1].status is TaskStatus.RUNNING
        assert kept[-1].status is TaskStatus.CANCELLED
        journal.assert_order("up", "immediate", "after_route", "start", "after_response", "down")
    assert hosts[0] is not hosts[1]


async def test_a_lifespan_does_not_need_the_server_s_state_g12() -> None:
    app = FastAPI()
    add_tasks(app)

    async def endpoint(request: Request, tasks: Tasks) -> None:
        assert request.state.fastapi_tasks_tg is tasks.tg
        tasks.schedule(anyio.sleep, 0)

    app.add_api_route("/", endpoint)
    async with wire.lifespan(app, state=False) as state:
        assert state is None
        assert (await wire.request(app)).status == 200
