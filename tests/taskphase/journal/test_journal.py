"""G22, G24: the settings of a journal, and its tasks for users."""

from __future__ import annotations

import builtins
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.handed import ListQueue, send_mail
from tests.taskphase.journal.stores import ALL, die, ids, opened, row, share

from taskphase import JournalError, TaskConfig
from taskphase.journal import Journal, JournalEntry


def send(*args: object) -> None: ...


def charge(*args: object) -> None: ...


def test_the_constructor_opens_nothing_g22(tmp_path: Path) -> None:
    Journal(tmp_path / "tasks.db", [send, charge])
    assert list(tmp_path.iterdir()) == []


def test_only_the_constructor_imports_sqlite3_g22() -> None:
    program = (
        "import sys, taskphase.journal\n"
        "before = 'sqlite3' in sys.modules, 'taskphase.journal._owners' in sys.modules\n"
        "taskphase.journal.Journal('tasks.db', [])\n"
        "print(before, 'sqlite3' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split("\n")[0] == "(False, False) True"


def test_a_python_without_fcntl_is_refused_g22(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *args: Any) -> Any:
        if name == "fcntl":
            raise ModuleNotFoundError("No module named 'fcntl'")
        return real(name, *args)

    real = builtins.__import__
    for name in [each for each in sys.modules if each.startswith("taskphase.journal._")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeError, match="fcntl"):
        Journal("tasks.db", [send])


NAMED: dict[str, Any] = {
    "sync": {"sync": "off"},
    "timeout": {"timeout": 0},
    "infinite timeout": {"timeout": float("inf")},
    "recoveries": {"recoveries": 0},
    "two functions": {"names": {send: "app.one", charge: "app.one"}},
    "no such function": {"names": {print: "app.print"}},
    "key": {"functions": {send: TaskConfig(key="a")}},
    "queue": {"functions": {send: TaskConfig(queue=ListQueue("later", [send_mail]))}},
}


@pytest.mark.parametrize("options", NAMED.values(), ids=NAMED)
def test_settings_out_of_their_range_are_refused_g22(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Journal("tasks.db", **{"functions": [send, charge], **options})


def test_settings_of_the_wrong_type_are_refused_g22() -> None:
    wrong: list[dict[str, Any]] = [
        {"timeout": "5"},
        {"functions": ["send"]},
        {"functions": {send: 5}},
        {"functions": [partial(send, 1)]},
        {"names": {send: 5}},
        {"carry": {"a": 1}},
        {"carry": ["a"]},
    ]
    for options in wrong:
        with pytest.raises(TypeError):
            Journal("tasks.db", **{"functions": [send], **options})


def test_functions_have_their_names_or_those_that_are_pinned_g22() -> None:
    journal = Journal("tasks.db", {send: TaskConfig(timeout=3), charge: TaskConfig()}, names={send: "mail.v1"})
    assert journal._names == {send: "mail.v1", charge: f"{__name__}.charge"}
    assert journal._configs[send].timeout == 3
    assert repr(Journal("/x/tasks.db", [])) == "<Journal '/x/tasks.db'>"


async def test_due_and_failed_show_the_tasks_of_all_processes_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    journal = Journal(path, [send])
    assert (await journal.due(), await journal.failed()) == ([], [])
    async with opened(path) as mine:
        assert (await journal.due(), await journal.failed()) == ([], [])
        await mine.write(rows := [row("app.send", "secret", key="k"), row("app.charge")])
        mine.keep_failed(rows[1].message_id, "ValueError: no")
        await mine.write([])
        (due,), (failed,) = await journal.due(), await journal.failed()
    assert isinstance(due, JournalEntry)
    assert (due.id, due.function, due.key, due.args, due.error) == (ids(rows)[0], "app.send", "k", ("secret",), None)
    assert (failed.id, failed.error) == (rows[1].message_id, "ValueError: no")
    assert abs((datetime.now(UTC) - due.written_at).total_seconds()) < 60
    assert "secret" not in repr(due)


async def test_retry_makes_a_failed_task_due_for_any_process_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    journal = Journal(path, [send])
    async with opened(path, recoveries=1) as mine:
        await mine.write([only := row()])
        assert not await journal.retry(only.message_id)
        mine.keep_failed(only.message_id, "error")
        await mine.write([])
        assert await journal.retry(only.message_id)
        taken = await mine.take(ALL)
        assert [(each.message_id, each.recoveries) for each in taken.tasks] == [(only.message_id, 0)]


async def test_a_retry_forgets_the_deaths_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    first = share(path)
    await first.open()
    await first.write([only := row()])
    await first.count_run(only.message_id)
    die(first)
    async with opened(path, recoveries=1) as second:
        assert len((await second.take(ALL)).given_up) == 1
        assert await Journal(path, [send]).retry(only.message_id)
        assert [each.recoveries for each in (await second.take(ALL)).tasks] == [0]


async def test_a_retry_whose_key_is_taken_is_refused_g24(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        await mine.write([only := row(key="a")])
        mine.keep_failed(only.message_id, "error")
        await mine.write([row(key="a")])
        with pytest.raises(JournalError, match="same key"):
            await Journal(path, [send]).retry(only.message_id)


async def test_discard_deletes_a_task_once_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    journal = Journal(path, [send])
    async with opened(path) as mine:
        await mine.write([one := row(), two := row()])
        mine.keep_failed(two.message_id, "error")
        await mine.write([])
        assert [await journal.discard(each) for each in (one.message_id, two.message_id, "other")] == [
            True,
            True,
            False,
        ]
        assert not await mine.count_run(one.message_id)


async def test_a_file_that_cannot_be_read_raises_journal_error_g22(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "nowhere" / "tasks.db", [send])
    for call in (journal.due, journal.failed, partial(journal.retry, "id"), partial(journal.discard, "id")):
        with pytest.raises(JournalError) as raised:
            await call()
        copy = pickle.loads(pickle.dumps(raised.value))
        assert (str(copy), copy.reason) == (str(raised.value), raised.value.reason)


async def test_a_lock_that_cannot_be_looked_at_raises_journal_error_g22(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "tasks.db", [send])
    first = share(journal._path)
    await first.open()
    await first.write([row()])
    die(first)
    (lock := first._owner._path).unlink()
    lock.symlink_to(lock)
    for call in (journal.due, journal.overview):
        with pytest.raises(JournalError, match="symbolic links"):
            await call()
