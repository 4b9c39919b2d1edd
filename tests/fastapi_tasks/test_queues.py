"""G1, G5, G13, G21: tasks of a queue in requests, with a lifespan and without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, HTTPException, WebSocket
from fastapi.testclient import TestClient
from tests import wire
from tests.backends import turns, until
from tests.fastapi_tasks.apps import Journal, serving
from tests.queueing import RAN, FakeQueue, archive, send_mail

from fastapi_tasks import Tasks, add_tasks, current_host
from fastapi_tasks.inspector import History
from fastapi_tasks.testing import record_tasks


@pytest.fixture(autouse=True)
def _cleared() -> None:
    RAN.clear()


def app_of(queue: FakeQueue, **settings: Any) -> FastAPI:
    app = FastAPI()
    add_tasks(app, queues=[queue], **settings)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.schedule(archive, 1)
        tasks.after_route.schedule(archive, 2)
        tasks.after_response.schedule(archive, 3)

    @app.get("/fails")
    async def fails(tasks: Tasks) -> None:
        tasks.after_response.schedule(archive, 1)
        tasks.after_response.task(when="failure").schedule(archive, 2)
        raise HTTPException(418)

    @app.get("/unportable")
    async def unportable(tasks: Tasks) -> None:
        tasks.after_response.schedule(archive, 1)
        tasks.after_response.schedule(archive, None)  # type: ignore[arg-type]

    @app.get("/anywhere")
    def anywhere() -> None:
        current_host().schedule(archive, 4)

    @app.websocket("/ws")
    async def ws(socket: WebSocket, tasks: Tasks) -> None:
        await socket.accept()
        tasks.schedule(archive, 5)
        tasks.after_response.schedule(archive, 6)
        await socket.close()

    return app


async def test_the_first_attempt_has_begun_before_the_first_message_g1_g21(journal: Journal) -> None:
    queue = FakeQueue(then="hang")
    queue.on_attempt = lambda call: journal.append(f"attempt {call.args[0]}")
    app = app_of(queue, shield_timeout=0)
    async with serving(app):
        assert (await wire.request(app, events=journal)).status == 200
        await until(lambda: len(queue.attempts) == 3)
    assert journal.index("start") > max(journal.index("attempt 1"), journal.index("attempt 2"))
    assert journal[-1] == "attempt 3"


async def test_a_waiting_hand_over_holds_no_response_back_g1_g21() -> None:
    queue = FakeQueue(then="hang", most=1)
    app = app_of(queue, shield_timeout=0)
    async with serving(app):
        with anyio.fail_after(5):
            for _ in range(3):
                assert (await wire.request(app)).status == 200
        assert len(queue.attempts) == 1


async def test_the_outcome_of_the_route_decides_before_the_hand_over_g5_g21() -> None:
    queue = FakeQueue()
    app = app_of(queue)
    async with serving(app):
        assert (await wire.request(app, path="/fails")).status == 418
        await until(lambda: queue.published)
    assert queue.args == [(2,)]


async def test_a_call_that_cannot_be_handed_over_is_a_500_and_leaves_nothing_behind_g21() -> None:
    queue = FakeQueue()
    app = app_of(queue)
    async with serving(app):
        assert (await wire.request(app, path="/unportable")).status == 500
    assert queue.attempts == []


def test_endpoints_services_and_websockets_hand_over_g14_g21() -> None:
    queue = FakeQueue()
    with TestClient(app_of(queue)) as client:
        assert client.get("/anywhere").status_code == 200
        with client.websocket_connect("/ws"):
            pass
        assert client.get("/").status_code == 200
    assert sorted(queue.args) == [(number,) for number in range(1, 7)]
    assert queue.connections == ["open", "close"]


@pytest.mark.parametrize("hold", [False, True])
async def test_without_a_lifespan_the_call_waits_for_its_hand_overs_and_closes_g13_g21(hold: bool) -> None:
    queue = FakeQueue()
    app = app_of(queue, hold=hold)
    for count in (1, 2):
        assert (await wire.request(app)).status == 200
        assert queue.args == [(1,), (2,), (3,)] * count
        assert queue.connections == ["open", "close"] * count


async def test_requests_without_a_lifespan_share_the_connection_of_their_loop_g13_g21() -> None:
    queue, answer = FakeQueue(), anyio.Event()
    queue._take = lambda *_: answer.wait()  # type: ignore[method-assign]
    app = app_of(queue)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(wire.request, app)
        await until(lambda: len(queue.attempts) == 9)
        assert queue.connections == ["open"]
        answer.set()
    assert queue.connections == ["open", "close"]


async def test_lifespans_of_one_loop_close_the_connection_with_the_last_one_g13_g21() -> None:
    queue = FakeQueue()
    app = app_of(queue)
    async with serving(app):
        assert (await wire.request(app)).status == 200
        async with serving(app):
            assert (await wire.request(app)).status == 200
            await until(lambda: len(queue.published) == 6)
        assert queue.connections == ["open"]
        assert (await wire.request(app)).status == 200
        await until(lambda: len(queue.published) == 9)
    assert queue.connections == ["open", "close"]


def test_the_lifespan_ends_after_its_hand_overs_g10_g21() -> None:
    queue, order = FakeQueue(then="slow"), []
    queue._take = _slowly(order)  # type: ignore[method-assign]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        order.append("shutdown")

    app = FastAPI(lifespan=lifespan)
    add_tasks(app, queues=[queue])

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.schedule(send_mail, "ada")

    with TestClient(app) as client:
        client.get("/")
    assert order == ["published", "shutdown"]


def _slowly(order: list[str]) -> Any:
    async def take(_step: object, put: Any) -> None:
        await turns()
        put()
        order.append("published")

    return take


@pytest.mark.parametrize("run", ["normal", "never", "inline"])
def test_a_recorder_of_an_app_finds_the_tasks_of_a_queue_g20_g21(run: Any) -> None:
    queue = FakeQueue()
    with TestClient(app_of(queue)) as client, record_tasks(client.app, run=run) as tasks:  # type: ignore[arg-type]
        client.get("/")
        if run == "normal":
            tasks.wait_all()
        tasks.assert_scheduled(archive, 2)
        assert len(tasks.handed_over) == (0 if run == "never" else 3)
    assert len(queue.published) == (0 if run == "never" else 3)
    assert RAN == []


async def test_the_history_of_the_inspector_hears_of_hand_overs_g20_g21() -> None:
    queue, history = FakeQueue(steps=("fail",)), History()
    app = app_of(queue, observers=[history])
    async with serving(app):
        assert (await wire.request(app)).status == 200
        await until(lambda: len(queue.published) == 3)
