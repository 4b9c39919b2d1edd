"""Files, processed chunk by chunk in threads: with limits, progress, cancelling, and resumption after a shutdown.

    uvicorn file_processing:app --app-dir examples       serves the app; the files are in ./uploads
    python examples/file_processing.py                   processes, refuses, cancels and resumes files

A shutdown does not wait for whole files. Threads end between two blocks, and the next start finds the missing chunks on
the disk.
"""

import hashlib
import logging
import math
import shutil
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import anyio
import httpx
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse  # FastAPI 0.135 or later
from starlette.requests import ClientDisconnect

from fastapi_tasks import Task, Tasks, TasksSaturatedError, add_tasks, current_host

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
log = logging.getLogger("files")

BLOCK, CHUNK = 16 * 1024, 64 * 1024  # bytes: of a thread between two looks at `closing`, and of one task
LARGEST = 30 * CHUNK  # bytes of a file: `max_pending` would refuse a larger one
LONGEST_STREAM = 10.0  # seconds; at shutdown the server waits for its streams


@dataclass
class Job:
    """One file: a folder with the file, and with a result for each chunk that is done."""

    folder: Path
    size: int
    chunks: list[Task[None]] = field(default_factory=list[Task[None]])

    def missing(self) -> list[int]:
        """Return the numbers of the chunks that are not done."""
        return [number for number in range(math.ceil(self.size / CHUNK)) if not (self.folder / str(number)).exists()]

    def process(self, number: int) -> None:
        """Process a chunk. Sync, so it runs in a thread."""
        closing = current_host().closing
        digest = hashlib.sha256()
        with (self.folder / "file").open("rb") as file:
            file.seek(number * CHUNK)
            for _ in range(CHUNK // BLOCK):
                if closing.is_set():
                    return  # no code can cancel a thread, so the thread looks at `closing`
                digest.update(crunch(file.read(BLOCK)))
        part = self.folder / f"{number}.part"  # renamed when complete: there is a whole result, or none
        part.write_text(digest.hexdigest())
        part.rename(self.folder / str(number))

    async def remove(self) -> None:
        """Delete the folder, when the chunks that have begun have ended."""
        for chunk in self.chunks:
            await chunk.wait()
        await anyio.to_thread.run_sync(shutil.rmtree, self.folder)


def crunch(block: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", block, b"salt", 60_000)  # stands for 20 ms of work


jobs: dict[str, Job] = {}  # of this process, by name


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    jobs.clear()
    resume(app.state.folder)
    yield


def resume(folder: Path) -> None:
    """Schedule the chunks that an earlier process has not done. That process had room for them, so this one has."""
    for file in folder.glob("*/file"):
        job = jobs[file.parent.name] = Job(file.parent, file.stat().st_size)
        job.chunks = [current_host().schedule(job.process, number) for number in job.missing()]
        log.info("%d chunks are to be done of %s", len(job.chunks), file.parent.name)


app = FastAPI(title="Files", lifespan=lifespan)
app.state.folder = Path("uploads")
# `max_running`: one chunk for each of two processors. The last of 40 in line waits for 40 * 80 ms / 2 = 1.6 s.
add_tasks(app, max_running=2, max_pending=40, shield_timeout=10)


@app.exception_handler(TasksSaturatedError)
async def busy(_request: Request, _error: TasksSaturatedError) -> JSONResponse:
    return JSONResponse({"detail": "too much to do"}, 503, {"Retry-After": "2"})


def get_job(name: str) -> Job:
    if name not in jobs:
        raise HTTPException(404)
    return jobs[name]


@app.post("/files", status_code=202)
async def upload(request: Request, content_length: Annotated[int, Header(gt=0, le=LARGEST)], tasks: Tasks) -> str:
    name = uuid4().hex
    job = Job(request.app.state.folder / name, content_length)
    tasks.after_response.task(when="failure", shield=True).schedule(shutil.rmtree, job.folder, ignore_errors=True)
    # Before the body is read, because this raises if there is no room for all chunks. The chunks begin when the route
    # has returned: then the file is there. If the route raises, they are dropped.
    chunks = tasks.after_route.task(when="success")
    job.chunks = [chunks.schedule(job.process, number) for number in job.missing()]
    folder = anyio.Path(job.folder)
    await folder.mkdir(parents=True)
    try:
        async with await (folder / "part").open("wb") as part:
            async for block in request.stream():
                await part.write(block)
    except ClientDisconnect:
        raise HTTPException(400, "the upload has broken off") from None
    await (folder / "part").rename(folder / "file")
    jobs[name] = job
    return name


@app.get("/files")
async def names() -> list[str]:
    return list(jobs)


@app.get("/files/{name}/progress", response_class=EventSourceResponse)
async def watch(job: Annotated[Job, Depends(get_job)]) -> AsyncIterator[dict[str, int]]:
    ends = anyio.current_time() + LONGEST_STREAM
    for chunk in job.chunks:
        with anyio.CancelScope(deadline=ends) as waiting:
            await chunk.wait()
        yield Counter(chunk.status for chunk in job.chunks)
        if waiting.cancelled_caught:
            return  # a browser connects again by itself


@app.delete("/files/{name}", status_code=202)
async def cancel(name: str, job: Annotated[Job, Depends(get_job)], tasks: Tasks) -> None:
    del jobs[name]
    for chunk in job.chunks:
        chunk.cancel()
    tasks.after_response.task(shield=True).schedule(job.remove)


def send(client: httpx.Client, chunks: int) -> str:
    answer = client.post("/files", content=bytes(chunks * CHUNK))
    log.info("a file of %d chunks: %d %s", chunks, answer.status_code, answer.text)
    return f"/files/{answer.json()}" if answer.is_success else ""


def follow(client: httpx.Client, file: str, most: int) -> None:
    with client.stream("GET", f"{file}/progress") as stream:
        events = (line for line in stream.iter_lines() if line.startswith("data"))
        for _, event in zip(range(most), events, strict=False):
            log.info("  %s", event)


def send_some(client: httpx.Client) -> None:
    follow(client, send(client, 5), 5)
    many = send(client, 30)
    send(client, 30)
    log.info("cancelled: %d", client.delete(many).status_code)
    follow(client, send(client, 16), 2)


def follow_the_rest(client: httpx.Client) -> None:
    for name in client.get("/files").json():
        follow(client, f"/files/{name}", 16)


def serve(visit: Callable[[httpx.Client], None]) -> None:
    """Serve a client, which runs in a thread, and stop when the client has ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = "http://{}:{}".format(*listener.getsockname())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))

    def run() -> None:
        with suppress(httpx.TransportError), httpx.Client(base_url=url, trust_env=False) as client:  # after Ctrl-C
            visit(client)
        server.should_exit = True

    threading.Thread(target=run).start()
    server.run([listener])


if __name__ == "__main__":
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        app.state.folder = Path(folder)
        serve(send_some)
        serve(follow_the_rest)
