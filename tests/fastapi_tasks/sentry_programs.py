"""Programs with `sentry_sdk.init()`, which patches FastAPI, Starlette and logging for good: they need a process.

    python -m tests.fastapi_tasks.sentry_programs BACKEND FILE

The file gets JSON: of each program the items that reached the transport, and notes.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import sentry_sdk
from fastapi import FastAPI
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from tests import wire
from tests.handed import DownQueue, ListQueue, send_mail

from fastapi_tasks import Journal, Task, TaskHost, Tasks, add_tasks, current_host, current_task, retry
from taskphase.sentry import SentryTasks

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
DSN = "https://key@sentry.invalid/1"
PATIENCE = 10  # seconds; no program needs them
REQUESTS_TRACE = "0123456789abcdef0123456789abcdef"
FORWARDED = [(b"sentry-trace", f"{REQUESTS_TRACE}-0123456789abcdef-1".encode())]

SENT: list[dict[str, Any]] = []
NOTES: dict[str, Any] = {}


class Kept(Transport):
    """A transport that sends nothing."""

    def capture_envelope(self, envelope: Envelope) -> None:
        items = [(item.type, item.payload.json) for item in envelope.items]
        SENT.extend({"item": kind, **json} for kind, json in items if json is not None)


def init(**options: Any) -> None:
    sentry_sdk.init(**{"dsn": DSN, "transport": Kept, "traces_sample_rate": 1.0, "release": "1", **options})


def work(name: str) -> None:
    """Leave traces, as a task does."""
    sentry_sdk.set_tag("who", name)
    sentry_sdk.add_breadcrumb(message=f"crumb of {name}")
    with sentry_sdk.start_span(op="work", name=f"span of {name}"):
        pass


async def first() -> None:
    work("first")
    await anyio.sleep(0)


async def second() -> None:
    sentry_sdk.set_tag("own", "second")
    with sentry_sdk.start_span(op="work", name="inner"):
        await anyio.sleep(0)
    raise LookupError("of second")


def in_thread() -> None:
    work("thread")
    raise OSError("in a thread")


def app_with(*observers: SentryTasks, **settings: Any) -> FastAPI:
    """Return an app, made after `init()`, which patches the creation of routes."""
    app = FastAPI()
    add_tasks(app, observers=observers, drain_timeout=PATIENCE, **settings)
    return app


async def items(observers: list[SentryTasks]) -> None:
    """Two async tasks and one in a thread, after the response of one request."""
    init()
    app = app_with(*observers)

    @app.get("/items/{item}")
    async def endpoint(item: int, tasks: Tasks) -> None:
        NOTES["traceparent"] = sentry_sdk.get_traceparent()
        sentry_sdk.set_user({"id": "ada"})
        sentry_sdk.add_breadcrumb(message="crumb of the request")
        tasks.after_response.schedule(first)
        tasks.after_response.schedule(second)
        tasks.after_response.schedule(in_thread)

    @app.get("/later")
    def later() -> None:
        sentry_sdk.capture_message("of the request")

    async with wire.lifespan(app):
        await wire.request(app, path="/items/7", headers=FORWARDED)
    async with wire.lifespan(app_again := app_with(*observers)):
        app_again.get("/later")(later)
        await wire.request(app_again, path="/later")


async def table() -> None:
    await items([SentryTasks()])


async def without() -> None:
    await items([])


@asynccontextmanager
async def host(observer: SentryTasks, **settings: Any) -> AsyncIterator[TaskHost]:
    async with TaskHost(observers=[observer], **{"drain_timeout": PATIENCE, **settings}) as opened:
        yield opened
    NOTES["left"] = len(observer._traces)


async def fails() -> None:
    raise LookupError("always")


class Odd(Exception):
    """Does not tell its class."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError


async def fails_oddly() -> None:
    raise Odd


async def succeeds() -> None: ...


async def waits() -> None:
    await anyio.sleep_forever()


async def ends() -> None:
    """Each end of a task, and each outcome of an attempt."""
    init()
    observer = SentryTasks()

    def handler(task: Task[Any], error: Exception) -> None:
        sentry_sdk.set_tag("handled", task.name)
        with sentry_sdk.start_span(op="work", name="in the handler"):
            pass

    async with host(observer) as one:
        again = retry(attempts=3, backoff=0, jitter=False)
        one.task(name="retried", retry=again, on_error=handler).schedule(fails)
        one.task(name="late", timeout=0).schedule(waits)
        one.task(name="fine").schedule(succeeds)
        await one.task(name="odd").schedule(fails_oddly).wait()
        await one.task(name="fine again").schedule(succeeds).wait()
        one.task(name="early", delay=3600).schedule(succeeds).cancel()
        async with one.scope() as tasks:
            tasks.task(name="dropped", when="failure").after_response.schedule(succeeds)
    async with host(observer, drain_timeout=0) as two:
        two.task(name="drained").schedule(waits)
        two.task(name="never", delay=3600).schedule(succeeds)
        await anyio.wait_all_tasks_blocked()


async def chain() -> None:
    """A task that schedules itself: nothing grows."""
    init()

    async def again(left: int) -> None:
        NOTES["processors"] = len(sentry_sdk.get_isolation_scope()._event_processors)
        if left:
            one.schedule(again, left - 1)
        else:
            sentry_sdk.capture_message("the last one")

    async with host(SentryTasks()) as one:
        one.schedule(again, 20)


async def untraced() -> None:
    """`traces_sample_rate` is not set: there are errors, and no transactions."""
    init(traces_sample_rate=None)
    app = app_with(SentryTasks())

    @app.get("/items/{item}")
    async def endpoint(item: int, tasks: Tasks) -> None:
        NOTES["traceparent"] = sentry_sdk.get_traceparent()
        tasks.after_response.schedule(second)

    async with wire.lifespan(app):
        await wire.request(app, path="/items/7")


