"""Tokens: streamed as a language model makes them, and billed for as many as were sent, whoever left in the middle.

    uvicorn token_stream:app --app-dir examples        to serve it
    python examples/token_stream.py                    to have it serve three readers, two of whom do not get all

The bill is a task that is scheduled before the first token and starts when the request is over. It does not matter how
that came about: the stream has ended, the reader has left, the model has failed, or the server has been stopped.
"""

import json
import logging
import socket
import sys
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Annotated
from uuid import uuid4

import anyio
import httpx
import uvicorn
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from fastapi_tasks import Tasks, add_tasks, retry

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
log = logging.getLogger("tokens")


@dataclass
class Usage:
    """What one answer has cost so far. The key makes one bill of it, however often the bill is sent."""

    customer: str
    tokens: int = 0
    key: str = field(default_factory=lambda: uuid4().hex)


class Ledger:
    """Stands for the billing service: it books a bill, fails to say so the first time, and knows a key again."""

    def __init__(self) -> None:
        self.bills: dict[str, tuple[str, int]] = {}

    async def charge(self, usage: Usage) -> None:
        """Book a bill, once for each key."""
        await anyio.sleep(0.02)
        is_new = usage.key not in self.bills
        self.bills[usage.key] = usage.customer, usage.tokens
        if is_new:
            raise ConnectionError("no answer from billing")
        log.info("billed: %s, %d tokens", usage.customer, usage.tokens)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[dict[str, Ledger]]:
    yield {"ledger": Ledger()}
    log.info("ledger closed")


def get_ledger(request: Request) -> Ledger:
    ledger: Ledger = request.state.ledger
    return ledger


app = FastAPI(title="Tokens", lifespan=lifespan)
add_tasks(app, shield_timeout=20)

again = retry(attempts=5, on=(ConnectionError, TimeoutError), backoff=0.05)


class Prompt(BaseModel):
    """What a customer sends."""

    text: str
    max_tokens: int = Field(30, gt=0, le=1000)  # an endless stream would keep the server from shutting down


async def generate(prompt: Prompt) -> AsyncGenerator[str]:
    """Stand for the model."""
    words = prompt.text.split()
    for number in range(prompt.max_tokens):
        await anyio.sleep(0.02)
        yield words[number % len(words)] if words else "?"


async def metered(tokens: AsyncGenerator[str], usage: Usage) -> AsyncGenerator[str]:
    async with aclosing(tokens):
        async for token in tokens:
            yield f"data: {json.dumps(token)}\n\n"
            # Behind the `yield`, so only when the server has taken the token. A server takes them for a reader that has
            # left, too: it is where `generate` awaits the model that the stream is cancelled then.
            usage.tokens += 1


async def get_closing() -> AsyncGenerator[AsyncExitStack]:
    """Close at the end of the request, before the bill: Starlette leaves a stream that breaks off as it is."""
    async with AsyncExitStack() as closing:
        yield closing


@app.post("/completions")
async def complete(
    prompt: Prompt,
    customer: Annotated[str, Header()],
    tasks: Tasks,
    ledger: Annotated[Ledger, Depends(get_ledger)],
    closing: Annotated[AsyncExitStack, Depends(get_closing)],
) -> StreamingResponse:
    usage = Usage(customer)
    # The task gets the object and not the number, which is known only when the request is over.
    billing = tasks.task(name="bill", shield=True, timeout=5, retry=again)
    billing.after_response.schedule(ledger.charge, usage)
    tokens = await closing.enter_async_context(aclosing(metered(generate(prompt), usage)))
    return StreamingResponse(tokens, media_type="text/event-stream")


def read(url: str, customer: str, max_tokens: int, leave_after: int) -> None:
    got = 0
    prompt = {"text": "it was a dark and stormy night", "max_tokens": max_tokens}
    answering = httpx.stream("POST", url, json=prompt, headers={"customer": customer}, trust_env=False)
    with suppress(httpx.TransportError), answering as answer:  # it raises if the server cuts the stream off
        for line in answer.iter_lines():
            got += line.startswith("data: ")
            if got == leave_after:
                break
    log.info("%s has %d tokens", customer, got)


def main() -> None:
    """Serve three readers at a time, and stop while one of them still reads."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = "http://{}:{}/completions".format(*listener.getsockname())
    # When the server stops it gives streams a second, then cuts them off. (That it logs as an error, at length.)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))

    def visit() -> None:
        with ThreadPoolExecutor() as readers:
            brief = [readers.submit(read, url, "ada", 30, 30), readers.submit(read, url, "bob", 1000, 10)]
            readers.submit(read, url, "eve", 1000, 1000)
            wait(brief)
            server.should_exit = True

    threading.Thread(target=visit).start()
    with suppress(KeyboardInterrupt):  # uvicorn raises it when the app has shut down
        server.run([listener])


if __name__ == "__main__":
    logging.getLogger("httpx").setLevel(logging.WARNING)
    main()
