"""Programs in virtual time, on each loop that can be simulated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from taskphase.testing import simulate
from taskphase.testing._simulation.running import Backend

on_each_loop = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def run(program: Callable[[], Awaitable[Any]], backend: Backend) -> Any:
    """Run `program` in virtual time."""
    return simulate(program, backend=backend).result()


async def now() -> float:
    return anyio.current_time()
