"""The apps of the request benchmarks. `fastapi_tasks` is ours or the one from PyPI: this code works with both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

from fastapi import BackgroundTasks, FastAPI

from fastapi_tasks import Tasks, add_tasks

runs = count()

PREFIX = {"ours": "Tasks", "theirs": "Tasks of PyPI"}


async def nothing() -> None:
    """A task. It counts itself, so that no app can lose a task unnoticed."""
    next(runs)


async def no_tasks() -> dict[str, int]:
    return {"a": 1}


async def background(background: BackgroundTasks) -> dict[str, int]:
    for _ in range(3):
        background.add_task(nothing)
    return {"a": 1}


async def none_scheduled(tasks: Tasks) -> dict[str, int]:  # noqa: ARG001 - measures the cost of the parameter
    return {"a": 1}


async def one_immediate(tasks: Tasks) -> dict[str, int]:
    tasks.schedule(nothing)
    return {"a": 1}


async def one_after_route(tasks: Tasks) -> dict[str, int]:
    tasks.after_route.schedule(nothing)
    return {"a": 1}


async def one_after_response(tasks: Tasks) -> dict[str, int]:
    tasks.after_response.schedule(nothing)
    return {"a": 1}


async def one_in_each_phase(tasks: Tasks) -> dict[str, int]:
    tasks.schedule(nothing)
    tasks.after_route.schedule(nothing)
    tasks.after_response.schedule(nothing)
    return {"a": 1}


async def ten_after_response(tasks: Tasks) -> dict[str, int]:
    for _ in range(10):
        tasks.after_response.schedule(nothing)
    return {"a": 1}


def app_of(endpoint: Callable[..., Awaitable[dict[str, int]]], *, with_tasks: bool, **options: Any) -> FastAPI:
    app = FastAPI()
    if with_tasks:
        add_tasks(app, **options)
    app.get("/")(endpoint)
    return app


def make_apps(library: str) -> dict[str, tuple[FastAPI, int]]:
    """Return the apps by name, each with the number of tasks that a request schedules."""
    tasks = PREFIX[library]
    plain = {
        "no tasks": (app_of(no_tasks, with_tasks=False), 0),
        "three BackgroundTasks": (app_of(background, with_tasks=False), 3),
    }
    return plain | {
        f"{tasks}: an app that has them, an endpoint that does not ask": (app_of(no_tasks, with_tasks=True), 0),
        f"{tasks}: nothing scheduled": (app_of(none_scheduled, with_tasks=True), 0),
        f"{tasks}: one immediate": (app_of(one_immediate, with_tasks=True), 1),
        f"{tasks}: one after_route": (app_of(one_after_route, with_tasks=True), 1),
        f"{tasks}: one after_response": (app_of(one_after_response, with_tasks=True), 1),
        f"{tasks}: one in each phase": (app_of(one_in_each_phase, with_tasks=True), 3),
        f"{tasks}: ten after_response": (app_of(ten_after_response, with_tasks=True), 10),
    }


UNRECORDED = "Tasks: one after_response"
RECORDED = {sync: f"{UNRECORDED}, in a journal with sync={sync}" for sync in ("normal", "full")}


def make_recorded_app(name: str, place: Path) -> FastAPI:
    """Return the app with this name of `RECORDED`. Only of ours.

    :param place: the directory for the journal: on a disk, because in memory nothing is confirmed
    """
    from fastapi_tasks import Journal

    sync = next(sync for sync, known in RECORDED.items() if known == name)
    journal = Journal(place / "tasks.db", [nothing], sync=sync)
    return app_of(one_after_response, with_tasks=True, journal=journal)
