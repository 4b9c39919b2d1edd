"""The SQLite file of a journal: how it is opened, and its schema.

*Versions*: `user_version` of the file is the version of the schema. A later version may add columns with a default, and
indexes. So a process that has opened the file before goes on.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from typing import Literal, TypeAlias, TypeVar
from weakref import WeakSet

from ..errors import JournalError

T = TypeVar("T")

FileId: TypeAlias = tuple[int, int]

VERSION = 2
"""The version of the schema that this code writes."""

# The mark of a journal in the header of the file: "task" in ASCII.
_APPLICATION_ID = 0x7461736B

# Seconds between two tries to switch a new file to WAL. For this step SQLite does not wait for a lock.
_PAUSE = 0.01

# The most seconds that SQLite waits for a lock: it counts milliseconds in a C int, and beyond it does not wait at all.
_LONGEST_WAIT = 1e6

# `owner` is the host that runs the task; NULL: any host may take the task. `counted` is 1 from the first step of a
# recovered run on: `recoveries` includes this run. `due_at` is the end of the delay; NULL: the task has none. Times are
# in seconds since the epoch.
_SCHEMA = (
    """
    CREATE TABLE tasks (
        number INTEGER PRIMARY KEY,
        message_id TEXT NOT NULL UNIQUE,
        function TEXT NOT NULL,
        name TEXT NOT NULL,
        phase TEXT NOT NULL,
        arguments TEXT NOT NULL,
        headers TEXT NOT NULL,
        key TEXT,
        state TEXT NOT NULL CHECK (state IN ('due', 'failed')),
        owner TEXT,
        recoveries INTEGER NOT NULL DEFAULT 0,
        counted INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        written_at REAL NOT NULL,
        failed_at REAL,
        due_at REAL
    )
    """,
    "CREATE UNIQUE INDEX keys ON tasks (function, key) WHERE key IS NOT NULL AND state = 'due'",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)


# What brings a file from a version to the next one.
_CHANGES = {1: "ALTER TABLE tasks ADD COLUMN due_at REAL"}


# What to do, by SQLite's code of an error.
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process holds it for longer than the timeout",
    sqlite3.SQLITE_CANTOPEN: "it is missing, a directory, or not for this user",
    sqlite3.SQLITE_CONSTRAINT: "a due task of the same function has the same key",
    sqlite3.SQLITE_CORRUPT: "move the file, its -wal and its -shm away, or restore a backup",
    sqlite3.SQLITE_FULL: "make room",
    sqlite3.SQLITE_IOERR: "is the disk full or broken?",
    sqlite3.SQLITE_NOTADB: "choose another path, or move the file away",
    sqlite3.SQLITE_READONLY: "this user needs to write the file and its directory",
}


class FileConnection(Connection):
    """A connection to a file.

    :ivar file: the file that was at the path right before
    :ivar wal: its WAL
    """

    file: FileId | None
    wal: FileId | None

    def is_at(self, path: Path) -> bool:
        """Return whether both files are at `path`."""
        return (self.file, self.wal) == (id_of(path), id_of(f"{path}-wal"))


# In a child of `fork()`, SQLite believes that it has the locks of the parent on these files.
_of_parent: set[FileId | None] = set()
_connections: WeakSet[FileConnection] = WeakSet()

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=lambda: _of_parent.update(each.file for each in _connections))


def id_of(file: Path | str | int) -> FileId | None:
    """Return the device and the inode of a file: a path or a descriptor. None: there is no such file."""
    try:
        found = os.stat(file)  # noqa: PTH116 - for a descriptor, too
    except OSError:
        return None
    return found.st_dev, found.st_ino


class File:
    """How to open the file of a journal.

    :param path: the file
    :param sync: see `Journal`
    :param timeout: the most seconds to wait for a lock of another process
    """

    def __init__(self, path: Path, sync: Literal["full", "normal"], timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self._sync = sync

    def connect(self) -> FileConnection:
        """Open the file, or make it. For the thread that uses the connection. Begin and end transactions by hand.

        :raises JournalError: if that fails, or the file is no journal, or of a newer version
        """
        with self._errors():
            _make(self.path)
            connection = self._open()
            try:
                self._use_wal(connection)
                connection.execute(f"PRAGMA synchronous = {self._sync.upper()}")
                transact(connection, lambda: _check_schema(self.path, connection))
            except BaseException:
                connection.close()
                raise
            connection.wal = id_of(f"{self.path}-wal")
            return connection

    def ask(self, work: Callable[[Connection], T]) -> T:
        """Open the file, return the result of `work` in one transaction, and close the file.

        :raises JournalError: if that fails, or a due task has the key of the task
        """
        with self._errors(), closing(self.connect()) as connection:
            return transact(connection, lambda: work(connection))

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return the result of `work`, which only reads. No writer waits for this, and this waits for no writer.

        :raises JournalError: if that fails, or there is no file
        """
        with self._errors(), closing(self._open()) as connection:
            connection.execute("BEGIN")  # what the statements read is the file at one moment
            return work(connection)

    def is_new(self) -> bool:
        """Return whether no host has opened the file so far.

        :raises JournalError: if the directory of the file is missing, or cannot be read
        """
        with self._errors():
            try:
                self.path.stat()
            except FileNotFoundError:
                self.path.parent.stat()
                return True
        return False

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise JournalError(self.path, reason_of(exc)) from exc

    def _open(self) -> FileConnection:
        """Open an existing file: SQLite would make one that other users can read."""
        file = id_of(self.path)
        if file in _of_parent:
            reason = "this process was forked while the file was open: use the start method 'spawn'"
            raise JournalError(self.path, reason)
        uri = f"{self.path.as_uri()}?mode=rw"
        timeout = min(self.timeout, _LONGEST_WAIT)
        connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, factory=FileConnection)
        connection.file = file
        _connections.add(connection)
        return connection

    def _use_wal(self, connection: Connection) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as exc:
                if "locked" not in str(exc) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
            else:
                if mode != "wal":
                    reason = f"SQLite offers the journal mode {mode} here, not WAL: use a local disk"
                    raise JournalError(self.path, reason)
                return


