"""Orders: what has to end although the server stops, what may wait for the response, what runs on failure only.

    uvicorn order_service:app --app-dir examples       to serve it
    python examples/order_service.py                   to have it serve a few orders, stop, and show its books

The database is opened and closed in the app's lifespan. The host is drained in between, so a payment that is still
being retried when the server stops finds it open.
"""

import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from fastapi_tasks import Task, Tasks, add_tasks, retry


class Order(BaseModel):
    """What a customer sends."""

    number: int
    item: str
    count: int = 1


class BankUnavailableError(Exception):
    """The bank does not answer; it may in a moment."""


class Database:
    """Stands for a pool of connections: whoever uses it while it is closed has a bug."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self._is_open = False

    def open(self) -> None:
        """Open the pool."""
        self._is_open = True
        self.rows.append("database opened")

    def close(self) -> None:
        """Close the pool."""
        self.rows.append("database closed")
        self._is_open = False

    async def write(self, row: str) -> None:
        """Add a row."""
        if not self._is_open:
            raise RuntimeError(f"the database is closed, and {row!r} is lost")
        await anyio.sleep(0.01)
        self.rows.append(row)


class Bank:
    """Fails twice for each order. An order is charged once, however often it is asked for."""

    def __init__(self) -> None:
        self._outages: dict[int, int] = {}

    async def charge(self, order: int) -> None:
        """Charge an order, by its number.

        :raises BankUnavailableError: if it cannot be done now
        """
        await anyio.sleep(0.02)
        outages = self._outages[order] = self._outages.get(order, 0) + 1
        if outages <= 2:
            raise BankUnavailableError(f"order {order} was not charged")


database = Database()
bank = Bank()
stock = {"bicycle": 2, "bell": 100}


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    database.open()
    yield
    database.close()


app = FastAPI(title="Orders", lifespan=lifespan)
# Shielded work has 20 seconds to end, which the supervisor of the server has to grant it, too.
add_tasks(app, shield_timeout=20)

charge_again = retry(attempts=4, on=(BankUnavailableError, TimeoutError), backoff=0.1, jitter=False)


async def charge(order: Order) -> None:
    await bank.charge(order.number)
    await database.write(f"order {order.number} is paid")


async def publish_stock(item: str, left: int) -> None:
    await database.write(f"stock of {item}: {left}")


async def send_mail(order: Order) -> None:
    await database.write(f"order {order.number} is confirmed by mail")


async def audit(order: Order) -> None:
    await database.write(f"order {order.number} was refused")


async def not_sent(task: Task, error: Exception) -> None:
    await database.write(f"{task.name} failed: {error}")


@app.post("/orders", status_code=202)
async def place(order: Order, tasks: Tasks) -> dict[str, str]:
    # First of all, because what follows may raise: then, and only then, this runs.
    tasks.after_response.task(name="audit", when="failure", shield=True).schedule(audit, order)

    left = stock.get(order.item, 0) - order.count
    if left < 0:
        raise HTTPException(409, f"not enough in stock: {order.item}")
    stock[order.item] = left

    # Begins when the order is known to be good, and ends whatever happens to the server.
    payment = tasks.task(name=f"charge {order.number}", shield=True, timeout=5, on_error=charge_again)
    payment.after_route.schedule(charge, order)
    # Has begun before the customer hears of it.
    tasks.after_route.task(name="publish stock").schedule(publish_stock, order.item, left)
    # Nobody waits for this.
    tasks.after_response.task(name="mail", on_error=not_sent).schedule(send_mail, order)
    return {"status": "accepted"}


async def main() -> None:
    """Serve three orders, stop while payments are being retried, and show what was written when."""
    import socket

    import httpx
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    url = "http://{}:{}".format(*listener.getsockname())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            tg.start_soon(server.serve, [listener])
            for number in (1, 2, 3):
                answer = await client.post("/orders", json={"number": number, "item": "bicycle"})
                print(f"order {number}: {answer.status_code} {answer.text}")
            server.should_exit = True
            print("the server is told to stop")
    print(*database.rows, sep="\n")
    check(database.rows)


def check(rows: list[str]) -> None:
    """Exit with a message unless the books are as they should be."""
    wanted = ["order 1 is paid", "order 2 is paid", "order 3 was refused", "stock of bicycle: 0"]
    if rows[-1] != "database closed" or not set(wanted) <= set(rows):
        sys.exit("the books are wrong")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="  log: %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    anyio.run(main)
