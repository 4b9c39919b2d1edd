"""G22: files that are no journal, cannot be written, are of a newer version, or on a full disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from tests.taskphase.journal.stores import look, opened, row, share

from taskphase import JournalError
from taskphase.journal._file import VERSION, File


async def refusal(path: Path) -> str:
    mine = share(path, timeout=10)
    with pytest.raises(JournalError) as raised:
        await mine.open()
    await mine.close()
    assert raised.value.path == path
    assert str(path) in str(raised.value)
    return raised.value.reason


async def test_all_files_with_tasks_are_for_their_user_only_g22(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(tmp_path / "tasks.db") as mine:
            await mine.write([row()])
            modes = {each.suffix: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes.pop(".alive") == 0o644  # others may look who lives
    assert modes == {".db": 0o600, ".db-wal": 0o600, ".db-shm": 0o600}


async def test_the_settings_of_the_connection_are_those_that_were_asked_for_g22(tmp_path: Path) -> None:
    def settings(sync: str) -> list[object]:
        connection = File(tmp_path / "tasks.db", sync, 5).connect()  # type: ignore[arg-type]
        found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        connection.close()
        return found

    assert settings("full") == ["wal", 2]
    assert settings("normal") == ["wal", 1]


@pytest.mark.parametrize("timeout", [5, 10**7, 1e300])
def test_a_write_waits_for_the_lock_of_another_process_if_it_may_for_years_too_g22(
    tmp_path: Path, timeout: float
) -> None:
    connection = File(tmp_path / "tasks.db", "normal", timeout).connect()
    [milliseconds] = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.close()
    assert milliseconds >= 5000


async def test_a_file_of_a_newer_version_is_refused_and_left_alone_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    assert "newer taskphase" in await refusal(path)


async def test_columns_of_a_later_version_do_not_disturb_an_open_journal_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        with sqlite3.connect(path) as connection:
            connection.execute("ALTER TABLE tasks ADD COLUMN later TEXT NOT NULL DEFAULT ''")
            connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        connection.close()
        await mine.write([row()])
        assert look(path, "state") == ["due"]


async def test_a_file_of_another_program_is_refused_and_left_alone_g22(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tasks (number INTEGER)")
    connection.close()
    assert "another program" in await refusal(path)
    assert look(path, "number") == []


@pytest.mark.parametrize("place", ["header", "pages"])
async def test_a_corrupt_file_is_refused_g22(tmp_path: Path, place: str) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        await mine.write([row() for _ in range(200)])
    data = bytearray(path.read_bytes())
    data[slice(0, 100) if place == "header" else slice(100, 4096)] = os.urandom(100 if place == "header" else 3996)
    path.write_bytes(data)
    reason = await refusal(path)
    assert any(word in reason for word in ("not a database", "malformed"))
    assert "move the file" in reason


async def test_a_place_without_the_wal_of_sqlite_is_refused_g22(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network file system may be. Here it is SQLite's database in memory."""

    class InMemory:
        Error, OperationalError = sqlite3.Error, sqlite3.OperationalError

        @staticmethod
        def connect(_path: Path, **options: Any) -> sqlite3.Connection:
            return sqlite3.connect(":memory:", **options)

    monkeypatch.setattr("taskphase.journal._file.sqlite3", InMemory)
    assert "use a local disk" in await refusal(tmp_path / "tasks.db")


async def test_a_path_that_cannot_be_opened_is_refused_g22(tmp_path: Path) -> None:
    assert "No such file" in await refusal(tmp_path / "nowhere" / "tasks.db")
    assert "unable to open database file (it is missing, a directory" in await refusal(tmp_path)


async def test_a_lock_of_another_program_fails_the_write_after_the_timeout_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path, timeout=1) as mine:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match=r"another process"):
            await mine.write([row()])
        other.rollback()
        other.close()
        mine._timeout = 5
        await mine.write([row()])
        assert len(look(path)) == 1


async def test_many_hosts_that_make_the_file_at_once_succeed_g22(tmp_path: Path) -> None:
    async def write() -> None:
        async with opened(path) as mine:
            await mine.write([row()])

    path = tmp_path / "tasks.db"
    async with anyio.create_task_group() as tg:
        for _ in range(8):
            tg.start_soon(write)
    assert len(look(path)) == 8


