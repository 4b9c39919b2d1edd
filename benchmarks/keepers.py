"""The apps of other packages that keep tasks in SQLite. Each has an environment of its own, without this project.

Each app answers the same request as `UNRECORDED` in `apps.py`, and runs one task for it.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import BackgroundTasks, FastAPI

PYTHONS = {library: Path(f"{sys.prefix}-{library}") / "bin" / "python" for library in ("taskflow", "dbos")}
"""The Python of each environment."""

NAMES = {
    # It writes all tasks from time to time, and at a shutdown: after a crash its tasks are lost.
    "taskflow": "fastapi-taskflow of PyPI: one task, a snapshot in SQLite",
    "dbos": "DBOS of PyPI: one workflow in SQLite, started in the endpoint",
}


def is_measured(library: str) -> bool:
    """Return whether the other package can be measured: on Python 3.12 and newer DBOS needs SQLite 3.42."""
    is_old = sqlite3.sqlite_version_info < (3, 42) and sys.version_info >= (3, 12)
    return PYTHONS[library].exists() and not (library == "dbos" and is_old)


def taskflow(place: Path) -> FastAPI:
    from fastapi_taskflow import TaskAdmin, TaskManager

    manager = TaskManager(snapshot_db=str(place / "tasks.db"))
    app = FastAPI()
    TaskAdmin(app, manager, auto_install=True)

    @manager.task()
    async def nothing() -> None: ...

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> dict[str, int]:
        tasks.add_task(nothing)
        return {"a": 1}

    return app


def dbos(place: Path) -> FastAPI:
    from dbos import DBOS

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        DBOS(config={"name": "benchmark", "system_database_url": f"sqlite:///{place}/tasks.db", "log_level": "ERROR"})
        DBOS.launch()
        yield
        DBOS.destroy()

    app = FastAPI(lifespan=lifespan)

    @DBOS.workflow()
    async def nothing() -> None: ...

    @app.get("/")
    async def endpoint() -> dict[str, int]:
        await DBOS.start_workflow_async(nothing)
        return {"a": 1}

    return app


APPS: dict[str, Callable[[Path], FastAPI]] = {"taskflow": taskflow, "dbos": dbos}
