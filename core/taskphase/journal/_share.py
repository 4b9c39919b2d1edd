"""`Share`: the part of a journal that one host owns, with its lock, its connection and its thread."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from time import monotonic
from typing import Any

from .._drive.seam import Seam
from . import _statements
from ._doubts import Doubts
from ._file import FileConnection, Sync, connect, transact
from ._owners import Owner
from ._statements import Row, Taken
from ._waiting import LoopWriter


class Share:
    """Writes the tasks of one host, strikes them out, and takes tasks of dead hosts. For the event loop of the host.

    :param functions: the names of the functions that this host can run
    :param timeout: seconds for each call that waits
    :param recoveries: a task whose recovered runs have died so often is kept as failed
    :param seam: of the event loop of the host
    """

    def __init__(
        self, path: Path, functions: frozenset[str], *, sync: Sync, timeout: float, recoveries: int, seam: Seam[Any]
    ) -> None:
        self._path = path
        self._functions = functions
        self._timeout = timeout
        self._recoveries = recoveries
        self._owner: Owner | None = None
        self._doubts = Doubts(monotonic)
        self._open_file = partial(connect, path, sync, timeout)
        self._writer = LoopWriter(path, self._connect, self._write, seam, self._unlock)

    async def open(self) -> None:
        """Open the file and lock it for this host.

        :raises JournalError: if that fails. `close()` is to be called all the same
        """
        await self._writer.do(self._claim, undo=lambda _connection: self._unlock(), timeout=self._timeout)

    def write(self, rows: Sequence[Row], *, shield: bool = False) -> Coroutine[Any, Any, frozenset[str]]:
        """Write tasks of this host, in one transaction. A cancellation gives the write up.

        :param shield: True: a cancel scope around this call does not shorten it
        :return: message ids of tasks whose keys are taken: they were not written
        :raises JournalError: if the tasks are not on the disk. The writer strikes them out before it does anything else
        """
        return self._writer.write(rows, timeout=self._timeout, shield=shield)

    async def watch(self) -> None:
        """End writes that take too long, until this is cancelled."""
        await self._writer.watch()

    def strike_out(self, message_id: str, *, key: str | None = None) -> None:
        """Note that a task needs no run any more: it has succeeded, or user code has cancelled it. Does not wait.

        :param key: other processes wait for the end of a task with a key, so it is struck out at once
        """
        if key is None:
            self._writer.strike_out(message_id)
        else:
            self._writer.post(lambda connection: _statements.strike_out(connection, [message_id]))

    def keep_failed(self, message_id: str, error: str) -> None:
        """Note that a task has failed for good. Does not wait."""
        self._writer.post(lambda connection: _statements.keep_failed(connection, message_id, error))

    async def take(self, most: int, *, suspects: int = 1) -> Taken:
        """Take due tasks that have no living owner.

        :param suspects: the most tasks among them of which a recovered run has died
        :raises JournalError: if that fails. This host has taken nothing
        """
        taken: list[str] = []
        return await self._writer.do(
            partial(self._take, most, suspects, taken),
            undo=lambda connection: _statements.give_back(connection, self._id, taken),
            timeout=self._timeout,
        )

    def cannot_run(self, message_id: str, reason: str) -> None:
        """Give back a task that this host has taken and cannot call. Does not wait."""

        def give_back(connection: Connection) -> None:
            self._doubts.note(message_id, reason)
            _statements.give_back(connection, self._id, [message_id])

        self._writer.post(give_back)

    async def count_run(self, message_id: str) -> bool:
        """Count a recovered run, before its first step. Return False if the task was discarded meanwhile.

        :raises JournalError: if the run is not counted on the disk
        """
        return await self._writer.do(
            lambda connection: _statements.count_run(connection, self._id, message_id),
            timeout=self._timeout,
        )

    async def close(self) -> None:
        """Release the due tasks, and then the lock. The host has run its last task. Never raises JournalError: if the
        file cannot be written, other hosts take the tasks as if this process had died.

        While the disk hangs, the thread keeps the lock, and this does not wait for it: another host must not run a task
        that the thread is about to strike out.
        """
        if self._owner is not None:
            self._writer.post(lambda connection: _statements.release(connection, self._id))
        await self._writer.close(timeout=self._timeout)

    @property
    def _id(self) -> str:
        assert self._owner is not None, "open() comes first"
        return self._owner.id

    def _connect(self) -> FileConnection:
        connection = self._open_file()
        if self._owner is not None:  # the last file was deleted, perhaps with the file of the lock
            try:
                transact(connection, self._owner.hold)
            except BaseException:
                connection.close()
                raise
        return connection

    def _claim(self, _connection: Connection) -> None:
        self._owner = Owner(self._path, self._functions)

    def _unlock(self) -> None:
        if self._owner is not None:
            self._owner.close()

    def _write(self, connection: Connection, rows: Sequence[Row]) -> frozenset[str]:
        return _statements.write(connection, self._id, rows)

    def _take(self, most: int, suspects: int, taken: list[str], connection: Connection) -> Taken:
        assert self._owner is not None
        self._owner.hold()
        others = self._owner.others()
        limits = {"recoveries": self._recoveries, "most": most, "suspects": suspects}
        result = _statements.take(connection, self._id, self._functions, others, doubts=self._doubts, **limits)
        taken[:] = [task.message_id for task in result.tasks]
        return result
