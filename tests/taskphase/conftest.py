from __future__ import annotations

import logging
from collections.abc import Callable

import pytest


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """Return a function that gives what the logger `taskphase` has said so far: (level, message)."""
    caplog.set_level(logging.DEBUG, logger="taskphase")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "taskphase"]
