"""G21: both adapters keep the contract of `Queue`, with a real Redis and a real worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.backends import ASYNCIO
from tests.queues.conftest import Setting
from tests.queues.engines import QUEUES

from taskphase.queues import Queue
from taskphase.testing import queue_contract

# Seconds for one contract. It takes about 5; a worker of Celery waits up to 6 before it connects again.
MOST = 60

Backend = tuple[str, dict[str, Any]]


def keep_the_contract(setting: Setting, backend: Backend) -> None:
    """Run the contract. Not in an async test: these have less time."""
    redis = setting.start_redis()
    setting.start_worker_of_the_contract()

    def make_queue(**settings: Any) -> Queue:
        return QUEUES[setting.engine](redis.port, **settings)

    @asynccontextmanager
    async def down() -> AsyncGenerator[None]:
        await anyio.to_thread.run_sync(redis.kill)
        yield
        await anyio.to_thread.run_sync(redis.start)

    @asynccontextmanager
    async def hung() -> AsyncGenerator[None]:
        redis.stop()
        try:
            yield
        finally:
            redis.go_on()

    async def main() -> None:
        with anyio.fail_after(MOST):
            await queue_contract(make_queue, down=down, hung=hung, trace=True, within=20)

    name, options = backend
    anyio.run(main, backend=name, backend_options=options)


@pytest.mark.parametrize("setting", ["celery"], indirect=True)
def test_celery_keeps_the_contract_g21(setting: Setting, anyio_backend: Backend) -> None:
    keep_the_contract(setting, anyio_backend)


@pytest.mark.parametrize("setting", ["taskiq"], indirect=True)
@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
def test_taskiq_keeps_the_contract_g21(setting: Setting, anyio_backend: Backend) -> None:
    keep_the_contract(setting, anyio_backend)
