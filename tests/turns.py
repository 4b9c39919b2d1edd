"""Waiting without time: by turns of the event loop."""

from __future__ import annotations

from collections.abc import Callable

from anyio.lowlevel import checkpoint

# More than anything in the tests needs to come to rest that does not wait for a timer, a thread or a socket.
ENOUGH = 25


async def turns(count: int = ENOUGH) -> None:
    """Give every task that can run `count` turns, also to cancellations that are on their way."""
    for _ in range(count):
        await checkpoint()


async def until(condition: Callable[[], object]) -> None:
    """Make checkpoints until `condition()` is true. The test's own time limit bounds it."""
    while not condition():
        await checkpoint()
