"""A refresher starts with the app, repeats every five seconds, survives a round that fails, and ends at shutdown.

It watches `closing`, with a shield for the round it is in: docs/shutdown.md, "Tasks that watch `closing`". Startup code
and services find the app's host by `current_host()`: docs/tutorial/scopes.md. `explore` runs the tests in virtual time,
on asyncio and trio: docs/testing.md.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI, Request
from tests import wire

from fastapi_tasks import Task, add_tasks, current_host
from fastapi_tasks.testing import record_tasks
from taskphase.testing import explore

EVERY = 5  # seconds
log = logging.getLogger("rates")
journal: list[str] = []


async def fetch_rates() -> None:
    await anyio.sleep(1)
    journal.append("fetched")
    if journal.count("fetched") == 2:
        raise ConnectionError("the bank does not answer")


async def refresh() -> None:
    closing = current_host().closing
    while not closing.is_set():
        try:
            await fetch_rates()
        except ConnectionError as error:  # any other exception ends the refresher
            log.warning("old rates are used: %s", error)
        with anyio.move_on_after(EVERY):  # a pause that ends early
            await closing.wait()


def start_refresher() -> Task[None]:  # startup code, without a request
    return current_host().task(name="refresher", shield=2).schedule(refresh)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[dict[str, Task[None]]]:
    refresher = start_refresher()
    yield {"refresher": refresher}
    journal.append(f"pool closed, refresher {refresher.status}")


app = FastAPI(lifespan=lifespan)
add_tasks(app, shield_timeout=20)


async def note(text: str) -> None:
    journal.append(text)


def book(order: int) -> None:  # a service deep in the call stack
    current_host().schedule(note, f"order {order} is booked")


@app.post("/orders/{order}")
def place(order: int) -> None:
    book(order)


@app.post("/quick-orders/{order}")
async def place_quickly(order: int) -> None:
    book(order)


@app.get("/health")
async def health(request: Request) -> str:
    return request.state.refresher.status


@explore(schedules=20)
async def test_the_refresher_repeats_and_ends_cleanly() -> None:
    journal.clear()
    async with wire.lifespan(app) as state:
        await anyio.sleep(14.5)  # three rounds of a second, and pauses of five between: the pause after the third
        assert journal == ["fetched"] * 3
        assert (await wire.request(app, path="/health", state=state)).json() == "running"
        began = anyio.current_time()
    assert anyio.current_time() == began  # it did not sleep its pause out
    assert journal[3:] == ["pool closed, refresher succeeded"]


@explore(schedules=20)
async def test_shutdown_waits_for_the_round_it_is_in() -> None:
    journal.clear()
    async with wire.lifespan(app):
        await anyio.sleep(0.5)
    assert journal == ["fetched", "pool closed, refresher succeeded"]


@explore(schedules=20)
async def test_a_service_schedules_without_a_parameter() -> None:
    journal.clear()
    with record_tasks(app, timeout=None) as tasks:
        async with wire.lifespan(app) as state:
            for path in ("/orders/7", "/quick-orders/8"):
                assert (await wire.request(app, "POST", path, state=state)).status == 200
            await tasks.of(note).await_all()  # not of all tasks: the refresher never ends
            assert [task.args for task in tasks.of(note).succeeded] == [("order 7 is booked",), ("order 8 is booked",)]
