"""G12, G17: code that would wait for a task of a phase after its own end gets an error at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Annotated, Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from starlette.middleware import Middleware
from starlette.types import ASGIApp
from tests.backends import native_cancel_only, until
from tests.fastapi_tasks.apps import GENERATORS, Journal, app_with_tasks, serving

from fastapi_tasks import Task, TaskNotFinished, Tasks, TasksScheduler, TaskStatus

Wait = Callable[[Task[Any]], Awaitable[Any]]


async def by_await(task: Task[Any]) -> Any:
    return await task


WAYS: dict[str, Wait] = {
    "await": by_await,
    "wait()": lambda task: task.wait(),
    "started": lambda task: task.started.wait(),
}
ways = pytest.mark.parametrize("wait", WAYS.values(), ids=WAYS)


async def refused(wait: Wait, *tasks: Task[Any]) -> None:
    for task in tasks:
        with pytest.raises(
            TaskNotFinished, match=f"is for {task.phase.value}, which comes only when this code has ended"
        ):
            await wait(task)


@ways
@pytest.mark.parametrize("made", ["Tasks", "by hand"])
async def test_a_route_that_waits_for_a_later_phase_of_its_own_is_told_at_once_g17(
    journal: Journal, wait: Wait, made: str
) -> None:
    async def endpoint(request: Request, tasks: Tasks) -> None:
        scheduler = tasks if made == "Tasks" else TasksScheduler(request.state.fastapi_tasks_tg)
        immediate, after_route, after_response = journal.each_phase(scheduler)
        await refused(wait, after_route, after_response)
        await wait(immediate)
        journal.append("route")

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        assert (await server.get()).status == 200
    assert journal.without("returned") == ["immediate", "route", "after_route", "start", "final", "after_response"]


async def stream(app: FastAPI, spec_version: str, path: str = "/") -> None:
    """Call the app as a server does that has this version of the ASGI specification."""

    async def receive() -> dict[str, Any]:
        if not received:
            received.append({"type": "http.request", "body": b""})
            return received[0]
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        messages.append(message)

    received: list[dict[str, Any]] = []
    messages: list[Any] = []
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": spec_version}, "method": "GET", "path": path}
    await app({**scope, "query_string": b"", "headers": []}, receive, send)
    assert messages[0]["status"] == 200


# Below 2.4 Starlette streams in a child of the request's native task. uvicorn and hypercorn have older versions.
spec_versions = pytest.mark.parametrize("spec_version", ["2.3", "2.4"])


@ways
@spec_versions
async def test_code_after_the_route_that_waits_for_after_response_is_told_at_once_g17(
    journal: Journal, wait: Wait, spec_version: str
) -> None:
    """A stream, a background task and the exit of a request-scope dependency may wait for after_route tasks."""

    async def leaving(tasks: Tasks) -> AsyncIterator[None]:
        yield
        await check(tasks, "exit")

    async def check(tasks: TasksScheduler, name: str) -> None:
        immediate, after_route, after_response = journal.each_phase(tasks, f"{name} ")
        await refused(wait, after_response)
        await wait(immediate)
        await wait(after_route)
        journal.append(name)

    async def endpoint(
        tasks: Tasks, background: BackgroundTasks, _: Annotated[None, Depends(leaving, scope="request")]
    ) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            await check(tasks, "stream")
            yield b"one"

        background.add_task(check, tasks, "background")
        return StreamingResponse(chunks())

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal):
        await stream(app, spec_version)
    assert journal.only("stream", "background", "exit") == ["stream", "background", "exit"]


@ways
@spec_versions
@pytest.mark.parametrize("options", [each[1] for each in GENERATORS], ids=[each[0] for each in GENERATORS])
async def test_an_endpoint_that_yields_and_waits_for_after_response_is_told_at_once_g17(
    journal: Journal, wait: Wait, spec_version: str, options: dict[str, Any]
) -> None:
    async def endpoint(tasks: Tasks) -> AsyncIterator[str]:
        yield "one"
        immediate, after_route, after_response = journal.each_phase(tasks)
        await refused(wait, after_response)
        await wait(immediate)
        await wait(after_route)
        journal.append("streamed")
        yield "two"

    app = app_with_tasks()
    app.add_api_route("/", endpoint, **options)
    async with serving(app, journal):
        await stream(app, spec_version)
    assert "streamed" in journal


@ways
async def test_a_session_that_waits_for_a_later_phase_of_its_own_is_told_at_once_g12_g17(
    journal: Journal, wait: Wait
) -> None:
    async def handler(websocket: WebSocket, tasks: Tasks) -> None:
        await websocket.accept()
        _, after_route, after_response = journal.each_phase(tasks)
        await refused(wait, after_route, after_response)
        journal.append("route")

    app = app_with_tasks()
    app.add_api_websocket_route("/", handler)
    async with serving(app, journal) as server, server.websocket() as session:
        await session.wait()
    journal.assert_order("route", "after_route", "after_response")


@pytest.mark.parametrize("scope", ["function", "request"])
async def test_the_exit_of_a_dependency_that_waits_for_a_later_phase_is_told_at_once_g17(
    journal: Journal, scope: Any
) -> None:
    """A function-scope exit belongs to the route; a request-scope exit comes after the response."""

    async def leaving(tasks: Tasks) -> AsyncIterator[None]:
        yield
        _, after_route, after_response = journal.each_phase(tasks)
        await refused(by_await, *([after_route] if scope == "function" else []), after_response)
        journal.append("exit")

    async def endpoint() -> None: ...

    app = app_with_tasks()
    app.add_api_route("/", endpoint, dependencies=[Depends(leaving, scope=scope)])
    async with serving(app, journal) as server:
        response = await server.get()
        assert (response.status, response.raised) == (200, None)
    journal.assert_order("exit", "after_response")
    if scope == "function":
        journal.assert_order("exit", "after_route", "start")


def refused_in_thread(wait: Wait, *tasks: Task[Any]) -> None:
    for task in tasks:
        with pytest.raises(TaskNotFinished, match=f"is for {task.phase.value}.*never end"):
            anyio.from_thread.run(wait, task)


class InGroup:
    """A middleware that calls the app in a task group, as `BaseHTTPMiddleware` does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, *args: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.app, *args)


