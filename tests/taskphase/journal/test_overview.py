"""G22: the overview of a journal, for pages: bounded, of all processes, and in the way of nobody."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from tests.backends import until
from tests.taskphase.journal.hosts import Program
from tests.taskphase.journal.stores import ALL, die, look, opened, row, share

from taskphase import Journal, JournalError, JournalOverview, TaskHost
from taskphase.journal._arguments import unpack
from taskphase.journal._file import File
from taskphase.journal._owners import Owner, lives
from taskphase.journal._statements import write


def journal_of(path: Path) -> Journal:
    return Journal(path, [], timeout=60)


async def test_an_overview_is_bounded_and_has_the_counts_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        rows = [row("app.send", "secret", message_id=f"{number}") for number in range(8)]
        await mine.write(rows)
        for number in (4, 7, 5):
            mine.keep_failed(f"{number}", f"ValueError: {number}")
            await mine.write([])
        found = await journal_of(path).overview(2)
    assert isinstance(found, JournalOverview)
    assert [each.id for each in found.due] == ["0", "1"], "the oldest first"
    assert [each.id for each in found.failed] == ["5", "7"], "the last failure first"
    assert (found.due_count, found.failed_count) == (5, 3)
    (last, _) = found.failed
    assert last.error == "ValueError: 5"
    assert last.failed_at is not None
    assert abs((datetime.now(UTC) - last.failed_at).total_seconds()) < 60
    assert [(each.failed_at, each.owner) for each in found.due] == [(None, "alive")] * 2
    assert {each.owner for each in found.failed} == {None}


async def test_arguments_are_in_an_overview_only_if_asked_for_and_not_long_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        await mine.write([row("app.send", "secret"), row("app.send", "a" * 20_000)])
        journal = journal_of(path)
        assert [each.args for each in (await journal.overview()).due] == [(), ()]
        assert [each.args for each in (await journal.overview(arguments=True)).due] == [("secret",), ()]
        assert [len(each.args[0]) for each in await journal.due()] == [6, 20_000]


async def test_an_entry_tells_if_its_host_lives_has_died_or_is_to_come_g22(tmp_path: Path) -> None:
    path, journal = tmp_path / "tasks.db", journal_of(tmp_path / "tasks.db")
    dead = share(path)
    await dead.open()
    await dead.write([row(message_id="of the dead")])
    async with opened(path) as left:
        await left.write([row(message_id="left behind")])
    die(dead)
    async with opened(path) as alive:
        await alive.write([row(message_id="of the living")])
        owners = {each.id: each.owner for each in (await journal.overview()).due}
        assert owners == {"of the dead": "dead", "left behind": None, "of the living": "alive"}
        assert {each.id: each.owner for each in await journal.due()} == owners
        await alive.take(ALL)
        assert {each.owner for each in (await journal.overview()).due} == {"alive"}


def test_a_look_for_an_owner_takes_no_lock_away_and_no_file_g22(tmp_path: Path) -> None:
    journal = tmp_path / "tasks.db"
    owner = Owner(journal, ["app.send"])
    owner.hold()
    assert lives(journal, owner.id)
    assert lives(journal, owner.id)
    owner._file.close()
    files = list(tmp_path.iterdir())
    assert not lives(journal, owner.id)
    assert list(tmp_path.iterdir()) == files
    assert not lives(journal, "nobody")


@pytest.mark.parametrize("read", [Journal.due, Journal.failed, Journal.overview])
async def test_a_look_at_the_journal_and_a_writer_do_not_wait_for_each_other_g22(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Journal], Awaitable[object]]
) -> None:
    def unpack_beside_a_writer(text: str) -> Any:
        if not writer.in_transaction:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM tasks")
        return unpack(text)

    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        await mine.write([row(), failed := row()])
        mine.keep_failed(failed.message_id, "error")
        await mine.write([])
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)) as writer:
            monkeypatch.setattr("taskphase.journal._entries.unpack", unpack_beside_a_writer)
            before = await read(journal_of(path))
            assert writer.in_transaction
            assert await read(journal_of(path)) == before
            writer.execute("COMMIT")
            assert await read(journal_of(path)) != before


def test_a_read_sees_the_file_at_one_moment_g22(tmp_path: Path) -> None:
    def read(connection: sqlite3.Connection) -> tuple[int, int]:
        (before,) = connection.execute("SELECT count(*) FROM tasks").fetchone()
        writer.execute("DELETE FROM tasks")
        (after,) = connection.execute("SELECT count(*) FROM tasks").fetchone()
        return before, after

    file = File(tmp_path / "tasks.db", "normal", 5)
    with closing(file.connect()) as writer:
        write(writer, "owner", [row()])
        assert file.read(read) == (1, 1)


async def test_an_overview_needs_none_of_the_threads_that_are_in_use_g8_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine, anyio.create_task_group() as tg:
        await mine.write([row()])
        limiter = to_thread.current_default_thread_limiter()
        before, limiter.total_tokens = limiter.total_tokens, 1
        await limiter.acquire()
        try:
            assert (await journal_of(path).overview()).due_count == 1
        finally:
            limiter.release()
            limiter.total_tokens = before
            tg.cancel_scope.cancel()


async def test_an_overview_opens_no_file_of_its_own_and_refuses_another_one_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with pytest.raises(JournalError, match="unable to open"):
        await journal_of(path).overview()
    assert list(tmp_path.iterdir()) == []
    path.write_text("something else, longer than the header of a file of SQLite has to be, which is 100 bytes " * 2)
    with pytest.raises(JournalError, match="not a database"):
        await journal_of(path).overview()
    for most, error in ((0, ValueError), ("5", TypeError)):
        with pytest.raises(error):
            await journal_of(path).overview(most)  # type: ignore[arg-type]


def test_an_owner_lives_while_it_makes_its_lock_g22(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tasks.db"
    owner = Owner(path, [])
    seen: list[bool] = []

    def fdopen(*args: Any, **options: Any) -> Any:
        seen.append(lives(path, owner.id))
        return real(*args, **options)

    real = os.fdopen
    monkeypatch.setattr(os, "fdopen", fdopen)
    owner.hold()
    owner.close()
    assert seen == [True]


def test_an_owner_waits_until_a_look_has_released_its_new_lock_g22(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(tmp_path / "tasks.db", [])

    def flock(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        (lock,) = tmp_path.glob("*.alive")
        looking = os.open(lock, os.O_RDONLY)
        real(looking, fcntl.LOCK_EX)
        threading.Timer(0.05, os.close, [looking]).start()
        real(descriptor, how)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    owner.hold()
    assert lives(tmp_path / "tasks.db", owner.id)
    owner.close()


@pytest.mark.parametrize("arguments", ["no JSON", "5", "[[], 5]"])
async def test_a_task_whose_arguments_are_no_json_can_be_listed_g22(tmp_path: Path, arguments: str) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        await mine.write([row(message_id="broken")._replace(arguments=arguments)])
        (entry,) = await journal_of(path).due()
        assert (entry.id, entry.args, entry.kwargs) == ("broken", (), {})
        assert len((await journal_of(path).overview(arguments=True)).due) == 1


async def test_a_host_knows_its_journal_g14_g22(tmp_path: Path) -> None:
    program = Program(tmp_path / "tasks.db")
    journal = program.journal()
    async with TaskHost(journal=journal) as host:
        assert host.journal is journal
        task = host.schedule(program.hold)
        await task.started.wait()
        await until(lambda: look(program.path))
        (entry,) = (await journal.overview()).due
        assert (entry.id, entry.owner, entry.recoveries) == (task.message_id, "alive", 0)
        program.release.set()
        await program.has({})
    assert TaskHost().journal is None
