"""The kinds of tasks: what they do, how clients order them, and how each kind has to end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

PHASES = ("immediate", "after_route", "after_response")
WHENS = ("success", "failure", "always")
CHILD = "child"
ALONE_PHASE = "none"  # for a task that another task has scheduled

ATTEMPTS = 3  # of a retried task
NAP = 0.03  # seconds of a slow task; far less than any shield_timeout
TIMEOUT = 0.02  # seconds
THREAD = 0.02  # seconds in a thread
THREAD_TOO_LONG = 0.06  # seconds in a thread, longer than the task's timeout


class End(NamedTuple):
    """The end of an undisturbed task of some kind: the last attempt, the status of the handle, and the number of
    attempts.
    """

    how: str
    status: str
    attempts: int = 1


ENDS = {
    "quick": End("returned", "succeeded"),
    "nap": End("returned", "succeeded"),
    "hang": End("returned", "succeeded"),
    "thread": End("returned", "succeeded"),
    "parent": End("returned", "succeeded"),
    CHILD: End("returned", "succeeded"),
    "fail": End("raised", "failed"),
    "handled": End("raised", "failed"),
    "timeout": End("cancelled", "failed"),
    "thread_timeout": End("returned", "failed"),
    "retry": End("returned", "succeeded", ATTEMPTS),
    "exhaust": End("raised", "failed", ATTEMPTS),
}
THREADS = frozenset({"thread", "thread_timeout"})
WITH_HANDLER = frozenset({"handled", "retry", "exhaust"})
HANDLED = {"handled": 1, "exhaust": ATTEMPTS, "retry": ATTEMPTS - 1}
"""The number of handler calls for such a task."""


@dataclass(frozen=True, slots=True)
class Order:
    """Several tasks with the same settings."""

    kind: str
    phase: str
    shield: bool = False
    when: str = "success"
    count: int = 1

    def __str__(self) -> str:
        return f"{self.kind}:{self.phase}:{self.shield:d}:{self.when}:{self.count}"

    @classmethod
    def parse(cls, text: str) -> Order:
        kind, phase, shield, when, count = text.split(":")
        return cls(kind, phase, shield == "1", when, int(count))


def encode(orders: Iterable[Order]) -> str:
    return ",".join(map(str, orders))


def decode(plan: str) -> list[Order]:
    return [Order.parse(text) for text in plan.split(",")]


@dataclass(frozen=True, slots=True)
class Visit:
    """One request: its target, its tasks, and the seconds after which the client leaves, if it does."""

    path: str
    orders: tuple[Order, ...]
    leaves_after: float | None = None

    @property
    def is_session(self) -> bool:
        return self.path in SESSIONS


PATHS = ("async", "async", "sync", "stream", "pause", "error")
SESSIONS = ("session", "session", "session-error")  # of websockets
CLOSED = {1000: 200, 1008: 418, 1013: 503}
"""The response status that the close code of a session represents. Any other code is a broken connection."""
MIXED = ("quick", "nap", "fail", "handled", "timeout", "retry", "exhaust", "thread", "thread_timeout", "parent", "hang")
BATCH = 50
FLOOD = 400  # tasks of a request that should exceed `max_pending`


@dataclass(frozen=True, slots=True)
class Menu:
    """The requests of clients.

    :ivar sessions: the share of requests that are websocket sessions; clients never leave these in the middle
    :ivar floods: the share of requests that schedule FLOOD tasks
    :ivar hangs_shielded: whether a hanging task may be shielded; the drain then takes the whole `shield_timeout`
    """

    floods: float = 0.0
    hangs_shielded: bool = False
    batches: float = 0.35
    leaves: float = 0.1
    sessions: float = 0.06

    def draw(self, random: Random) -> Visit:
        luck = random.random()
        if luck < self.floods:
            return Visit("async", (Order("quick", random.choice(PHASES), count=FLOOD),))
        if luck < self.floods + self.batches:
            order = Order("quick", random.choice(PHASES), random.random() < 0.5, count=BATCH)
            return Visit(random.choice(("async", "sync")), (order,))
        orders = tuple(self._order(random) for _ in range(random.randint(2, 6)))
        if random.random() < self.sessions:
            return Visit(random.choice(SESSIONS), orders)
        leaves_after = random.choice((0.0, random.uniform(0, 0.01))) if random.random() < self.leaves else None
        return Visit(random.choice(PATHS), orders, leaves_after)

    def _order(self, random: Random) -> Order:
        kind = random.choice(MIXED)
        shield = random.random() < 0.5 and (kind != "hang" or self.hangs_shielded)
        return Order(kind, random.choice(PHASES), shield, random.choice((*WHENS, "success")))
