"""Apps as real ones are: endpoints that await, and tasks that take some time. For one uvicorn worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial, wraps
from pathlib import Path
from random import random
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request

from fastapi_tasks import Tasks

from .apps import (
    PREFIX,
    RECORDED,
    app_of,
    background,
    make_apps,
    make_recorded_app,
    no_tasks,
    none_scheduled,
    one_in_each_phase,
    runs,
)

Endpoint = Callable[..., Awaitable[dict[str, int]]]

NO_TASKS = "no tasks"
SLOW = "BackgroundTasks: one of 10 ms"
SLOW_WITH_AIOJOBS = "aiojobs: one of 10 ms"


def awaits_once(name: str) -> str:
    """Return the name of the app `name` if its endpoint awaits once."""
    return f"{name}, awaits once"


def slow(library: str) -> str:
    """Return the name of the app with a task of 10 ms."""
    return f"{PREFIX[library]}: one of 10 ms, after_response"


def awaiting(endpoint: Endpoint) -> Endpoint:
    """Return `endpoint` behind a wait of 0 to 2 ms, as for a database.

    The timers of uvloop tick once a millisecond. So after equal waits the connections would fall into step or not, as
    chance has it, and the server would idle between the steps.
    """

    @wraps(endpoint)
    async def wait_first(**given: Any) -> dict[str, int]:
        await asyncio.sleep(random() * 0.002)
        return await endpoint(**given)

    return wait_first


def awaiting_apps(library: str) -> dict[str, Callable[[], FastAPI]]:
    """Return functions that make the apps whose endpoints await once, by name."""
    plain = {NO_TASKS: no_tasks, "three BackgroundTasks": background}
    ours = {"nothing scheduled": none_scheduled, "one in each phase": one_in_each_phase}
    return {
        **{awaits_once(name): partial(app_of, awaiting(each), with_tasks=False) for name, each in plain.items()},
        **{
            awaits_once(f"{PREFIX[library]}: {name}"): partial(app_of, awaiting(each), with_tasks=True)
            for name, each in ours.items()
        },
    }


async def ten_milliseconds() -> None:
    """A task that waits, as for a mail server."""
    await asyncio.sleep(0.01)
    next(runs)


async def slow_in_background(background: BackgroundTasks) -> dict[str, int]:
    background.add_task(ten_milliseconds)
    return {"a": 1}


async def slow_after_response(tasks: Tasks) -> dict[str, int]:
    tasks.after_response.schedule(ten_milliseconds)
    return {"a": 1}


def slow_with_aiojobs() -> FastAPI:
    import aiojobs  # not every environment has it

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with aiojobs.Scheduler(limit=None) as app.state.scheduler:
            yield

    async def endpoint(request: Request) -> dict[str, int]:
        await request.app.state.scheduler.spawn(ten_milliseconds())
        return {"a": 1}

    app = FastAPI(lifespan=lifespan)
    app.get("/")(endpoint)
    return app


def slow_apps(library: str) -> dict[str, Callable[[], FastAPI]]:
    """Return functions that make the apps with a task of 10 ms behind each response, by name."""
    return {
        SLOW: partial(app_of, slow_in_background, with_tasks=False),
        SLOW_WITH_AIOJOBS: slow_with_aiojobs,
        slow(library): partial(app_of, slow_after_response, with_tasks=True),
    }


def served(name: str, library: str, place: Path) -> FastAPI:
    """Return the app with this name.

    :param place: the directory for a journal
    """
    if name in RECORDED.values():
        return make_recorded_app(name, place)
    makers = awaiting_apps(library) | slow_apps(library)
    return makers[name]() if name in makers else make_apps(library)[name][0]
