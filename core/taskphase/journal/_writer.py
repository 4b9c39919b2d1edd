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
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from sqlite3 import Connection
from threading import Lock, Thread
from typing import Any, TypeAlias, TypeVar

from .._drive import report
from .._drive.seam import Event, Seam
from ..errors import JournalError
from . import _statements
from ._file import FileConnection, overwrite, reason_of, transact
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


class Writer(ABC):
    """Does all work on one connection, in a thread of its own. Its subclass gives it work that callers wait for.

    :param path: the file
    :param connect: opens the file, in the thread. If that fails, the thread calls this again for the next write
    :param owner: the lock of the host: the thread releases it at its end
    :param seam: of the event loop of the callers
    """

    def __init__(self, path: Path, connect: Callable[[], FileConnection], owner: Owner, seam: Seam[Any]) -> None:
        self._path = path
        self._connect = connect
        self._owner = owner
        self._seam = seam
        self._connection: FileConnection | None = None
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._owed: list[Work[object]] = []
        self._struck_out: deque[str] = deque()
        self._sleeps = False  # True: only an item in the queue wakes the thread
        self._lock = Lock()  # for `is_done` and `is_given_up`
        self._ends: list[Event] = []
        # A daemon: a disk that hangs does not keep the program from its end.
        self._thread = Thread(target=self._run, name="taskphase.journal", daemon=True)
        self._thread.start()

    @abstractmethod
    def _write_rows(self, connection: Connection, rows: Sequence[Row]) -> frozenset[str]:
        """Write rows in a transaction. Return the message ids of the rows that were not written."""

    def post(self, work: Work[object]) -> None:
        """Have the thread do `work`, now or after errors. From any thread; does not wait."""
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
            self._wake(self._ends)

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
            self._owe_struck_out()
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
        try:
            found.append(self._queue.get(timeout=timeout))
            while True:
                found.append(self._queue.get_nowait())
        except Empty:
            return found
        finally:
            self._sleeps = False

    def _owe_struck_out(self) -> None:
        message_ids = [self._struck_out.popleft() for _ in range(len(self._struck_out))]
        if message_ids:
            self._owed.append(partial(_statements.strike_out, message_ids=message_ids))

    def _commit(self, writes: list[Write]) -> None:
        error: Exception | None = None
        try:
            results = self._transact(writes)
            self._owed.clear()
        except Exception as exc:
            error, results = exc, [None] * len(writes)
            connection = self._connection
            if connection is not None and (connection.in_transaction or not connection.is_at(self._path)):
                self._disconnect()  # it is stuck in a transaction, or has lost its files
            if writes and overwrite not in self._owed:
                self._owed.append(overwrite)
        given_up, again = self._finish(writes, results, error)
        self._wake([each.done for each in writes if each not in again])
        if error is None:
            self._owed += [each.undo for each in (*given_up, *again)]
            if self._owed:
                self._commit(again)
        del error  # its traceback has this frame: a cycle

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
        not_written = self._write_rows(connection, rows) if rows else frozenset[str]()
        return [not_written if each.work is None else each.work(connection) for each in writes]

    def _finish(
        self, writes: list[Write], results: list[Any], error: Exception | None
    ) -> tuple[list[Write], list[Write]]:
        """Note the end of the writes.

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
                if error is not None:
                    write.error = self._as_journal_error(error)
                write.result = result
                write.is_done = True
        return given_up, again

    def _as_journal_error(self, error: Exception) -> JournalError:
        """Return an error for one caller: each needs its own, because each `raise` changes the traceback."""
        result = JournalError(self._path, error.reason if isinstance(error, JournalError) else reason_of(error))
        result.__cause__ = error.__cause__ if isinstance(error, JournalError) else error
        return result

    def _wake(self, events: list[Event]) -> None:
        """Set the events, with one call for all of them."""
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._seam.call_from_thread(partial(_set, events))


def nothing(_connection: Connection) -> None:
    """Do nothing, as a part of a transaction."""


def _set(events: list[Event]) -> None:
    for event in events:
        event.set()
