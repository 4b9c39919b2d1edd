"""Shares of a journal on real files, for tests."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from taskphase._drive.loops import native_seam
from taskphase.journal._arguments import pack, unpack
from taskphase.journal._file import File
from taskphase.journal._share import Share
from taskphase.journal._statements import Row

SEND, CHARGE = "app.send", "app.charge"
ALL = 1000  # more tasks than any test writes


def share(path: Path, functions: Iterable[str] = (SEND, CHARGE), **options: Any) -> Share:
    settings = {"sync": "normal", "timeout": 5, "recoveries": 3, **options}
    recoveries = settings.pop("recoveries")
    return Share(File(path, **settings), frozenset(functions), recoveries, native_seam())


@asynccontextmanager
async def opened(path: Path, functions: Iterable[str] = (SEND, CHARGE), **options: Any) -> AsyncIterator[Share]:
    found = share(path, functions, **options)
    await found.open()
    try:
        yield found
    finally:
        await found.close()


def die(found: Share) -> None:
    """Do what the kernel does at the death of the process: release the lock. The file of the lock stays."""
    lock = found._owner._file
    assert lock is not None
    found._owner.close = lambda: None  # type: ignore[method-assign]
    found._queue.put(None)
    found._thread.join()
    lock.close()  # last: the thread would make the lock again


def row(function: str = SEND, *args: Any, key: str | None = None, message_id: str | None = None) -> Row:
    return Row(
        message_id or uuid4().hex, function, function, "after_response", pack(function, print, args, {}), "{}", key
    )


def args_of(row: Row) -> tuple[Any, ...]:
    """Return the positional arguments of a task."""
    return unpack(row.arguments)[0]


def look(path: Path, columns: str = "message_id, state") -> list[Any]:
    """Return what is in the file, for everybody to see."""
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(f"SELECT {columns} FROM tasks ORDER BY number").fetchall()
    finally:
        connection.close()
    return [each[0] if len(each) == 1 else each for each in found]


def move(path: Path, *, written: float, due: float) -> None:
    """Set the times of all tasks, in seconds from now."""
    now = time.time()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE tasks SET written_at = ?, due_at = ?", (now + written, now + due))
    connection.close()


def ids(found: Iterable[Row]) -> list[str]:
    return [each.message_id for each in found]


def wrap(found: Share, wrapper: Callable[[Any], Any]) -> None:
    """Have the share use `wrapper(connection)` in place of each connection that it opens."""
    connect = found._connect
    found._connect = lambda: wrapper(connect())
