"""G20, G22: the inspector and a task that waits for its journal, or was recovered."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from tests.backends import until
from tests.fastapi_tasks.apps import host_of, serving
from tests.taskphase.journal.hosts import Program, disk_of
from tests.taskphase.journal.test_writer import reached

from fastapi_tasks import add_tasks
from fastapi_tasks.inspector import History, router


async def test_the_page_shows_a_task_that_waits_for_its_journal_g20_g22(tmp_path: Path) -> None:
    program = Program(tmp_path / "tasks.db")
    app, history = FastAPI(), History()
    app.include_router(router(history, prefix="/tasks", allow_unauthenticated=True))
    add_tasks(app, observers=[history], journal=program.journal())
    async with serving(app) as server:
        host = host_of(app)
        disk = disk_of(host)
        disk.hangs = "COMMIT"
        task = host.schedule(program.send, 1)
        await reached(disk)
        response = await server.get("/tasks/json")
        assert response.status == 200
        assert b'"recording"' in response.body
        disk.go_on.set()
        await until(lambda: task.status == "succeeded")
        assert b'"record"' in (await server.get("/tasks/json")).body
