"""An app with the page of the inspector, for tests with real servers and browsers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException
from tests.handed import DownQueue, ListQueue
from tests.servers.harness import record

from fastapi_tasks import Tasks, add_tasks, current_host, current_task, inspector

history = inspector.History()
left: list[asyncio.Task[None]] = []
outside: list[Context] = []
release = asyncio.Event()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    outside.append(copy_context())
    yield
    record("down")


app = FastAPI(lifespan=lifespan)


async def send_mail(to: str) -> None: ...


async def archive(to: str) -> None: ...


async def charge(to: str) -> None:
    await anyio.sleep(0.01)


class Hanging(ListQueue):
    """Confirms nothing."""

    async def publish(self, prepared: Any, headers: Any, /) -> None:
        await anyio.sleep_forever()


add_tasks(
    app,
    observers=[history],
    queues=[
        ListQueue("later", [send_mail]),
        Hanging("hanging", [archive], deadline=3600, attempt_timeout=3600),
        DownQueue("down", [charge], fallback="here"),
    ],
    shield_timeout=0.2,  # for the hand-overs that hang
)
app.include_router(inspector.router(history, prefix="/_tasks", allow_unauthenticated=True))


@app.get("/ready")
async def ready() -> None:
    pass


async def mail(to: str) -> None:
    await anyio.sleep(0.01)


async def fail() -> None:
    raise ValueError("no such order")


async def break_down() -> None:
    raise ConnectionError("the service is down")


async def serve_once() -> None:
    current_host().schedule(break_down)


async def wait_for_nothing() -> None:
    await anyio.sleep_forever()


async def parent() -> None:
    current_host().task(name="child of the order").schedule(mail, "child")


@app.post("/orders/{order}")
async def place(order: str, tasks: Tasks) -> None:
    tasks.task(name=f"mail for {order}").after_response.schedule(mail, "ada")
    tasks.schedule(parent)
    if order == "none":
        raise HTTPException(404)


async def leave_behind() -> None:
    async def go_on() -> None:
        await task.wait()
        current_host().task(name="left behind").schedule(mail, "ada")

    task = current_task()
    left.append(asyncio.create_task(go_on()))


@app.post("/left")
async def leave(tasks: Tasks) -> None:
    tasks.task(name="leaves code behind").schedule(leave_behind)


@app.post("/held")
async def hold(tasks: Tasks) -> None:
    tasks.schedule(mail, "ada")
    await release.wait()


@app.post("/release")
async def let_go() -> None:
    release.set()


@app.post("/services")
async def serve() -> None:
    """Outside of any request, schedule a task whose own task fails."""
    outside[0].run(current_host().task(name="service").schedule, serve_once)


@app.post("/failures")
async def make_failure(tasks: Tasks) -> None:
    tasks.after_response.schedule(fail)


@app.post("/named")
async def name(text: str, tasks: Tasks) -> None:
    """Schedule a task that has any name."""
    tasks.task(name=text).schedule(mail, "ada")


@app.post("/waits")
async def wait(tasks: Tasks) -> None:
    tasks.task(name="waits").schedule(wait_for_nothing)


@app.post("/handed/{order}")
async def hand_over(order: str, tasks: Tasks) -> None:
    tasks.task(name=f"send {order}").after_response.schedule(send_mail, order)
    tasks.task(name=f"charge {order}").after_response.schedule(charge, order)


@app.post("/hanging")
async def hang(tasks: Tasks) -> None:
    tasks.task(name="hangs").schedule(archive, "ada")
