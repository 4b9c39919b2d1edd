"""Which hosts live? Each host that uses a journal is an *owner*: it holds a lock on a file beside the journal.

The kernel releases the lock when the process dies, and not before: a process that only hangs keeps its tasks. Nobody
waits for a time-out. The name of the file is `{journal}.{owner}.alive`; the file has the names of the functions that
the owner knows.

A child process of `fork()` would share the lock, and keep the lock of a dead parent. So the child closes these files.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import RLock
from uuid import uuid4
from weakref import WeakSet

from .._drive.threads import ThreadCall
from ._file import id_of

# Another journal may have the name of this one and more: "tasks.db" and "tasks.db.old".
_NAME = re.compile(r"(?P<journal>.+)\.(?P<owner>[0-9a-f]{32})\.alive", re.DOTALL)

# No process may be forked between the opening of a file and its entry in `_files`.
_forking = RLock()


class _LockFile:
    """An open file that may be locked. At the end of the object the kernel releases the lock."""

    def __init__(self, path: Path, flags: int) -> None:
        with _forking:
            # Other users look at the lock, too: after a `docker exec` of root the app takes over. They only read.
            self.fd: int = os.open(path, flags | os.O_CLOEXEC, 0o644)
            _files.add(self)

    def close(self) -> None:
        with _forking:
            if self in _files:
                _files.discard(self)
                os.close(self.fd)

    __del__ = close


_files: WeakSet[_LockFile] = WeakSet()

# The locks of closed hosts, by the calls that go on in threads: a lock ends with the last call that has it here.
_outliving: dict[ThreadCall, _LockFile | None] = {}


def _in_child() -> None:
    for file in list(_files):
        file.close()
    _forking.release()


os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_in_child)


class Owner:
    """The lock of this host.

    :ivar id: a new one for each host, never used again
    """

    def __init__(self, journal: Path, functions: Iterable[str]) -> None:
        self.id: str = uuid4().hex
        self._journal = journal
        self._path = _lock_of(journal, self.id)
        self._functions = json.dumps(sorted(functions)).encode()
        self._file: _LockFile | None = None
        self._is_left = False  # True from `outlive()` on

    def _make(self) -> _LockFile:
        _remove(self._path)  # so this never waits for its own lock, and overwrites no file of another program
        made = _LockFile(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        fcntl.flock(made.fd, fcntl.LOCK_EX)  # perhaps `lives()` has the lock for a moment
        with os.fdopen(made.fd, "wb", closefd=False) as file:
            file.write(self._functions)
        return made

    def hold(self) -> None:
        """Lock the file, and make it if it is not there: another program may have deleted it.

        For a transaction: so no other owner finds the file before it is locked, and has its text.

        :raises OSError: if the file cannot be made
        """
        if self._file is None or id_of(self._path) != id_of(self._file.fd):
            self._file = self._make()

    @property
    def is_held(self) -> bool:
        """True from `hold()` to `close()`."""
        return self._file is not None

    def others(self) -> dict[str, frozenset[str]]:
        """Return the functions of all other living owners. Remove the files of the dead.

        For a transaction: an owner whose task is in the file has made its lock file before.
        """
        others: dict[str, frozenset[str]] = {}
        for path in self._journal.parent.iterdir():
            found = _NAME.fullmatch(path.name)
            if found is None or found["journal"] != self._journal.name or found["owner"] == self.id:
                continue
            functions = _functions_of(path)
            if functions is None:
                _remove(path)
            else:
                others[found["owner"]] = functions
        return others

    def outlive(self, calls: Iterable[ThreadCall]) -> None:
        """Have `close()` leave the lock to `calls`, which go on in threads, until the last of them has ended."""
        for call in calls:
            self._is_left = True
            _outliving[call] = self._file
            call.when_ended(lambda ended: _outliving.pop(ended, None))

    def close(self) -> None:
        """Release the lock, if no call goes on. Never raises."""
        if not self._is_left:
            _remove(self._path)
        self._file = None


def lives(journal: Path, owner: str) -> bool:
    """Return whether an owner lives, or may live: its lock is not for this user. Changes nothing."""
    return _functions_of(_lock_of(journal, owner)) is not None


def _lock_of(journal: Path, owner: str) -> Path:
    return Path(f"{journal}.{owner}.alive")


def _functions_of(lock: Path) -> frozenset[str] | None:
    """Return the functions of an owner, as far as this user may know them; None if the owner does not live."""
    try:
        file = _LockFile(lock, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except PermissionError:
        return frozenset()  # it may live
    try:
        fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return frozenset(json.loads(os.pread(file.fd, os.fstat(file.fd).st_size, 0) or "[]"))  # empty: it is being made
    else:
        return None
    finally:
        file.close()


def _remove(path: Path) -> None:
    """Remove a file, if this user may. Otherwise another owner does."""
    with suppress(OSError):
        path.unlink()
