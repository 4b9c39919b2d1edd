"""G1, G5, G11, G12: websocket sessions. The handler is the route, and the session ends with it."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import anyio
import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect, WebSocketException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from tests import wire
from tests.backends import turns, until
from tests.fastapi_tasks.apps import Journal, app_with_tasks, recording, serving

from fastapi_tasks import TaskConfig, Tasks, TasksScheduler, TaskStatus, add_tasks, current_host

Handler = Callable[..., Any]


def app_of(journal: Journal, handler: Handler, **app_options: Any) -> FastAPI:
    async def request_scope() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await journal.note_late("request.exit")

    async def function_scope() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await journal.note_late("function.exit")

    dependencies = [Depends(request_scope), Depends(function_scope, scope="function")]
    app = FastAPI(dependencies=dependencies, **app_options)
    app.add_api_websocket_route("/", handler)
    return app_with_tasks(app)


async def test_each_task_starts_in_its_phase_g1_g12(journal: Journal) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        journal.each_phase(tasks)
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()
        journal.append("route")

    async with serving(app_of(journal, handler), journal) as server, server.websocket() as session:
        await session.accept()
        await turns()
        assert sorted(journal) == ["accept", "immediate"]
        await session.send("hello")
        assert await session.receive() == "hello"
    order = ["ws.send", "ws.close", "route", "function.exit", "after_route", "request.exit", "after_response"]
    assert journal.without("accept", "immediate", "returned") == order


async def test_after_route_starts_while_the_session_s_dependencies_are_open_g1_g12(journal: Journal) -> None:
    """A session has no response whose first message could wait for the task."""

    async def dependency() -> AsyncIterator[None]:
        yield
        journal.append("dependency closed")

    async def handler(websocket: WebSocket, tasks: Tasks, _: Annotated[None, Depends(dependency)]) -> None:
        await websocket.accept()
        tasks.after_route.schedule(journal.note, "after_route")

    app = FastAPI()
    app.add_api_websocket_route("/", handler)
    async with serving(app_with_tasks(app)) as server, server.websocket() as session:
        await session.accept()
    assert list(journal) == ["after_route", "dependency closed"]


async def test_tasks_run_during_the_session_and_may_outlive_it_g11_g12(journal: Journal) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        async def push(number: int) -> None:
            await websocket.send_text(str(number))

        await websocket.accept()
        tasks.schedule(go_on.wait)
        async for text in websocket.iter_text():
            await tasks.schedule(push, int(text))

    go_on = anyio.Event()
    async with recording(app_of(journal, handler)) as (server, scheduled):
        async with server.websocket() as session:
            for number in "123":
                await session.send(number)
                assert await session.receive() == number
        assert scheduled.of(go_on.wait).one().status == "running"
        go_on.set()
    assert len(scheduled.succeeded) == len(scheduled) == 4


async def test_a_task_for_a_phase_of_a_session_that_has_passed_starts_at_once_g1_g12(journal: Journal) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        kept.append(tasks)
        await websocket.accept()

    kept: list[TasksScheduler] = []
    async with serving(app_of(journal, handler)) as server:
        async with server.websocket() as session:
            await session.wait()
        late = journal.each_phase(kept[0], "late ")
        await turns()
        assert [task.status for task in late] == [TaskStatus.SUCCEEDED] * 3


class Refused(Exception):
    """The app has a handler for it, which closes the session."""


async def close_refused(websocket: WebSocket, exc: Exception) -> None:
    await websocket.close(4000)


async def returns(websocket: WebSocket) -> None:
    await websocket.accept()


async def closes(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(3000)


async def denies(websocket: WebSocket) -> None:
    await websocket.close(3000)


async def reads_to_the_end(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        raise AssertionError("the client sends nothing")


async def catches_the_disconnect(websocket: WebSocket) -> None:
    await websocket.accept()
    with pytest.raises(WebSocketDisconnect):
        await websocket.receive_text()


async def lets_the_disconnect_out(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()


async def lets_the_disconnect_out_of_a_group(websocket: WebSocket) -> None:
    await websocket.accept()
    async with anyio.create_task_group() as tg:
        tg.start_soon(websocket.receive_text)


async def raises_beside_the_disconnect(websocket: WebSocket) -> None:
    await websocket.accept()
    async with anyio.create_task_group() as tg:
        tg.start_soon(websocket.receive_text)
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError


async def raises(websocket: WebSocket) -> None:
    await websocket.accept()
    raise LookupError


async def raises_before_accept(websocket: WebSocket) -> None:
    raise LookupError


async def websocket_exception(websocket: WebSocket) -> None:
    await websocket.accept()
    raise WebSocketException(3001)


async def denies_by_websocket_exception(websocket: WebSocket) -> None:
    raise WebSocketException(3001)


async def denies_by_http_exception(websocket: WebSocket) -> None:
    raise HTTPException(418)


async def raises_for_an_exception_handler(websocket: WebSocket) -> None:
    await websocket.accept()
    raise Refused


async def refusing() -> None:
    raise WebSocketException(3001)


async def dependency_refuses(_: Annotated[None, Depends(refusing)]) -> None: ...


async def swallows() -> AsyncIterator[None]:
    try:
        yield
    except ValueError:
        pass


async def raises_what_a_dependency_swallows(
    websocket: WebSocket, _: Annotated[None, Depends(swallows, scope="function")]
) -> None:
    await websocket.accept()
    raise ValueError


async def invalid(websocket: WebSocket, number: int) -> None: ...


HANDLERS = [
    *((handler, False) for handler in (returns, closes, denies, reads_to_the_end, catches_the_disconnect)),
    *((handler, False) for handler in (lets_the_disconnect_out, lets_the_disconnect_out_of_a_group)),
    *((handler, True) for handler in (raises, raises_beside_the_disconnect)),
    *((handler, True) for handler in (raises_before_accept, websocket_exception)),
    *((handler, True) for handler in (denies_by_websocket_exception, denies_by_http_exception)),
    *((handler, True) for handler in (raises_for_an_exception_handler, dependency_refuses, invalid)),
    (raises_what_a_dependency_swallows, True),
]


@pytest.mark.parametrize(("handler", "failed"), HANDLERS, ids=lambda value: getattr(value, "__name__", None))
async def test_deferred_tasks_run_or_are_dropped_by_how_the_handler_ended_g5_g12(
    journal: Journal, handler: Handler, failed: bool
) -> None:
    async def schedule(tasks: Tasks) -> None:
        for when in ("success", "failure", "always"):
            journal.each_phase(tasks, f"{when} ", TaskConfig(when=when))  # type: ignore[arg-type]

    app = FastAPI(dependencies=[Depends(schedule)], exception_handlers={Refused: close_refused})
    app.add_api_websocket_route("/", handler)
    async with serving(app_with_tasks(app)) as server, server.websocket() as session:
        await until(lambda: session.accepted or session.over())
    wanted = ["always", "failure" if failed else "success"]
    for phase in ("after_route", "after_response"):
        assert sorted(event for event in journal if event.endswith(phase)) == [f"{when} {phase}" for when in wanted]
    assert sum(event.endswith("immediate") for event in journal) == 3


async def test_a_refused_client_has_its_answer_before_after_response_g1_g12(journal: Journal) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        tasks.task(when="failure").after_response.schedule(journal.note, "after_response")
        raise HTTPException(418)

    async with serving(app_of(journal, handler), journal) as server:
        with pytest.raises(wire.Denied) as denied:
            async with server.websocket() as session:
                await session.accept()
    assert denied.value.status == 418
    assert journal.without("returned") == ["function.exit", "request.exit", "start", "final", "after_response"]


async def test_the_exits_raise_into_nothing_but_their_session_g5_g12(journal: Journal) -> None:
    async def raises_in_exit() -> AsyncIterator[None]:
        yield
        raise LookupError

    async def handler(
        websocket: WebSocket, tasks: Tasks, _: Annotated[None, Depends(raises_in_exit, scope="function")]
    ) -> None:
        journal.each_phase(tasks)
        tasks.task(when="failure").after_response.schedule(journal.note, "failure")
        await websocket.accept()

    async with serving(app_of(journal, handler)) as server, server.websocket() as session:
        await session.wait()
        assert isinstance(session.raised, LookupError)
    assert journal == ["immediate", "function.exit", "request.exit", "failure"]


async def test_a_session_that_is_cancelled_cancels_no_task_g11(journal: Journal) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        await websocket.accept()
        tasks.schedule(go_on.wait)
        tasks.task(when="always").after_response.schedule(go_on.wait)
        await anyio.sleep_forever()

    class Cancelling:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                cancels.append(anyio.CancelScope())
                with cancels[0]:
                    await self.app(scope, receive, send)
            else:
                await self.app(scope, receive, send)

    cancels: list[anyio.CancelScope] = []
    go_on = anyio.Event()
    async with recording(app_of(journal, handler, middleware=[Middleware(Cancelling)])) as (server, scheduled):
        async with server.websocket() as session:
            await session.accept()
            await scheduled.immediate.await_until("running")
            cancels[0].cancel()
            await session.wait()
        await scheduled.await_until("running")
        go_on.set()
    assert len(scheduled.succeeded) == len(scheduled) == 2


async def test_a_session_finds_the_group_and_the_host_g12_g14(journal: Journal) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        await websocket.accept()
        assert websocket.state.fastapi_tasks_tg is tasks.tg is current_host().tg
        await websocket.send_text("fine")

    async with serving(app_of(journal, handler)) as server, server.websocket() as session:
        assert await session.receive() == "fine"


async def test_without_a_lifespan_the_session_owns_its_tasks_g13(journal: Journal) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        journal.each_phase(tasks)
        tasks.after_response.schedule(journal.note_late, "late")
        await websocket.accept()
        await websocket.close()

    app = FastAPI()
    add_tasks(app, hold=True)
    app.add_api_websocket_route("/", handler)
    async with wire.websocket(app, events=journal) as session:
        await session.wait()
    assert journal[-3:] == ["after_response", "late", "returned"]
