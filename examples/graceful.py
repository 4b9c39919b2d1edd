"""The end of each kind of task when the server stops, with the times.

    uvicorn graceful:app --app-dir examples       serves the app
    python examples/graceful.py                   serves one request, stops, and shows the end of each task

The times are milliseconds from the beginning of the drain: the moment in which `closing` is set.
"""

import logging
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
from fastapi import FastAPI, Request

from fastapi_tasks import Tasks, add_tasks, current_host


class Journal:
    """The events, with their times. From any thread."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.began = time.monotonic()  # the drain; until then, the program

    def write(self, text: str) -> None:
        """Print a line, and keep it."""
        self.lines.append(text)
        # In one write: a thread may print at the same moment.
        print(f"{(time.monotonic() - self.began) * 1000:6.0f} ms  {text}\n", end="", flush=True)

    @contextmanager
    def told(self, what: str) -> Generator[None]:
        """Write if the block ended by itself, or was cancelled."""
        try:
            yield
        except BaseException:
            self.write(f"{what}: cut short")
            raise
        self.write(f"{what}: done")


journal = Journal()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    host = current_host()
    host.task(name="watch", shield=True).schedule(watch)
    yield
    # All tasks have ended: pools and clients may be closed now.
    report = host.drain_report
    assert report is not None
    journal.write(f"cut short: {', '.join(report.cancelled)}")
    journal.write("database closed")


app = FastAPI(lifespan=lifespan)
add_tasks(
    app,
    drain_timeout=0.4,  # seconds for all tasks to end by themselves
    shield_timeout=1.5,  # the most seconds for shielded tasks after that
)


async def watch() -> None:
    await current_host().closing.wait()
    journal.began = time.monotonic()
    journal.write("the drain begins")


async def send_mail() -> None:
    with journal.told("mail, unshielded and short"):
        await current_host().closing.wait()  # so that its 0.2 s begin with the drain
        await anyio.sleep(0.2)


async def recommend() -> None:
    with journal.told("recommendations, unshielded and long"):
        await anyio.sleep(60)


async def import_rows() -> None:
    """Work row by row, and stop between two of them."""
    closing = current_host().closing
    with journal.told("import, watches `closing`"):
        rows = 0
        while not closing.is_set():
            await anyio.sleep(0.05)
            rows += 1
        await anyio.sleep(0.05)  # stores the number of the last row


def shrink_pictures() -> None:
    """Do the same in a thread, which no code can stop from outside."""
    closing = current_host().closing
    with journal.told("pictures, a thread that watches `closing`"):
        while not closing.is_set():
            time.sleep(0.1)


async def upload() -> None:
    with journal.told("upload, shield=0.5"):
        await anyio.sleep(60)


async def charge() -> None:
    with journal.told("charge, shield=True"):
        await current_host().closing.wait()
        await anyio.sleep(1.2)


@app.post("/orders", status_code=202)
async def place(tasks: Tasks) -> None:
    tasks.schedule(send_mail)
    tasks.task(name="recommend").schedule(recommend)
    tasks.schedule(import_rows)
    tasks.schedule(shrink_pictures)
    tasks.task(name="upload", shield=0.5).schedule(upload)
    tasks.task(name="charge", shield=True).schedule(charge)


@app.get("/ready")
async def ready(request: Request) -> dict[str, bool]:
    return {"closing": request.state.fastapi_tasks_host.closing.is_set()}


EXPECTED = [
    "the drain begins",
    "import, watches `closing`: done",
    "mail, unshielded and short: done",
    "recommendations, unshielded and long: cut short",
    "upload, shield=0.5: cut short",
    "charge, shield=True: done",
    "cut short: recommend, upload",
    "database closed",
]


async def main() -> None:
    """Serve one request, stop the server as a signal does, and check the ends of its tasks."""
    import socket

    import httpx
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    url = "http://{}:{}".format(*listener.getsockname())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            tg.start_soon(server.serve, [listener])
            (await client.post("/orders")).raise_for_status()
            server.should_exit = True  # what uvicorn sets when it gets SIGTERM
    # The thread ends within a tick of its own loop, among the others.
    if [line for line in journal.lines if not line.startswith("pictures")] != EXPECTED:
        sys.exit("that was not what was promised")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="      log: %(name)s: %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with suppress(KeyboardInterrupt):  # uvicorn raises it when the app has shut down
        anyio.run(main)