async def streamed() -> None:
    """The SDK sends spans, and no transactions."""
    init(trace_lifecycle="stream")

    async def traced() -> None:
        with sentry_sdk.traces.start_span(name="inner"):
            await anyio.sleep(0)
        raise LookupError

    app = app_with(SentryTasks())

    @app.get("/items/{item}")
    async def endpoint(item: int, tasks: Tasks) -> None:
        NOTES["traceparent"] = sentry_sdk.get_traceparent()
        tasks.after_response.schedule(traced)

    async with wire.lifespan(app):
        await wire.request(app, path="/items/7")
    sentry_sdk.flush()


async def off() -> None:
    """No `sentry_sdk.init()`."""
    async with host(SentryTasks()) as one:
        one.schedule(fails)
        await one.schedule(succeeds)


async def elsewhere() -> None:
    """Tasks that are scheduled by threads, by other tasks and by no request."""
    init()

    def from_thread() -> None:
        with sentry_sdk.start_transaction(name="a job of the thread"):
            NOTES["thread"] = sentry_sdk.get_traceparent()
            one.task(name="of the thread").schedule(succeeds)

    async def parent() -> None:
        sentry_sdk.set_tag("who", "parent")
        NOTES["parent"] = sentry_sdk.get_traceparent()
        one.task(name="child").schedule(child)
        await anyio.wait_all_tasks_blocked()
        sentry_sdk.capture_message("of the parent")

    async def child() -> None:
        sentry_sdk.set_tag("who", "child")
        sentry_sdk.capture_message("of the child")

    async def of_user() -> None:
        with sentry_sdk.start_transaction(name="a transaction of the user"):
            await anyio.sleep(0)

    async with host(SentryTasks()) as one:
        one.schedule(of_user)
        thread = threading.Thread(target=from_thread)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        await one.schedule(parent)


async def handed() -> None:
    """Hand-overs: confirmed, failed, cancelled, and refused so that the task runs here."""
    init()
    observer = SentryTasks()
    later = ListQueue("later", [send_mail], system="redis")
    app = app_with(observer, queues=[later])

    @app.get("/items/{item}")
    async def endpoint(item: int, tasks: Tasks) -> None:
        NOTES["traceparent"] = sentry_sdk.get_traceparent()
        NOTES["message"] = tasks.task(name="confirmed").after_response.schedule(send_mail, item).message_id

    async with wire.lifespan(app):
        await wire.request(app, path="/items/7", headers=FORWARDED)
    async with host(observer, queues=[DownQueue("down", [send_mail])]) as one:
        await one.task(name="fails").schedule(send_mail).wait()
    async with host(observer, queues=[DownQueue("down", [send_mail], fallback="here")]) as two:
        await two.task(name="here").schedule(send_mail).wait()
    later.go_on = anyio.Event()
    async with host(observer, queues=[later]) as three:
        task = three.task(name="stopped").schedule(send_mail)
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        await task.wait()


async def recovered() -> None:
    """A task of a request whose first two runs the shutdown cuts off. The third one fails, and has a child."""
    init()

    async def fails_at_last() -> None:
        runs.append(current_task().recovered)
        if len(runs) < 3:
            await anyio.sleep_forever()
        await current_host().task(name="child").schedule(succeeds)
        raise LookupError

    runs: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "tasks.db"), [fails_at_last], sync="normal")
        app = FastAPI()
        add_tasks(app, observers=[SentryTasks()], journal=journal)

        @app.get("/items/{item}")
        async def endpoint(item: int, tasks: Tasks) -> None:
            NOTES["traceparent"] = sentry_sdk.get_traceparent()
            tasks.task(name="mail").after_response.schedule(fails_at_last)

        for number in range(3):
            async with wire.lifespan(app):
                if not number:
                    await wire.request(app, path="/items/7", headers=FORWARDED)
                while len(runs) <= number or (number == 2 and not await journal.failed()):
                    await anyio.sleep(0.01)
    NOTES["runs"] = runs


async def handed_in_a_stream() -> None:
    """A hand-over where the SDK sends spans, and no transactions."""
    init(trace_lifecycle="stream")
    async with host(SentryTasks(), queues=[ListQueue("later", [send_mail])]) as one:
        await one.schedule(send_mail).wait()
    sentry_sdk.flush()


async def paused() -> None:
    """Nothing is sent while a task starts another one, and awaits it."""
    init()

    async def parent() -> None:
        client = sentry_sdk.get_client()
        sentry_sdk.get_global_scope().set_client(None)
        await one.schedule(succeeds)
        sentry_sdk.get_global_scope().set_client(client)
        work("parent")

    async with host(SentryTasks()) as one:
        await one.schedule(parent)


def run(program: Callable[[], Awaitable[None]], backend: str) -> dict[str, Any]:
    SENT.clear()
    NOTES.clear()
    name, options = BACKENDS[backend]
    anyio.run(program, backend=name, backend_options=options)
    sentry_sdk.flush()
    sentry_sdk.get_client().close()
    return {"sent": list(SENT), "notes": dict(NOTES)}


PROGRAMS = (
    off,
    table,
    without,
    ends,
    chain,
    untraced,
    streamed,
    elsewhere,
    paused,
    handed,
    recovered,
    handed_in_a_stream,
)  # `off` first: `init()` cannot be undone

if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    logging.getLogger("taskphase").setLevel(logging.DEBUG)
    results = {each.__name__: run(each, sys.argv[1]) for each in PROGRAMS}
    Path(sys.argv[2]).write_text(json.dumps(results, default=repr))
