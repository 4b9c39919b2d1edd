"""A file of the request: FastAPI closes it when the request is over, so before after_response tasks start.

The recipe and the table are in docs/how-to/files.md: read the bytes, or copy the file, in the route.
"""

import threading

import anyio
import pytest
from fastapi import BackgroundTasks, FastAPI, UploadFile
from fastapi.testclient import TestClient
from tests.repo.test_docs import ROOT, executed, programs

from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.testing import record_tasks

SIZES = [10, 3_000_000]  # starlette keeps the first in memory, and the second on the disk

app = FastAPI()
add_tasks(app, drain_timeout=5)

response_is_out = threading.Event()
background_read: list[int] = []


async def read(upload: UploadFile, *, late: bool = False) -> int:
    if late:
        await anyio.to_thread.run_sync(response_is_out.wait)
    return len(await upload.read())


def read_in_a_thread(upload: UploadFile, *, late: bool = False) -> int:
    if late:
        response_is_out.wait()
    return len(upload.file.read())


FUNCTIONS = {"async": read, "sync": read_in_a_thread}


@app.post("/{kind}/awaited")
async def wait_for_it(kind: str, upload: UploadFile, tasks: Tasks) -> int:
    return await tasks.schedule(FUNCTIONS[kind], upload)


@app.post("/{kind}/immediate")
async def do_not_wait(kind: str, upload: UploadFile, tasks: Tasks) -> None:
    tasks.schedule(FUNCTIONS[kind], upload, late=True)


@app.post("/{kind}/after_route")
async def begin_after_the_route(kind: str, upload: UploadFile, tasks: Tasks) -> None:
    tasks.after_route.schedule(FUNCTIONS[kind], upload, late=True)


@app.post("/{kind}/after_response")
def begin_after_the_response(kind: str, upload: UploadFile, tasks: Tasks) -> None:
    tasks.after_response.task(shield=True).schedule(FUNCTIONS[kind], upload)


@app.post("/background")
async def use_background_tasks(upload: UploadFile, background: BackgroundTasks) -> None:
    async def keep() -> None:
        background_read.append(await read(upload))

    background.add_task(keep)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_upload_is_open_only_until_the_request_is_over(backend: str, kind: str, size: int) -> None:
    files = {"upload": b"x" * size}
    with TestClient(app, backend=backend) as client:
        assert client.post(f"/{kind}/awaited", files=files).json() == size
        background_read.clear()
        client.post("/background", files=files)
        assert background_read == [size]
        for phase in ("immediate", "after_route", "after_response"):
            response_is_out.clear()
            with record_tasks(app) as tasks:
                tasks.expect_failure(ValueError, match="closed file")
                client.post(f"/{kind}/{phase}", files=files)  # TestClient returns when the app's call does
                response_is_out.set()
                tasks.wait_all()
                assert tasks.failed.one().phase == phase


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_copy_made_in_the_route_has_every_byte_and_is_closed(backend: str, size: int, capsys) -> None:
    [program] = programs(ROOT / "docs/how-to/files.md")
    with (
        executed(program) as module,
        record_tasks(module.app) as tasks,
        TestClient(module.app, backend=backend) as client,
    ):
        client.post("/videos", files={"video": b"x" * size})
        client.post("/pictures", files={"picture": b"x" * size})
        tasks.wait_all()
        assert all(task.args[0].closed for task in tasks.succeeded)
    printed = sorted(capsys.readouterr().out.splitlines())
    assert printed == [f"a picture of {size} bytes", f"a video of {size} bytes"]
