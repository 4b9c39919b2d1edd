"""An app with tasks in every phase, a shielded task, a task that fails, and a task in a thread.

    python examples/quickstart.py [port]       then open http://127.0.0.1:8000/docs

The log has every step. `demo.py` runs this app under uvicorn, and shows the steps with their times.
"""

import logging
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from fastapi_tasks import Task, Tasks, add_tasks, retry

logging.basicConfig(level=logging.INFO, format="%(asctime)s.%(msecs)03d  %(message)s", datefmt="%H:%M:%S")
log = logging.getLogger("quickstart")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    log.info("lifespan: database opened")
    yield
    log.info("lifespan: database closed")


app = FastAPI(title="Quickstart", lifespan=lifespan)
add_tasks(app, shield_timeout=10)


# One task in each phase.


async def find_avatar(email: str) -> None:
    log.info("immediate: looking for the avatar of %s", email)
    await anyio.sleep(0.05)
    log.info("immediate: avatar found")


async def count(event: str) -> None:
    log.info("after_route: counted %s", event)


async def send_welcome(email: str) -> None:
    log.info("after_response: writing to %s", email)
    await anyio.sleep(0.2)
    log.info("after_response: mail sent")


@app.post("/users")
async def create_user(email: str, tasks: Tasks) -> dict[str, str]:
    tasks.schedule(find_avatar, email)
    tasks.after_route.schedule(count, "user_created")
    tasks.after_response.schedule(send_welcome, email)
    log.info("route: storing the user")
    await anyio.sleep(0.1)
    log.info("route: returns")
    return {"email": email}


# A response that takes long: it is over when its last chunk is sent.


async def audit(what: str) -> None:
    log.info("after_response: audited %s", what)


@app.get("/export")
async def export(tasks: Tasks) -> StreamingResponse:
    async def rows() -> AsyncIterator[str]:
        for number in range(3):
            await anyio.sleep(0.1)
            log.info("stream: row %d", number)
            yield f"row {number}\n"

    tasks.after_route.schedule(count, "export_begun")
    tasks.after_response.schedule(audit, "export")
    return StreamingResponse(rows(), media_type="text/plain")


# A sync function runs in a thread. A failure goes to its handler, and into the log.


def shrink_picture(name: str) -> None:
    log.info("thread: shrinking %s", name)
    time.sleep(0.15)  # only this thread waits
    log.info("thread: %s is small", name)


async def fetch_contacts(source: str) -> None:
    await anyio.sleep(0.05)
    raise ConnectionError(f"{source} does not answer")


async def tell(task: Task, error: Exception) -> None:
    log.info("handler: %s is given up: %s", task.name, error)


@app.post("/imports")
def begin_import(tasks: Tasks) -> dict[str, str]:
    tasks.schedule(shrink_picture, "portrait.png")
    twice = retry(attempts=2, backoff=0.1, jitter=False)
    tasks.task(name="fetch contacts", retry=twice, on_error=tell).schedule(fetch_contacts, "ldap")
    return {"status": "begun"}


# A shutdown waits for the shielded task, and cancels the other one.


async def settle(payment: int) -> None:
    for step in ("reserved", "booked", "confirmed"):
        log.info("shielded: payment %d is being %s", payment, step)
        await anyio.sleep(0.4)
    log.info("shielded: payment %d settled", payment)


async def recommend(payment: int) -> None:
    log.info("unshielded: recommendations for the buyer of %d", payment)
    try:
        await anyio.sleep(60)
    except anyio.get_cancelled_exc_class():
        log.info("unshielded: cancelled")
        raise


@app.post("/payments/{payment}", status_code=202)
async def pay(payment: int, tasks: Tasks) -> dict[str, int]:
    tasks.after_response.task(name="settle", shield=True).schedule(settle, payment)
    tasks.after_response.task(name="recommend").schedule(recommend, payment)
    return {"payment": payment}


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
