"""The backends, and waiting without time: by turns of the event loop."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from anyio import current_time
from anyio.lowlevel import checkpoint

from taskphase import Task

ASYNCIO = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
TRIO = [pytest.param(("trio", {}), id="trio")]

# Backends whose time a test can move. anyio passes options on to trio from 4.14 on.
MOVABLE = ["asyncio"] if int(version("anyio").split(".")[1]) < 14 else ["asyncio", "trio"]

# For cancellations without a scope, which trio does not have.
native_cancel_only = pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)


def turns_of_a_barrier(backend_name: str) -> int:
    """Return how many turns of the event loop it takes until all first steps that were asked for are taken."""
    if backend_name == "trio":
        return 2
    has_stepper = sys.version_info >= (3, 12) or os.environ.get("TASKPHASE_SCOPES") != "early"
    return 0 if has_stepper and gc.get_threshold()[0] < 2000 else 1


# More turns than any test needs until it waits only for timers, threads or sockets.
ENOUGH = 25


async def turns(count: int = ENOUGH) -> None:
    """Give every task that can run `count` turns, also to cancellations that are on their way."""
    for _ in range(count):
        await checkpoint()


def end_time_of_thread(task: Task[Any]) -> None:
    """End the `timeout` of `task` now, whose sync function runs. A short timeout may be over before the thread begins,
    on a busy machine.
    """
    _call, scope = task._runner.threads._calls[task]
    scope.deadline = current_time()


async def until(condition: Callable[[], object]) -> None:
    """Make checkpoints until `condition()` is true. The test's own time limit bounds it."""
    while not condition():
        await checkpoint()
