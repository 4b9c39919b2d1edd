"""The functions that are handed over. They know nothing of queues, brokers and requests."""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path

import anyio
from tests.servers.harness import record

from fastapi_tasks import NoCurrentError, current_host, current_task

request_id: ContextVar[str] = ContextVar("request_id")


async def send_mail(order: str) -> None:
    record("ran", order)


def archive(order: str) -> None:
    record("ran", order)


async def look_around(order: str) -> None:
    """Record the view of a task in a worker."""
    _look(order)


def look_around_sync(order: str) -> None:
    _look(order)


def _look(order: str) -> None:
    task = current_task()
    record("ran", order)
    record("message_id", task.message_id or "")
    record("function", task.function)
    record("request_id", request_id.get("none"))
    try:
        current_host()
    except NoCurrentError as exc:
        record("no_host", str(exc).replace(" ", "_"))


async def work_long(order: str) -> None:
    """Run until the file `STOP` exists, so that the test can end the worker in the middle."""
    record(f"began_in_{os.getpid()}", order)
    while not Path(os.environ["STOP"]).exists():
        await anyio.sleep(0.02)
    record("ran", order)
