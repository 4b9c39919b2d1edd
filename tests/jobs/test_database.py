"""A task with the database: its own session, in an `async def` and in a `def`, and the request's id in its log lines.

docs/how-to/databases.md tells the first, and docs/how-to/observability.md the second. The session of the request is
committed and closed when an after_response task starts, so the task takes the order's number and opens another.
"""

import logging
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.testclient import TestClient
from starlette.middleware.base import RequestResponseEndpoint

from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.testing import record_tasks

log = logging.getLogger("shop")
request_id = ContextVar("request_id", default="-")


class RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


@contextmanager
def session() -> Generator[sqlite3.Connection]:
    db = sqlite3.connect(app.state.database)
    try:
        with db:  # commits at the end, or rolls back
            yield db
    finally:
        db.close()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    with TemporaryDirectory() as folder:
        app.state.database = Path(folder) / "shop.db"
        with session() as db:
            db.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY, packed INTEGER, invoiced INTEGER)")
        yield


app = FastAPI(lifespan=lifespan)
add_tasks(app, drain_timeout=5)


@app.middleware("http")
async def set_request_id(request: Request, call_next: RequestResponseEndpoint) -> Response:
    request_id.set(request.headers["x-request-id"])
    return await call_next(request)


async def get_db() -> AsyncGenerator[sqlite3.Connection]:
    with session() as db:
        yield db


async def pack(order: int) -> None:  # real code awaits an asynchronous driver
    with session() as db:
        count = db.execute("UPDATE orders SET packed = 1 WHERE number = ?", [order]).rowcount
    log.info("packed %d", count)


def invoice(order: int) -> None:  # in a thread
    with session() as db:
        count = db.execute("UPDATE orders SET invoiced = 1 WHERE number = ?", [order]).rowcount
        log.info("invoiced %d", count)
        if order == 13:
            raise OSError("the printer is on fire")  # rolls back


@app.post("/orders/{order}")
async def place(order: int, db: Annotated[sqlite3.Connection, Depends(get_db)], tasks: Tasks) -> None:
    db.execute("INSERT INTO orders VALUES (?, 0, 0)", [order])
    tasks.after_response.schedule(pack, order)
    tasks.after_response.schedule(invoice, order)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_have_sessions_of_their_own_and_log_the_request_id(backend, caplog) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(RequestId())
    with record_tasks(app) as tasks, TestClient(app, backend=backend) as client:
        tasks.of(invoice).expect_failure(OSError)
        for order in (7, 13):
            assert client.post(f"/orders/{order}", headers={"x-request-id": f"r-{order}"}).status_code == 200
        tasks.wait_all()
        for task in (pack, invoice):
            assert len(tasks.after_response.of(task)) == 2
        with session() as db:
            assert db.execute("SELECT * FROM orders ORDER BY number").fetchall() == [(7, 1, 1), (13, 1, 0)]
    lines = [(r.request_id, r.name, r.levelname, r.message.split()[0]) for r in caplog.records if r.name != "httpx2"]
    by_request = {rid: sorted(line[1:] for line in lines if line[0] == rid) for rid in ("r-7", "r-13")}
    done = [("shop", "INFO", "invoiced"), ("shop", "INFO", "packed")]
    assert by_request == {"r-7": done, "r-13": [*done, ("taskphase", "ERROR", "task")]}
    assert [r.message for r in caplog.records if r.name == "shop"].count("packed 1") == 2  # both saw the commit
