"""`Share`: the part of a journal that one host owns, with its lock, its connection and its thread. Callers wait here
until their transaction is on the disk.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from sqlite3 import Connection
from time import monotonic
from typing import Any, cast

from anyio import sleep_until

from .._drive import report
from .._drive.seam import Event, Seam
from .._drive.threads import ThreadCall
from .._machine.text import plain
from ..errors import JournalError
from . import _statements
from ._file import File
from ._owners import Owner
from ._statements import Doubts, Row, Taken
from ._writer import T, Work, Write, Writer, nothing


class Share(Writer):
    """Writes the tasks of one host, strikes them out, and takes tasks of dead hosts. For the event loop of the host.

    :param functions: the names of the functions that this host can run
    :param recoveries: a task whose recovered runs have died so often is kept as failed
    :param seam: of the event loop of the host
    """

    def __init__(self, file: File, functions: frozenset[str], recoveries: int, seam: Seam[Any]) -> None:
        super().__init__(file, Owner(file.path, functions), seam)
        self._functions = functions
        self._timeout = file.timeout  # seconds for each call that waits
        self._recoveries = recoveries
        self._doubts = Doubts(monotonic)
        self._watched: dict[Write, float] = {}  # with the time at which `watch()` ends the wait, the oldest first
        self._is_watching = False
        self._has_watched: Event = seam.event()
        self._running: list[str] = []  # message ids of tasks that go on after `close()`
        self.is_closed: bool = False  # True from `close()` on

    async def open(self) -> None:
        """Open the file and lock it for this host.

        :raises JournalError: if that fails; then all is closed again
        """
        self._thread.start()
        try:
            await self.do(lambda _connection: self._owner.hold(), undo=lambda _connection: self._owner.close())
        except BaseException:
            await self.close()
            raise

    async def do(self, work: Work[T], *, undo: Work[object] = nothing) -> T:
        """Make the thread do `work`, and wait until the transaction is on the disk.

        If this raises, the work was not done, or the writer undoes it next.

        :raises JournalError: if the transaction has failed, or takes too long
        """
        return cast(T, await self._wait(Write(work, undo, (), self._seam.event())))

    def write(self, rows: Sequence[Row]) -> Coroutine[Any, Any, frozenset[str]]:
        """Write tasks of this host, as `do()` does. The rows of all callers go into one statement.

        :return: message ids of tasks whose keys are taken, here or of other callers: they were not written
        :raises JournalError: if the tasks are not on the disk. The writer strikes them out before it does anything else
        """

        def undo(connection: Connection) -> None:
            _statements.strike_out(connection, [row.message_id for row in rows])

        return self._wait(Write(None, undo, rows, self._seam.event()))

    async def watch(self) -> None:
        """End each wait that begins from now on, and takes too long. Until this is cancelled.

        A cancel scope for each wait, with its timer, would cost more than the rest of `write()`.
        """
        self._is_watching = True
        try:
            while True:
                while not self._watched:
                    self._has_watched = self._seam.event()
                    await self._has_watched.wait()
                await sleep_until(next(iter(self._watched.values())))
                now = self._seam.clock()
                for write in [write for write, end in self._watched.items() if end <= now]:
                    del self._watched[write]
                    write.done.set()
        finally:
            self._is_watching = False

    async def _wait(self, write: Write) -> Any:
        if self.is_closed:
            raise JournalError(self._path, "it is closed")
        timeout = self._timeout
        self._queue.put(write)
        try:
            end = self._seam.clock() + timeout
            if self._is_watching:
                self._watched[write] = end
                self._has_watched.set()
                await write.done.wait()
            else:
                with self._seam.cancel_scope(deadline=end):
                    await write.done.wait()
        except BaseException:  # the caller is cancelled
            if not self._give_up(write) and write.error is None:
                self.post(write.undo)
            raise
        finally:
            self._watched.pop(write, None)
        if self._give_up(write):
            reason = f"a write takes longer than {plain(timeout)} seconds: a slow disk, or another process"
            raise JournalError(self._path, reason)
        if write.error is not None:
            raise write.error
        return write.result

    def keep_failed(self, message_id: str, error: str) -> None:
        """Note that a task has failed for good. Does not wait."""
        self.post(lambda connection: _statements.keep_failed(connection, message_id, error))

    async def take(self, most: int, *, suspects: int = 1) -> Taken:
        """Take due tasks that have no living owner.

        :param suspects: the most tasks among them of which a recovered run has died
        :raises JournalError: if that fails. This host has taken nothing
        """
        taken = Taken([], [])

        def take(connection: Connection) -> Taken:
            nonlocal taken
            self._owner.hold()
            others = self._owner.others()
            limits = {"recoveries": self._recoveries, "most": most, "suspects": suspects}
            taken = _statements.take(connection, self._owner.id, self._functions, others, self._doubts, **limits)
            return taken

        def undo(connection: Connection) -> None:
            _statements.give_back(connection, self._owner.id, [task.message_id for task in taken.tasks])
            while taken.given_up:  # they are on the disk, and no caller logs them any more
                row, reason = taken.given_up.pop()
                report.given_up(*row[:4], reason)

        return await self.do(take, undo=undo)

    def cannot_run(self, message_id: str, reason: str) -> None:
        """Give back a task that this host has taken and cannot call. Does not wait."""

        def give_back(connection: Connection) -> None:
            self._doubts.note(message_id, reason)
            _statements.give_back(connection, self._owner.id, [message_id])

        self.post(give_back)

    async def count_run(self, message_id: str) -> bool:
        """Count a recovered run, before its first step. Return False if the task was discarded meanwhile.

        :raises JournalError: if the run is not counted on the disk
        """
        return await self.do(lambda connection: _statements.count_run(connection, self._owner.id, message_id))

    def leave_running(self, calls: Mapping[ThreadCall, str]) -> None:
        """Have this host keep the tasks of `calls`, which have their message ids, until the last of the calls ends."""
        self._running = list(calls.values())
        self._owner.outlive(calls)

    async def close(self) -> None:
        """Release the due tasks, and then the lock. The host has run its last task. A cancellation does not shorten
        this. Never raises JournalError: if the file cannot be written, other hosts take the tasks as after a crash.

        While the disk hangs, the thread keeps the lock, and this does not wait for it: another host must not run a task
        that the thread is about to strike out.
        """
        if self.is_closed:
            return
        self.is_closed = True
        if self._owner.is_held:
            self.post(lambda connection: _statements.release(connection, self._owner.id, self._running))
        self._queue.put(None)
        with self._seam.cancel_scope(deadline=self._seam.clock() + self._timeout, shield=True):
            await self._has_ended.wait()
        for write in self._watched:  # if the thread hangs
            write.done.set()
