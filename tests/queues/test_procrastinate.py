"""G21: the queue for Procrastinate of docs/how-to/move-to-a-queue.md, with a real PostgreSQL."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from tests.queues.postgres import Postgres, what_is_missing
from tests.queues.test_page import part

from taskphase.testing import QUEUE_CONTRACT, queue_contract

NAME = "procrastinate_queue"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Return a server with the tables of Procrastinate. Without PostgreSQL pytest leaves the tests out, and says so."""
    if missing := what_is_missing():
        pytest.skip(missing)
    with Postgres() as server:
        with make_app(server.url).open() as app:
            app.schema_manager.apply_schema()
        yield server


@pytest.fixture(scope="module")
def queue_class(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the class of the page."""
    path: Path = tmp_path_factory.mktemp("page") / f"{NAME}.py"
    path.write_text(part("PostgreSQL, and the transaction of the request").files[path.name])
    spec = spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[NAME] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module.ProcrastinateQueue
    finally:
        del sys.modules[NAME]


def make_app(url: str) -> Any:
    from procrastinate import App, PsycopgConnector

    return App(connector=PsycopgConnector(conninfo=url, timeout=0.5))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_queue_of_the_page_keeps_the_contract_g21(
    postgres: Postgres, queue_class: Any, anyio_backend: str
) -> None:
    def make_queue(**settings: Any) -> Any:
        return queue_class(make_app(postgres.url), deadline=2, attempt_timeout=1, **settings)

    async def work() -> None:
        queue = make_queue(**QUEUE_CONTRACT)
        async with queue.app.open_async():
            await queue.app.run_worker_async(wait=False, install_signal_handlers=False)

    @asynccontextmanager
    async def down() -> AsyncGenerator[None]:
        await anyio.to_thread.run_sync(postgres.stop)
        yield
        await anyio.to_thread.run_sync(postgres.start)

    @asynccontextmanager
    async def hung() -> AsyncGenerator[None]:
        postgres.hang()
        try:
            yield
        finally:
            postgres.go_on()

    await queue_contract(make_queue, work, down=down, hung=hung)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_transaction_that_is_rolled_back_leaves_no_job_g21(
    postgres: Postgres, queue_class: Any, anyio_backend: str
) -> None:
    from psycopg import AsyncConnection

    queue = queue_class(make_app(postgres.url), **QUEUE_CONTRACT)
    note = queue.functions[0]

    def jobs() -> int:
        [[count]] = postgres.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")
        return int(count)

    before = jobs()
    with pytest.raises(LookupError):
        async with await AsyncConnection.connect(postgres.url) as connection:
            await queue.defer(connection, note, "nowhere", [])
            raise LookupError
    assert jobs() == before

    async with await AsyncConnection.connect(postgres.url) as connection:
        await queue.defer(connection, note, "nowhere", [])
        assert jobs() == before  # no worker sees the job before the commit
    assert jobs() == before + 1


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_queue_of_the_page_refuses_trio_g21(queue_class: Any, anyio_backend: str) -> None:
    from taskphase import TaskHost

    queue = queue_class(make_app("postgresql://127.0.0.1/none"), **QUEUE_CONTRACT)
    with pytest.raises(RuntimeError, match="only on asyncio"):
        async with TaskHost(queues=[queue]):
            raise AssertionError("it has opened")
