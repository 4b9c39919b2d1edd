"""The thread that writes: everything that has gathered from all requests goes into one transaction (*group commit*).

A write is WAITING, then RUNNING, then DONE. Its caller may give it up before it is done:

- WAITING: the writer skips it.
- RUNNING: the transaction may still succeed. Then the writer undoes the write before it does anything else.

Work that nobody waits for (`post()`) is *owed*, and so is what undoes a write. It comes first in each transaction, and
is tried again until it is done.

To wake a thread costs more than a small transaction. So `strike_out()` wakes no thread that has just written: the
message id joins the next write, or waits for `_MOMENT`.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from sqlite3 import Connection
from threading import Lock, Thread
from typing import Any, Generic, TypeAlias, TypeVar, cast

from anyio import CancelScope, Event, move_on_after

from ..errors import JournalError
from . import _statements
from ._file import reason_of, transact

T = TypeVar("T")

Work: TypeAlias = Callable[[Connection], T]
"""A part of a transaction. May run again, if the transaction fails."""

Call: TypeAlias = Callable[[Callable[[], object]], object]
"""Has an event loop call a function soon. From any thread. Raises RuntimeError if the loop has ended."""

# Seconds after which the writer tries again what it owes.
_PAUSE = 1.0

# The most seconds for which a message id waits for the next write.
_MOMENT = 0.01


class _Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    GIVEN_UP = "given up"


class _Write(Generic[T]):
    """Work that a caller waits for."""

    def __init__(self, work: Work[T], undo: Work[object] | None, call: Call) -> None:
        self.work = work
        self.undo = undo
        self.call = call
        self.done = Event()
        self.status = _Status.WAITING
        self.result: T | None = None
        self.error: JournalError | None = None


class _Owed:
    """Work that nobody waits for."""

    def __init__(self, work: Work[object]) -> None:
        self.work = work


_WAKE = _Owed(lambda _connection: None)

_Item: TypeAlias = "_Write[Any] | _Owed | None"  # None: the end


class Writer:
    """Does all work on one connection, in a thread of its own.

    :param path: the file, for messages
    :param connect: opens the connection. If that fails, the writer tries again for the next write
    """

    def __init__(self, path: Path, connect: Callable[[], Connection]) -> None:
        self._path = path
        self._connect = connect
        self._connection: Connection | None = None
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._owed: list[Work[object]] = []
        self._struck_out: deque[str] = deque()
        self._sleeps = False  # True: only an item in the queue wakes the thread
        self._lock = Lock()  # for `status`
        self._ends: list[tuple[Call, Event]] = []
        # A daemon: a disk that hangs does not keep the program from its end.
        self._thread = Thread(target=self._run, name="taskphase.journal", daemon=True)
        self._thread.start()

    async def do(self, work: Work[T], *, call: Call, timeout: float, undo: Work[object] | None = None) -> T:
        """Have the thread do `work`, and wait until the transaction is on the disk. From any event loop.

        If this raises, the work was not done, or the writer undoes it next.

        :param call: of the event loop that runs here
        :param timeout: seconds
        :raises JournalError: if the transaction has failed, or takes longer than `timeout`
        """
        if self._ends:
            raise JournalError(self._path, "it is closed")
        write = _Write(work, undo, call)
        self._queue.put(write)
        try:
            with move_on_after(timeout):
                await write.done.wait()
        except BaseException:  # the caller is cancelled
            if not self._give_up(write) and write.error is None and undo is not None:
                self.post(undo)
            raise
        if self._give_up(write):
            raise JournalError(self._path, f"a write takes longer than {timeout:g} seconds")
        if write.error is not None:
            raise write.error
        return cast(T, write.result)

    def post(self, work: Work[object]) -> None:
        """Have the thread do `work`, now or after errors. From any thread; does not wait."""
        self._queue.put(_Owed(work))

    def strike_out(self, message_id: str) -> None:
        """Have the thread strike out a task soon, or with the next write. From any thread; does not wait."""
        self._struck_out.append(message_id)
        if self._sleeps:  # read after the line above; the thread sets it, and then looks for message ids
            self._sleeps = False
            self._queue.put(_WAKE)

    async def close(self, *, call: Call, timeout: float) -> None:
        """End the thread, when it has done its work, or has tried. Wait at most `timeout` seconds. A cancellation does
        not shorten this.
        """
        ended = Event()
        with self._lock:
            self._ends.append((call, ended))
        self._queue.put(None)
        with CancelScope(shield=True), move_on_after(timeout):
            await ended.wait()

    def _give_up(self, write: _Write[Any]) -> bool:
        """Return whether `write` was not done, and its caller no longer waits."""
        with self._lock:
            if write.status is _Status.DONE:
                return False
            write.status = _Status.GIVEN_UP
            return True

    def _run(self) -> None:
        is_open = True
        is_busy = False
        while is_open:
            writes: list[_Write[Any]] = []
            for each in self._gather(is_busy=is_busy):
                if each is None:
                    is_open = False
                elif isinstance(each, _Owed):
                    self._owed.append(each.work)
                elif self._begin(each):
                    writes.append(each)
            self._owe_struck_out()
            is_busy = bool(writes or self._owed)
            if is_busy:
                self._commit(writes)
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        _wake(self._ends)

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

    def _begin(self, write: _Write[Any]) -> bool:
        with self._lock:
            if write.status is _Status.WAITING:
                write.status = _Status.RUNNING
            return write.status is _Status.RUNNING

    def _commit(self, writes: list[_Write[Any]]) -> None:
        error: Exception | None = None
        results: list[Any] = []
        try:
            if self._connection is None:
                self._connection = self._connect()
            transact(self._connection, partial(self._work, self._connection, writes, results))
            self._owed.clear()
        except Exception as exc:
            error = exc
            results = [None] * len(writes)
            self._drop_broken()
        undo = [each for each, result in zip(writes, results, strict=True) if not self._finish(each, result, error)]
        _wake([(each.call, each.done) for each in writes])
        if error is None:
            self._owed += [each.undo for each in undo if each.undo is not None]
            if self._owed:
                self._commit([])
        del error  # its traceback has this frame: a cycle

    def _drop_broken(self) -> None:
        """Close a connection that is stuck in a transaction. The next transaction opens another one."""
        if self._connection is not None and self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _work(self, connection: Connection, writes: list[_Write[Any]], results: list[Any]) -> None:
        for work in self._owed:
            work(connection)
        results += [each.work(connection) for each in writes]

    def _finish(self, write: _Write[Any], result: object, error: Exception | None) -> bool:
        """Return False if the caller has given `write` up."""
        with self._lock:
            if write.status is _Status.GIVEN_UP:
                return False
            if error is not None:
                write.error = self._as_journal_error(error)
            write.result = result
            write.status = _Status.DONE
            return True

    def _as_journal_error(self, error: Exception) -> JournalError:
        """Return an error for one caller: each needs its own, because each `raise` changes the traceback."""
        reason = error.reason if isinstance(error, JournalError) else reason_of(error)
        result = JournalError(self._path, reason)
        result.__cause__ = error.__cause__ if isinstance(error, JournalError) else error
        return result


def _wake(events: list[tuple[Call, Event]]) -> None:
    """Set the events, with one call for each event loop."""
    by_loop: dict[Call, list[Event]] = {}
    for call, event in events:
        by_loop.setdefault(call, []).append(event)
    for call, group in by_loop.items():
        try:
            call(partial(_set, group))
        except RuntimeError:
            pass  # the loop has ended, and nobody waits any more


def _set(events: list[Event]) -> None:
    for event in events:
        event.set()
