from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.queueing import RAN


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """Return a function that returns the records so far of the logger `taskphase`: (level, message)."""
    caplog.set_level(logging.DEBUG, logger="taskphase")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "taskphase"]


@pytest.fixture
def cleared() -> None:
    """Forget the calls that `tests.queueing` has noted in earlier tests."""
    RAN.clear()


@pytest.fixture
async def task_factory(backend_name: str) -> AsyncIterator[None]:
    """Let another task factory make the tasks of an asyncio loop."""

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=loop, **options)

    if backend_name == "asyncio":
        asyncio.get_running_loop().set_task_factory(make)  # type: ignore[arg-type]
    yield
    if backend_name == "asyncio":
        asyncio.get_running_loop().set_task_factory(None)
