"""The checker's records of a task, of a request, of a run, and its findings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from .kinds import PHASES, THREADS

TOLERANCE = 20_000_000  # nanoseconds by which timers of the event loops may be early


@dataclass(frozen=True, slots=True)
class Terms:
    """The conditions of a server's run.

    :ivar ending: "graceful", if the lifespan shutdown has to be complete; "forced", if the server ends without
        requesting the shutdown; "killed" by SIGKILL
    :ivar limited: whether `max_running` and `max_pending` are set, so that tasks may wait and be refused
    :ivar in_order: whether first steps come in the order of the calls, as on asyncio
    """

    ending: str = "graceful"
    limited: bool = False
    in_order: bool = True
    drain_timeout: float = 0
    shield_timeout: float | None = None


class Violation(NamedTuple):
    """A broken promise. `rule`: one word."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


class Answer(NamedTuple):
    """The answer that a client got: the time, the status, and the number of tasks that the response contains."""

    at: int
    status: int
    count: int


@dataclass(slots=True)
class TaskRecord:
    """One living task. Fields may be missing: in a thread, `accepted` may come later than the first step."""

    number: int
    request: str | None = None
    kind: str = ""
    phase: str = ""
    shield: bool = False
    when: str = ""
    attempts: int = 0
    ended: int = 0
    how: str = ""
    at: int = 0  # of the latest event
    handled: int = 0
    logged: int = 0
    context: str = ""

    @property
    def is_known(self) -> bool:
        return self.request is not None

    @property
    def is_deferred(self) -> bool:
        return self.phase in PHASES[1:]

    @property
    def in_thread(self) -> bool:
        return self.kind in THREADS

    def __str__(self) -> str:
        shield = "shielded" if self.shield else "unshielded"
        return f"task {self.number} ({self.kind}, {self.phase}, {shield}, when={self.when}, request {self.request})"


@dataclass(slots=True)
class RequestRecord:
    """One request that has ordered tasks.

    :ivar is_session: whether the request is a websocket session, none of whose messages waits for tasks
    :ivar unstarted: tasks that have to begin before the first message
    :ivar rank: the latest phase of which a task has begun
    :ivar last: the latest task that has begun
    """

    outcome: str = ""
    has_left: bool = False
    is_session: bool = False
    is_sent: bool = False
    accepted: int = 0
    unstarted: set[int] = field(default_factory=set)
    rank: int = 0
    last: int = 0

    def drops(self, task: TaskRecord) -> bool:
        """Return whether the outcome of the route does not fit the `when` of the task."""
        return task.is_deferred and {"returned": "failure", "failed": "success"}.get(self.outcome) == task.when


@dataclass
class Findings:
    """The findings of the checker.

    :ivar ends: the number of ended tasks, by kind and status
    :ivar late: events that break no promise, because the server was forced to end
    :ivar accepted: the number of accepted tasks; `lost`: the number of these without an end
    :ivar sessions: the number of websocket sessions
    """

    violations: list[Violation] = field(default_factory=list)
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    late: int = 0
    accepted: int = 0
    lost: int = 0
    sessions: int = 0

    def add(self, rule: str, text: object) -> None:
        self.violations.append(Violation(rule, str(text)))
