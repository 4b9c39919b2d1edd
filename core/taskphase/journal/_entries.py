"""What users read in a journal: `JournalEntry` is one task, `JournalOverview` the file at one moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ._arguments import unpack

if TYPE_CHECKING:
    from sqlite3 import Connection

# The longest arguments in an overview, in characters: a page shows a part of them, and asks again and again.
_LONGEST = 10_000


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


def entries(
    connection: Connection,
    state: str,
    lives: Callable[[str], bool],
    *,
    most: int = -1,
    order: str = "number",
    arguments: str = "arguments",
) -> list[JournalEntry]:
    """Return the tasks in this state.

    :param lives: returns whether an owner lives
    :param most: the most tasks; -1: all
    :param order: SQL; default: the oldest first
    :param arguments: SQL for the arguments, as JSON
    """
    found = connection.execute(
        f"SELECT message_id, function, name, phase, key, recoveries, error, written_at, {arguments}, failed_at, owner"  # noqa: S608 - only our own SQL
        f" FROM tasks WHERE state = ? ORDER BY {order} LIMIT ?",
        (state, most),
    )
    return [
        JournalEntry(
            *(message_id, function, name, phase, key, recoveries, error),
            datetime.fromtimestamp(written_at, UTC),
            *_call_of(call),
            None if failed_at is None else datetime.fromtimestamp(failed_at, UTC),
            None if owner is None else "alive" if lives(owner) else "dead",
        )
        for message_id, function, name, phase, key, recoveries, error, written_at, call, failed_at, owner in found
    ]


def overview(
    connection: Connection, lives: Callable[[str], bool], most: int, *, has_arguments: bool
) -> JournalOverview:
    """Return the oldest due tasks, the last failures, and the counts.

    :param has_arguments: True to read arguments, too, unless they are long
    """
    ((total, due),) = connection.execute("SELECT count(*), count(*) FILTER (WHERE state = 'due') FROM tasks")
    arguments = f"CASE WHEN length(arguments) <= {_LONGEST} THEN arguments ELSE '[[],{{}}]' END"
    read = partial(entries, connection, lives=lives, most=most, arguments=arguments if has_arguments else "'[[],{}]'")
    return JournalOverview(read("due"), read("failed", order="failed_at DESC, number DESC"), due, total - due)


def _call_of(arguments: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments. A task whose arguments are no JSON is kept as failed: it has none."""
    try:
        return unpack(arguments)
    except (ValueError, TypeError):
        return (), {}
