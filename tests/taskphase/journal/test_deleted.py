"""G22: another program deletes or replaces files of an open journal."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.taskphase.journal.stores import ALL, ids, look, opened, row, share, wrap
from tests.taskphase.journal.test_writer import Disk

from taskphase import JournalError
from taskphase.journal import _owners
from taskphase.journal._file import id_of


def delete(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def replace(path: Path) -> None:
    """Restore a backup."""
    connection = sqlite3.connect(path)
    connection.execute("VACUUM INTO ?", [str(path.with_name("backup"))])
    connection.close()
    delete(path)
    path.with_name("backup").rename(path)


def delete_wal(path: Path) -> None:
    Path(f"{path}-wal").unlink()


@pytest.mark.parametrize(("change", "kept"), [(delete, 0), (replace, 1), (delete_wal, 1)])
async def test_later_tasks_are_on_the_disk_if_the_file_was_deleted_or_replaced_g22(
    tmp_path: Path, change: Callable[[Path], None], kept: int, logged: Callable[[], list[tuple[str, str]]]
) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        await mine.write([first := row()])
        change(path)
        await mine.write([second := row()])
        await mine.write([third := row()])
        assert look(path, "message_id") == ids([*[first][:kept], second, third])
        assert [level for level, _ in logged()] == ["ERROR"]
        async with opened(path) as other:
            assert (await other.take(ALL)).tasks == []
        mine.strike_out(second.message_id)
    assert look(path, "message_id") == ids([*[first][:kept], third])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tasks.db"]


async def test_hosts_whose_wal_was_deleted_keep_what_they_have_confirmed_and_no_more_g22(tmp_path: Path) -> None:
    async with opened(path := tmp_path / "tasks.db") as first, opened(path) as second:
        kept: list[str] = []
        for number in range(6):
            for mine in first, second:
                with suppress(JournalError):
                    await mine.write([each := row()])
                    kept.append(each.message_id)
            if number == 1:
                delete_wal(path)
        assert len(kept) >= 10
    assert look(path, "message_id") == kept


async def test_a_host_without_new_tasks_makes_deleted_files_again_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        delete(path)
        await mine.take(ALL)
        assert look(path) == []
        assert len(list(tmp_path.glob("*.alive"))) == 1


async def test_a_host_whose_lock_was_deleted_keeps_its_tasks_after_its_next_look_g22(tmp_path: Path) -> None:
    async with opened(path := tmp_path / "tasks.db") as mine:
        await mine.write([row()])
        for _ in range(3):
            (lock,) = tmp_path.glob("*.alive")
            lock.unlink()
            await mine.take(ALL)
            async with opened(path) as other:
                assert (await other.take(ALL)).tasks == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tasks.db"]


async def test_a_host_whose_lock_was_replaced_makes_another_and_overwrites_nothing_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    precious = tmp_path / "precious"
    precious.write_text("text")
    async with opened(path) as mine:
        await mine.write([row()])
        (lock,) = tmp_path.glob("*.alive")
        lock.unlink()
        lock.symlink_to(precious)
        await mine.take(ALL)
        assert precious.read_text() == "text"
        async with opened(path) as other:
            assert (await other.take(ALL)).tasks == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["precious", "tasks.db"]


async def test_a_host_that_misses_its_lock_for_a_moment_does_not_wait_for_itself_g22(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path := tmp_path / "tasks.db", timeout=1) as mine:
        await mine.write([row()])
        with monkeypatch.context() as broken:
            broken.setattr(_owners, "id_of", lambda file: None if isinstance(file, Path) else id_of(file))
            await mine.take(ALL)
        async with opened(path) as other:
            assert (await other.take(ALL)).tasks == []


async def test_writes_fail_until_a_deleted_directory_is_there_again_g22(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "tasks.db"
    path.parent.mkdir()
    async with opened(path) as mine:
        await mine.write([row()])
        shutil.rmtree(path.parent)
        for _ in range(2):
            with pytest.raises(JournalError, match="No such file"):
                await mine.write([row()])
        path.parent.mkdir()
        await mine.write([last := row()])
        assert look(path, "message_id") == ids([last])


async def test_a_write_fails_if_its_file_is_deleted_again_and_again_g22(tmp_path: Path) -> None:
    class Deleted(Disk):
        def execute(self, statement: str, *args: Any) -> Any:
            result = super().execute(statement, *args)
            if statement == "COMMIT" and is_open:
                delete(path)
            return result

    path, is_open = tmp_path / "tasks.db", False
    mine = share(path)
    wrap(mine, Deleted())
    await mine.open()
    is_open = True
    with pytest.raises(JournalError, match="deletes or replaces"):
        await mine.write([row()])
    is_open = False
    await mine.write([only := row()])
    assert look(path, "message_id") == ids([only])
    await mine.close()
