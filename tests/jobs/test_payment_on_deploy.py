"""A deploy waits for a payment that has begun, and not for a recommendation; the pool is open until the payment is in.

`shield=True` is all it takes, with a `shield_timeout` as the bound. `drain_timeout` stays 0: in that time
recommendations would be waited for, too. docs/shutdown.md has more, and the timeouts of the server that have to fit.
"""

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI
from tests.servers.harness import SERVERS, Server, record

from fastapi_tasks import Tasks, add_tasks, current_host


class Pool:
    is_open = True


pool = Pool()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    yield
    pool.is_open = False  # every task has ended
    record("closed", "pool")


app = FastAPI(lifespan=lifespan)
add_tasks(app, shield_timeout=20)


async def charge(order: int) -> None:
    record("begun", f"payment-{order}")
    await current_host().closing.wait()  # only for the test: the rest then runs while the server stops
    await anyio.sleep(0.3)  # the bank takes its time
    record("booked" if pool.is_open else "lost", f"payment-{order}")


async def recommend(order: int) -> None:
    record("begun", f"recommendation-{order}")
    try:
        await anyio.sleep_forever()
    finally:
        record("over", f"recommendation-{order}")


@app.post("/orders/{order}", status_code=202)
async def place(order: int, tasks: Tasks) -> None:
    tasks.task(name=f"charge {order}", shield=True).after_response.schedule(charge, order)
    tasks.after_response.schedule(recommend, order)


@app.get("/ready")
async def ready() -> None:
    """Tell the harness that the server is up."""


def test_at_a_stop_of_the_server_a_payment_ends_and_a_recommendation_does_not() -> None:
    uvicorn = SERVERS[0]
    with Server(uvicorn, "tests.jobs.test_payment_on_deploy:app") as server:
        server.post("/orders/7").raise_for_status()
        server.wait_for("begun payment-7", "begun recommendation-7")
        server.term()
        assert server.wait() == -signal.SIGTERM  # uvicorn raises it again when the app has shut down
        ends = [str(line) for line in server.journal() if line.event != "begun"]
    assert ends == ["over recommendation-7", "booked payment-7", "closed pool"]
