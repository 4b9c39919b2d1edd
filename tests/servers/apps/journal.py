"""An app whose tasks survive `kill -9`: the environment has the path of the journal."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
from fastapi import FastAPI, HTTPException
from tests.servers.harness import record

from fastapi_tasks import Journal, Tasks, add_tasks, current_task
from taskphase.journal import _statements

PATH = "TASKS_DB"  # environment variable: the path of the journal
RENAMED = "TASKS_RENAMED"  # environment variable: set in the next version of the app, which has lost a function


def note(event: str, subject: str) -> None:
    task = current_task()
    record("again" if task.recovered else event, subject)


@contextmanager
def noted() -> Iterator[None]:
    """Note the begin and the end of a run: the message id, and the process."""
    run = f"{current_task().message_id}/{os.getpid()}"
    record("began", run)
    try:
        yield
    finally:
        record("ended", run)


async def work(subject: str) -> None:
    """Take a while, so that a kill finds tasks in all states."""
    with noted():
        await anyio.sleep(0.02)
        note("ran", subject)


async def wait(subject: str) -> None:
    """Wait for the end of the process. A recovered run ends at once."""
    with noted():
        note("started", subject)
        if not current_task().recovered:
            await anyio.sleep_forever()


async def kill(subject: str) -> None:
    """Kill the process, each time."""
    with noted():
        record("kills", subject)
        os.kill(os.getpid(), signal.SIGKILL)


async def new_name(subject: str) -> None:
    with noted():
        note("started", subject)


app = FastAPI()
if RENAMED in os.environ:
    _statements._GRACE = 0  # the old version never comes back
functions = [work, new_name if RENAMED in os.environ else wait, kill]
add_tasks(app, journal=Journal(os.environ.get(PATH, "unused"), functions, sync="normal"))


@app.get("/ready")
async def ready() -> None: ...


@app.post("/order/{subject}")
async def order(subject: str, tasks: Tasks) -> str:
    tasks.after_route.schedule(work, f"{subject}.route")
    tasks.after_response.schedule(work, f"{subject}.response")
    return subject


@app.post("/refused/{subject}")
async def refused(subject: str, tasks: Tasks) -> None:
    tasks.after_response.schedule(work, f"{subject}.refused")
    raise HTTPException(418)


@app.post("/wait/{subject}")
async def waiting(subject: str, tasks: Tasks) -> None:
    tasks.after_response.schedule(wait, subject)


@app.post("/kill/{subject}")
async def poison(subject: str, tasks: Tasks) -> None:
    tasks.task(delay=0.05).after_response.schedule(kill, subject)  # the client has the response by then


@app.post("/die/{subject}")
async def die(subject: str, tasks: Tasks) -> None:
    """Die before the route has ended, and after the app has written to its own database."""
    tasks.schedule(work, f"{subject}.immediate")
    tasks.after_route.schedule(work, f"{subject}.route")
    record("committed", subject)
    os.kill(os.getpid(), signal.SIGKILL)


@app.post("/fork")
async def fork() -> int:
    """Fork a child that outlives this process. It leaves the session of the server, and the sockets."""
    child = os.fork()
    if not child:
        os.setsid()
        for each in list(Path("/proc/self/fd").iterdir()):
            with suppress(OSError):
                if str(each.readlink()).startswith("socket:"):
                    os.close(int(each.name))
        time.sleep(60)
        os._exit(0)
    return child
