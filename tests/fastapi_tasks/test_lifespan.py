"""G9, G10: the order of a shutdown, and the lifespan of an app with tasks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from fastapi import APIRouter, FastAPI, Request
from tests.backends import native_cancel_only, turns, until
from tests.fastapi_tasks.apps import FEW, Journal, Server, host_of, serving

from fastapi_tasks import Tasks, TaskStatus, add_tasks, current_host

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


def lifespan_of(journal: Journal, name: str) -> Lifespan:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        journal.append(f"{name} up")
        try:
            yield
        finally:
            journal.append(f"{name} down")

    return lifespan


def lists_of(journal: Journal, name: str) -> dict[str, Any]:
    async def down() -> None:
        journal.append(f"{name} down")

    return {"on_startup": [lambda: journal.append(f"{name} up")], "on_shutdown": [down]}


def of_the_app(journal: Journal) -> FastAPI:
    app = FastAPI(lifespan=lifespan_of(journal, "app"))
    add_tasks(app)
    return app


def of_lists(journal: Journal) -> FastAPI:
    app = FastAPI(**lists_of(journal, "app"))
    add_tasks(app)
    return app


def of_lists_added_later(journal: Journal) -> FastAPI:
    app = FastAPI()
    add_tasks(app)
    lists = lists_of(journal, "app")
    app.router.on_startup += lists["on_startup"]
    app.router.on_shutdown += lists["on_shutdown"]
    return app


def of_a_router_included_before(journal: Journal) -> FastAPI:
    app = FastAPI()
    app.include_router(APIRouter(lifespan=lifespan_of(journal, "router")))
    add_tasks(app)
    return app


def of_a_router_included_after(journal: Journal) -> FastAPI:
    app = FastAPI(lifespan=lifespan_of(journal, "app"))
    add_tasks(app)
    app.include_router(APIRouter(lifespan=lifespan_of(journal, "router")))
    return app


def of_a_nested_router(journal: Journal) -> FastAPI:
    app = of_the_app(journal)
    outer = APIRouter(lifespan=lifespan_of(journal, "outer"))
    outer.include_router(APIRouter(**lists_of(journal, "inner")))
    app.include_router(outer)
    return app


def set_afterwards(journal: Journal) -> FastAPI:
    app = FastAPI()
    add_tasks(app)
    app.router.lifespan_context = lifespan_of(journal, "app")
    return app


APPS = [
    of_the_app,
    of_lists,
    of_lists_added_later,
    of_a_router_included_before,
    of_a_router_included_after,
    of_a_nested_router,
    set_afterwards,
]
apps = pytest.mark.parametrize("make", APPS)

# Of Starlette 0.49; FastAPI itself has taken them over since.
pytestmark = pytest.mark.filterwarnings("ignore:The on_startup and on_shutdown parameters:DeprecationWarning")


def add_work(app: FastAPI, journal: Journal) -> FastAPI:
    async def work(name: str) -> None:
        journal.append(f"{name} began")
        try:
            await turns()
            journal.append(f"{name} ended")
        except anyio.get_cancelled_exc_class():
            journal.append(f"{name} cancelled")
            raise

    async def endpoint(tasks: Tasks) -> None:
        tasks.task(shield=True).schedule(work, "shielded")
        tasks.schedule(work, "plain")

    app.add_api_route("/work", endpoint)
    return app


def check_shutdown(journal: Journal, end: str = "shutdown.complete") -> None:
    ups = [event for event in journal if event.endswith(" up")]
    downs = [event for event in journal if event.endswith(" down")]
    assert [event.replace("up", "down") for event in reversed(ups)] == downs != []
    journal.assert_order(*ups, "startup.complete", "start", "final")
    journal.assert_order("shielded began", "shielded ended", *downs, end)
    journal.assert_order("plain began", "plain cancelled", *downs)


@apps
async def test_tasks_end_before_any_shutdown_code_begins_g10(journal: Journal, make: Callable[..., FastAPI]) -> None:
    async with serving(add_work(make(journal), journal), journal, events=journal) as server:
        assert (await server.get("/work")).status == 200
        await turns(3)
    journal.assert_order("plain began", "shutdown", "plain cancelled")
    check_shutdown(journal)


@apps
async def test_tasks_end_before_any_shutdown_code_begins_if_the_lifespan_is_cancelled_g10(
    journal: Journal, make: Callable[..., FastAPI]
) -> None:
    with anyio.CancelScope() as cancel:
        async with serving(add_work(make(journal), journal), journal, events=journal) as server:
            assert (await server.get("/work")).status == 200
            await turns(3)
            cancel.cancel()
            await anyio.sleep_forever()
    check_shutdown(journal, "shutdown.failed")


@native_cancel_only
@pytest.mark.parametrize("at", ["startup.complete", "shutdown"])
async def test_a_native_cancellation_of_the_lifespan_does_not_change_the_order_g10(journal: Journal, at: str) -> None:
    """hypercorn on asyncio cancels a lifespan with a long shutdown; uvicorn cancels a lifespan after two interrupts."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        runs_in.append(asyncio.current_task())
        async with lifespan_of(journal, "app")(_):
            yield

    async def cancel() -> None:
        await until(lambda: at in journal and "shielded began" in journal)
        await turns(3)
        runs_in[0].cancel()

    async def serve() -> None:
        async with serving(app, journal, events=journal) as server:
            assert (await server.get("/work")).status == 200
            tg.start_soon(cancel)
            if at != "shutdown":
                await until(lambda: "shutdown.failed" in journal)

    runs_in: list[Any] = []
    app = FastAPI(lifespan=lifespan)
    add_tasks(add_work(app, journal))
    async with anyio.create_task_group() as tg:
        with pytest.raises(RuntimeError, match="CancelledError"):
            await serve()
    check_shutdown(journal, "shutdown.failed")


