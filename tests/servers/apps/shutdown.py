"""An app whose tasks run when the server is told to end. The app journals the events of the tasks.

The tasks wait until the server has requested the app's shutdown, so their next steps happen during the drain.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send
from tests.servers.harness import record

from fastapi_tasks import Task, Tasks, add_tasks

WORK = 0.3  # seconds; far more than the drain's first step, so that a task that ends too early is noticed
QUEUED = 5  # tasks; with `max_running=1` all except one wait


class Shutdown:
    """Tells coroutines and threads that the server has asked for the end."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.thread_event = threading.Event()

    def begin(self) -> None:
        record("shutdown")
        self.event.set()
        self.thread_event.set()


class Resource:
    """A resource that a user opens in the lifespan and closes after its `yield`: a pool, a client."""

    def __init__(self) -> None:
        self.is_open = False

    def use(self, subject: str) -> None:
        record("resource.open" if self.is_open else "resource.closed", subject)


shutdown = Shutdown()
request_left = threading.Event()
resource = Resource()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    resource.is_open = True
    record("up")
    try:
        yield
    finally:
        record("lifespan.left")
    record("down")
    resource.is_open = False


fastapi_app = FastAPI(lifespan=lifespan)
shield_timeout = os.environ.get("TASKS_SHIELD_TIMEOUT")
max_running = os.environ.get("TASKS_MAX_RUNNING")
add_tasks(
    fastapi_app,
    max_running=None if max_running is None else int(max_running),
    drain_timeout=float(os.environ.get("TASKS_DRAIN_TIMEOUT", "0")),
    shield_timeout=None if shield_timeout is None else float(shield_timeout),
    hold="TASKS_HOLD" in os.environ,
)


@contextmanager
def journalled(subject: str) -> Iterator[None]:
    record("started", subject)
    try:
        yield
    except Exception:
        record("raised", subject)
        raise
    except BaseException as error:
        record("cancelled" if isinstance(error, anyio.get_cancelled_exc_class()) else "broken", subject)
        raise
    else:
        record("ended", subject)


async def last_for_ever(subject: str) -> None:
    with journalled(subject):
        await anyio.sleep_forever()


async def work(subject: str) -> None:
    with journalled(subject):
        await shutdown.event.wait()
        await anyio.sleep(WORK)
        resource.use(subject)


def work_in_a_thread(subject: str) -> None:
    with journalled(subject):
        shutdown.thread_event.wait()
        time.sleep(WORK)
        resource.use(subject)


def work_in_a_thread_at_once(subject: str) -> None:
    with journalled(subject):
        time.sleep(WORK)


def outlast_the_request(subject: str) -> None:
    with journalled(subject):
        request_left.wait()
        time.sleep(WORK)


async def fail(subject: str) -> None:
    with journalled(subject):
        await shutdown.event.wait()
        await anyio.sleep(WORK)
        raise ValueError(subject)


async def handle(task: Task[Any], error: Exception) -> None:
    await anyio.sleep(WORK)
    resource.use("handler")
    record(f"handled.{type(error).__name__}", str(task.name))


async def schedule_another(subject: str, tasks: Tasks) -> None:
    with journalled(subject):
        await shutdown.event.wait()
        await anyio.sleep(WORK)
        tasks.task(name="late", shield=True).schedule(work, "late")


@fastapi_app.get("/ready")
async def ready() -> None:
    pass


@fastapi_app.post("/unshielded")
async def unshielded(tasks: Tasks) -> None:
    tasks.task(name="unshielded").schedule(last_for_ever, "unshielded")


@fastapi_app.post("/short")
async def short(tasks: Tasks) -> None:
    tasks.task(name="short").schedule(work, "short")


@fastapi_app.post("/shielded")
async def shielded(tasks: Tasks) -> None:
    tasks.task(name="shielded", shield=True).schedule(work, "shielded")


@fastapi_app.post("/thread")
async def thread(tasks: Tasks) -> None:
    tasks.task(name="thread", shield=True).schedule(work_in_a_thread, "thread")


@fastapi_app.post("/failing")
async def failing(tasks: Tasks) -> None:
    tasks.task(name="failing", shield=True, on_error=handle).schedule(fail, "failing")


@fastapi_app.post("/parent")
async def parent(tasks: Tasks) -> None:
    tasks.task(name="parent", shield=True).schedule(schedule_another, "parent", tasks)


@fastapi_app.post("/endless")
async def endless(tasks: Tasks) -> None:
    tasks.task(name="endless", shield=True).schedule(last_for_ever, "endless")


@fastapi_app.post("/outlasting")
async def outlasting(tasks: Tasks) -> None:
    tasks.task(name="outlasting", shield=True).schedule(outlast_the_request, "outlasting")


@fastapi_app.post("/queue")
async def queue(tasks: Tasks) -> None:
    for number in range(QUEUED):
        tasks.task(name=f"queued-{number}", shield=True).schedule(work_in_a_thread_at_once, f"queued-{number}")


@fastapi_app.get("/open")
async def open_for_ever() -> None:
    record("request.entered")
    try:
        await anyio.sleep_forever()
    finally:
        record("request.left")
        request_left.set()


@fastapi_app.get("/in-flight")
async def in_flight(tasks: Tasks) -> str:
    record("request.entered")
    await anyio.sleep(WORK)  # the server is told to end in this time
    tasks.after_response.task(name="after", shield=True).schedule(work, "after")
    record("request.returned")
    return "answered"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell the tasks about the shutdown before any inner code has received the message."""

    async def observed_receive() -> Message:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            shutdown.begin()
        return message

    await fastapi_app(scope, observed_receive if scope["type"] == "lifespan" else receive, send)
