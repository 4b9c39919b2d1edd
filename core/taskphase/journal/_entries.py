"""`JournalEntry`: one task in a journal, for users."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


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
