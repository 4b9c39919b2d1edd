"""Tests of an endpoint that schedules a mail: what was scheduled, when it is not, and its failures and retries.

Nothing sleeps, and no pause passes for real: docs/testing.md.
"""

import anyio
import httpx
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from tests.backends import MOVABLE

from fastapi_tasks import Tasks, add_tasks, retry
from fastapi_tasks.testing import JumpClock, UnexpectedFailures, record_tasks

app = FastAPI()
add_tasks(app, drain_timeout=5)

outbox: list[str] = []
answers: list[Exception] = []  # exceptions of the mail server, one for each call


@pytest.fixture(autouse=True)
def new_mail_server() -> None:
    outbox.clear()
    answers.clear()


async def send(to: str, *, subject: str) -> None:
    if answers:
        raise answers.pop(0)
    outbox.append(f"{subject}, {to}")


@app.post("/users")
async def create_user(email: str, tasks: Tasks) -> None:
    again = retry(attempts=2, on=ConnectionError, backoff=60, jitter=False)
    tasks.task(retry=again).after_response.schedule(send, email, subject="welcome")
    if not email.endswith("@example.org"):
        raise HTTPException(409)


ADA = {"email": "ada@example.org"}
EVE = {"email": "eve@example.com"}


def test_the_mail_is_scheduled_with_these_arguments_in_this_phase() -> None:
    with record_tasks(app, run="never") as tasks, TestClient(app) as client:
        client.post("/users", params=ADA)
        tasks.one()
        tasks.after_response.assert_scheduled(send, "ada@example.org", subject="welcome")
    assert outbox == []


def test_the_mail_is_sent() -> None:
    with record_tasks(app) as tasks, TestClient(app) as client:
        client.post("/users", params=ADA)
        tasks.wait_all()
        assert outbox == ["welcome, ada@example.org"]


def test_the_mail_is_dropped_if_the_route_fails() -> None:
    with record_tasks(app) as tasks, TestClient(app) as client:
        assert client.post("/users", params=EVE).status_code == 409
        tasks.wait_all()
        assert tasks.dropped.one() is tasks.one()  # `assert_scheduled` would find it: it was scheduled, and dropped
    assert outbox == []


def test_a_mail_that_fails_fails_the_test() -> None:
    answers.append(ValueError("no such mailbox"))
    with pytest.raises(UnexpectedFailures) as failures, record_tasks(app) as tasks, TestClient(app) as client:
        client.post("/users", params=ADA)
        tasks.wait_all()
    assert "no such mailbox" in repr(failures.value.exceptions)


@pytest.mark.parametrize("backend", MOVABLE)
def test_the_mail_is_sent_again_after_a_minute(backend) -> None:
    answers.append(ConnectionError("no answer"))
    clock = JumpClock()
    options = clock.backend_options(backend)
    with record_tasks(app) as tasks, TestClient(app, backend=backend, backend_options=options) as client:
        client.post("/users", params=ADA)
        tasks.wait_until("retrying")
        clock.jump(59)
        client.portal.call(anyio.wait_all_tasks_blocked)  # the tasks that the jump has woken have run
        assert (outbox, tasks.one().attempt) == ([], 1)
        clock.jump(1)
        tasks.wait_all()
        assert tasks.one().attempt == 2
    assert outbox == ["welcome, ada@example.org"]


async def test_the_mail_is_sent_in_an_async_test() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        with record_tasks(app) as tasks:
            await client.post("/users", params=ADA)
            await client.post("/users", params=EVE)
            await tasks.await_all()
            sent, refused = tasks.requests
            sent.tasks.after_response.assert_scheduled(send, "ada@example.org", subject="welcome")
            assert refused.tasks.dropped.one().args == ("eve@example.com",)
    assert outbox == ["welcome, ada@example.org"]
