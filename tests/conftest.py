"""Every async test runs on asyncio, on asyncio under uvloop, and on trio, and is bounded in time."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import anyio
import pytest

from tests.backends import ASYNCIO, TRIO

# A test that waits for ever fails after so many seconds. No test needs a tenth of this time.
TEST_TIMEOUT = 20


@pytest.fixture(params=[*ASYNCIO, *TRIO])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def backend_name(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    return anyio_backend[0]


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Have anyio run every async test. (Its `anyio_mode = "auto"` is younger than the oldest anyio that is tested.)"""
    if inspect.iscoroutinefunction(obj) and collector.istestfunction(obj, name):
        pytest.mark.anyio(obj)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _bounded(item.obj)


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        with anyio.fail_after(TEST_TIMEOUT):
            await test(*args, **kwargs)

    return run
