"""What happens to the tasks in a journal. Each function here is a part of a transaction.

    (nothing) -- write --> due -- strike_out (succeeded, cancelled, its route failed) --> (nothing)
                           due -- keep_failed (failed for good; died too often; nobody can run it) --> failed
                           failed -- retry --> due
                           due, failed -- discard --> (nothing)

A due task has an *owner*, the host that runs it, until the host releases it, or has died. Then another host takes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from sqlite3 import Connection
from typing import Any, NamedTuple, TypeVar

from ._arguments import unpack
from ._doubts import Doubts, GivenUp
from ._entries import JournalEntry, JournalOverview

T = TypeVar("T")

# The most values in one statement.
_MOST = 500

# The longest arguments in an overview, in characters: a page shows a part of them, and asks again and again.
_LONGEST = 10_000

# A host takes a task so many seconds before the delay ends: it looks more often than that. Until then the task lies in
# the file, and takes no room in a host.
_SOON = 5.0

# The rest of a delay, in seconds. Never more than the whole delay: the clock may have been set back.
_REST = "ifnull(max(0, min(due_at - ?, due_at - written_at)), 0)"

_VALUES = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'due')"


class Row(NamedTuple):
    """A task to write. `arguments` and `headers` are JSON. `delay` is in seconds; None or 0: the task has none."""

    message_id: str
    function: str
    name: str
    phase: str
    arguments: str
    headers: str
    key: str | None
    delay: float | None = None


class Recovered(NamedTuple):
    """A task that this host has taken. `delay` is the rest of its delay, in seconds."""

    message_id: str
    function: str
    name: str
    phase: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    headers: Mapping[str, str]
    key: str | None
    recoveries: int
    delay: float = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """What `take()` has done.

    :ivar tasks: the tasks to run, the oldest first
    :ivar given_up: tasks that are now kept as failed
    """

    tasks: list[Recovered]
    given_up: list[GivenUp]


def write(connection: Connection, owner: str, rows: Iterable[Row]) -> frozenset[str]:
    """Write `rows` as due tasks of `owner`.

    :return: the message ids of tasks that were not written, because a due task of the same function has the same key
    """
    now = time.time()
    taken: list[str] = []
    for has_key, some in groupby(rows, key=lambda row: row.key is not None):
        # Rows with a key go in one by one: each may be refused.
        for part in _parts(tuple(some), 1 if has_key else _MOST // (len(Row._fields) + 2)):
            cursor = connection.execute(
                "INSERT INTO tasks (message_id, function, name, phase, arguments, headers, key, due_at, owner,"  # noqa: S608
                " written_at, state)"
                f" VALUES {', '.join([_VALUES] * len(part))}"
                " ON CONFLICT (function, key) WHERE key IS NOT NULL AND state = 'due' DO NOTHING",
                [value for *row, delay in part for value in (*row, now + delay if delay else None, owner, now)],
            )
            if not cursor.rowcount:
                taken.append(part[0].message_id)
    return frozenset(taken)


def strike_out(connection: Connection, message_ids: Iterable[str]) -> None:
    """Delete due tasks that need no run any more."""
    for part in _parts(tuple(message_ids), _MOST):
        marks = ", ".join("?" * len(part))
        connection.execute(f"DELETE FROM tasks WHERE message_id IN ({marks}) AND state = 'due'", part)  # noqa: S608


def keep_failed(connection: Connection, message_id: str, error: str) -> None:
    """Keep a due task as failed."""
    connection.execute(
        "UPDATE tasks SET state = 'failed', owner = NULL, error = ?, failed_at = ?"
        " WHERE message_id = ? AND state = 'due'",
        (error, time.time(), message_id),
    )


def take(
    connection: Connection,
    owner: str,
    functions: frozenset[str],
    others: Mapping[str, frozenset[str]],
    *,
    recoveries: int,
    most: int,
    suspects: int,
    doubts: Doubts,
) -> Taken:
    """Give `owner` due tasks that have no living owner. A task that no living owner can run is kept as failed in the
    end.

    :param others: the functions of all other living owners
    :param recoveries: a task is kept as failed if so many of its recovered runs have died
    :param most: the most tasks to take
    :param suspects: the most tasks among them of which a recovered run has died
    """
    now = time.time()
    alive = [owner, *others]
    elsewhere = frozenset[str]().union(*others.values()) - functions
    found = connection.execute(
        f"SELECT message_id, function, name, phase, arguments, headers, key, recoveries, {_REST} FROM tasks"  # noqa: S608
        f" WHERE state = 'due' AND (owner IS NULL OR owner NOT IN ({', '.join('?' * len(alive))}))"
        " AND (due_at IS NULL OR due_at < ? OR written_at > ?) ORDER BY number",
        [now, *alive, now + _SOON, now],
    )
    taken = Taken([], [])
    strange: list[GivenUp] = []
    for message_id, function, name, phase, arguments, headers, key, died, rest in found:
        lost = partial(GivenUp, message_id, function, name, phase)
        if died >= recoveries:
            taken.given_up.append(lost(f"its process has died in {died} recovered runs"))
        elif function not in functions or message_id in doubts:
            strange.append(lost("the journal of this app has no function with this name"))
        elif not died or suspects:
            try:
                call = unpack(arguments)
                task = Recovered(message_id, function, name, phase, *call, json.loads(headers), key, died, rest)
            except ValueError:
                taken.given_up.append(lost("its arguments in the file are no JSON"))
                continue
            suspects -= died > 0
            taken.tasks.append(task)
            if len(taken.tasks) == most:
                break
    found.close()
    is_all = len(taken.tasks) < most
    taken.given_up.extend(doubts.judge([each for each in strange if each.function not in elsewhere], is_all=is_all))
    _note_taken(connection, owner, taken)
    return taken


def _note_taken(connection: Connection, owner: str, taken: Taken) -> None:
    connection.executemany(
        "UPDATE tasks SET owner = ?, counted = 0 WHERE message_id = ?",
        [(owner, task.message_id) for task in taken.tasks],
    )
    for each in taken.given_up:
        keep_failed(connection, each.message_id, each.reason)


def give_back(connection: Connection, owner: str, message_ids: Iterable[str]) -> None:
    """Let other hosts take tasks that `owner` has taken, and does not run."""
    connection.executemany(
        "UPDATE tasks SET owner = NULL WHERE message_id = ? AND owner = ?", [(each, owner) for each in message_ids]
    )


def count_run(connection: Connection, owner: str, message_id: str) -> bool:
    """Count a recovered run, once. Return whether the task still is a due one of `owner`."""
    where = "message_id = ? AND owner = ? AND state = 'due'"
    connection.execute(
        f"UPDATE tasks SET recoveries = recoveries + 1, counted = 1 WHERE {where} AND NOT counted",  # noqa: S608
        (message_id, owner),
    )
    row = connection.execute(f"SELECT 1 FROM tasks WHERE {where}", (message_id, owner)).fetchone()  # noqa: S608
    return row is not None


def release(connection: Connection, owner: str) -> None:
    """Let other hosts take the due tasks of `owner`, whose host has closed in order: no run of the tasks has died."""
    connection.execute(
        "UPDATE tasks SET owner = NULL, recoveries = recoveries - counted, counted = 0"
        " WHERE state = 'due' AND owner = ?",
        (owner,),
    )


def retry(connection: Connection, message_id: str) -> bool:
    """Make a failed task due again. Return whether there is such a task.

    :raises sqlite3.IntegrityError: if a due task of the same function has the same key
    """
    statement = (
        "UPDATE tasks SET state = 'due', recoveries = 0, counted = 0, error = NULL, failed_at = NULL"
        " WHERE message_id = ? AND state = 'failed'"
    )
    return connection.execute(statement, (message_id,)).rowcount > 0


def discard(connection: Connection, message_id: str) -> bool:
    """Delete a task, due or failed. Return whether there was one."""
    return connection.execute("DELETE FROM tasks WHERE message_id = ?", (message_id,)).rowcount > 0


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
    except ValueError:
        return (), {}


def _parts(whole: tuple[T, ...], most: int) -> Iterator[tuple[T, ...]]:
    """Yield `whole` in parts of at most `most` items."""
    for begin in range(0, len(whole), most):
        yield whole[begin : begin + most]
