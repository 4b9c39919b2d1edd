"""G1, G13, G18, G19, G24: tasks of requests that wait for a delay, a limit or a key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from tests import wire
from tests.fastapi_tasks.apps import Journal, serving

from fastapi_tasks import Limit, Task, TaskConfig, Tasks, TaskStatus, add_tasks

S = TaskStatus


def app_of(
    journal: Journal, made: list[Task[Any]], answered: anyio.Event, *, hold: bool = False, **settings: Any
) -> FastAPI:
    app = FastAPI()
    add_tasks(app, hold=hold, drain_timeout=timedelta(seconds=10))

    async def work(phase: str) -> None:
        await answered.wait()
        journal.append(phase)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        later = tasks.task(**settings)
        made.append(later.schedule(work, "immediate"))
        made.append(later.after_route.schedule(work, "after_route"))
        made.append(later.after_response.schedule(work, "after_response"))

    return app


@pytest.mark.parametrize("settings", [{"delay": 0.01}, {"limit": Limit(1)}], ids=["delay", "limit"])
@pytest.mark.parametrize("hold", [False, True])
async def test_no_message_waits_for_a_delay_or_a_limit_and_a_held_call_does_g1_g13_g18_g19(
    journal: Journal, settings: dict[str, Any], *, hold: bool
) -> None:
    async def look(_message: object) -> None:
        if journal[-1] == "final":
            answered.set()

    made: list[Task[Any]] = []
    answered = anyio.Event()
    app = app_of(journal, made, answered, hold=hold, **settings)
    async with serving(app):
        await wire.request(app, events=journal, on_send=look)
        assert journal[:2] == ["start", "final"]
        for task in made:
            await task
    ends = [event for event in journal[2:] if event in ("immediate", "after_route", "after_response")]
    assert sorted(ends) == ["after_response", "after_route", "immediate"]
    if hold:
        assert journal[-1] not in ends  # the call has returned after its tasks
    assert [task.status for task in made] == [S.SUCCEEDED] * 3


async def test_a_limit_and_a_key_hold_for_all_requests_of_an_app_g19_g24() -> None:
    app = FastAPI()
    add_tasks(app)
    made: list[Task[Any]] = []
    one = Limit(1)

    @app.get("/")
    async def endpoint(tasks: Tasks) -> None:
        made.append(tasks.task(limit=one).schedule(anyio.sleep_forever))
        made.append(tasks.task(key="once").schedule(anyio.sleep, 3600))

    async with serving(app):
        for _ in range(2):
            await wire.request(app)
        assert [task.status for task in made] == [S.RUNNING, S.RUNNING, S.LIMITED, S.DROPPED]


def test_an_app_can_have_no_key_g24() -> None:
    with pytest.raises(ValueError, match="key is a setting of single tasks"):
        add_tasks(FastAPI(), config=TaskConfig(key="a"))
