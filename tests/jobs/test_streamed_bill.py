"""A streamed answer is billed by the sent rows, also if the client leaves in the middle or the stream fails.

The endpoint schedules the bill with an object in which the generator counts: see docs/faq.md, and
examples/token_stream.py for more.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from fastapi_tasks import Tasks, add_tasks
from fastapi_tasks.testing import record_tasks

app = FastAPI()
add_tasks(app, shield_timeout=20)

ROWS = 1000
bills: list[int] = []


@dataclass
class Usage:
    rows: int = 0


async def bill(usage: Usage) -> None:
    bills.append(usage.rows)


@app.get("/rows")
async def rows(tasks: Tasks, missing: int | None = None) -> StreamingResponse:
    usage = Usage()

    async def produce() -> AsyncIterator[str]:
        for row in range(ROWS):
            if row == missing:
                raise LookupError("a row is missing")
            yield f"{row}\n"
            usage.rows += 1  # behind the `yield`: the server has taken the row
            await checkpoint()  # here the generator is cancelled if the client has left

    tasks.task(shield=True).after_response.schedule(bill, usage)  # not the number, which is known only later
    return StreamingResponse(produce())


async def read(query: bytes = b"", leave_after: int = ROWS + 1) -> list[bytes]:
    """Request /rows as from uvicorn, which takes the messages for a client that has left and drops them."""
    got: list[bytes] = []
    left = anyio.Event()

    async def receive() -> dict[str, str]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message.get("body") and not left.is_set():
            got.append(message["body"])
            if len(got) == leave_after:
                left.set()

    asgi = {"version": "3.0", "spec_version": "2.3"}
    scope = {"type": "http", "asgi": asgi, "method": "GET", "path": "/rows", "query_string": query, "headers": []}
    await app(scope, receive, send)
    return got


async def test_a_bill_that_was_streamed_to_its_end_is_sent() -> None:
    bills.clear()
    with record_tasks(app) as tasks:
        got = await read()
        await tasks.await_all()
    assert bills == [len(got)] == [ROWS]


async def test_the_client_leaves_in_the_middle() -> None:
    bills.clear()
    with record_tasks(app) as tasks:
        got = await read(leave_after=5)
        await tasks.await_all()
        assert tasks.after_response.one().func is bill
    assert len(bills) == 1
    assert len(got) == 5 <= bills[0] <= 7  # the server took rows until the generator was cancelled


async def test_the_stream_breaks_off() -> None:
    bills.clear()
    with record_tasks(app) as tasks:
        with pytest.raises(LookupError):
            await read(b"missing=7")
        await tasks.await_all()
    assert bills == [7]
