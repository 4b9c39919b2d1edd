"""Images: two are resized at a time, twenty wait, one more is refused with a 503; and /health shows the counts.

`max_running` is what makes a line, and `max_pending` its length; `max_threads` would not refuse anybody. Immediate
tasks, because one of a later phase would count as pending until its response is out: docs/limits.md. What
computes without releasing the interpreter's lock belongs into a process: docs/faq.md.
"""

import math
import threading

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from fastapi_tasks import Tasks, TasksSaturatedError, add_tasks, current_host
from fastapi_tasks.testing import record_tasks

AT_A_TIME = 2
SECONDS_EACH = 0.5  # as measured in a real app

app = FastAPI()
add_tasks(app, max_running=AT_A_TIME, max_pending=20, shield_timeout=20)


@app.exception_handler(TasksSaturatedError)
async def busy(_request: Request, error: TasksSaturatedError) -> JSONResponse:
    ahead = error.running + error.waiting + error.deferred
    seconds = math.ceil(ahead * SECONDS_EACH / AT_A_TIME)
    return JSONResponse({"detail": "too many images"}, 503, {"Retry-After": str(seconds)})


@app.post("/images/{number}", status_code=202)
async def accept(number: int, tasks: Tasks) -> None:
    tasks.schedule(resize, number)


@app.get("/health")
async def health() -> dict[str, int]:
    now = current_host().statistics()
    return {"running": now.running, "waiting": now.waiting, "succeeded": now.succeeded, "failed": now.failed}


resized: list[int] = []
processors = threading.BoundedSemaphore(AT_A_TIME)
go_on = threading.Event()


def resize(number: int) -> None:
    assert processors.acquire(blocking=False), "one too many at a time"
    assert go_on.wait(10)
    resized.append(number)
    processors.release()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_images_are_resized_twenty_wait_and_the_next_is_refused(backend) -> None:
    resized.clear()
    go_on.clear()
    with record_tasks(app) as tasks, TestClient(app, backend=backend) as client:
        answers = [client.post(f"/images/{number}") for number in range(1, 24)]
        assert [answer.status_code for answer in answers] == [202] * 22 + [503]
        assert answers[-1].headers["Retry-After"] == "6"
        assert len(tasks.immediate) == len(tasks) == 22
        assert client.get("/health").json() == {"running": 2, "waiting": 20, "succeeded": 0, "failed": 0}
        go_on.set()
        tasks.wait_all()
        assert client.get("/health").json() == {"running": 0, "waiting": 0, "succeeded": 22, "failed": 0}
        assert client.post("/images/23").status_code == 202
        tasks.wait_all()
    assert sorted(resized) == list(range(1, 24))
