"""An app with a journal and the page of the inspector: the environment has the path of the journal."""

from __future__ import annotations

import os

import anyio
from fastapi import FastAPI

from fastapi_tasks import Journal, Tasks, add_tasks, current_host, current_task, inspector

PATH = "TASKS_DB"  # environment variable: the path of the journal


async def send(to: str) -> None: ...


async def wait(to: str) -> None:
    """Wait for the end of the process."""
    await anyio.sleep_forever()


async def wait_once(to: str) -> None:
    """Wait for the end of the process. A recovered run ends at once."""
    if not current_task().recovered:
        await anyio.sleep_forever()


async def fail(text: str) -> None:
    raise ValueError(text)


history = inspector.History()
app = FastAPI()
add_tasks(
    app,
    observers=[history],
    journal=Journal(os.environ.get(PATH, "unused"), [send, wait, wait_once, fail], sync="normal"),
)
app.include_router(inspector.router(history, prefix="/_tasks", allow_unauthenticated=True))


@app.get("/ready")
async def ready() -> None: ...


@app.post("/tasks/{name}")
async def schedule(name: str, function: str, tasks: Tasks, count: int = 1) -> None:
    func = {"send": send, "wait": wait, "wait_once": wait_once, "fail": fail}[function]
    for _ in range(count):
        tasks.task(name=name).after_response.schedule(func, name)


@app.post("/discarded")
async def discard_all() -> None:
    """Empty the journal."""
    journal = current_host().journal
    assert isinstance(journal, Journal)
    for entry in (*await journal.due(), *await journal.failed()):
        await journal.discard(entry.id)
