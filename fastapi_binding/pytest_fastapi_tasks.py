"""The pytest plugin of fastapi-tasks. A module outside of the packages, so that pytest imports FastAPI and taskphase
only if a test uses the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from datetime import timedelta

    from fastapi import FastAPI

    from fastapi_tasks.testing import AppTaskRecorder, RunMode


class RecordTasks(Protocol):
    """The type of the fixture `record_tasks`: `fastapi_tasks.testing.record_tasks()`, already entered."""

    def __call__(
        self, app: FastAPI, *, run: RunMode = "normal", timeout: float | timedelta | None = 10
    ) -> AppTaskRecorder:
        """Record the tasks of `app` until the end of the test."""
        ...


@pytest.fixture
def record_tasks() -> Iterator[RecordTasks]:
    """Return a `fastapi_tasks.testing.record_tasks()` whose recorder is entered at once and exited at the end of the
    test. At the end the test fails if a task has failed without `expect_failure()`.

        def test_a_new_user_gets_a_mail(record_tasks):
            tasks = record_tasks(app)
            with TestClient(app) as client:
                client.post("/users", params={"email": "ada@example.org"})
            tasks.assert_scheduled(send_mail, "ada@example.org")
    """
    from fastapi_tasks.testing import record_tasks as recorder_of

    with ExitStack() as recorders:

        def record(app: FastAPI, *, run: RunMode = "normal", timeout: float | timedelta | None = 10) -> AppTaskRecorder:
            return recorders.enter_context(recorder_of(app, run=run, timeout=timeout))

        yield record
