"""What users read in a journal: `JournalEntry` is one task, `JournalOverview` the file at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A task in the journal.

    :ivar id: the `message_id` of the task
    :ivar function: the name of the function in the file
    :ivar name: the name of the task
    :ivar phase: "immediate", "after_route" or "after_response"
    :ivar key: the key of the task, or None
    :ivar recoveries: the number of recovered runs whose process has died, the present run included
    :ivar error: the exception of the last attempt, as text; None for a task that is due
    :ivar written_at: the time of the write, in UTC
    :ivar args: the positional arguments. `repr()` omits them, and `kwargs`: they may be secret
    :ivar kwargs: the keyword arguments
    :ivar failed_at: the time of the failure, in UTC; None for a task that is due
    :ivar owner: "alive": an open host has the task, which waits or runs there. "dead": the process of its host has
        died, so another host takes the task over. None: the task waits for a host or for the end of its delay, or has
        failed
    """

    id: str
    function: str
    name: str
    phase: str
    key: str | None
    recoveries: int
    error: str | None
    written_at: datetime
    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    failed_at: datetime | None = None
    owner: Literal["alive", "dead"] | None = None


@dataclass(frozen=True, slots=True)
class JournalOverview:
    """The tasks in a journal at one moment, of all processes. The lists are bounded.

    :ivar due: tasks that wait or run, the oldest first
    :ivar failed: tasks that have failed for good, the last failure first
    :ivar due_count: the number of all tasks that wait or run
    :ivar failed_count: the number of all tasks that have failed for good
    """

    due: list[JournalEntry]
    failed: list[JournalEntry]
    due_count: int
    failed_count: int
