"""A library that keeps the open transaction in a context variable, and tasks that are scheduled inside that block.

The task's context is that of `schedule()`, and that has the transaction in it: docs/how-to/databases.md, "A transaction
in a context variable". Piccolo and Tortoise are such libraries; the one here is as they are, without a database.
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.testing import record_tasks

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class Transaction:
    """Writes become visible together, when the outermost block ends; inner blocks belong to that."""

    def __init__(self) -> None:
        self.is_open = True
        self.writes: list[str] = []


class Database:
    def __init__(self) -> None:
        self.committed: list[str] = []
        self._current: ContextVar[Transaction | None] = ContextVar("transaction", default=None)

    @contextmanager
    def transaction(self) -> Generator[None]:
        if self._current.get() is not None:  # nested: the outer transaction decides
            yield
            return
        opened = Transaction()
        token = self._current.set(opened)
        try:
            yield
            self.committed += opened.writes
        finally:
            opened.is_open = False
            self._current.reset(token)

    @asynccontextmanager
    async def transaction_async(self) -> AsyncGenerator[None]:
        with self.transaction():
            yield

    def write(self, text: str) -> None:
        found = self._current.get()
        if found is None:
            self.committed.append(text)
        elif found.is_open:
            found.writes.append(text)
        else:
            raise ValueError("no active connection")


db = Database()
app = FastAPI()
add_tasks(app, drain_timeout=5)


async def confirm(order: int) -> None:
    async with db.transaction_async():  # its own transaction
        db.write(f"order {order} is confirmed for {request_id.get()}")


def confirm_in_a_thread(order: int) -> None:
    with db.transaction():
        db.write(f"order {order} is confirmed for {request_id.get()}")


FUNCTIONS = {"async": confirm, "sync": confirm_in_a_thread}


@app.post("/{kind}/inside/{order}")
async def inside(kind: str, order: int, tasks: Tasks) -> None:
    request_id.set(f"r-{order}")
    async with db.transaction_async():
        db.write(f"order {order}")
        tasks.after_response.schedule(FUNCTIONS[kind], order)


@app.post("/{kind}/after/{order}")
async def after(kind: str, order: int, tasks: Tasks) -> None:
    request_id.set(f"r-{order}")
    async with db.transaction_async():
        db.write(f"order {order}")
    tasks.after_response.schedule(FUNCTIONS[kind], order)


@app.post("/{kind}/copied/{order}")
async def copied(kind: str, order: int, tasks: Tasks) -> None:
    request_id.set(f"r-{order}")
    outside = copy_context()
    async with db.transaction_async():
        db.write(f"order {order}")
        outside.run(tasks.after_response.schedule, FUNCTIONS[kind], order)


@app.post("/{kind}/copied-in-a-thread/{order}")
def copied_in_a_thread(kind: str, order: int, tasks: Tasks) -> None:
    request_id.set(f"r-{order}")
    outside = copy_context()
    with db.transaction():
        db.write(f"order {order}")
        outside.run(tasks.after_response.schedule, FUNCTIONS[kind], order)


async def open_transaction(order: int) -> AsyncGenerator[Context]:
    request_id.set(f"r-{order}")
    outside = copy_context()
    async with db.transaction_async():
        yield outside


Outside = Annotated[Context, Depends(open_transaction, scope="function")]


@app.post("/{kind}/dependency/{order}")
async def with_dependency(kind: str, order: int, outside: Outside, tasks: Tasks) -> None:
    db.write(f"order {order}")
    outside.run(tasks.after_response.schedule, FUNCTIONS[kind], order)


@app.post("/{kind}/dependency-in-a-thread/{order}")
def with_dependency_in_a_thread(kind: str, order: int, outside: Outside, tasks: Tasks) -> None:
    db.write(f"order {order}")
    outside.run(tasks.after_response.schedule, FUNCTIONS[kind], order)


@app.post("/{kind}/rolled-back/{order}")
async def rolled_back(kind: str, order: int, tasks: Tasks) -> None:
    outside = copy_context()
    async with db.transaction_async():
        db.write(f"order {order}")
        outside.run(tasks.after_response.schedule, FUNCTIONS[kind], order)
        raise LookupError("the item is sold out")


each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])
each_kind = pytest.mark.parametrize("kind", FUNCTIONS)


@each_backend
@each_kind
def test_a_task_scheduled_in_a_transaction_inherits_the_finished_transaction_g6(backend: str, kind: str) -> None:
    with record_tasks(app) as tasks, TestClient(app, backend=backend) as client:
        tasks.expect_failure(ValueError, match="no active connection")
        client.post(f"/{kind}/inside/1")
        tasks.wait_all()
        assert tasks.one().status == "failed"


@each_backend
@each_kind
@pytest.mark.parametrize("how", ["after", "copied", "copied-in-a-thread", "dependency", "dependency-in-a-thread"])
def test_a_task_scheduled_outside_the_transaction_keeps_the_context_g6(backend: str, kind: str, how: str) -> None:
    db.committed.clear()
    with record_tasks(app) as tasks, TestClient(app, backend=backend) as client:
        assert client.post(f"/{kind}/{how}/7").status_code == 200
        tasks.wait_all()
    assert db.committed == ["order 7", "order 7 is confirmed for r-7"]


@each_backend
@each_kind
def test_a_task_scheduled_in_the_copy_is_dropped_with_a_rollback_g5(backend: str, kind: str) -> None:
    db.committed.clear()
    with record_tasks(app) as tasks, TestClient(app, backend=backend, raise_server_exceptions=False) as client:
        assert client.post(f"/{kind}/rolled-back/7").status_code == 500
        tasks.wait_all()
        assert tasks.one().status == "dropped"
    assert db.committed == []
