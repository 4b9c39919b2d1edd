"""A queue for tests of all that watches tasks: it publishes into a list, fails, or hangs, as its test says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio

from taskphase.queues import Call, Queue


class Refusal(Exception):
    """The queue surely does not have the call."""


class ListQueue(Queue):
    """Publishes into a list.

    :ivar published: the call and the headers of each attempt to publish that has succeeded
    :ivar errors: an exception for each of the next attempts
    :ivar go_on: if it is set to an event, an attempt waits for it
    """

    def __init__(self, name: str, functions: Any, *, system: str | None = None, **settings: Any) -> None:
        super().__init__(name, functions, **settings)
        self.system = system
        self.published: list[tuple[Call, dict[str, str]]] = []
        self.errors: list[Exception] = []
        self.go_on: anyio.Event | None = None

    def prepare(self, call: Call, /) -> Call:
        return call

    async def publish(self, prepared: Call, headers: Mapping[str, str], /) -> None:
        if self.go_on is not None:
            await self.go_on.wait()
        if self.errors:  # at once: an attempt that the deadline cuts off is unknown, and not refused
            raise self.errors.pop(0)
        await anyio.lowlevel.checkpoint()
        self.published.append((prepared, dict(headers)))

    def refused(self, error: Exception, /) -> bool:
        return isinstance(error, Refusal)


class DownQueue(ListQueue):
    """Refuses each call, and gives up after a moment."""

    def __init__(self, name: str, functions: Any, **settings: Any) -> None:
        super().__init__(name, functions, **{"deadline": 0.05, **settings})

    async def publish(self, prepared: Call, headers: Mapping[str, str], /) -> None:
        raise Refusal


async def send_mail(order: int = 7) -> None:
    """A function at the top of a module, for queues."""
    await anyio.lowlevel.checkpoint()


def write_file(order: int = 7) -> None:
    """A sync function at the top of a module, for queues."""
