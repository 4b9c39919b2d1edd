"""The app that hands tasks over. No endpoint knows of a queue."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, WebSocket
from tests.queues.programs import handed, jobs
from tests.servers.harness import record

from fastapi_tasks import Task, TaskConfig, TaskObserver, Tasks, add_tasks, current_host


def note_failure(task: Task[Any], error: Exception) -> None:
    """Record the outcome, after the reason: the class of the exception of the last attempt."""
    record(f"reason_{type(error.__cause__).__name__}", str(task.args[0]))
    record(f"on_error_{getattr(error, 'outcome', type(error).__name__)}", str(task.args[0]))


class Confirmed(TaskObserver):
    """Records each task that the broker has confirmed."""

    def ended(self, task: Task[Any]) -> None:
        if task.status == "handed_over":
            record("handed_over", str(task.args[0]))


stalls: list[tuple[float, float]] = []


async def watch_the_loop() -> None:
    """Note how late the event loop wakes this task, and the time of its thread on a processor meanwhile, in seconds."""
    while True:
        due, used = time.perf_counter() + 0.005, time.thread_time()
        await anyio.sleep(0.005)
        stalls.append((time.perf_counter() - due, time.thread_time() - used))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if "WATCH" in os.environ:
        gc.collect()
        gc.freeze()  # a full collection of all imported modules would be the longest stall
        current_host().tg.start_soon(watch_the_loop)
    yield


app = FastAPI(lifespan=lifespan)
shield = os.environ.get("SHIELD")
add_tasks(
    app,
    queues=[handed.queue],
    observers=[Confirmed()] if "WATCH" in os.environ else [],
    config=TaskConfig(on_error=note_failure),
    shield_timeout=float(shield) if shield else None,
)


async def from_a_task(order: str) -> None:
    current_host().schedule(jobs.send_mail, order)


@app.get("/ready")
async def ready() -> int:
    return os.getpid()


@app.get("/stall")
async def stall() -> list[float]:
    """Return the worst of both times of `watch_the_loop()` since the last call."""
    worst = [max((pair[index] for pair in stalls), default=0.0) for index in (0, 1)]
    stalls.clear()
    return worst


@app.post("/orders/{order}")
async def place(order: str, tasks: Tasks) -> str | None:
    task = tasks.after_route.schedule(jobs.send_mail, order)
    tasks.after_response.schedule(jobs.archive, f"{order}b")
    return task.message_id


@app.post("/long/{order}")
async def long(order: str, tasks: Tasks) -> None:
    tasks.after_response.schedule(jobs.work_long, order)


@app.post("/look/{order}")
async def look(order: str, tasks: Tasks) -> list[str | None]:
    jobs.request_id.set(f"of-{order}")
    return [
        tasks.schedule(jobs.look_around, f"{order}-async").message_id,
        tasks.schedule(jobs.look_around_sync, f"{order}-sync").message_id,
        tasks.schedule(handed.decorated, f"{order}-decorated").message_id,
    ]


@app.post("/wrong")
async def wrong(tasks: Tasks) -> None:
    tasks.schedule(jobs.send_mail, object())  # type: ignore[arg-type]


@app.post("/host/{order}")
async def by_the_host(order: str) -> None:
    current_host().schedule(jobs.send_mail, order)


@app.post("/task/{order}")
async def in_a_task(order: str, tasks: Tasks) -> None:
    tasks.schedule(from_a_task, order)


@app.post("/thread/{order}")
def in_a_thread(order: str, tasks: Tasks) -> None:
    tasks.schedule(jobs.send_mail, order)


@app.websocket("/socket/{order}")
async def by_a_socket(order: str, websocket: WebSocket, tasks: Tasks) -> None:
    await websocket.accept()
    tasks.schedule(jobs.send_mail, order)
    await websocket.close()
