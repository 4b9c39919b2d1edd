"""A queue of your own: a folder is the engine, and each message is a file. `python examples/spool.py`."""

from __future__ import annotations

import asyncio
import inspect
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from taskphase import TaskHost, TasksUnportableError, current_task
from taskphase.queues import Call, Queue, running


class SpoolQueue(Queue):
    """Hands tasks over to the workers of a folder."""

    def __init__(self, folder: Path, functions: Any, **settings: Any) -> None:
        super().__init__("spool", functions, **settings)
        self.folder = anyio.Path(folder)

    def prepare(self, call: Call) -> tuple[str, dict[str, Any]]:
        body = {"id": call.id, "function": call.function, "args": call.args, "kwargs": dict(call.kwargs)}
        try:
            return call.id, json.loads(json.dumps(body))  # a copy: the caller may change the arguments
        except (TypeError, ValueError):
            raise TasksUnportableError(f"{call.function} has an argument that JSON cannot hold") from None

    async def publish(self, prepared: tuple[str, dict[str, Any]], headers: Mapping[str, str]) -> None:
        message, body = prepared
        part = self.folder / f"{message}.part"
        await part.write_text(json.dumps({**body, "headers": dict(headers)}))
        await part.replace(self.folder / f"{message}.json")  # in one step: the worker sees all of the file, or nothing

    def refused(self, error: Exception) -> bool:
        return isinstance(error, OSError)  # then the file does not have its name yet


def work(queue: SpoolQueue) -> None:
    """Run all messages, in a worker process."""
    known = {f"{func.__module__}.{func.__qualname__}": func for func in queue.functions}
    for file in sorted(Path(queue.folder).glob("*.json")):
        body = json.loads(file.read_text())
        with running(queue, body["function"], body["id"], body["headers"]):
            result = known[body["function"]](*body["args"], **body["kwargs"])
            if inspect.iscoroutine(result):
                asyncio.run(result)
        file.unlink()


async def send_mail(to: str) -> None:
    print(f"mail to {to}, by a task with the name {current_task().name}")


async def main(folder: Path) -> None:
    queue = SpoolQueue(folder, [send_mail])
    async with TaskHost(queues=[queue]) as host:
        task = host.schedule(send_mail, "ada@example.org")
        await task.wait()
        print(f"{task.function}: {task.status.value}")
    await anyio.to_thread.run_sync(work, queue)  # a real worker runs in another process


if __name__ == "__main__":
    import spool  # program and workers import the functions from this module, not from the main module

    with tempfile.TemporaryDirectory() as name:
        anyio.run(spool.main, Path(name))
