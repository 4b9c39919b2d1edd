"""What a queue must not do: block the event loop, or connect in its constructor."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from time import monotonic
from typing import Any
from unittest.mock import patch

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
    """Check that no code inside this block connects a socket or starts a thread. Other threads may do both: trio in
    guest mode starts threads at any time.

    :raises AssertionError: at the end
    """
    connected: list[Any] = []
    started: list[Any] = []
    with (
        _noting(socket.socket, "connect", connected),
        _noting(socket.socket, "connect_ex", connected),
        _noting(threading.Thread, "start", started),
    ):
        yield
    assert not connected, "the constructor of the queue has connected a socket: connect in open()"
    threads = ", ".join(sorted(thread.name for thread in started))
    assert not threads, f"the constructor of the queue has started threads: {threads}"


def _noting(kind: Any, name: str, notes: list[Any]) -> AbstractContextManager[object]:
    """Note each object of the class `kind` whose method `name` is called in this thread."""
    thread, original = threading.get_ident(), getattr(kind, name)

    def note(self: Any, *args: Any) -> Any:
        if threading.get_ident() == thread:
            notes.append(self)
        return original(self, *args)

    return patch.object(kind, name, note)