async def test_a_request_that_is_under_way_keeps_its_shielded_task_before_the_shutdown_g10(journal: Journal) -> None:
    """uvicorn and granian may ask for the shutdown while requests run."""

    async def endpoint(tasks: Tasks) -> None:
        plain = tasks.after_response.schedule(journal.note, "plain after_response")
        tasks.task(shield=True).after_response.schedule(journal.note_late, "after_response")
        reached.set()
        await go_on.wait()
        assert plain.status is TaskStatus.CANCELLED

    async def get(server: Server) -> None:
        assert (await server.get()).status == 200

    reached, go_on = anyio.Event(), anyio.Event()
    app = of_the_app(journal)
    app.add_api_route("/", endpoint)
    async with anyio.create_task_group() as tg, serving(app, journal, events=journal) as server:
        tg.start_soon(get, server)
        await reached.wait()
        tg.start_soon(release_after_shutdown, go_on, journal)
    journal.assert_order("shutdown", "start", "final", "after_response", "app down", "shutdown.complete")
    assert "plain after_response" not in journal


async def release_after_shutdown(event: anyio.Event, journal: Journal) -> None:
    await until(lambda: "shutdown" in journal)
    await turns()
    event.set()


async def test_a_server_that_raises_at_startup_complete_shuts_down_in_the_same_order_g10(journal: Journal) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        journal.append(message["type"])
        if message["type"] == "lifespan.startup.complete":
            raise OSError("the server has ended")

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with lifespan_of(journal, "app")(_):
            current_host().task(shield=True).schedule(journal.note_late, "shielded ended")
            yield

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    with pytest.raises(OSError, match="the server has ended"):
        await app({"type": "lifespan"}, receive, send)
    assert journal == ["app up", "lifespan.startup.complete", "shielded ended", "app down", "lifespan.startup.failed"]


