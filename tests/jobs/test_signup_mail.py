"""A mail after signup: not before the commit, not if the signup fails, and the client does not wait for the mail.

The session has function scope, because a failed commit has to be a failed signup: the session ends before the response,
and its failure is the route's failure. The mail opens its own session. docs/how-to/databases.md says why, and
docs/tutorial/phases.md says which phase.
"""

import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.testing import record_tasks

USERS = """CREATE TABLE users (
    id INTEGER PRIMARY KEY, email TEXT, invited_by INTEGER REFERENCES users DEFERRABLE INITIALLY DEFERRED
)"""


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    with TemporaryDirectory() as folder:
        app.state.database = Path(folder) / "users.db"
        with connect() as db:
            db.execute(USERS)
        yield


app = FastAPI(lifespan=lifespan)
add_tasks(app, shield_timeout=20)


def connect() -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(app.state.database))


async def get_db() -> AsyncGenerator[sqlite3.Connection]:
    with connect() as db:
        db.execute("PRAGMA foreign_keys = ON")
        with db:  # commits at the end, or rolls back
            yield db


Db = Annotated[sqlite3.Connection, Depends(get_db, scope="function")]


@app.post("/users", status_code=201)
async def sign_up(email: str, db: Db, tasks: Tasks, invited_by: int | None = None) -> None:
    user = db.execute("INSERT INTO users (email, invited_by) VALUES (?, ?)", [email, invited_by]).lastrowid
    tasks.task(shield=True, when="success").after_response.schedule(send_welcome, user)
    if not email.endswith("@example.org"):
        raise HTTPException(409)


outbox: list[str] = []
mail_server_answers = threading.Event()


def send_welcome(user: int | None) -> None:
    with connect() as db:
        [email] = db.execute("SELECT email FROM users WHERE id = ?", [user]).fetchone()
    assert mail_server_answers.wait(10)
    outbox.append(email)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_mail_follows_the_commit_and_the_response_does_not_wait(backend) -> None:
    outbox.clear()
    mail_server_answers.clear()
    with record_tasks(app) as tasks, TestClient(app, backend=backend) as client:
        assert client.post("/users", params={"email": "ada@example.org"}).status_code == 201
        assert outbox == []
        mail_server_answers.set()
        tasks.wait_all()
        assert outbox == ["ada@example.org"]
        tasks.after_response.assert_scheduled(send_welcome, 1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("user", "status"),
    [({"email": "eve@example.com"}, 409), ({"email": "ada@example.org", "invited_by": 7}, 500)],
    ids=["refused", "its commit fails"],
)
def test_no_mail_follows_a_signup_that_failed(backend, user, status) -> None:
    outbox.clear()
    mail_server_answers.set()
    with record_tasks(app) as tasks, TestClient(app, backend=backend, raise_server_exceptions=False) as client:
        assert client.post("/users", params=user).status_code == status
        tasks.wait_all()
        assert tasks.dropped.one().func is send_welcome
    assert outbox == []
