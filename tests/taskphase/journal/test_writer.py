"""G22: the thread that writes, its transactions, and writes that fail or take too long."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from tests.backends import native_cancel_only, turns
from tests.taskphase.journal.stores import ALL, SEND, ids, look, opened, row, share, wrap

from taskphase import JournalError


class Disk:
    """A connection to a disk that may hang or fail.

    :ivar fails: before the statement that begins with this word, the disk raises
    :ivar hangs: before the statement that begins with this word, the disk waits for `go_on`
    :ivar at_count: called before a recovered run is counted
    """

    def __init__(self) -> None:
        self.fails = self.hangs = "never"
        self.error: Exception = sqlite3.OperationalError("database or disk is full")
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.commits = self.inserts = 0
        self.at_count: Callable[[], None] = lambda: None

    def hang_at_count(self) -> None:
        """Hang before the commit that counts a recovered run."""
        self.at_count = lambda: setattr(self, "hangs", "COMMIT")

    def __call__(self, connection: Any) -> Any:
        self.connection = connection
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def execute(self, statement: str, *args: Any) -> Any:
        if "recoveries + 1" in statement:
            self.at_count()
        if statement.startswith(self.hangs):
            self.hangs = "never"
            self.reached.set()
            self.go_on.wait()
        if statement.startswith(self.fails):
            raise self.error
        self.commits += statement == "COMMIT"
        self.inserts += statement.startswith("INSERT")
        return self.connection.execute(statement, *args)


async def reached(disk: Disk) -> None:
    await anyio.to_thread.run_sync(disk.reached.wait)


async def given_up(disk: Disk, call: Callable[..., Coroutine[Any, Any, object]], *args: object) -> None:
    """Make a call whose caller is cancelled while the disk hangs before its commit."""
    disk.hangs = "COMMIT"
    async with anyio.create_task_group() as tg:
        tg.start_soon(call, *args)
        await reached(disk)
        tg.cancel_scope.cancel()


async def test_writes_that_gather_while_the_disk_works_share_a_statement_g22(tmp_path: Path) -> None:
    path, disk = tmp_path / "tasks.db", Disk()
    mine = share(path)
    wrap(mine, disk)
    await mine.open()
    disk.hangs, before = "COMMIT", disk.commits
    rows = [row(SEND, number) for number in range(20)]
    async with anyio.create_task_group() as tg:
        tg.start_soon(mine.write, rows[:1])
        await reached(disk)
        for each in rows[1:]:
            tg.start_soon(mine.write, [each])
        await turns()
        disk.go_on.set()
    assert (disk.commits, disk.inserts) == (before + 2, 2)
    assert sorted(look(path, "message_id")) == sorted(ids(rows))
    await mine.close()


async def test_a_write_that_is_given_up_keeps_its_key_from_no_other_write_g22_g24(tmp_path: Path) -> None:
    async def give_up() -> None:
        with caller:
            await mine.write([first])

    async def write() -> None:
        assert await mine.write([other, second]) == frozenset()

    path, disk, caller = tmp_path / "tasks.db", Disk(), anyio.CancelScope()
    mine = share(path)
    wrap(mine, disk)
    await mine.open()
    first, second, other = row(key="a"), row(key="a"), row()
    disk.hangs = "COMMIT"
    async with anyio.create_task_group() as tg:
        tg.start_soon(mine.write, [row()])
        await reached(disk)
        for each in give_up, write:
            tg.start_soon(each)
            await turns()
        go_on, disk.go_on, disk.reached, disk.hangs = disk.go_on, threading.Event(), threading.Event(), "COMMIT"
        go_on.set()
        await reached(disk)
        caller.cancel()
        await turns()
        disk.go_on.set()
    assert look(path, "message_id")[1:] == ids([other, second])
    await mine.close()


async def test_many_callers_get_each_the_answer_to_its_own_work_g22(tmp_path: Path) -> None:
    def answer(number: int, step: int, _connection: sqlite3.Connection) -> tuple[int, int]:
        return number, step

    async def write(number: int) -> None:
        for step in range(50):
            assert await mine.do(partial(answer, number, step)) == (number, step)
            if step % 10 == number:
                await mine.write([row(SEND, number, step)])

    async with opened(path := tmp_path / "tasks.db") as mine:
        async with anyio.create_task_group() as tg:
            for number in range(6):
                tg.start_soon(write, number)
        assert len(look(path)) == 30


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT", "COMMIT"])
async def test_an_error_reaches_each_caller_of_its_transaction_and_no_other_g22(tmp_path: Path, statement: str) -> None:
    async def write(number: int) -> None:
        try:
            await mine.write([rows[number]])
        except JournalError as exc:
            errors[number] = exc

    path, disk = tmp_path / "tasks.db", Disk()
    mine = share(path)
    wrap(mine, disk)
    await mine.open()
    rows = [row(SEND, number) for number in range(5)]
    errors: dict[int, JournalError] = {}
    disk.hangs, disk.fails = "BEGIN", statement
    async with anyio.create_task_group() as tg:
        tg.start_soon(write, 0)
        await reached(disk)
        tg.start_soon(write, 1)
        await turns()
        disk.go_on.set()
    assert sorted(errors) == [0, 1]
    assert errors[0] is not errors[1]
    assert (errors[0].path, errors[0].reason) == (path, "database or disk is full")
    assert isinstance(errors[0].__cause__, sqlite3.OperationalError)
    disk.fails = "never"
    await mine.write(rows[2:])
    await mine.close()
    assert look(path, "message_id") == ids(rows[2:])


async def test_a_bug_in_one_write_ends_no_thread_g22(tmp_path: Path) -> None:
    def broken(_connection: sqlite3.Connection) -> None:
        raise LookupError("secret")

    async with opened(tmp_path / "tasks.db") as mine:
        with pytest.raises(JournalError) as raised:
            await mine.do(broken)
        assert raised.value.reason == "LookupError"
        await mine.write([row()])


async def test_what_nobody_waits_for_is_tried_until_it_is_done_g22(tmp_path: Path) -> None:
    path, disk = tmp_path / "tasks.db", Disk()
    mine = share(path)
    wrap(mine, disk)
    await mine.open()
    await mine.write(rows := [row(), row()])
    disk.fails = "COMMIT"
    mine.strike_out(rows[0].message_id)
    mine.keep_failed(rows[1].message_id, "error")
    with pytest.raises(JournalError):
        await mine.write([row()])
    assert look(path, "state") == ["due", "due"]
    disk.fails = "never"
    assert await mine.write([last := row()]) == frozenset()
    assert look(path) == [(rows[1].message_id, "failed"), (last.message_id, "due")]
    assert mine._owed == []
    await mine.close()


class Unsynced(Disk):
    """A disk that writes and cannot sync: the transaction is in the WAL, and the index of the WAL ends before it.

    Other processes read and write the index: the locks of this process would end with its own file.
    """

    def execute(self, statement: str, *args: Any) -> Any:
        if statement != "COMMIT" or self.fails != "sync":
            return super().execute(statement, *args)
        index = f"{self.path}-shm"
        header = subprocess.run(["head", "-c", "96", index], stdout=subprocess.PIPE, check=True).stdout
        super().execute(statement)
        command = ["dd", f"of={index}", "conv=notrunc", "status=none"]
        subprocess.run(command, input=header, check=True)
        raise sqlite3.OperationalError("disk I/O error")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def after_crash(self) -> list[Any]:
        """Return the tasks that the file would have if the process crashed now."""
        left = self.path.with_name("left.db")
        for end in "", "-wal":
            subprocess.run(["cp", f"{self.path}{end}", f"{left}{end}"], check=True)
        return look(left, "message_id")


async def test_a_write_that_the_disk_could_not_sync_does_not_come_back_after_a_crash_g22(tmp_path: Path) -> None:
    disk = Unsynced(tmp_path / "tasks.db")
    mine = share(disk.path)
    wrap(mine, disk)
    await mine.open()
    await mine.write([first := row()])
    disk.fails = "sync"
    with pytest.raises(JournalError, match="disk I/O error"):
        await mine.write([lost := row()])
    assert disk.after_crash() == ids([first, lost])
    disk.fails = "never"
    await mine.write([])
    assert disk.after_crash() == look(disk.path, "message_id") == ids([first])
    await mine.close()


async def test_more_rows_than_a_statement_takes_are_written_and_struck_out_in_order_g22(tmp_path: Path) -> None:
    async with opened(path := tmp_path / "tasks.db") as mine:
        rows = [row(SEND, number, key="a" if number in (3, 700) else None) for number in range(1100)]
        assert await mine.write(rows) == {rows[700].message_id}
        written = [each for each in ids(rows) if each != rows[700].message_id]
        assert look(path, "message_id") == written
        for each in written[:-1]:
            mine.strike_out(each)
        await mine.write([])
        assert look(path, "message_id") == written[-1:]


async def test_a_task_that_ends_joins_the_next_write_or_leaves_soon_g22(tmp_path: Path) -> None:
    """Its end wakes no thread that has just written."""
    path, disk = tmp_path / "tasks.db", Disk()
    mine = share(path)
    wrap(mine, disk)
    await mine.open()
    await mine.write(rows := [row(), row()])
    before = disk.commits
    mine.strike_out(rows[0].message_id)
    await mine.write([])
    assert (look(path, "message_id"), disk.commits) == ([rows[1].message_id], before + 1)
    while not mine._sleeps:
        await anyio.sleep(0.01)
    mine.strike_out(rows[1].message_id)  # wakes the thread
    while look(path):
        await anyio.sleep(0.01)
    await mine.close()


async def test_a_task_with_a_key_that_ends_is_struck_out_at_once_g22_g24(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    mine = share(path)
    await mine.open()
    await mine.write([only := row(key="a")])
    with anyio.fail_after(5):
        mine.strike_out(only.message_id, key="a")
        assert not mine._struck_out
        while look(path):
            await anyio.sleep(0.001)
    await mine.close()


class TestGivenUp:
    @pytest.mark.parametrize("statement", ["BEGIN", "INSERT", "COMMIT"])
    async def test_a_write_that_takes_too_long_fails_and_is_struck_out_next_g22(
        self, tmp_path: Path, statement: str
    ) -> None:
        path, disk = tmp_path / "tasks.db", Disk()
        mine = share(path)
        wrap(mine, disk)
        await mine.open()
        disk.hangs, mine._timeout = statement, 0.01
        with pytest.raises(JournalError, match="longer than"):
            await mine.write([row()])
        with pytest.raises(JournalError, match="longer than"):
            await mine.write([row()])  # its turn has not come
        seen: list[Any] = []
        mine._timeout = 5
        disk.go_on.set()
        await mine.do(lambda c: seen.append(look(path)))
        assert seen == [[]]
        await mine.close()
        assert look(path) == []

    async def test_one_task_ends_all_writes_that_take_too_long_g22(self, tmp_path: Path) -> None:
        async def write() -> None:
            with pytest.raises(JournalError, match="longer than"):
                await mine.write([row()])
            ended.append(anyio.current_time())

        path, disk = tmp_path / "tasks.db", Disk()
        mine = share(path)
        wrap(mine, disk)
        await mine.open()
        ended: list[float] = []
        async with anyio.create_task_group() as watching:
            watching.start_soon(mine.watch)
            await turns()
            await mine.write([first := row()])
            disk.hangs, mine._timeout = "COMMIT", 0.05
            begin = anyio.current_time()
            async with anyio.create_task_group() as tg:
                for _ in range(3):
                    tg.start_soon(write)
                    await anyio.sleep(0.02)
            assert [after >= begin + 0.049 for after in ended] == [True] * 3
            mine._timeout = 5
            disk.go_on.set()
            await mine.write([last := row()])
            watching.cancel_scope.cancel()
        await mine.write([])  # nothing watches
        assert look(path, "message_id") == ids([first, last])
        assert not mine._watched
        disk.go_on.clear()
        disk.hangs, mine._timeout = "COMMIT", 0.05
        with pytest.raises(JournalError, match="longer than"):
            await mine.write([row()])
        disk.go_on.set()
        await mine.close()

    async def test_close_ends_a_write_that_hangs_and_that_nothing_watches_any_more_g22(self, tmp_path: Path) -> None:
        async def write() -> None:
            with pytest.raises(JournalError, match="longer than"):
                await mine.write([row()])
            ended.append(True)

        disk, ended = Disk(), list[bool]()
        mine = share(tmp_path / "tasks.db")
        wrap(mine, disk)
        await mine.open()
        disk.hangs = "COMMIT"
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tg:
                async with anyio.create_task_group() as watching:
                    watching.start_soon(mine.watch)
                    await turns()
                    tg.start_soon(write)
                    await reached(disk)
                    watching.cancel_scope.cancel()
                mine._timeout = 0.01
                await mine.close()
        assert ended == [True]
        disk.go_on.set()

    async def test_a_write_whose_caller_is_cancelled_is_struck_out_g22(self, tmp_path: Path) -> None:
        path, disk = tmp_path / "tasks.db", Disk()
        mine = share(path)
        wrap(mine, disk)
        await mine.open()
        await given_up(disk, mine.write, [row()])
        disk.go_on.set()
        await mine.close()
        assert look(path) == []

    @native_cancel_only
    async def test_a_native_cancellation_right_after_the_write_strikes_it_out_g22(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened(path := tmp_path / "tasks.db") as mine:
            native = asyncio.ensure_future(mine.write([row()]))
            loop = asyncio.get_running_loop()
            seam, written = mine._seam, threading.Event()
            call = seam.call_from_thread

            def catch(callback: Callable[[], object]) -> None:
                if seam.runs_here():
                    call(callback)
                else:
                    written.set()

            await turns(1)
            native.cancel()
            with pytest.raises(asyncio.CancelledError):
                await native
            monkeypatch.setattr(seam, "call_from_thread", catch)
            native = loop.create_task(mine.write([row()]))
            await turns(2)
            await anyio.to_thread.run_sync(written.wait)
            native.cancel()
            with pytest.raises(asyncio.CancelledError):
                await native
            monkeypatch.undo()
            await mine.write([])
            assert look(path) == []

    async def test_an_opening_that_is_given_up_leaves_no_lock_g22(self, tmp_path: Path) -> None:
        disk = Disk()
        mine = share(tmp_path / "tasks.db", timeout=0.01)
        wrap(mine, disk)
        disk.hangs = "BEGIN"
        with pytest.raises(JournalError):
            await mine.open()
        await mine.close()
        disk.go_on.set()
        await anyio.to_thread.run_sync(mine._thread.join)
        assert list(tmp_path.glob("*.alive")) == []

    async def test_a_taking_that_is_given_up_leaves_the_tasks_to_others_g22(self, tmp_path: Path) -> None:
        path, disk = tmp_path / "tasks.db", Disk()
        async with opened(path) as first:
            await first.write([only := row()])
        second = share(path)
        wrap(second, disk)
        await second.open()
        await second.write([runs := row()])
        await given_up(disk, second.take, ALL)
        disk.go_on.set()
        await second.write([])
        async with opened(path) as third:
            assert [each.message_id for each in (await third.take(ALL)).tasks] == [only.message_id]
            assert look(path, "message_id, owner") == [
                (only.message_id, third._owner.id),
                (runs.message_id, second._owner.id),
            ]
        await second.close()

    @pytest.mark.usefixtures("no_grace")
    @pytest.mark.parametrize("when", ["before the commit", "after the commit"])
    async def test_a_taking_that_is_given_up_logs_what_it_keeps_as_failed_g4_g22(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[tuple[str, str]]], when: str
    ) -> None:
        path, disk = tmp_path / "tasks.db", Disk()
        async with opened(path, ["app.gone"]) as first:
            await first.write([only := row("app.gone")])
        second = share(path)
        wrap(second, disk)
        await second.open()
        if when == "after the commit":
            # The end of the transaction is on its way to the event loop, and the caller is cancelled first.
            with monkeypatch.context() as patch:
                patch.setattr(second, "_wake", lambda _events: disk.reached.set())
                async with anyio.create_task_group() as tg:
                    tg.start_soon(second.take, ALL)
                    await reached(disk)
                    tg.cancel_scope.cancel()
        else:
            await given_up(disk, second.take, ALL)
        disk.go_on.set()
        await second.close()
        assert look(path) == [(only.message_id, "failed")]
        assert [only.message_id in text for level, text in logged() if level == "ERROR"] == [True]


class TestTheEnd:
    async def test_close_waits_for_work_in_the_queue_g22(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.db"
        mine = share(path)
        await mine.open()
        await mine.write(rows := [row() for _ in range(50)])
        for each in rows:
            mine.strike_out(each.message_id)
        await mine.close()
        assert look(path) == []
        mine._thread.join()

    async def test_close_does_not_wait_for_a_disk_that_hangs_for_ever_g22(self, tmp_path: Path) -> None:
        path, disk = tmp_path / "tasks.db", Disk()
        mine = share(path)
        wrap(mine, disk)
        await mine.open()
        await mine.write([row()])
        disk.hangs, mine._timeout = "BEGIN", 0.01
        await mine.close()
        async with opened(path) as other:
            assert (await other.take(ALL)).tasks == []
            disk.go_on.set()
            mine._thread.join()
            assert len((await other.take(ALL)).tasks) == 1

    async def test_no_other_host_takes_what_the_thread_of_a_closed_host_strikes_out_g22(self, tmp_path: Path) -> None:
        path, disk = tmp_path / "tasks.db", Disk()
        mine = share(path)
        wrap(mine, disk)
        await mine.open()
        await given_up(disk, mine.write, [row(), row()])  # so their route has failed
        mine._timeout = 0.01
        commit, disk.go_on, disk.reached = disk.go_on, threading.Event(), threading.Event()
        disk.hangs = "BEGIN"
        commit.set()
        await reached(disk)
        await mine.close()
        async with opened(path) as other:
            assert len(look(path)) == 2
            assert (await other.take(ALL)).tasks == []
            disk.go_on.set()
            mine._thread.join()
            assert (await other.take(ALL)).tasks == []
        assert look(path) == []

    async def test_a_cancellation_does_not_shorten_close_g22(self, tmp_path: Path) -> None:
        mine = share(tmp_path / "tasks.db")
        await mine.open()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await mine.close()
        mine._thread.join()

    async def test_a_closed_writer_refuses_a_write_at_once_g22(self, tmp_path: Path) -> None:
        mine = share(tmp_path / "tasks.db")
        await mine.open()
        await mine.close()
        with pytest.raises(JournalError, match="closed"):
            await mine.write([row()])