@pytest.mark.parametrize("drain_timeout", [0, 5])
async def test_a_shutdown_drains_requests_that_hold_their_tasks_g9_g10_g13(
    journal: Journal, drain_timeout: int, caplog: pytest.LogCaptureFixture
) -> None:
    """granian asks for the shutdown when the responses are sent; uvicorn does so after its own timeout."""

    async def work(name: str) -> None:
        try:
            await until(lambda: "shutdown" in journal)
            await turns()
            journal.append(f"{name} ended")
        except anyio.get_cancelled_exc_class():
            journal.append(f"{name} cancelled")
            raise

    async def endpoint(tasks: Tasks) -> None:
        tasks.after_response.task(name="plain").schedule(work, "plain")
        tasks.after_response.task(shield=True).schedule(work, "shielded")

    app = FastAPI(lifespan=lifespan_of(journal, "app"))
    add_tasks(app, hold=True, drain_timeout=drain_timeout)
    app.add_api_route("/", endpoint)
    async with anyio.create_task_group() as tg, serving(app, journal, events=journal) as server:
        tg.start_soon(server.get)
        await until(lambda: "final" in journal)
        await turns(FEW)
        assert "returned" not in journal
    journal.assert_order("shutdown", "plain ended" if drain_timeout else "plain cancelled", "app down")
    journal.assert_order("shutdown", "shielded ended", "app down", "shutdown.complete")
    assert "returned" in journal
    said = [record.getMessage() for record in caplog.records if "cancelled" in record.getMessage()]
    assert said == ([] if drain_timeout else ["closing the task host: 1 cancelled: plain"])


async def test_a_shutdown_drains_held_tasks_of_a_request_that_begins_meanwhile_g9_g10_g13(journal: Journal) -> None:
    """Each request begins while the drain waits only for the request before; the first one, only for the lifespan."""

    async def work(number: int) -> None:
        await until(lambda: "shutdown" in journal)
        await turns(FEW)
        if number < 5:
            tg.start_soon(server.get, f"/{number + 1}")
            await until(lambda: f"began {number + 1}" in journal)
        journal.append("ended")

    async def endpoint(tasks: Tasks, number: int) -> None:
        tasks.task(shield=True).schedule(work, number)
        journal.append(f"began {number}")

    app = FastAPI(lifespan=lifespan_of(journal, "app"))
    add_tasks(app, hold=True)
    app.add_api_route("/{number}", endpoint)
    async with anyio.create_task_group() as tg, serving(app, journal, events=journal) as server:
        host_of(app).task(shield=True).schedule(work, 0)
    journal.assert_order("shutdown", "began 5", "app down", "shutdown.complete")
    journal.assert_order("shutdown", "ended", "app down", "shutdown.complete")
    assert journal.count("ended") == 6


@native_cancel_only
async def test_a_native_cancellation_of_the_drain_waits_for_held_tasks_too_g10_g13(journal: Journal) -> None:
    async def work() -> None:
        await until(host_of(app).closing.is_set)
        await turns(FEW)
        runs_in[0].cancel()
        await journal.note_late("shielded ended")

    async def endpoint(tasks: Tasks) -> None:
        tasks.task(shield=True).schedule(work)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        runs_in.append(asyncio.current_task())
        async with lifespan_of(journal, "app")(_):
            yield

    runs_in: list[Any] = []
    app = FastAPI(lifespan=lifespan)
    add_tasks(app, hold=True)
    app.add_api_route("/", endpoint)
    async with anyio.create_task_group() as tg:
        with pytest.raises(RuntimeError, match="CancelledError"):
            async with serving(app, journal, events=journal) as server:
                tg.start_soon(server.get)
                await until(lambda: "final" in journal)
    journal.assert_order("shutdown", "shielded ended", "app down")


