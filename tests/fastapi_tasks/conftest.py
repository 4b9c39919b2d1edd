from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from tests.fastapi_tasks.apps import Journal

from fastapi_tasks._installation import Installation

Logged = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """Return a function that returns the records so far of the logger `taskphase`: (level, message)."""
    caplog.set_level(logging.DEBUG, logger="taskphase")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "taskphase"]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return a function that returns the warnings so far of the logger `fastapi_tasks`, as in a new process."""
    monkeypatch.setattr(Installation, "has_warned", False)
    caplog.set_level(logging.DEBUG, logger="fastapi_tasks")
    return lambda: [
        f"{r.levelname}: {r.getMessage()}"
        for r in caplog.records
        if (r.name, r.levelname) == ("fastapi_tasks", "WARNING")
    ]