def transact(connection: Connection, work: Callable[[], T]) -> T:
    """Return the result of `work()`, done in one transaction, which no other process interrupts."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite itself has rolled back
            connection.execute("ROLLBACK")
        raise
    return result


def overwrite(connection: Connection) -> None:
    """Write a page again, as a part of a transaction.

    If the disk could not sync a transaction, the WAL has it behind its end: a crash would bring it back. The next pages
    come in its place.
    """
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def reason_of(exc: BaseException) -> str:
    """Return the text of an error of SQLite or of the system, which names no value of a task, and what to do."""
    if not isinstance(exc, (sqlite3.Error, OSError)):
        return type(exc).__name__
    advice = _ADVICE.get(getattr(exc, "sqlite_errorcode", 0) & 0xFF)  # the other bits are details
    return f"{exc} ({advice})" if advice else str(exc)


def _make(path: Path) -> None:
    """Make the file, unless there is one.

    Nobody but SQLite may open an existing file in this process, not even to read it. When the process closes it, the
    kernel drops all locks of the process on the file. Another process then believes that it closes the file as the last
    one, and deletes the WAL that is in use here.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _check_schema(path: Path, connection: Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (version, application, tables) == (0, 0, 0):
        for statement in _SCHEMA:
            connection.execute(statement)
    elif application != _APPLICATION_ID:
        raise JournalError(path, "this is an SQLite file of another program: choose another path")
    elif version > VERSION:
        made = f"a newer taskphase has made it (schema {version}, this one knows {VERSION})"
        raise JournalError(path, f"{made}: upgrade, or choose another path")
    else:
        for each in range(version, VERSION):
            connection.execute(_CHANGES[each])
            connection.execute(f"PRAGMA user_version = {each + 1}")
