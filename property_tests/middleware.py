"""The middleware of random apps. Each middleware notes the messages that pass."""

from __future__ import annotations

import math
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from fastapi.responses import PlainTextResponse

from property_tests.journal import GIVES_UP_AT, Journal


class Unhandled(Exception):
    """An exception without a handler."""


class GaveUp(Exception):
    """A middleware that has no answer and cannot send another one."""


class Pure:
    """A pure ASGI middleware, for HTTP only."""

    def __init__(self, app: Any, kind: str, journal: Journal) -> None:
        self.app, self.kind, self.journal = app, kind, journal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await getattr(self, f"_{self.kind.replace(' ', '_')}")(scope, receive, send)
        finally:
            self.journal.note(request_of(scope), "layer")

    async def _pass(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(dict(scope), receive, send)

    async def _buffer(self, scope: Any, receive: Any, send: Any) -> None:
        messages: list[Any] = []

        async def keep(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive, keep)
        for message in messages:
            await checkpoint()
            await send(message)

    async def _linger(self, scope: Any, receive: Any, send: Any) -> None:
        async def linger(message: Any) -> None:
            await send(message)
            await turns(2)

        await self.app(scope, receive, linger)
        await turns(3)

    async def _raise_before(self, *_: Any) -> None:
        raise Unhandled

    async def _raise_after(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)
        raise Unhandled

    async def _answers(self, scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("mine")(scope, receive, send)

    async def _gives_up(self, scope: Any, receive: Any, send: Any, *, at_start: bool = False) -> None:
        sent: list[Any] = []
        give_up = anyio.CancelScope(deadline=math.inf if at_start else anyio.current_time() + GIVES_UP_AT)

        async def count(message: Any) -> None:
            if at_start:
                give_up.cancel()
            await send(message)
            sent.append(message)

        with give_up:
            await self.app(scope, receive, count)
        if give_up.cancelled_caught and not sent:
            await PlainTextResponse("too late", 504)(scope, receive, send)
        elif give_up.cancelled_caught:
            raise GaveUp

    async def _gives_up_at_start(self, scope: Any, receive: Any, send: Any) -> None:
        await self._gives_up(scope, receive, send, at_start=True)


def request_of(scope: Any) -> int:
    """Return the number of the request, which is the end of its path."""
    return int(scope["path"][-1])


async def turns(count: int) -> None:
    with anyio.CancelScope(shield=True):
        for _ in range(count):
            await checkpoint()
