"""Tasks in a plain asyncio program, without FastAPI: a worker that answers messages.

    python examples/plain_asyncio.py

Each message is a scope. Its tasks never delay its answer, and never break another message. Ctrl-C cancels unshielded
tasks, and waits for shielded ones.
"""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from taskphase import TaskHost, retry

_BEGAN = time.monotonic()


def say(text: str) -> None:
    print(f"{(time.monotonic() - _BEGAN) * 1000:5.0f} ms  {text}")


async def inbox() -> AsyncIterator[str]:
    for message in ("12", "not a number", "30"):
        yield message
        await asyncio.sleep(0.05)


async def answer(text: str) -> None:
    say(f"answer: {text}")


async def count(message: str) -> None:
    say(f"after_route: counted {message!r}")


async def archive(message: str) -> None:
    await asyncio.sleep(0.1)
    say(f"after_response: archived {message!r}")


async def complain(message: str) -> None:
    say(f"after_response, on failure only: {message!r} was no good")


def double(number: int) -> int:
    time.sleep(0.02)  # a sync function runs in a thread: the loop goes on
    return 2 * number


class Printer:
    """A printer that is jammed at first."""

    jams = 2

    async def print(self, title: str) -> str:
        """Print, or raise OSError."""
        if self.jams:
            self.jams -= 1
            raise OSError("paper jam")
        return f"{title}, on paper"


async def handle(host: TaskHost, message: str) -> None:
    async with host.scope() as tasks:
        # First, before code that may raise.
        tasks.after_response.task(when="failure").schedule(complain, message)
        async with tasks.route():
            doubled = tasks.schedule(double, int(message))
            tasks.after_route.schedule(count, message)
            tasks.after_response.task(shield=True).schedule(archive, message)
            result = await doubled
        await answer(str(result))


async def main() -> None:
    async with TaskHost(drain_timeout=1) as host:
        async for message in inbox():
            try:
                await handle(host, message)
            except ValueError as error:
                await answer(f"sorry: {error}")
        again = retry(attempts=5, on=OSError, backoff=0.01)
        report = host.task(name="report", retry=again).schedule(Printer().print, "report")
        say(await report)
        say(f"it took {report.attempt} attempts; what still runs gets a second to end")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="          log: %(message)s", stream=sys.stdout)
    with suppress(KeyboardInterrupt):  # asyncio cancels `main` first, and the host is closed on the way out
        asyncio.run(main())
    say("closed: nothing of it is alive")
