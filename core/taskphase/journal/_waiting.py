"""The writer, for the event loop: callers wait here until their transaction is on the disk."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Any, cast

from anyio import sleep_until

from .._drive.seam import Event, Seam
from ..errors import JournalError
from ._file import FileConnection
from ._statements import Row
from ._writer import Status, T, Work, Write, Writer, undo_of


class LoopWriter(Writer):
    """See `Writer`. All methods but `post()` and `strike_out()` are for the event loop of `seam`."""

    def __init__(
        self,
        path: Path,
        connect: Callable[[], FileConnection],
        write_rows: Callable[[Connection, Sequence[Row]], frozenset[str]],
        seam: Seam[Any],
        at_end: Callable[[], object],
    ) -> None:
        self._watched: dict[Write, float] = {}  # with the time at which `watch()` ends the wait, the oldest first
        self._is_watching = False
        self._has_watched: Event = seam.event()
        super().__init__(path, connect, write_rows, seam, at_end)

    async def do(self, work: Work[T], *, timeout: float, undo: Work[object] | None = None) -> T:
        """Have the thread do `work`, and wait until the transaction is on the disk.

        If this raises, the work was not done, or the writer undoes it next.

        :param timeout: seconds
        :raises JournalError: if the transaction has failed, or takes longer than `timeout`
        """
        return cast(T, await self._wait(Write(work, undo, (), self._seam.event()), timeout))

    def write(
        self, rows: Sequence[Row], *, timeout: float, shield: bool = False
    ) -> Coroutine[Any, Any, frozenset[str]]:
        """Write `rows`, as `do()` does. The rows of all callers go into one statement.

        :param shield: True: a cancel scope around this call does not shorten it
        :return: message ids of rows that were not written, here or of other callers
        """
        is_watched = self._is_watching and not shield
        return self._wait(Write(None, None, rows, self._seam.event()), timeout, shield=shield, is_watched=is_watched)

    async def watch(self) -> None:
        """End each `write()` that begins from now on, and takes too long. Until this is cancelled.

        A cancel scope for each write, with its timer, would cost more than the rest of `write()`.
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

    async def _wait(self, write: Write, timeout: float, *, shield: bool = False, is_watched: bool = False) -> Any:
        if self._ends:
            raise JournalError(self._path, "it is closed")
        self._queue.put(write)
        try:
            end = self._seam.clock() + timeout
            if is_watched:
                self._watched[write] = end
                self._has_watched.set()
                await write.done.wait()
            else:
                with self._seam.cancel_scope(deadline=end, shield=shield):
                    await write.done.wait()
        except BaseException:  # the caller is cancelled
            if not self._give_up(write) and write.error is None and (undo := undo_of(write)) is not None:
                self.post(undo)
            raise
        finally:
            self._watched.pop(write, None)
        if write.status is not Status.DONE and self._give_up(write):
            raise JournalError(self._path, f"a write takes longer than {timeout:g} seconds")
        if write.error is not None:
            raise write.error
        return write.result

    async def close(self, *, timeout: float) -> None:
        """End the thread, when it has done its work, or has tried. Wait at most `timeout` seconds. A cancellation does
        not shorten this.
        """
        ended = self._seam.event()
        self._ends.append(ended)
        self._queue.put(None)
        with self._seam.cancel_scope(deadline=self._seam.clock() + timeout, shield=True):
            await ended.wait()
        for write in self._watched:  # if the thread hangs
            write.done.set()
