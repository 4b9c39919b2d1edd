"""What a queue must not do: block the event loop, or connect in its constructor."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

import anyio

# Seconds. A queue that blocks waits for a timeout of its driver. A busy machine needs much less.
_LONGEST_STALL = 0.5


@asynccontextmanager
async def loop_goes_on() -> AsyncGenerator[None]:
    """Check that nothing inside this block blocks the event loop.

    :raises AssertionError: at the end
    """
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        last = monotonic()
        while True:
            await anyio.sleep(0.01)
            last, before = monotonic(), last
            longest = max(longest, last - before)

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        yield
        group.cancel_scope.cancel()
    assert longest < _LONGEST_STALL, f"the queue has blocked the event loop for {longest:.1f} s"


@contextmanager
def nothing_opens() -> Generator[None]:
    """Check that no code inside this block connects a socket or starts a thread.

    :raises AssertionError: at the end
    """
    connected: list[object] = []
    before = set(threading.enumerate())
    plain: Any = socket.socket
    originals = {name: getattr(plain, name) for name in ("connect", "connect_ex")}

    def record(name: str) -> Any:
        def connect(self: socket.socket, address: object) -> Any:
            connected.append(address)
            return originals[name](self, address)

        return connect

    for name in originals:
        setattr(plain, name, record(name))
    try:
        yield
    finally:
        for name in originals:
            delattr(plain, name)
    assert not connected, "the constructor of the queue has connected a socket: connect in open()"
    threads = {thread.name for thread in set(threading.enumerate()) - before}
    assert not threads, f"the constructor of the queue has started threads: {', '.join(sorted(threads))}"
