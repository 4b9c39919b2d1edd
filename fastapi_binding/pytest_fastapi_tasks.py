"""The pytest plugin of fastapi-tasks. It is in no package, so that pytest imports neither FastAPI nor taskphase with it
until a test asks for its fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fastapi_tasks.testing import AppTaskRecorder, RunMode


class RecordTasks(Protocol):
    """What the fixture `record_tasks` is: `fastapi_tasks.testing.record_tasks()`, entered already."""

    def __call__(self, app: FastAPI, *, run: RunMode = "normal", timeout: float | None = 10) -> AppTaskRecorder:
        """Record the tasks of `app` until the end of the test."""
        ...


@pytest.fixture
def record_tasks() -> Iterator[RecordTasks]:
    """Return `fastapi_tasks.testing.record_tasks`, whose recorders are entered at once, and left at the end of the
    test: it is an error then if a task has failed and the test has not said `expect_failure()`.

    def test_a_new_user_gets_a_mail(record_tasks):
        tasks = record_tasks(app)
        with TestClient(app) as client:
            client.post("/users", params={"email": "ada@example.org"})
        tasks.assert_scheduled(send_mail, "ada@example.org")
    """
    from fastapi_tasks.testing import record_tasks as recorder_of

    with ExitStack() as recorders:

        def record(app: FastAPI, *, run: RunMode = "normal", timeout: float | None = 10) -> AppTaskRecorder:
            return recorders.enter_context(recorder_of(app, run=run, timeout=timeout))

        yield record
