"""G12: several tasks of a response or a session send in one turn. Their messages keep their order.

The first message waits at the barrier where the barrier takes turns: on trio, on asyncio before Python 3.12, and with a
task factory.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

import anyio
import pytest
from fastapi import FastAPI, WebSocket
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from tests.backends import native_cancel_only, turns
from tests.fastapi_tasks.apps import Journal, app_with_tasks, serving

from fastapi_tasks import Task, Tasks

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"one", "more_body": True}
LAST = {"type": "http.response.body", "body": b"two"}


@pytest.fixture(params=[False, True], ids=["", "task factory"])
def with_factory(request: pytest.FixtureRequest, backend_name: str) -> bool:
    return bool(request.param) and backend_name == "asyncio"  # trio has none


def set_factory(with_factory: bool) -> None:
    if with_factory:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))


class Parallel(Response):
    """Hands its `send` to a function, which may send in several tasks."""

    def __init__(self, run: Callable[[Send], Any]) -> None:
        super().__init__()
        self.run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.run(send)


def app_of(journal: Journal, run: Callable[[Send], Any], tasks_of: list[Task[None]]) -> FastAPI:
    async def endpoint(tasks: Tasks) -> Response:
        async def schedule_and_run(send: Send) -> None:
            # Here as well, because on trio the end of the route has waited for the others.
            tasks_of.append(tasks.schedule(journal.note, "of the response"))
            await run(send)

        tasks_of.extend(journal.each_phase(tasks)[:2])
        return Parallel(schedule_and_run)

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    return app


async def get(journal: Journal, run: Callable[[Send], Any], with_factory: bool, hold: anyio.Event | None = None) -> Any:
    """Request such an app. The tasks of the early phases have to have started when the first message comes.

    :param hold: how long the server takes for the first message, while the others wait
    """

    async def look(message: dict[str, Any]) -> None:
        assert all(task.started.is_set() for task in tasks_of)
        if hold is not None and message["type"] == START["type"]:
            await hold.wait()

    tasks_of: list[Task[None]] = []
    set_factory(with_factory)
    async with serving(app_of(journal, run, tasks_of), journal) as server:
        return await server.get(on_send=look)


async def in_order(tg: Any, *steps: Callable[[], Any]) -> None:
    """Start one task after the other, each after the first step of the one before: on trio the order in one turn is
    random.
    """
    for step in steps:
        begun = anyio.Event()

        async def begin(step: Callable[[], Any] = step, begun: anyio.Event = begun) -> None:
            begun.set()
            await step()

        tg.start_soon(begin)
        await begun.wait()


@pytest.mark.parametrize("holds", [False, True], ids=["", "slow"])
async def test_three_senders_keep_their_order_g12(journal: Journal, with_factory: bool, holds: bool) -> None:
    async def run(send: Send) -> None:
        async with anyio.create_task_group() as tg:
            await in_order(tg, *(partial(send, message) for message in (START, BODY, LAST)))
            await turns()
            hold.set()

    hold = anyio.Event()
    response = await get(journal, run, with_factory, hold if holds else None)
    assert (response.status, response.body, response.raised) == (200, b"onetwo", None)
    journal.assert_order("after_route", "start", "body", "final", "after_response")


@native_cancel_only  # trio starts them in any order
async def test_senders_that_asyncio_starts_in_the_same_turn_keep_their_order_g12(
    journal: Journal, with_factory: bool
) -> None:
    async def run(send: Send) -> None:
        async with anyio.create_task_group() as tg:
            for message in (START, BODY, BODY, LAST):
                tg.start_soon(send, message)

    response = await get(journal, run, with_factory)
    assert (response.status, response.body, response.raised) == (200, b"oneonetwo", None)


@pytest.mark.parametrize("place", [1, 2, 3])
async def test_a_sender_cancelled_while_waiting_sends_nothing_and_delays_nobody_g12(
    journal: Journal, with_factory: bool, place: int
) -> None:
    async def run(send: Send) -> None:
        async def cancelled() -> None:
            with scope:
                await send({"type": "http.response.body", "body": b"never", "more_body": True})

        scope = anyio.CancelScope()
        steps: list[Any] = [partial(send, message) for message in (START, BODY, BODY)]
        steps.insert(place, cancelled)
        async with anyio.create_task_group() as tg:
            await in_order(tg, *steps)
            await turns()
            scope.cancel()
            await turns()
            assert journal.only("start", "body") == ["start"]
            hold.set()
        await send(LAST)

    hold = anyio.Event()
    response = await get(journal, run, with_factory, hold)
    assert (response.status, response.body, response.raised) == (200, b"oneonetwo", None)
    journal.assert_order("after_route", "start", "body", "final", "after_response")


@native_cancel_only
@pytest.mark.parametrize("others", [0, 1])
async def test_a_sender_that_is_cancelled_when_its_turn_has_come_hands_it_on_g12(
    journal: Journal, with_factory: bool, others: int
) -> None:
    """By asyncio itself, before it could take a step."""

    async def run(send: Send) -> None:
        async def first() -> None:
            await send(START)
            cancelled.cancel()

        sender = asyncio.ensure_future(first())
        await turns()
        cancelled = asyncio.ensure_future(cast("Coroutine[Any, Any, None]", send(BODY)))
        await turns()
        rest = [asyncio.ensure_future(cast("Coroutine[Any, Any, None]", send(BODY))) for _ in range(others)]
        await turns()
        hold.set()
        await sender
        await asyncio.gather(cancelled, return_exceptions=True)
        await asyncio.gather(*rest)
        assert cancelled.cancelled()
        await send(LAST)

    hold = anyio.Event()
    response = await get(journal, run, with_factory, hold)
    assert (response.status, response.body, response.raised) == (200, b"one" * others + b"two", None)


@pytest.mark.parametrize("raising", [0, 1, 2])
async def test_a_sender_that_raises_lets_the_others_pass_g12(
    journal: Journal, with_factory: bool, raising: int
) -> None:
    """The server's own `send` raises, as it does for a client that has left."""

    async def run(send: Send) -> None:
        async def catching(message: Any) -> None:
            try:
                await send(message)
            except LookupError:
                journal.append("raised in the sender")

        async with anyio.create_task_group() as tg:
            await in_order(tg, *(partial(catching, message) for message in (START, BODY, LAST)))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def server_send(message: Any) -> None:
        seen.append(message)
        if len(seen) == raising + 1:
            raise LookupError

    seen: list[Any] = []
    set_factory(with_factory)
    app = app_of(journal, run, [])
    async with serving(app):
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        await app(scope, receive, server_send)
    assert seen == [START, BODY, LAST]
    assert journal.count("raised in the sender") == 1
    journal.assert_order("after_route", "raised in the sender", "after_response")


async def test_a_session_with_parallel_senders_keeps_their_order_g12(journal: Journal, with_factory: bool) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        tasks_of.extend(tasks.schedule(journal.note, f"task {number}") for number in range(3))
        async with anyio.create_task_group() as tg:
            await in_order(
                tg,
                websocket.accept,
                *(partial(websocket.send_text, str(number)) for number in range(5)),
            )
        await websocket.close()

    tasks_of: list[Task[None]] = []
    set_factory(with_factory)
    app = app_with_tasks()
    app.add_api_websocket_route("/", handler)
    async with serving(app, journal) as server, server.websocket() as session:
        await session.accept()
        assert [await session.receive() for _ in range(5)] == [str(number) for number in range(5)]
        await session.wait()
    journal.assert_order("task 2", "accept")
    assert journal.without("task 0", "task 1", "task 2", "returned") == ["accept", *["ws.send"] * 5, "ws.close"]
