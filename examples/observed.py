"""An app that you can watch. The page of the inspector shows each request with its tasks, `/metrics` has metrics for
Prometheus, and the console has a line for each OpenTelemetry span of a task. A client keeps the app busy.

    python examples/observed.py            to serve the app on a free port until Ctrl-C; prints the address of the page
    python examples/observed.py 8000       the same on this port
    python examples/observed.py check      to make ten requests, read the page's data and the metrics, and end

The page has no guard here, because the server listens on this machine only. In production pass `dependencies`.
"""

import json
import logging
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import httpx
from fastapi import FastAPI, HTTPException, Response
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from fastapi_tasks import Limit, Tasks, add_tasks, current_host, current_task, inspector, retry
from fastapi_tasks.prometheus import PrometheusTasks

history = inspector.History(keep=1000, failures=200)
registry = CollectorRegistry()


def one_line(span: ReadableSpan) -> str:
    milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    return f"span {span.name}: {milliseconds:.0f} ms, {(span.attributes or {}).get('taskphase.task.outcome')}\n"


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=one_line)))

log = logging.getLogger("shop")
mails = Limit(2)  # the mail server takes two at a time


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    current_host().task(name="refresh the stock").schedule(refresh)
    yield


app = FastAPI(lifespan=lifespan)
add_tasks(
    app,
    observers=[history, PrometheusTasks(registry)],
    telemetry={"tracer_provider": provider},
    max_running=8,
)
app.include_router(inspector.router(history, prefix="/_tasks", allow_unauthenticated=True))


@app.get("/metrics")
def metrics() -> Response:
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def refresh() -> None:
    await anyio.sleep_forever()  # in a real app: fetch, then sleep for a minute, again and again


async def reserve(order: int) -> None:
    log.debug("reserve %d", order)
    await anyio.sleep(0.012)


async def charge(order: int) -> None:
    await anyio.sleep(0.03)
    if order % 11 == 0 or (order % 3 == 0 and current_task().attempt == 1):
        raise ConnectionError(f"the bank did not answer for order {order}")
    current_host().task(name=f"receipt of order {order}").schedule(write_receipt, order)
    await anyio.sleep(0.02)


def write_receipt(order: int) -> None:
    time.sleep(0.008)
    if order % 7 == 0:
        raise ValueError(f"order {order} has no address")


async def send_mail(order: int, to: str) -> None:
    log.debug("mail about %d to the %s", order, to)
    await anyio.sleep(0.04)


async def remind(order: int) -> None:
    log.debug("remind %d", order)
    await anyio.sleep(0.01)


async def tell_support(order: int) -> None:
    log.debug("tell_support %d", order)
    await anyio.sleep(0.02)


@app.post("/orders/{order}", status_code=202)
async def place(order: int, tasks: Tasks) -> dict[str, int]:
    tasks.task(name=f"reserve {order}").schedule(reserve, order)
    patient = retry(attempts=3, backoff=0.05, on=ConnectionError)
    tasks.task(retry=patient, shield=True).after_route.schedule(charge, order)
    for to in ("customer", "shop", "stock"):
        tasks.task(name=f"mail to the {to}", limit=mails).after_response.schedule(send_mail, order, to)
    tasks.task(delay=0.15).after_response.schedule(remind, order)
    tasks.task(when="failure").after_response.schedule(tell_support, order)
    await anyio.sleep(0.02)
    if order % 5 == 0:
        raise HTTPException(409, "sold out")
    return {"order": order}


async def shop(url: str, orders: range, pause: float) -> None:
    """Place one order after the other."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for order in orders:
            with suppress(httpx.TransportError):  # the server is about to end
                await client.post(f"/orders/{order}")
            await anyio.sleep(pause)


async def check(url: str) -> None:
    """Print how the tasks of ten requests have ended: as the page's data has it, and as the metrics have it."""
    await shop(url, range(1, 11), 0)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        picture: dict[str, Any] = {}
        while not picture or len(picture["alive"]) > 1:  # `refresh` never ends
            await anyio.sleep(0.05)
            picture = json.loads((await client.get("/_tasks/json")).text)
        counts = (await client.get("/metrics")).text
    for request in picture["requests"]:
        tasks = [task for task in picture["tasks"] if task["request"] == request["id"]]
        ends = sorted(task["status"] for task in tasks)
        print(f"{request['method']} {request['path']}: {', '.join(f'{ends.count(e)} {e}' for e in sorted(set(ends)))}")
    print("\n".join(line for line in counts.splitlines() if line.startswith("taskphase_tasks_ended_total")))


async def main(argument: str) -> None:
    """Serve the app, with a client."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", int(argument) if argument.isdecimal() else 0))
    url = "http://{}:{}".format(*listener.getsockname())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    async with anyio.create_task_group() as tg:

        async def serve() -> None:
            await server.serve([listener])
            tg.cancel_scope.cancel()

        tg.start_soon(serve)
        if argument == "check":
            await check(url)
            server.should_exit = True
        else:
            print(f"watch the tasks: {url}/_tasks/", flush=True)
            await shop(url, range(1, 1_000_000), 0.7)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # uvicorn raises it when the app has shut down
        anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "")
