"""G9, G10: after a failed startup the tasks end first. Then the server hears of the failure."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from fastapi import APIRouter, FastAPI
from tests.backends import turns
from tests.fastapi_tasks.apps import FEW, Journal

from fastapi_tasks import TasksClosedError, add_tasks, current_host
from fastapi_tasks.queues import Call, Queue

# Of Starlette 0.49; FastAPI itself has taken them over since.
pytestmark = pytest.mark.filterwarnings("ignore:The on_startup and on_shutdown parameters:DeprecationWarning")

Startup = Callable[[], Awaitable[None]]
Make = Callable[[Startup], FastAPI]


def lifespan_of(startup: Startup) -> Any:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        await startup()
        yield

    return lifespan


def of_the_app(startup: Startup) -> FastAPI:
    return FastAPI(lifespan=lifespan_of(startup))


def of_a_router(startup: Startup) -> FastAPI:
    app = FastAPI()
    app.include_router(APIRouter(lifespan=lifespan_of(startup)))
    return app


def of_a_handler(startup: Startup) -> FastAPI:
    app = FastAPI()
    app.router.on_startup.append(startup)
    return app


def of_a_handler_of_a_router(startup: Startup) -> FastAPI:
    app = FastAPI()
    app.include_router(APIRouter(on_startup=[startup]))
    return app


def of_a_mounted_app(startup: Startup) -> FastAPI:
    """Its parent runs its lifespan."""
    child = FastAPI(lifespan=lifespan_of(startup))
    parent = FastAPI(lifespan=lambda _: child.router.lifespan_context(child))
    parent.mount("/child", child)
    return parent


apps = pytest.mark.parametrize(
    "make", [of_the_app, of_a_router, of_a_handler, of_a_handler_of_a_router, of_a_mounted_app]
)


class LifespanCall:
    """An ASGI call of a lifespan, by hand, beside a task that counts the turns of the event loop.

    :ivar turns_since_failed: turns between the message that the startup has failed and the end of the call
    """

    def __init__(self, app: FastAPI, journal: Journal) -> None:
        self.app, self.journal = app, journal
        self.turns_since_failed = 0
        self.raised: BaseException | None = None
        self.messages: list[Any] = []
        self._turns = 0

    async def run(self, **scope: Any) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._count)
            await turns(FEW)
            try:
                await self.app({"type": "lifespan", "asgi": {"version": "3.0"}, **scope}, self._receive, self._send)
            except LookupError as exc:
                self.raised = exc
            self.turns_since_failed += self._turns
            self.journal.append("call ended")
            tg.cancel_scope.cancel()

    async def _count(self) -> None:
        while True:
            self._turns += 1
            await checkpoint()

    async def _receive(self) -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def _send(self, message: Any) -> None:
        self.journal.append(message["type"])
        self.messages.append(message)
        self.turns_since_failed = -self._turns


@apps
@pytest.mark.parametrize("scope", [{}, {"state": {}}], ids=["no state", "state"])
async def test_the_server_hears_of_a_failed_startup_when_shielded_tasks_have_ended_g10(
    journal: Journal, make: Make, scope: dict[str, Any]
) -> None:
    async def work(name: str) -> None:
        journal.append(f"{name} began")
        try:
            await turns()
            journal.append(f"{name} ended")
        except anyio.get_cancelled_exc_class():
            journal.append(f"{name} cancelled")
            raise

    async def startup() -> None:
        current_host().task(shield=True).schedule(work, "shielded")
        current_host().schedule(work, "plain")
        await turns(FEW)
        raise LookupError("no database")

    app = make(startup)
    add_tasks(app)
    call = LifespanCall(app, journal)
    await call.run(**scope)
    assert isinstance(call.raised, LookupError)
    assert journal[-2:] == ["lifespan.startup.failed", "call ended"]
    journal.assert_order("shielded began", "plain cancelled", "shielded ended", "lifespan.startup.failed")


@apps
async def test_the_call_ends_in_the_turn_of_the_event_loop_in_which_a_startup_fails_g10(
    journal: Journal, make: Make, backend_name: str
) -> None:
    """hypercorn on asyncio checks right after that message whether the call is over, and otherwise serves the app. On
    trio the end of a task group takes turns, and hypercorn does not check.
    """

    async def startup() -> None:
        current_host().task(shield=True).schedule(turns)
        current_host().tg.start_soon(anyio.sleep_forever)
        await turns(FEW)
        raise LookupError("no database")

    app = make(startup)
    add_tasks(app)
    call = LifespanCall(app, journal)
    await call.run()
    assert journal == ["lifespan.startup.failed", "call ended"]
    assert call.turns_since_failed <= (FEW if backend_name == "trio" else 0)


async def test_a_startup_that_fails_at_once_ends_the_call_as_well_g10(journal: Journal, backend_name: str) -> None:
    async def startup() -> None:
        raise LookupError("no database")

    app = of_the_app(startup)
    add_tasks(app)
    call = LifespanCall(app, journal)
    await call.run()
    assert journal == ["lifespan.startup.failed", "call ended"]
    assert call.turns_since_failed <= (FEW if backend_name == "trio" else 0)


async def test_a_failed_startup_keeps_to_the_drain_and_the_shield_timeout_g9_g10(journal: Journal) -> None:
    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("cancelled")

    async def end() -> None:
        await journal.note_late("ended in the drain timeout")
        hosts[0].hurry(0)

    async def startup() -> None:
        hosts.append(current_host())
        current_host().schedule(end)
        current_host().task(shield=True).schedule(endless)
        raise LookupError("no database")

    hosts: list[Any] = []
    app = of_the_app(startup)
    add_tasks(app, drain_timeout=60, shield_timeout=0.01)
    await LifespanCall(app, journal).run()
    assert journal == ["ended in the drain timeout", "cancelled", "lifespan.startup.failed", "call ended"]
    with pytest.raises(TasksClosedError):
        hosts[0].schedule(turns)


async def test_clean_up_of_the_lifespan_runs_before_the_tasks_of_a_failed_startup_end_g10(journal: Journal) -> None:
    """A `finally` closes its resources while the tasks run: no other code can run between the exception and the
    `finally`.
    """

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        try:
            current_host().task(shield=True).schedule(journal.note_late, "task ended")
            await turns(1)
            raise LookupError("no database")
            yield
        finally:
            journal.append("cleaned up")

    app = FastAPI(lifespan=lifespan)
    add_tasks(app)
    await LifespanCall(app, journal).run()
    assert journal == ["cleaned up", "task ended", "lifespan.startup.failed", "call ended"]


async def test_a_server_that_raises_at_a_failed_startup_finds_the_host_drained_g10() -> None:
    """hypercorn's `send` does so."""

    class Refused(Exception): ...

    async def startup() -> None:
        tasks.append(current_host().task(shield=True).schedule(turns))
        raise LookupError("no database")

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        statuses.extend(task.status for task in tasks)
        raise Refused

    tasks: list[Any] = []
    statuses: list[str] = []
    app = of_the_app(startup)
    add_tasks(app)
    with pytest.raises(Refused):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert statuses == ["succeeded"]


class NowhereQueue(Queue):
    def check_loop(self, backend: str) -> None:
        raise LookupError(f"not on {backend}")

    def prepare(self, call: Call, /) -> None: ...

    async def publish(self, prepared: Any, headers: Mapping[str, str], /) -> None: ...


async def test_the_server_hears_of_a_queue_that_refuses_the_event_loop_g21(journal: Journal, backend_name: str) -> None:
    """Otherwise hypercorn takes the app for one without a lifespan, and serves it."""
    app = FastAPI()
    add_tasks(app, queues=[NowhereQueue("nowhere", [anyio.sleep])])
    call = LifespanCall(app, journal)
    await call.run()
    assert journal == ["lifespan.startup.failed", "call ended"]
    assert call.turns_since_failed == 0
    assert f"LookupError: not on {backend_name}" in call.messages[-1]["message"]