async def test_drain_timeout_lets_everything_end_before_the_shutdown_g9_g10(journal: Journal) -> None:
    app = FastAPI(lifespan=lifespan_of(journal, "app"))
    add_tasks(app, drain_timeout=5)
    async with serving(add_work(app, journal), journal, events=journal) as server:
        await server.get("/work")
        await turns(3)
    journal.assert_order("shutdown", "plain ended", "app down")
    journal.assert_order("shutdown", "shielded ended", "app down")


@pytest.mark.parametrize("hold", [False, True])
async def test_shield_timeout_bounds_the_shutdown_g9_g13(journal: Journal, hold: bool) -> None:
    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("cancelled")

    async def endpoint(tasks: Tasks) -> None:
        tasks.task(shield=True).schedule(forever)

    app = FastAPI(lifespan=lifespan_of(journal, "app"))
    add_tasks(app, hold=hold, shield_timeout=0.01)
    app.add_api_route("/", endpoint)
    async with anyio.create_task_group() as tg, serving(app, journal, events=journal) as server:
        tg.start_soon(server.get)
        await until(lambda: "final" in journal)
    journal.assert_order("shutdown", "cancelled", "app down", "shutdown.complete")


async def test_a_task_that_watches_the_closing_ends_by_itself_before_the_shutdown_g9_g10(journal: Journal) -> None:
    async def work(closing: Any) -> None:
        await closing.wait()
        journal.append("put away")

    async def endpoint(request: Request, tasks: Tasks) -> None:
        host = request.state.fastapi_tasks_host
        assert host is current_host()
        assert not host.closing.is_set()
        tasks.schedule(work, host.closing)

    app = FastAPI(lifespan=lifespan_of(journal, "app"))
    add_tasks(app, drain_timeout=5)
    app.add_api_route("/", endpoint)
    async with serving(app, events=journal) as server:
        await server.get()
    journal.assert_order("shutdown", "put away", "app down")


async def test_the_shutdown_logs_once_what_it_did_g9(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    async def endpoint(tasks: Tasks) -> None:
        tasks.task(shield=True).after_response.schedule(turns)
        tasks.after_response.schedule(anyio.sleep_forever)

    caplog.set_level("INFO", logger="fastapi_tasks")
    app = FastAPI()
    add_tasks(app)
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        await server.get()
    said = [record.getMessage() for record in caplog.records if record.name == "fastapi_tasks"]
    assert [text.partition(" s: ")[2] for text in said] == ["1 completed, 1 cancelled, 0 abandoned"]


@pytest.mark.parametrize("error", [OSError("the disk is full"), SystemExit(1)])
async def test_a_log_filter_that_raises_keeps_no_shutdown_code_from_running_g3_g10(
    journal: Journal, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise error

    async def endpoint(tasks: Tasks) -> None:
        tasks.task(shield=True).schedule(turns)

    caplog.set_level("INFO", logger="fastapi_tasks")
    app = of_the_app(journal)
    app.add_api_route("/", endpoint)
    logging.getLogger("fastapi_tasks").addFilter(refuse)
    try:
        async with serving(app, events=journal) as server:
            await server.get()
    finally:
        logging.getLogger("fastapi_tasks").removeFilter(refuse)
    journal.assert_order("shutdown", "app down")
    assert "fastapi_tasks could not log: tasks drained in 0." in capsys.readouterr().err


async def test_a_shutdown_with_nothing_to_do_says_nothing_g9(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="fastapi_tasks")
    app = FastAPI()
    add_tasks(app)
    async with serving(app):
        pass
    assert [record for record in caplog.records if record.name == "fastapi_tasks"] == []


async def test_an_exception_in_the_shutdown_code_comes_after_the_drain_g9_g10(journal: Journal) -> None:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        journal.append("app down")
        raise LookupError("in the shutdown")

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    with pytest.raises(RuntimeError, match="in the shutdown"):
        async with serving(add_work(app, journal), journal, events=journal) as server:
            await server.get("/work")
    journal.assert_order("shutdown", "shielded ended", "app down")
