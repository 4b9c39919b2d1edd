"""G1, G2, G5, G11: nothing is needed from the client, and a cancelled request cancels no task."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from tests.backends import native_cancel_only, turns
from tests.fastapi_tasks.apps import Journal, app_with_tasks, recording, serving

from fastapi_tasks import Task, Tasks, TaskStatus

Logged = Callable[[], list[tuple[str, str]]]


@pytest.mark.parametrize("leaves_after", [0, 1, 2])
@pytest.mark.parametrize("kind", ["json", "stream"])
async def test_a_client_that_leaves_makes_no_failure_and_cancels_nothing_g1_g11(
    journal: Journal, kind: str, leaves_after: int
) -> None:
    class Chunks:
        """An endless stream. Not a generator: Starlette does not close an abandoned one, and trio warns about that."""

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            await turns(2)
            return b"more"

    async def endpoint(tasks: Tasks) -> Any:
        await turns()
        journal.each_phase(tasks)
        tasks.schedule(go_on.wait)
        return "json" if kind == "json" else StreamingResponse(Chunks())

    go_on = anyio.Event()
    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with recording(app, journal) as (server, scheduled):
        response = await server.get(disconnect_after=leaves_after)
        assert response.raised is None
        await scheduled.of(go_on.wait).await_until("running")
        go_on.set()
    assert journal.only("immediate", "after_route", "after_response") == ["immediate", "after_route", "after_response"]
    assert len(scheduled.succeeded) == len(scheduled) == 4


async def test_a_client_that_leaves_while_it_uploads_makes_the_route_fail_g5(journal: Journal) -> None:
    async def endpoint(request: Request, tasks: Tasks) -> None:
        journal.each_phase(tasks)
        tasks.task(when="failure").after_response.schedule(journal.note, "failure")
        await request.body()

    app = app_with_tasks()
    app.add_api_route("/", endpoint, methods=["POST"])
    async with serving(app) as server:
        response = await server.request("POST", body=[b"half", b"half"], disconnect_after=0)
    assert isinstance(response.raised, ClientDisconnect)
    assert journal == ["immediate", "failure"]


class TestCancelled:
    """A request that the server, or other code around it, cancels."""

    @pytest.mark.parametrize("at", ["route", "response"])
    async def test_a_cancelled_request_cancels_no_task_g11(self, journal: Journal, logged: Logged, at: str) -> None:
        app, tasks, reached, go_on = self.app_that_waits(journal, at)
        async with serving(app) as server:
            async with anyio.create_task_group() as tg:
                tg.start_soon(server.get)
                await reached.wait()
                tg.cancel_scope.cancel()
            await self.check(at, tasks, go_on, logged)

    @native_cancel_only
    @pytest.mark.parametrize("at", ["route", "response"])
    async def test_a_natively_cancelled_request_cancels_no_task_g11(
        self, journal: Journal, logged: Logged, at: str
    ) -> None:
        app, tasks, reached, go_on = self.app_that_waits(journal, at)
        async with serving(app) as server:
            request = asyncio.create_task(server.get())
            await reached.wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await self.check(at, tasks, go_on, logged)

    def app_that_waits(
        self, journal: Journal, at: str
    ) -> tuple[FastAPI, dict[str, Task[None]], anyio.Event, anyio.Event]:
        async def wait() -> None:
            reached.set()
            await anyio.sleep_forever()

        async def endpoint(tasks: Tasks) -> StreamingResponse:
            found["running"] = tasks.schedule(go_on.wait)
            found["after_route"] = tasks.after_route.schedule(go_on.wait)
            found["after_response"] = tasks.after_response.schedule(go_on.wait)
            found["always"] = tasks.task(when="always").after_response.schedule(go_on.wait)
            if at == "route":
                await wait()

            async def chunks() -> AsyncIterator[bytes]:
                yield b"one"
                await wait()

            return StreamingResponse(chunks())

        found: dict[str, Task[None]] = {}
        reached, go_on = anyio.Event(), anyio.Event()
        app = app_with_tasks()
        app.add_api_route("/", endpoint)
        return app, found, reached, go_on

    async def check(self, at: str, tasks: dict[str, Task[None]], go_on: anyio.Event, logged: Logged) -> None:
        await turns()
        started = {name for name, task in tasks.items() if task.status is TaskStatus.RUNNING}
        assert started == ({"running", "always"} if at == "route" else set(tasks))
        go_on.set()
        for task in tasks.values():
            await task.wait()
        ends = {name for name, task in tasks.items() if task.status is TaskStatus.SUCCEEDED}
        assert ends == started
        assert [level for level, _ in logged()] == ["WARNING"] * (len(tasks) - len(started))


async def test_a_request_that_is_cancelled_at_the_barrier_loses_no_task_g2_g11(journal: Journal) -> None:
    async def endpoint(tasks: Tasks) -> None:
        journal.each_phase(tasks)
        cancel.cancel()

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with recording(app, journal) as (server, scheduled):
        with anyio.CancelScope() as cancel:
            await server.get()
        await scheduled.await_all()
    assert len(scheduled.succeeded) == len(scheduled) == 3
    journal.assert_order("immediate", "after_route", "after_response")
