"""What happens to the tasks in a journal. Each function here is a part of a transaction.

    (nothing) -- write --> due -- strike_out (succeeded, cancelled, its route failed) --> (nothing)
                           due -- keep_failed (failed for good; died too often; nobody can run it) --> failed
                           failed -- retry --> due
                           due, failed -- discard --> (nothing)

A due task has an *owner*, the host that runs it, until the host releases it, or has died. Then another host takes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from sqlite3 import Connection

T = TypeVar("T")

# The most values, and the most rows to write, in one statement.
_MOST = 500
_MOST_ROWS = 50

# Seconds before the end of a delay from which on a host takes the task; more than the time between two looks. Until
# then the task is only in the file, and takes no room in a host.
_SOON = 5.0

# Seconds for which a task stays due that no living host can run: its function is unknown, or has other parameters now.
# While a process that can run it restarts, only other apps and older versions may be there; a restart takes less.
_GRACE = 60.0

_UNKNOWN = "the journal of this app has no function with this name"

# The rest of a delay, in seconds. Never more than the whole delay: the clock may have been set back.
_REST = "ifnull(max(0, min(due_at - ?, due_at - written_at)), 0)"

_VALUES = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'due')"


class Row(NamedTuple):
    """A task to write, or that a host has taken. `arguments` and `headers` are JSON.

    `delay` is in seconds; None or 0: the task has none. A task that was taken has the rest of its delay.
    """

    message_id: str
    function: str
    name: str
    phase: str
    arguments: str
    headers: str
    key: str | None
    delay: float | None = None
    recoveries: int = 0


# The columns that are in a row as they are in the file.
_COLUMNS = ", ".join(Row._fields[:7])


@dataclass(frozen=True, slots=True)
class Taken:
    """What `take()` has done.

    :ivar tasks: the tasks to run, the oldest first
    :ivar given_up: tasks that are now kept as failed, although no host has run them, with the reasons
    """

    tasks: list[Row]
    given_up: list[tuple[Row, str]]


class Doubts:
    """The due tasks that one host cannot run, with the times at which it has seen that. For the thread that writes.

    :param clock: returns the time, in any thread
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: dict[str, tuple[float, str]] = {}

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._found

    def note(self, message_id: str, reason: str) -> tuple[float, str]:
        """Note that this host cannot run a task. Return since when, and the first reason."""
        return self._found.setdefault(message_id, (self._clock(), reason))

    def judge(self, found: Sequence[Row], *, is_all: bool) -> list[tuple[Row, str]]:
        """Return the tasks to keep as failed, with the first reasons. The others stay due for now.

        :param found: the due tasks that no living host can run
        :param is_all: True to forget all other tasks: a host can run them now, or has done so
        """
        noted = {row.message_id: self.note(row.message_id, _UNKNOWN) for row in found}
        if is_all:
            self._found = noted
        now = self._clock()
        judged = [(row, *noted[row.message_id]) for row in found]
        return [(row, reason) for row, since, reason in judged if now - since >= _GRACE]


def write(connection: Connection, owner: str, rows: Iterable[Row]) -> frozenset[str]:
    """Write `rows` as due tasks of `owner`.

    :return: the message ids of tasks that were not written, because a due task of the same function has the same key
    """
    now = time.time()
    taken: list[str] = []
    for has_key, some in groupby(rows, key=lambda row: row.key is not None):
        # Rows with a key go in one by one: each may be refused.
        for part in _parts(tuple(some), 1 if has_key else _MOST_ROWS):
            cursor = connection.execute(
                f"INSERT INTO tasks ({_COLUMNS}, due_at, owner, written_at, state)"  # noqa: S608
                f" VALUES {', '.join([_VALUES] * len(part))}"
                " ON CONFLICT (function, key) WHERE key IS NOT NULL AND state = 'due' DO NOTHING",
                [value for row in part for value in (*row[:7], now + row.delay if row.delay else None, owner, now)],
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
    doubts: Doubts,
    *,
    recoveries: int,
    most: int,
    suspects: int,
) -> Taken:
    """Give `owner` due tasks that have no living owner. Keep a task as failed that for long no living owner can run.

    :param others: the functions of all other living owners
    :param recoveries: a task is kept as failed if that many of its recovered runs have died
    :param most: the most tasks to take
    :param suspects: the most tasks among them of which a recovered run has died
    """
    now = time.time()
    alive = [owner, *others]
    elsewhere = frozenset[str]().union(*others.values()) - functions
    found = connection.execute(
        f"SELECT {_COLUMNS}, {_REST}, recoveries FROM tasks"  # noqa: S608
        f" WHERE state = 'due' AND (owner IS NULL OR owner NOT IN ({', '.join('?' * len(alive))}))"
        " AND (due_at IS NULL OR due_at < ? OR written_at > ?) ORDER BY number",
        [now, *alive, now + _SOON, now],
    )
    taken = Taken([], [])
    strange: list[Row] = []
    for row in map(Row._make, found):
        if row.recoveries >= recoveries:
            taken.given_up.append((row, f"its process has died in {row.recoveries} recovered runs"))
        elif row.function in elsewhere:
            continue  # another host takes it
        elif row.function not in functions or row.message_id in doubts:
            strange.append(row)
        elif not row.recoveries or suspects:
            suspects -= row.recoveries > 0
            taken.tasks.append(row)
            if len(taken.tasks) == most:
                break
    found.close()
    taken.given_up.extend(doubts.judge(strange, is_all=len(taken.tasks) < most))
    changes = [(owner, row.message_id) for row in taken.tasks]
    connection.executemany("UPDATE tasks SET owner = ?, counted = 0 WHERE message_id = ?", changes)
    for row, reason in taken.given_up:
        keep_failed(connection, row.message_id, reason)
    return taken


def give_back(connection: Connection, owner: str, message_ids: Iterable[str]) -> None:
    """Let other hosts take tasks that `owner` has taken, and does not run."""
    connection.executemany(
        "UPDATE tasks SET owner = NULL WHERE message_id = ? AND owner = ?", [(each, owner) for each in message_ids]
    )


def count_run(connection: Connection, owner: str, message_id: str) -> bool:
    """Count a recovered run, once. Return whether the task still is a due one of `owner`."""
    statement = (
        "UPDATE tasks SET recoveries = recoveries + 1 - counted, counted = 1"
        " WHERE message_id = ? AND owner = ? AND state = 'due'"
    )
    return connection.execute(statement, (message_id, owner)).rowcount > 0


def release(connection: Connection, owner: str, running: Iterable[str] = ()) -> None:
    """Let other hosts take the due tasks of `owner`, whose host has closed in order: no run of the tasks has died. What
    is still `running` stays with `owner`.
    """
    connection.execute(
        "UPDATE tasks SET owner = NULL, recoveries = recoveries - counted, counted = 0"
        " WHERE state = 'due' AND owner = ?",
        (owner,),
    )
    connection.executemany("UPDATE tasks SET owner = ? WHERE message_id = ?", [(owner, each) for each in running])


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


def _parts(whole: tuple[T, ...], most: int) -> Iterator[tuple[T, ...]]:
    """Yield `whole` in parts of at most `most` items."""
    for begin in range(0, len(whole), most):
        yield whole[begin : begin + most]
