"""G22: a process with an app dies at each step of two requests: a response that was delivered keeps its promise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI, HTTPException
from tests.fastapi_tasks.apps import serving
from tests.taskphase.journal.exploring import (
    Backend,
    Death,
    Process,
    Statements,
    World,
    die_before_another_host_opens,
    die_beside_a_living_host,
)

from fastapi_tasks import Task, Tasks, add_tasks
from taskphase.journal._file import File
from taskphase.testing import Fifo


class App(Process):
    """A process with an app, which a server serves."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.deferred: list[Task[Any]] = []
        self.failure: list[Task[Any]] = []
        self.app = FastAPI(dependencies=[Depends(self.dependency, scope="function")])
        self.app.add_api_route("/order", self.order)
        self.app.add_api_route("/refused", self.refused)
        add_tasks(self.app, journal=self.journal)

    async def dependency(self) -> AsyncIterator[None]:
        yield
        await anyio.sleep(0)

    async def order(self, tasks: Tasks) -> str:
        self.deferred = [
            tasks.after_route.schedule(self.work, 0),
            tasks.task(key="one").after_response.schedule(self.work, 6),
        ]
        self.failure = [tasks.task(when="failure").after_response.schedule(self.work, 2)]
        return "answer"

    async def refused(self, tasks: Tasks) -> None:
        await self.order(tasks)
        raise HTTPException(418)

    async def deliver(self, message: Any) -> None:
        """Note the promise: the server has the first message."""
        if self.is_dead or message["type"] != "http.response.start":
            return
        is_success = message["status"] == 200
        kept, dropped = (self.deferred, self.failure) if is_success else (self.failure, self.deferred)
        self.world.promised |= {str(task.message_id) for task in kept}
        self.world.refused |= {str(task.message_id) for task in dropped}

    async def live(self) -> None:
        with self.scope:
            async with serving(self.app) as server:
                await server.get("/order", on_send=self.deliver)
                await server.get("/refused", on_send=self.deliver)
                await anyio.sleep(3)


@pytest.mark.parametrize("program", [die_before_another_host_opens, die_beside_a_living_host])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_delivered_response_keeps_its_promise_whenever_the_process_dies_g22(
    program: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(File, "connect", Statements.connect)
    program = partial(program, process=App)
    first = Death(program).run(backend, Fifo())
    promised = set[int]()
    last = next(entry.step for entry in first.trace if entry.detail == "over")
    for step in range(1, last + 1):
        death = Death(program)
        death.run(backend, Fifo(), step)
        promised.add(0 if death.world is None else len(death.world.promised))
    assert promised == {0, 2, 3}
