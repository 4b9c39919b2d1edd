"""The tasks of a journal for the page, of all processes that share the file."""

from __future__ import annotations

import json
import time
from typing import Any
from weakref import WeakKeyDictionary

from anyio import Lock, fail_after

from taskphase import Journal, JournalEntry, JournalError, TaskHost

from ._text import arguments_of, escaped

MOST_ROWS = 100
"""The most due tasks, and the most failed ones, that the page shows."""

FRESH = 1.0
"""Seconds for which one look at the file serves all tabs."""

SHARE = 20
"""A look that took long serves for this many times its own seconds. A file with 100 000 tasks takes 0.1 seconds."""

PATIENCE = 0.5
"""The most seconds that the rest of the page waits for the disk."""


class JournalReader:
    """Reads the journal of a host in a thread.

    :param arguments: True to show arguments
    """

    def __init__(self, *, arguments: bool) -> None:
        self._arguments = arguments
        self._last: tuple[Journal, float, str] | None = None  # with the end of its time
        self._locks: WeakKeyDictionary[TaskHost, Lock] = WeakKeyDictionary()  # a lock belongs to an event loop

    async def read(self, host: TaskHost) -> str:
        """Return what the page shows, as JSON; "" without a journal."""
        journal = host.journal
        if not isinstance(journal, Journal):
            return ""
        async with self._locks.setdefault(host, Lock(fast_acquire=True)):
            last, began = self._last, time.monotonic()
            if last is None or last[0] is not journal or began > last[1]:
                text = json.dumps(await self._look(journal), separators=(",", ":"))
                now = time.monotonic()
                self._last = last = journal, now + max(FRESH, SHARE * (now - began)), text
        return last[2]

    async def _look(self, journal: Journal) -> dict[str, Any]:
        try:
            with fail_after(PATIENCE):
                found = await journal.overview(MOST_ROWS, arguments=self._arguments)
        except JournalError as exc:
            return {"error": escaped(exc.reason)}
        except TimeoutError:
            return {"error": "the disk does not answer"}
        return {
            "due": list(map(self._row, found.due)),
            "failed": list(map(self._row, found.failed)),
            "due_count": found.due_count,
            "failed_count": found.failed_count,
        }

    def _row(self, entry: JournalEntry) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": entry.id,
            "function": escaped(entry.function),
            "name": None if entry.name == entry.function else escaped(entry.name),
            "phase": entry.phase,
            "written": entry.written_at.timestamp(),
            "owner": entry.owner,
            "recoveries": entry.recoveries,
        }
        if entry.failed_at is not None:
            row |= {"error": escaped(entry.error or ""), "failed": entry.failed_at.timestamp()}
        if self._arguments:
            row["arguments"] = arguments_of(entry.args, entry.kwargs)
        return row
