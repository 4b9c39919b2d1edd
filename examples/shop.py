"""A shop: the everyday background jobs of a web app, each of them a task.

ADMIN_TOKEN=secret uvicorn shop:app --app-dir examples
"""

import fcntl
import hashlib
import logging
import os
import secrets
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

import anyio
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response, UploadFile, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.middleware.base import RequestResponseEndpoint

from fastapi_tasks import Limit, Task, TaskConfig, Tasks, add_tasks, current_host, retry

FOLDER = Path()  # of all files
ADMIN_TOKEN = os.environ.get("ADMIN_TOKEN") or secrets.token_hex()  # without the variable, nobody knows the token
CLEAN_UP_EVERY = 3600  # seconds
log = logging.getLogger("shop")
request_id = ContextVar("request_id", default="-")
sockets: dict[str, set[WebSocket]] = {}  # by customer


async def session() -> AsyncGenerator[sqlite3.Connection]:
    with closing(sqlite3.connect(FOLDER / "shop.db")) as db, db:  # commits, or rolls back after an exception
        yield db


own_session = asynccontextmanager(session)  # for tasks
# For endpoints: commits before the response.
Session = Annotated[sqlite3.Connection, Depends(session, scope="function")]


async def ask_bank(order: int) -> None:  # stands for a payment service
    log.info("charging order %d", order)
    await anyio.sleep(1)


async def send_mail(customer: str, text: str) -> None:  # stands for a mail server
    log.info("mail to %s: %s", customer, text)


async def track(task: Task[Any], error: Exception) -> None:  # stands for an error tracker
    log.error("to the tracker: %s failed in attempt %d: %r", task.function, task.attempt, error)


async def charge(order: int, customer: str) -> None:
    await ask_bank(order)
    async with own_session() as db:
        count = db.execute("UPDATE orders SET paid = 1 WHERE number = ?", [order]).rowcount
    log.info("order %d is paid: %d row", order, count)
    for socket in sockets.get(customer, ()):
        current_host().task(timeout=5).schedule(socket.send_text, f"order {order} is paid")


async def remind(order: int, customer: str) -> None:
    async with own_session() as db:
        [paid] = db.execute("SELECT paid FROM orders WHERE number = ?", [order]).fetchone()
    if not paid:
        await send_mail(customer, f"please pay for order {order}")


def shrink(picture: Path) -> None:  # CPU work, so a `def`, which runs in a thread
    picture.with_suffix(".small").write_bytes(hashlib.pbkdf2_hmac("sha256", picture.read_bytes(), b"", 10_000))


async def compute_offers() -> None:
    await anyio.sleep(1)
    log.info("the offers are computed")


async def clean_up_hourly() -> None:
    is_closing = current_host().closing
    with (FOLDER / "clean-up.lock").open("w") as lock:
        while not is_closing.is_set():
            with suppress(BlockingIOError):  # another process has the lock, until that process ends
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                async with own_session() as db:
                    log.info("cleaned up: %d", db.execute("DELETE FROM orders WHERE customer = 'test'").rowcount)
            with anyio.move_on_after(CLEAN_UP_EVERY):
                await is_closing.wait()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    async with own_session() as db:
        db.execute("CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, customer TEXT, paid INTEGER)")
    current_host().task(shield=10).schedule(clean_up_hourly)
    yield
    log.info("the shop is closed")  # all tasks have ended


def add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True


handler = logging.StreamHandler()
handler.addFilter(add_request_id)
logging.basicConfig(format="[%(request_id)s] %(message)s", level=logging.INFO, handlers=[handler])

app = FastAPI(title="Shop", lifespan=lifespan)
add_tasks(app, config=TaskConfig(on_error=track), shield_timeout=20)
limits: WeakValueDictionary[str, Limit] = WeakValueDictionary()  # by customer; forgets a limit after its last task
again = retry(attempts=3, on=ConnectionError, backoff=0.1)
two_at_a_time = Limit(2)


@app.middleware("http")
async def set_request_id(request: Request, call_next: RequestResponseEndpoint) -> Response:
    request_id.set(request.headers.get("x-request-id") or secrets.token_hex(4))
    return await call_next(request)


@app.post("/orders", status_code=202)
async def order(customer: str, db: Session, tasks: Tasks) -> int:
    number = db.execute("INSERT INTO orders (customer, paid) VALUES (?, 0)", [customer]).lastrowid or 0
    later = tasks.after_response  # the row is committed then
    later.task(shield=True, timeout=10, limit=limits.setdefault(customer, Limit(1))).schedule(charge, number, customer)
    later.task(retry=again).schedule(send_mail, customer, f"thanks for order {number}")
    later.task(delay=timedelta(minutes=10)).schedule(remind, number, customer)
    return number


@app.post("/pictures", status_code=202)
def upload(picture: UploadFile, tasks: Tasks) -> str:
    path = FOLDER / secrets.token_hex()
    path.write_bytes(picture.file.read())  # FastAPI closes the upload at the end of the request
    tasks.task(limit=two_at_a_time).schedule(shrink, path)
    return path.name


@app.post("/offers", status_code=202)
async def refresh_offers(tasks: Tasks) -> None:
    tasks.task(key="offers").schedule(compute_offers)  # while one is at work, the next ones are dropped


@app.get("/orders/{customer}")
async def stream(customer: str, tasks: Tasks, db: Session) -> StreamingResponse:
    rows = db.execute("SELECT number FROM orders WHERE customer = ?", [customer]).fetchall()
    sent: list[int] = []

    async def produce() -> AsyncIterator[str]:
        for [number] in rows:
            yield f"data: {number}\n\n"
            sent.append(number)  # the server has the row

    # Also if the client leaves.
    tasks.task(shield=True).after_response.schedule(log.info, "billed %s for %s", customer, sent)
    return StreamingResponse(produce(), media_type="text/event-stream")


@app.websocket("/notifications/{customer}")
async def notify(socket: WebSocket, customer: str) -> None:
    await socket.accept()
    sockets.setdefault(customer, set()).add(socket)
    try:
        async for _ in socket.iter_text():
            pass
    finally:
        sockets[customer].discard(socket)


@app.get("/metrics")
async def metrics() -> PlainTextResponse:
    now = current_host().statistics()
    counts = ("running", "waiting", "delayed", "limited", "retrying", "succeeded", "failed", "cancelled", "dropped")
    return PlainTextResponse("".join(f"tasks_{name} {getattr(now, name)}\n" for name in counts))


def check_token(x_token: Annotated[str, Header()]) -> None:
    if not secrets.compare_digest(x_token.encode(), ADMIN_TOKEN.encode()):
        raise HTTPException(403)


@app.get("/admin/tasks", dependencies=[Depends(check_token)])
async def list_tasks() -> list[dict[str, Any]]:
    names = ("id", "name", "phase", "status", "age", "attempt")
    return [{name: getattr(task, name) for name in names} for task in current_host().tasks()]


@app.delete("/admin/tasks/{number}", dependencies=[Depends(check_token)])
async def cancel_task(number: int) -> None:
    if (task := current_host().get(number)) is None:
        raise HTTPException(404)
    task.cancel()
