"""A queue in memory whose attempts to publish go as a test wants, and functions for its list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Literal

import anyio

from taskphase import TasksUnportableError
from taskphase.queues import Call, Queue

Step = Literal[
    "confirm",
    "slow",
    "refuse",
    "fail",
    "hang",
    "publish, then fail",
    "publish, then hang",
    "cling",
    "group",
    "stray",
]
"""One attempt: "slow" takes a second. "refuse" surely has not published. "cling" confirms although it is cancelled."""

REQUEST: ContextVar[str | None] = ContextVar("request", default=None)

RAN: list[tuple[Any, ...]] = []
"""The calls of the functions that ran in this process. See `cleared()`."""


async def send_mail(to: str, subject: str = "") -> str:
    RAN.append(("send_mail", to, subject))
    return to


def archive(number: int) -> int:
    RAN.append(("archive", number))
    return number


async def fail_here(*_args: object) -> None:
    RAN.append(("fail_here",))
    raise LookupError


class Refused(Exception):
    """The engine has said no."""


class Lost(Exception):
    """The connection was lost: the engine may have the call."""


class FakeQueue(Queue):
    """Publishes into a list.

    :param steps: the attempts, in order
    :param then: each attempt after these
    :param opening: a step for each call of `open()`; "confirm" and later calls return at once

    :ivar published: the calls that a worker would get, with their headers
    :ivar attempts: the message id of each attempt, and the time
    :ivar at_once: the attempts that go on now
    :ivar most: the most attempts at once so far
    :ivar connections: "open" and "close", in order
    """

    def __init__(
        self,
        *functions: Callable[..., Any],
        steps: tuple[Step, ...] = (),
        then: Step = "confirm",
        opening: tuple[Step, ...] = (),
        name: str = "later",
        options: Mapping[Callable[..., Any], Mapping[str, Any]] | None = None,
        most: int | None = None,
        maps: frozenset[str] = frozenset(),
        **settings: Any,
    ) -> None:
        super().__init__(name, options or functions or (send_mail, archive), **settings)
        self.steps = list(steps)
        self.then: Step = then
        self.opening = list(opening)
        if most is not None:
            self.attempts_at_once = most
        self.maps = maps
        self.published: list[tuple[Call, Mapping[str, str]]] = []
        self.attempts: list[tuple[str, float]] = []
        self.at_once = 0
        self.most = 0
        self.connections: list[str] = []
        self.on_attempt: Callable[[Call], object] = lambda _: None

    @property
    def ids(self) -> list[str]:
        """The message ids of the published calls."""
        return [call.id for call, _ in self.published]

    @property
    def args(self) -> list[tuple[Any, ...]]:
        """The arguments of the published calls."""
        return [call.args for call, _ in self.published]

    def prepare(self, call: Call) -> Call:
        if any(not isinstance(value, str | int) for value in (*call.args, *call.kwargs.values())):
            raise TasksUnportableError(f"{call.function} has an argument that is neither a str nor an int")
        return call

    async def publish(self, prepared: Call, headers: Mapping[str, str]) -> None:
        self.attempts.append((prepared.id, anyio.current_time()))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.on_attempt(prepared)
        try:
            await self._take(self.steps.pop(0) if self.steps else self.then, lambda: self._put(prepared, headers))
        finally:
            self.at_once -= 1

    def refused(self, error: Exception) -> bool:
        return isinstance(error, Refused)

    async def open(self) -> None:
        self.connections.append("open")
        if self.opening:
            await self._take(self.opening.pop(0), lambda: None)

    async def close(self) -> None:
        self.connections.append("close")

    def _put(self, prepared: Call, headers: Mapping[str, str]) -> None:
        self.published.append((prepared, headers))

    async def _take(self, step: Step, put: Callable[[], None]) -> None:
        match step:
            case "confirm":
                put()
            case "slow":
                await anyio.sleep(1)
                put()
            case "refuse":
                raise Refused
            case "fail":
                raise Lost
            case "hang":
                await anyio.Event().wait()  # unlike `anyio.sleep_forever()`, no timer of asyncio has the context
            case "publish, then fail":
                put()
                raise Lost
            case "publish, then hang":
                put()
                await anyio.sleep_forever()
            case "cling":
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    put()  # and swallow the cancellation
            case "group":
                raise BaseExceptionGroup("several", [Lost(), ExceptionGroup("inside", [Refused()])])
            case "stray":
                raise asyncio.CancelledError
