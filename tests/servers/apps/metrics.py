"""An app whose metrics are those of all its workers. `PROMETHEUS_MULTIPROC_DIR` is the folder of their files."""

from __future__ import annotations

import os
import time

import anyio
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.prometheus import PrometheusTasks

app = FastAPI()
add_tasks(app, observers=[PrometheusTasks()])


@app.get("/ready")
async def ready() -> None: ...


@app.get("/metrics")
def metrics() -> Response:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return Response(generate_latest(registry), media_type="text/plain")


def count() -> None: ...


async def hold() -> None:
    await anyio.sleep_forever()


@app.get("/tasks")
async def endpoint(tasks: Tasks) -> int:
    tasks.schedule(hold)
    tasks.after_response.schedule(count)
    time.sleep(0.02)
    return os.getpid()
