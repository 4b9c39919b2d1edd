"""A small app before and after the move from `BackgroundTasks`: docs/how-to/migrate-from-backgroundtasks.md.

Two `add_task` calls whose order matters become one task, which opens its own session. With `run="inline"` a test client
waits for tasks as before, and a failure fails the test as before.
"""

import math
from collections.abc import AsyncGenerator
from typing import Annotated

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.testing import UnexpectedFailures, record_tasks
from taskphase import TaskHost

journal: list[str] = []


class Session:
    is_open = True


async def get_session() -> AsyncGenerator[Session]:
    session = Session()
    yield session
    session.is_open = False
    journal.append("committed")


Db = Annotated[Session, Depends(get_session)]


def pack(order: int, session: Session) -> None:
    assert session.is_open
    journal.append(f"packed {order}")
    if order == 13:
        raise ValueError("no box is large enough")


async def send(order: int) -> None:
    journal.append(f"sent {order}")


async def count() -> None:
    journal.append("counted")


before = FastAPI()


@before.post("/orders/{order}")
async def place_before(order: int, session: Db, background: BackgroundTasks) -> None:
    background.add_task(pack, order, session)
    background.add_task(send, order)
    background.add_task(count)


after = FastAPI()
add_tasks(after, drain_timeout=30)


async def ship(order: int) -> None:
    await anyio.to_thread.run_sync(pack, order, Session())  # its own session
    await send(order)


@after.post("/orders/{order}")
async def place_after(order: int, _session: Db, tasks: Tasks) -> None:
    tasks.after_response.schedule(ship, order)
    tasks.after_response.schedule(count)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_before_the_move_tasks_precede_the_commit_and_a_failure_ends_them_all(backend) -> None:
    journal.clear()
    with TestClient(before, backend=backend) as client:
        client.post("/orders/7")
        assert journal == ["packed 7", "sent 7", "counted", "committed"]
        with pytest.raises(ValueError, match="no box"):
            client.post("/orders/13")
        assert journal[4:] == ["packed 13"]  # not sent, not counted, and the request is not committed


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_after_the_move_tasks_come_after_the_commit_and_each_fails_alone(backend) -> None:
    journal.clear()
    with record_tasks(after, run="inline") as tasks, TestClient(after, backend=backend) as client:
        client.post("/orders/7")
        assert journal[0] == "committed"
        assert sorted(journal[1:]) == ["counted", "packed 7", "sent 7"]
        assert journal.index("packed 7") < journal.index("sent 7")
        journal.clear()
        tasks.of(ship).expect_failure(ValueError, match="no box")
        assert client.post("/orders/13").status_code == 200
        assert sorted(journal) == ["committed", "counted", "packed 13"]  # not sent, but counted


def test_a_failure_fails_the_test_as_it_did() -> None:
    with pytest.raises(UnexpectedFailures), record_tasks(after, run="inline"), TestClient(after) as client:
        client.post("/orders/13")


def test_wrong_arguments_fail_late_before_the_move_and_early_afterwards() -> None:
    wrong = FastAPI()
    add_tasks(wrong)

    @wrong.post("/before")
    async def before_the_move(background: BackgroundTasks) -> None:
        background.add_task(count, "bicycles")

    @wrong.post("/after")
    async def after_the_move(tasks: Tasks) -> None:
        tasks.after_response.schedule(count, "bicycles")

    client = TestClient(wrong, raise_server_exceptions=False)
    assert client.post("/before").status_code == 200
    assert client.post("/after").status_code == 500


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_refused_request_drops_its_tasks_and_the_log_says_so_g5(backend, caplog) -> None:
    journal.clear()
    refusing = FastAPI()
    add_tasks(refusing, drain_timeout=5)

    @refusing.post("/orders")
    async def refuse(background: BackgroundTasks, tasks: Tasks) -> None:
        background.add_task(count)
        tasks.task(name="count").after_response.schedule(count)
        tasks.task(when="failure").after_response.schedule(send, 7)
        raise HTTPException(409)

    with TestClient(refusing, backend=backend) as client:
        assert client.post("/orders").status_code == 409
    assert journal == ["sent 7"]
    assert [record.levelname for record in caplog.records if "'count' was dropped" in record.message] == ["WARNING"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_and_background_tasks_may_be_used_in_the_same_endpoint_g1(backend) -> None:
    journal.clear()
    both = FastAPI()
    add_tasks(both, drain_timeout=5)

    @both.post("/orders")
    async def place_both(background: BackgroundTasks, tasks: Tasks) -> None:
        tasks.after_response.schedule(count)
        background.add_task(send, 7)

    with TestClient(both, backend=backend) as client:
        client.post("/orders")
    assert journal == ["sent 7", "counted"]


async def test_a_script_waits_for_all_of_its_tasks_and_none_stops_the_others_g3() -> None:
    journal.clear()
    async with TaskHost(drain_timeout=math.inf) as host:
        for order in (13, 7):
            host.schedule(pack, order, Session())
        host.schedule(send, 7)
    assert sorted(journal) == ["packed 13", "packed 7", "sent 7"]
    assert host.statistics().failed == 1
