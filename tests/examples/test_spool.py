"""The queue of `examples/spool.py` keeps the contract: G21."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import examples.spool
from examples.spool import SpoolQueue
from tests.examples.programs import example

from taskphase.testing import QUEUE_CONTRACT, queue_contract


async def test_the_queue_of_a_folder_keeps_the_contract_g21(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()

    def make_queue(**settings: Any) -> SpoolQueue:
        return SpoolQueue(folder, deadline=3, attempt_timeout=2, **settings)

    async def work() -> None:
        await anyio.to_thread.run_sync(examples.spool.work, make_queue(**QUEUE_CONTRACT))

    @asynccontextmanager
    async def down() -> AsyncGenerator[None]:
        shutil.move(folder, tmp_path / "away")
        yield
        shutil.move(tmp_path / "away", folder)

    await queue_contract(make_queue, work, down=down)


def test_the_program_hands_a_task_over_and_its_worker_runs_the_task_g21() -> None:
    assert example("spool.py") == [
        "spool.send_mail: handed_over",
        "mail to ada@example.org, by a task with the name spool.send_mail",
    ]
