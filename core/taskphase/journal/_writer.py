"""The thread that writes: everything that has gathered from all requests goes into one transaction (*group commit*).

A caller may give its write up before the write is done:

- Before its transaction: the writer skips the write.
- During its transaction, which may still succeed: the writer then undoes the write before it does anything else.

Work that nobody waits for (`post()`) is *owed*, and so is what undoes a write, or a failed transaction. It comes first
in each transaction, and is tried again until it is done.

To wake a thread, or to take turns with it, costs more than a small transaction. So:

- The rows of a transaction go into the file in few statements: between two statements the thread may have to wait for
  the event loop. (Rows with a key need one each.)
- `strike_out()` wakes no thread that has just written: the message id joins the next write, or waits for `_MOMENT`.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from sqlite3 import Connection
from threading import Lock, Thread
from typing import Any, TypeAlias, TypeVar

from .._drive import report
from .._drive.seam import Event, Seam
from ..errors import JournalError
from . import _statements
from ._file import File, FileConnection, overwrite, reason_of, transact
from ._owners import Owner
from ._statements import Row

T = TypeVar("T")

Work: TypeAlias = Callable[[Connection], T]
"""A part of a transaction. May run again, if the transaction fails."""

# Seconds after which the writer tries again what it owes.
_PAUSE = 1.0

# The most seconds for which a message id waits for the next write.
_MOMENT = 0.01


@dataclass(eq=False, repr=False, slots=True)  # no text has the arguments: they may be secret
class Write:
    """Work that a caller waits for, or `rows` to write together with the rows of other callers."""

    work: Work[Any] | None
    undo: Work[object]
    rows: Sequence[Row]
    done: Event
    is_done: bool = False
    is_given_up: bool = False
    result: Any = None
    error: JournalError | None = None


_Item: TypeAlias = "Write | Work[object] | None"  # work that nobody waits for; None: the end


class Writer:
    """Does all work on one connection, in a thread of its own. Its subclass gives it work that callers wait for.

    :param file: opened in the thread. If that fails, the thread opens it again for the next write
    :param owner: the lock of the host: the thread releases it at its end
    :param seam: of the event loop of the callers
    """

    def __init__(self, file: File, owner: Owner, seam: Seam[Any]) -> None:
        self._path = file.path
        self._connect = file.connect
        self._owner = owner
        self._seam = seam
        self._connection: FileConnection | None = None
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._owed: list[Work[object]] = []
        self._struck_out: deque[str] = deque()
        self._sleeps = False  # True: only an item in the queue wakes the thread
        self._lock = Lock()  # for `is_done` and `is_given_up`
        self._has_ended: Event = seam.event()
        # A daemon: a disk that hangs does not keep the program from its end.
        self._thread = Thread(target=self._run, name="taskphase.journal", daemon=True)

    def post(self, work: Work[object]) -> None:
        """Make the thread do `work`, now or after errors. From any thread; does not wait."""
        self._queue.put(work)

    def strike_out(self, message_id: str, *, key: str | None = None) -> None:
        """Strike out a task soon, or with the next write: it needs no run any more. From any thread; does not wait.

        :param key: other processes wait for the end of a task with a key, so it is struck out at once
        """
        if key is not None:
            self.post(partial(_statements.strike_out, message_ids=[message_id]))
            return
        self._struck_out.append(message_id)
        if self._sleeps:  # read after the line above; the thread sets it, and then looks for message ids
            self._sleeps = False
            self._queue.put(nothing)

    def _give_up(self, write: Write) -> bool:
        """Return whether `write` was not done, and its caller no longer waits."""
        with self._lock:
            if write.is_done:
                return False
            write.is_given_up = True
            return True

    def _run(self) -> None:
        try:
            self._work_to_the_end()
        finally:
            self._disconnect()
            self._owner.close()
            self._wake([self._has_ended])

    def _work_to_the_end(self) -> None:
        is_open, is_busy = True, False
        while is_open:
            writes: list[Write] = []
            for each in self._gather(is_busy=is_busy):
                if each is None:
                    is_open = False
                elif not isinstance(each, Write):
                    self._owed.append(each)
                elif not each.is_given_up:
                    writes.append(each)
            if message_ids := [self._struck_out.popleft() for _ in range(len(self._struck_out))]:
                self._owed.append(partial(_statements.strike_out, message_ids=message_ids))
            is_busy = bool(writes or self._owed)
            if is_busy:
                self._commit(writes)

    def _gather(self, *, is_busy: bool) -> list[_Item]:
        """Return all that waits in the queue. Wait for the first one, but only for a time if there is other work, or
        there may be soon.
        """
        found: list[_Item] = []
        timeout: float | None = None
        if self._owed:
            timeout = _PAUSE
        elif is_busy:
            timeout = _MOMENT
        else:
            self._sleeps = True
            if self._struck_out:
                timeout = 0
        with suppress(Empty):
            found.append(self._queue.get(timeout=timeout))
            while True:
                found.append(self._queue.get_nowait())
        self._sleeps = False
        return found

    def _commit(self, writes: list[Write]) -> None:
        try:
            results = self._transact(writes)
        except Exception as exc:
            self._fail(writes, exc)
            return
        self._owed.clear()
        given_up, again = self._finish(writes, results)
        self._wake([each.done for each in writes if each not in again])
        self._owed += [each.undo for each in (*given_up, *again)]
        if self._owed:
            self._commit(again)

    def _transact(self, writes: list[Write]) -> list[Any]:
        """Do all work in one transaction. If the file is at the path no more, do all work again in the file that is, or
        in a new one.
        """
        for _ in range(2):
            if self._connection is None:
                self._connection = self._connect()
            results = transact(self._connection, partial(self._work, self._connection, writes))
            if self._connection.is_at(self._path):
                return results
            report.journal_gone(self._path)
            self._owed += [each.undo for each in writes]  # the file that is there now may have the work, too
            self._disconnect()
        raise JournalError(self._path, "another program deletes or replaces the file")

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
            self._owed.append(lambda _connection: self._owner.hold())  # perhaps the file of the lock was deleted, too

    def _work(self, connection: Connection, writes: list[Write]) -> list[Any]:
        for work in self._owed:
            work(connection)
        rows = [row for each in writes for row in each.rows]
        not_written = _statements.write(connection, self._owner.id, rows)
        return [not_written if each.work is None else each.work(connection) for each in writes]

    def _finish(self, writes: list[Write], results: list[Any]) -> tuple[list[Write], list[Write]]:
        """Note the end of the writes of a transaction.

        :return: the writes whose callers have given up; and the writes to repeat, which had the key of such a write
        """
        again: list[Write] = []
        with self._lock:
            given_up = [write for write in writes if write.is_given_up]
            free = {(row.function, row.key) for write in given_up for row in write.rows}
            for write, result in zip(writes, results, strict=True):
                if write.is_given_up:
                    continue
                if result and any((row.function, row.key) in free and row.message_id in result for row in write.rows):
                    again.append(write)
                    continue
                write.result = result
                write.is_done = True
        return given_up, again

    def _fail(self, writes: list[Write], error: Exception) -> None:
        """Note that the transaction has failed. Each caller gets an error of its own: `raise` changes the traceback."""
        connection = self._connection
        if connection is not None and (connection.in_transaction or not connection.is_at(self._path)):
            self._disconnect()  # it is stuck in a transaction, or has lost its files
        if writes and overwrite not in self._owed:
            self._owed.append(overwrite)
        told = error if isinstance(error, JournalError) else None
        reason, cause = (told.reason, told.__cause__) if told else (reason_of(error), error)
        with self._lock:
            for write in writes:
                write.error = JournalError(self._path, reason)
                write.error.__cause__ = cause
                write.is_done = not write.is_given_up
        self._wake([each.done for each in writes])

    def _wake(self, events: list[Event]) -> None:
        """Set the events, with one call for all of them."""
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._seam.call_from_thread(partial(_set, events))


def nothing(_connection: Connection) -> None:
    """Do nothing, as a part of a transaction."""


def _set(events: list[Event]) -> None:
    for event in events:
        event.set()