# With the middleware, threads of the request may have the cancel scope of the group.
middlewares = pytest.mark.parametrize("middleware", [[], [Middleware(InGroup)]], ids=["bare", "in a group"])


async def in_a_scope(task: Task[Any]) -> Any:
    with anyio.fail_after(20):
        return await task


@pytest.mark.parametrize("wait", [*WAYS.values(), in_a_scope], ids=[*WAYS, "scope"])
@middlewares
async def test_a_def_endpoint_that_waits_for_a_later_phase_is_told_at_once_g17(
    journal: Journal, wait: Wait, middleware: list[Middleware]
) -> None:
    """A `def` dependency and its exit wait like the endpoint, and a background task like a stream."""

    def leaving(tasks: Tasks) -> Iterator[None]:
        refused_in_thread(wait, *journal.each_phase(tasks, "dependency ")[1:])
        yield
        refused_in_thread(wait, journal.each_phase(tasks, "exit ")[2])
        journal.append("exit")

    def late(tasks: TasksScheduler) -> None:
        _, after_route, after_response = journal.each_phase(tasks, "background ")
        refused_in_thread(wait, after_response)
        anyio.from_thread.run(wait, after_route)
        journal.append("background")

    def endpoint(
        tasks: Tasks, background: BackgroundTasks, _: Annotated[None, Depends(leaving, scope="request")]
    ) -> None:
        immediate, after_route, after_response = journal.each_phase(tasks)
        refused_in_thread(wait, after_route, after_response)
        anyio.from_thread.run(wait, immediate)
        background.add_task(late, tasks)
        journal.append("route")

    app = app_with_tasks(FastAPI(middleware=middleware))
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        response = await server.get()
        assert (response.status, response.raised) == (200, None)
    assert journal.only("route", "background", "exit") == ["route", "background", "exit"]


@ways
@spec_versions
@middlewares
async def test_a_def_stream_that_waits_for_after_response_is_told_at_once_g17(
    journal: Journal, wait: Wait, spec_version: str, middleware: list[Middleware]
) -> None:
    def endpoint(tasks: Tasks) -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            immediate, after_route, after_response = journal.each_phase(tasks)
            refused_in_thread(wait, after_response)
            anyio.from_thread.run(wait, immediate)
            anyio.from_thread.run(wait, after_route)
            journal.append("streamed")
            yield b"one"

        return StreamingResponse(chunks())

    app = app_with_tasks(FastAPI(middleware=middleware))
    app.add_api_route("/", endpoint)
    async with serving(app, journal):
        await stream(app, spec_version)
    assert "streamed" in journal


@ways
async def test_a_thread_of_a_group_of_the_app_may_wait_g17(journal: Journal, wait: Wait) -> None:
    def in_thread(task: Task[Any]) -> None:
        anyio.from_thread.run(wait, task)
        journal.append(f"thread saw {task.phase.value}")

    def endpoint(tasks: Tasks) -> None:
        later = journal.each_phase(tasks)[1:]
        for task in later:
            anyio.from_thread.run_sync(group.start_soon, anyio.to_thread.run_sync, in_thread, task)
        anyio.from_thread.run(until, lambda: all(task._events for task in later))
        journal.append("route")

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with anyio.create_task_group() as group, serving(app, journal), anyio.create_task_group() as requests:
        requests.start_soon(stream, app, "2.4")
    journal.assert_order("route", "thread saw after_route")
    journal.assert_order("route", "thread saw after_response")


