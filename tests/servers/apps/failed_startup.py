"""An app whose startup fails while a shielded task runs, in the way that the environment names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import APIRouter, FastAPI
from tests.servers.harness import record

from fastapi_tasks import add_tasks, current_host

WORK = 0.3  # seconds; far more than a server needs between the message and its end


async def work() -> None:
    record("started", "shielded")
    await anyio.sleep(WORK)
    record("ended", "shielded")


async def fail() -> None:
    await current_host().task(shield=True).schedule(work).started.wait()
    record("fails")
    raise LookupError("no database")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await fail()
    yield


def make() -> FastAPI:
    match os.environ["TASKS_STARTUP"]:
        case "router":
            made = FastAPI()
            made.include_router(APIRouter(lifespan=lifespan))
        case "handler":
            made = FastAPI()
            made.router.on_startup.append(fail)
        case "mounted":
            child = FastAPI(lifespan=lifespan)
            made = FastAPI(lifespan=lambda _: child.router.lifespan_context(child))
            made.mount("/child", child)
        case _:
            made = FastAPI(lifespan=lifespan)
    return made


app = make()
add_tasks(app)


@app.get("/ready")
async def ready() -> None:
    record("served")
