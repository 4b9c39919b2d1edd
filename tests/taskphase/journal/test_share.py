"""G22, G24: what one host writes into a journal, strikes out, keeps, and takes over."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from tests.taskphase.journal.stores import ALL, CHARGE, SEND, args_of, die, ids, look, opened, row, share

from taskphase.journal._statements import Doubts, Taken, release


async def test_what_was_written_is_due_until_struck_out_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        rows = [row(SEND, 1), row(CHARGE, {"a": [None, True, 1.5]})]
        assert await mine.write(rows) == frozenset()
        assert look(path) == [(each.message_id, "due") for each in rows]
        mine.strike_out(rows[0].message_id)
        mine.keep_failed(rows[1].message_id, "ValueError: no")
        await mine.write([])
        assert look(path, "message_id, state, error, owner") == [(rows[1].message_id, "failed", "ValueError: no", None)]


async def test_a_host_that_closes_in_order_releases_what_is_due_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with opened(path) as first:
        await first.write(rows := [row(SEND, 1), row(SEND, 2)])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tasks.db"]
    async with opened(path) as second:
        taken = await second.take(ALL)
        assert [(each.message_id, args_of(each), each.recoveries) for each in taken.tasks] == [
            (rows[0].message_id, (1,), 0),
            (rows[1].message_id, (2,), 0),
        ]
        assert (await second.take(ALL)).tasks == []


async def test_a_living_owner_keeps_its_tasks_and_a_dead_one_loses_them_once_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    first = share(path)
    await first.open()
    await first.write(rows := [row(SEND, number) for number in range(5)])
    async with opened(path) as second, opened(path) as third:
        assert (await second.take(ALL)).tasks == []
        die(first)
        some = [each.message_id for each in (await second.take(2)).tasks]
        rest = [each.message_id for each in (await third.take(ALL)).tasks]
        assert (some, rest) == (ids(rows[:2]), ids(rows[2:]))
        assert len(list(tmp_path.glob("*.alive"))) == 2  # the file of the dead is gone


async def test_two_hosts_that_take_at_once_share_the_tasks_and_double_none_g22(tmp_path: Path) -> None:
    async def take(host: str) -> None:
        async with opened(path) as mine:
            ready.append(host)
            while len(ready) < 4:
                await anyio.lowlevel.checkpoint()
            for _ in range(10):
                found.extend(each.message_id for each in (await mine.take(3)).tasks)
            done.append(host)
            while len(done) < 4:
                await anyio.sleep(0.001)

    path = tmp_path / "tasks.db"
    first = share(path)
    await first.open()
    await first.write(rows := [row(SEND, number) for number in range(50)])
    die(first)
    ready, found, done = list[str](), list[str](), list[str]()
    async with anyio.create_task_group() as tg:
        for host in "abcd":
            tg.start_soon(take, host)
    assert sorted(found) == sorted(ids(rows))


class TestRecoveries:
    async def test_only_the_deaths_of_recovered_runs_count_g22(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.db"
        first = share(path)
        await first.open()
        await first.write([killer := row(SEND, "kills"), waits := row(SEND, "waits")])
        die(first)
        for deaths in range(3):
            host = share(path)
            await host.open()
            taken = await host.take(ALL)
            assert [(each.message_id, each.recoveries) for each in taken.tasks] == [
                (killer.message_id, deaths),
                (waits.message_id, 0),
            ]
            for _ in range(2):
                assert await host.count_run(killer.message_id)
            assert look(path, "recoveries") == [deaths + 1, 0]
            die(host)
        async with opened(path) as last:
            taken = await last.take(ALL)
            assert [each.message_id for each in taken.tasks] == [waits.message_id]
            assert [(each.message_id, each.function) for each, _ in taken.given_up] == [(killer.message_id, SEND)]
        assert look(path, "message_id, state") == [(killer.message_id, "failed"), (waits.message_id, "due")]

    async def test_tasks_whose_runs_have_died_are_taken_one_at_a_time_g22(self, tmp_path: Path) -> None:
        """So a task that kills its process takes no other along."""
        path = tmp_path / "tasks.db"
        async with opened(path) as first:
            await first.write(rows := [row(SEND, number) for number in range(4)])
        second = share(path)
        await second.open()
        await second.take(ALL)
        for number in (0, 2, 3):
            await second.count_run(rows[number].message_id)
        die(second)
        async with opened(path) as third:
            for suspects, found in ((0, [1]), (1, [0]), (0, []), (1, [2]), (1, [3]), (1, [])):
                taken = await third.take(ALL, suspects=suspects)
                assert [args_of(each) for each in taken.tasks] == [(number,) for number in found]

    async def test_a_host_that_closes_in_order_takes_its_counts_back_g22(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.db"
        first = share(path)
        await first.open()
        await first.write([only := row()])
        die(first)
        for _ in range(4):
            async with opened(path, recoveries=1) as host:
                assert [each.recoveries for each in (await host.take(ALL)).tasks] == [0]
                assert await host.count_run(only.message_id)
        assert look(path, "recoveries, counted, owner") == [(0, 0, None)]

    async def test_a_task_that_was_discarded_is_not_counted_g22(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "tasks.db") as host:
            assert not await host.count_run("gone")


class TestKeys:
    async def test_a_key_of_a_due_task_keeps_others_out_of_the_file_g24(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.db"
        async with opened(path) as first, opened(path) as second:
            await first.write([one := row(SEND, key="a")])
            rows = [row(SEND, key="a"), row(SEND, key="b"), row(CHARGE, key="a"), row(SEND, key="b"), row(SEND)]
            assert await second.write(rows) == {rows[0].message_id, rows[3].message_id}
            assert look(path, "message_id") == ids([one, rows[1], rows[2], rows[4]])

    async def test_a_key_is_free_as_soon_as_its_task_has_ended_g24(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.db"
        async with opened(path) as mine:
            for end in (mine.strike_out, lambda each: mine.keep_failed(each, "error")):
                await mine.write([one := row(SEND, key="a")])
                end(one.message_id)
                other = row(SEND, key="a")
                assert await mine.write([other]) == frozenset()
                mine.strike_out(other.message_id)


class TestFunctions:
    @pytest.mark.usefixtures("no_grace")
    async def test_a_task_of_an_unknown_function_is_kept_as_failed_g22(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.db"
        async with opened(path, [SEND, "app.old"]) as old:
            await old.write([gone := row("app.old"), row(SEND)])
        async with opened(path, [SEND]) as new:
            taken = await new.take(ALL)
            assert [each.function for each in taken.tasks] == [SEND]
            assert [(each.message_id, each.function) for each, _ in taken.given_up] == [(gone.message_id, "app.old")]
        assert look(path, "state") == ["failed", "due"]

    async def test_a_task_of_an_unknown_function_stays_due_for_a_time_g22(self, tmp_path: Path) -> None:
        """The time begins again when a host that knows the function has been there."""
        path = tmp_path / "tasks.db"
        async with opened(path, ["app.new"]) as new:
            await new.write([row("app.new")])
        async with opened(path, [SEND]) as old:
            times = [0.0]
            old._doubts = Doubts(lambda: times[-1])
            for seconds in (0, 59.9):
                times.append(seconds)
                assert await old.take(ALL) == Taken([], [])
            async with opened(path, ["app.new"]):
                times.append(60)
                assert await old.take(ALL) == Taken([], [])
            for seconds in (61, 120.9):
                times.append(seconds)
                assert await old.take(ALL) == Taken([], [])
            assert look(path, "state, owner") == [("due", None)]
            times.append(121)
            assert len((await old.take(ALL)).given_up) == 1
        assert look(path, "state") == ["failed"]

    async def test_other_tasks_do_not_begin_the_time_of_an_unknown_function_again_g22(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.db"
        async with opened(path, [SEND, "app.new"]) as new:
            await new.write([*(row() for _ in range(3)), row("app.new")])
        async with opened(path, [SEND]) as old:
            times = [0.0]
            old._doubts = Doubts(lambda: times[-1])
            await old.take(ALL)
            old.post(lambda connection: release(connection, old._owner.id))
            times.append(60)
            assert len((await old.take(3)).tasks) == 3  # without a look at the other one
            assert len((await old.take(3)).given_up) == 1

    async def test_two_versions_of_an_app_leave_each_other_their_functions_g22(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.db"
        dying = share(path, [SEND, "app.new"])
        await dying.open()
        await dying.write([row("app.new"), row(SEND)])
        die(dying)
        async with opened(path, [SEND]) as old, opened(path, [SEND, "app.new"]) as new:
            taken = await old.take(ALL)
            assert ([each.function for each in taken.tasks], taken.given_up) == ([SEND], [])
            assert [each.function for each in (await new.take(ALL)).tasks] == ["app.new"]


@pytest.mark.usefixtures("no_grace")
async def test_journals_whose_names_begin_alike_have_their_own_owners_g22(tmp_path: Path) -> None:
    """`tasks.db` and `tasks.db.old`: the owner of one is no owner of the other, and keeps its lock."""
    async with opened(tmp_path / "tasks.db") as short, opened(tmp_path / "tasks.db.old") as long:
        await long.write([row(SEND)])
        await short.write([row("app.gone")])
        die(short)
        async with opened(tmp_path / "tasks.db", [SEND]) as other:
            taken = await other.take(ALL)
            assert (len(taken.tasks), len(taken.given_up)) == (0, 1)
            assert other._owner.others() == {}
        dead = tmp_path / f"tasks.db.old.{'0' * 32}.alive"
        dead.touch()
        async with opened(tmp_path / "tasks.db", [SEND]) as other:
            await other.take(ALL)
        assert dead.exists()
