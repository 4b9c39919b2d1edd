"""Orders: a payment that ends before the server stops, mail after the response, and a note about refused orders.

    uvicorn order_service:app --app-dir examples       serves the app
    python examples/order_service.py                   serves a few orders, and stops

The app's lifespan opens and closes the books. Tasks end before the lifespan does, so a payment that is retried during
the shutdown finds the books open.
"""

import logging
import socket
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import anyio
import httpx
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from fastapi_tasks import Tasks, add_tasks, retry

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
log = logging.getLogger("orders")


class BankUnavailableError(Exception):
    """No answer came. The charge may be booked, or not."""


class Shop:
    """Stands for a database, and for a bank, which books one charge for each key, and loses its first answer for it."""

    def __init__(self) -> None:
        self.stock = {"bicycle": 2, "bell": 100}
        self.orders: set[int] = set()
        self.books: list[str] = []
        self.charges: dict[str, int] = {}  # by idempotency key
        self._is_closed = False

    async def charge(self, number: int, *, key: str) -> None:
        """Ask the bank for the money, and book it."""
        await anyio.sleep(0.02)
        is_new = key not in self.charges
        self.charges[key] = number
        if is_new:
            raise BankUnavailableError(f"no answer about order {number}")
        await self.book(f"order {number} is paid")

    async def book(self, row: str) -> None:
        """Write a row. Raises if the books are closed."""
        await anyio.sleep(0.01)
        if self._is_closed:
            raise RuntimeError("the database is closed")
        self.books.append(row)
        log.info(row)

    def close(self) -> None:
        """Close the books."""
        self._is_closed = True
        log.info("database closed")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[dict[str, Shop]]:
    shop = Shop()
    yield {"shop": shop}
    shop.close()  # all tasks have ended


def get_shop(request: Request) -> Shop:
    shop: Shop = request.state.shop
    return shop


app = FastAPI(title="Orders", lifespan=lifespan)
# Shielded tasks have 20 seconds to end. The supervisor of the server must wait longer before it sends SIGKILL.
add_tasks(app, shield_timeout=20)

again = retry(attempts=4, on=(BankUnavailableError, TimeoutError), backoff=0.2)


class Order(BaseModel):
    """What a customer sends."""

    item: str
    count: int = Field(1, gt=0)


@app.put("/orders/{number}", status_code=202)
async def place(number: int, order: Order, tasks: Tasks, shop: Annotated[Shop, Depends(get_shop)]) -> str:
    # First, before code that may raise: this task runs only if the route raises.
    tasks.after_response.task(when="failure", shield=True).schedule(shop.book, f"order {number} was refused")

    if number in shop.orders:
        return "accepted"  # the customer has asked again: the tasks are scheduled already
    if shop.stock.get(order.item, 0) < order.count:
        raise HTTPException(409, f"not enough in stock: {order.item}")
    shop.orders.add(number)
    shop.stock[order.item] -= order.count

    # Begins when the route has succeeded, and ends before the server stops. Each attempt sends the same key: the charge
    # of an earlier attempt may be booked, although no answer came.
    payment = tasks.task(name=f"charge {number}", shield=True, timeout=5, retry=again)
    payment.after_route.schedule(shop.charge, number, key=f"order-{number}")
    # The customer does not wait for the mail. A shutdown waits for one second.
    tasks.after_response.task(name="mail", shield=1).schedule(shop.book, f"order {number} is confirmed by mail")
    return "accepted"


def order_bicycles(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as client:
        for number in (1, 2, 2, 3):
            answer = client.put(f"/orders/{number}", json={"item": "bicycle"})
            log.info("customer: order %d: %d %s", number, answer.status_code, answer.text)


def main() -> None:
    """Serve a customer, whose client is a thread, and stop while payments are retried."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))

    def visit() -> None:
        with suppress(httpx.TransportError):  # after Ctrl-C
            order_bicycles("http://{}:{}".format(*listener.getsockname()))
        server.should_exit = True

    threading.Thread(target=visit).start()
    with suppress(KeyboardInterrupt):  # uvicorn raises it when the app has shut down
        server.run([listener])


if __name__ == "__main__":
    logging.getLogger("httpx").setLevel(logging.WARNING)
    main()