async def test_a_def_endpoint_that_waits_may_have_neighbours_without_a_thread_g17(journal: Journal) -> None:
    def endpoint(tasks: Tasks) -> None:
        refused_in_thread(by_await, *journal.each_phase(tasks)[1:])
        journal.append("route")

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    limiter = anyio.CapacityLimiter(1)
    limiter.acquire_on_behalf_of_nowait("somebody")
    async with serving(app, journal), anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(partial(anyio.to_thread.run_sync, int, limiter=limiter))
        await until(lambda: limiter.statistics().tasks_waiting == 5)
        await stream(app, "2.4")
        assert "route" in journal
        limiter.release_on_behalf_of("somebody")


@ways
async def test_a_def_endpoint_may_wait_for_the_task_of_another_request_g17(journal: Journal, wait: Wait) -> None:
    """Also while both requests wait for threads in the same cancel scope."""

    def first(tasks: Tasks) -> None:
        shared.extend(journal.each_phase(tasks)[1:])
        anyio.from_thread.run_sync(reached.set)
        anyio.from_thread.run(until, lambda: shared[0]._events)
        journal.append("first route")

    def second() -> None:
        for task in shared:
            anyio.from_thread.run(wait, task)
        journal.append("second route")

    shared: list[Task[None]] = []
    reached = anyio.Event()
    app = app_with_tasks()
    app.add_api_route("/first", first)
    app.add_api_route("/second", second)
    async with serving(app, journal), anyio.create_task_group() as requests:
        requests.start_soon(stream, app, "2.4", "/first")
        await reached.wait()
        requests.start_soon(stream, app, "2.4", "/second")
    journal.assert_order("first route", "second route")


@ways
async def test_a_child_task_of_a_group_of_the_route_may_wait_g17(journal: Journal, wait: Wait) -> None:
    """Of the app's group here, which outlives the route."""

    async def child(task: Task[Any]) -> None:
        await wait(task)
        journal.append(f"child saw {task.phase.value}")

    async def endpoint(tasks: Tasks) -> None:
        for task in journal.each_phase(tasks):
            tg.start_soon(child, task)
        await anyio.lowlevel.checkpoint()
        journal.append("route")

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with anyio.create_task_group() as tg, serving(app, journal) as server:
        response = await server.get()
        assert (response.status, response.raised) == (200, None)
    assert sum(event.startswith("child saw") for event in journal) == 3
    journal.assert_order("route", "child saw after_route", "child saw after_response")


@native_cancel_only
@ways
async def test_a_task_that_asyncio_itself_has_made_in_the_route_may_wait_g17(journal: Journal, wait: Wait) -> None:
    async def child(task: Task[Any]) -> None:
        await wait(task)
        journal.append(f"child saw {task.phase.value}")

    async def endpoint(tasks: Tasks) -> None:
        kept.extend(asyncio.create_task(child(task)) for task in journal.each_phase(tasks))
        journal.append("route")

    kept: list[Any] = []
    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        assert (await server.get()).status == 200
        await asyncio.gather(*kept)
    journal.assert_order("route", "child saw after_route", "child saw after_response")


async def test_a_task_may_wait_for_a_task_of_a_later_phase_g17(journal: Journal) -> None:
    async def watch(task: Task[Any]) -> None:
        await task
        journal.append(f"seen {task.phase.value}")

    async def endpoint(tasks: Tasks) -> None:
        _, after_route, after_response = journal.each_phase(tasks)
        tasks.schedule(watch, after_route)
        tasks.schedule(watch, after_response)

    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app, journal) as server:
        assert (await server.get()).status == 200
    journal.assert_order("final", "seen after_response")
    assert "seen after_route" in journal


async def test_a_route_may_wait_for_the_task_of_another_request_g17(journal: Journal) -> None:
    async def first(tasks: Tasks) -> None:
        shared.append(journal.each_phase(tasks)[2])
        reached.set()
        await go_on.wait()

    async def second(tasks: Tasks) -> str:
        go_on.set()
        await shared[0]
        return shared[0].status.value

    shared: list[Task[None]] = []
    reached, go_on = anyio.Event(), anyio.Event()
    app = app_with_tasks()
    app.add_api_route("/first", first)
    app.add_api_route("/second", second)
    async with anyio.create_task_group() as tg, serving(app, journal) as server:
        tg.start_soon(server.get, "/first")
        await reached.wait()
        assert (await server.get("/second")).json() == TaskStatus.SUCCEEDED.value