HEAD = """
import os, resource, signal, sys
import urllib.parse  # Python 3.13 would import it late, perhaps as a user who may not read it
import anyio
from pathlib import Path
from tests.taskphase.journal.stores import ALL, die, look, opened, row, share
from taskphase import Journal, JournalError

path = Path(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
"""

PROGRAM = """
async def main():
    if sys.argv[1] == "read-only":
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            async with opened(path):
                print("opened")
        except JournalError as exc:
            print(exc.reason)
        return
    async with opened(path) as mine:
        await mine.write([row("app.send", "x")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        written = 1
        try:
            while written < 100:
                await mine.write([row("app.send", "x" * 10_000)])
                written += 1
        except JournalError as exc:
            print(exc.reason)
        assert 1 < written < 100, written
        assert len(look(path)) == written, (written, look(path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await mine.write([row("app.send", "x")])
        assert len(look(path)) == written + 1

anyio.run(main)
"""


# A second host opens on a disk that takes only some bytes of the file of its lock.
NO_ROOM = """
async def main():
    async with opened(path) as mine:
        await mine.write([row()])
        for room in range(10):
            before = set(path.parent.iterdir())
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            try:
                async with opened(path):
                    print("opened")
            except JournalError as exc:
                print(exc.reason)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert set(path.parent.iterdir()) == before, [*path.parent.iterdir()]
            async with opened(path) as other:
                assert (await mine.take(1)).tasks == (await other.take(1)).tasks == []

anyio.run(main)
"""

# Root has killed hosts of its own, and the app of another user takes over. (Without root: a file that nobody may read.)
FOREIGN = """
async def main():
    os.umask(0o022)
    first, second = share(path), share(path)
    for each in first, second:
        await each.open()
        await each.write([row()])
        die(each)
    if sys.argv[1] == "unreadable":
        first._owner._path.chmod(0)
    if os.geteuid() == 0:
        for each in path.parent, path, Path(f"{path}-wal"), Path(f"{path}-shm"):
            if each.exists():
                os.chown(each, 65534, 65534)
        os.setuid(65534)
    async with opened(path) as app:
        print(*[entry.owner for entry in await Journal(path, []).due()])
        print(len((await app.take(ALL)).tasks))

anyio.run(main)
"""

# The process dies between the making of the file of its lock and the lock.
DIES = """
import fcntl

async def main():
    fcntl.flock = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    async with opened(path):
        pass

anyio.run(main)
"""


def run(mode: str, path: Path, program: str = PROGRAM, code: int = 0) -> str:
    command = [sys.executable, "-c", HEAD + program, mode, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_a_disk_that_takes_no_more_fails_the_writes_until_it_takes_more_g22(tmp_path: Path) -> None:
    reasons = "disk I/O error (is the disk full or broken?)", "database or disk is full (make room)"
    assert run("full", tmp_path / "tasks.db").strip() in reasons


def test_a_host_that_cannot_make_the_file_of_its_lock_leaves_none_g22(tmp_path: Path) -> None:
    assert run("", tmp_path / "tasks.db", NO_ROOM).splitlines() == ["[Errno 27] File too large"] * 10


async def test_a_process_that_dies_while_it_opens_leaves_no_file_for_long_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    (tmp_path / "tasks.db.alive").touch()
    (tmp_path / "other.db.id.alive").touch()
    await anyio.to_thread.run_sync(run, "", path, DIES, -signal.SIGKILL)
    assert len(list(tmp_path.glob("*.alive"))) == 3
    async with opened(path) as mine:
        await mine.take(1)
    assert sorted(each.name for each in tmp_path.glob("*.alive")) == ["other.db.id.alive", "tasks.db.alive"]


@pytest.mark.parametrize(("lock", "seen"), [("readable", "dead dead\n2\n"), ("unreadable", "alive dead\n1\n")])
def test_the_lock_of_another_user_does_not_stop_the_take_over_g22(lock: str, seen: str) -> None:
    """The tasks of an owner whose lock nobody here may look at stay with that owner."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        assert run(lock, Path(folder) / "tasks.db", FOREIGN) == seen


def test_a_file_that_the_process_may_only_read_is_refused_g22() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = Path(folder) / "tasks.db"
        File(path, "normal", 5).connect().close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        try:
            reason = run("read-only", path)
            assert any(word in reason for word in ("Permission denied", "readonly"))
        finally:
            Path(folder).chmod(0o700)
