"""A stream of tokens, as a language model makes them. The bill counts the tokens that were sent, until a reader leaves.

    uvicorn token_stream:app --app-dir examples        serves the app
    python examples/token_stream.py                    serves three readers; two do not get all tokens

The bill is a task. It is scheduled before the first token, and starts when the request is over: because the stream has
ended, the reader has left, the model has failed, or the server has stopped.
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
    """The cost of one answer so far. The key makes one bill, also if the bill is sent several times."""

    customer: str
    tokens: int = 0
    key: str = field(default_factory=lambda: uuid4().hex)


class Ledger:
    """Stands for the billing service. It books one bill for each key, and loses its first answer for a key."""

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
            # After the `yield`: then the server has taken the token. A server takes tokens also for a reader that has
            # left. The stream is cancelled while `generate` awaits the model.
            usage.tokens += 1


async def get_closing() -> AsyncGenerator[AsyncExitStack]:
    """Close the stream at the end of the request, before the bill: Starlette leaves a stream open that breaks off."""
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
    # The task gets the object, not the number: the number is known only when the request is over.
    billing = tasks.task(name="bill", shield=True, timeout=5, retry=again)
    billing.after_response.schedule(ledger.charge, usage)
    tokens = await closing.enter_async_context(aclosing(metered(generate(prompt), usage)))
    return StreamingResponse(tokens, media_type="text/event-stream")


def read(url: str, customer: str, max_tokens: int, leave_after: int) -> None:
    got = 0
    prompt = {"text": "it was a dark and stormy night", "max_tokens": max_tokens}
    answering = httpx.stream("POST", url, json=prompt, headers={"customer": customer}, trust_env=False)
    with suppress(httpx.TransportError), answering as answer:  # the server may cut the stream off
        for line in answer.iter_lines():
            got += line.startswith("data: ")
            if got == leave_after:
                break
    log.info("%s has %d tokens", customer, got)


def main() -> None:
    """Serve three readers at a time, and stop while one of them still reads."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = "http://{}:{}/completions".format(*listener.getsockname())
    # At shutdown the server gives streams one second, then cuts them off, and logs a long error.
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
