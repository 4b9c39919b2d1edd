"""G22: the tasks of a host with a journal: written before they run, struck out when they have ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.backends import native_cancel_only, turns, until
from tests.taskphase.journal.hosts import Program, disk_of, go_on_after_the_cut, hung_disk_of, keeper_of
from tests.taskphase.journal.stores import look
from tests.taskphase.journal.test_writer import reached

from taskphase import (
    HostStatistics,
    Journal,
    JournalError,
    Limit,
    Scope,
    Task,
    TaskConfig,
    TaskDropped,
    TaskFailed,
    TaskHost,
    TaskObserver,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
    TasksUnportableError,
    current_task,
    retry,
)

S = TaskStatus


class Watch(TaskObserver):
    def __init__(self) -> None:
        self.told: list[str] = []

    def scheduled(self, task: Task[Any], _scope: object, /) -> None:
        self.told.append(f"scheduled {task.status.value}")

    def due(self, task: Task[Any], /) -> None:
        self.told.append(f"due {task.status.value}")

    def started(self, _task: Task[Any], /) -> None:
        self.told.append("started")

    def attempt_ended(self, _task: Task[Any], error: BaseException | None, _after: float | None, /) -> None:
        self.told.append(f"attempt_ended {type(error).__name__}")

    def ended(self, task: Task[Any], /) -> None:
        self.told.append(f"ended {task.status.value}")


class TestOutsideOfRoutes:
    async def test_the_first_step_waits_for_the_write_g22(self, program: Program) -> None:
        async with program.host() as host:
            disk = disk_of(host)
            disk.hangs = "COMMIT"
            task = host.schedule(program.send, 1)
            assert (task.status, task.recovered, len(task.message_id or "")) == (S.RECORDING, False, 32)
            await reached(disk)
            await turns()
            assert (program.runs, host.recording, host.statistics().recording) == ([], 1, 1)
            assert (host.running, host.waiting, host.tasks()) == (0, 0, (task,))
            disk.go_on.set()
            assert await task == 1
            await program.has({})

    async def test_a_task_that_is_written_is_recording_no_longer_g17_g22(self, program: Program) -> None:
        async with program.host() as host:
            task = host.schedule(program.wait)
            await task.started.wait()
            assert (host.recording, host.statistics().recording, host.tasks()) == (0, 0, (task,))
            program.release.set()

    async def test_a_running_task_is_due_and_a_failed_one_is_kept_g22(self, program: Program) -> None:
        async with program.host() as host:
            waits, fails = host.schedule(program.wait), host.schedule(program.fail, "why")
            await waits.started.wait()
            await fails.wait()
            await program.has({str(waits.message_id): "due", str(fails.message_id): "failed"})
            (entry,) = await program.journal().failed()
            assert (entry.id, entry.error, entry.args) == (fails.message_id, "LookupError: why", ("why",))
            program.release.set()
            await program.has({str(fails.message_id): "failed"})

    async def test_tasks_that_gather_share_a_write_and_keep_their_order_g22(self, program: Program) -> None:
        async with program.host() as host:
            before = disk_of(host)
            tasks = [host.schedule(program.send, number) for number in range(50)]
            for task in tasks:
                await task
            assert [argument for _, argument, _ in program.runs] == list(range(50)) or not host._runner.seam.in_order
            await program.has({})
            assert before.commits < 50

    async def test_other_functions_and_hosts_without_a_journal_write_nothing_g22(self, program: Program) -> None:
        async def other() -> None: ...

        async with program.host() as host:
            task = host.schedule(other)
            assert (task.status, task.message_id, task.recovered) == (S.STARTING, None, False)
            await task
        async with TaskHost() as host:
            await host.schedule(program.send)
        assert program.rows() == {}

    async def test_partials_and_pinned_names_find_their_function_g22(self, program: Program) -> None:
        journal = Journal(program.path, [program.wait], names={program.wait: "wait.v1"})
        async with TaskHost(journal=journal) as host:
            task = host.schedule(partial(program.wait, argument=5))
            await task.started.wait()
            assert look(program.path, "function, arguments") == [("wait.v1", '[[],{"argument":5}]')]
            program.release.set()

    async def test_a_function_without_a_hash_is_none_of_the_journal_g22(self, program: Program) -> None:
        class Odd:
            def __hash__(self) -> int:
                raise LookupError

            def __call__(self) -> int:
                return 1

        async with program.host() as host:
            assert await host.schedule(Odd()) == 1

    @pytest.mark.parametrize("argument", [(1,), b"", {1: 2}, float("inf"), Path()], ids=repr)
    async def test_an_argument_that_is_no_json_is_refused_in_schedule_g22(
        self, program: Program, argument: object
    ) -> None:
        async with program.host() as host:
            with pytest.raises(TasksUnportableError, match="cannot go into the journal"):
                host.schedule(program.send, argument)
            assert host.tasks() == ()

    async def test_threads_schedule_and_wait_like_the_loop_g8_g22(self, program: Program) -> None:
        async with program.host() as host:
            tasks = await anyio.to_thread.run_sync(lambda: [host.schedule(program.send, n) for n in range(5)])
            assert [await task for task in tasks] == list(range(5))
            await program.has({})

    async def test_phase_then_write_then_delay_then_limit_then_slot_g18_g19_g22(self, program: Program) -> None:
        limit = Limit(1)
        async with program.host(max_running=1) as host:
            disk = disk_of(host)
            disk.hangs = "COMMIT"
            task = host.task(delay=timedelta(seconds=0.01), limit=limit).schedule(program.send)
            seen = [task.status]
            await reached(disk)
            other = host.task(limit=limit).schedule(anyio.Event().wait)
            disk.go_on.set()
            await until(lambda: task.status is not S.RECORDING)
            seen.append(task.status)
            await until(lambda: task.status is not S.DELAYED)
            seen.append(task.status)
            other.cancel()
            await task
            assert seen == [S.RECORDING, S.DELAYED, S.LIMITED]

    async def test_a_recording_task_counts_for_max_pending_g15_g22(self, program: Program) -> None:
        async with program.host(max_pending=2) as host:
            disk = disk_of(host)
            disk.hangs = "COMMIT"
            tasks = [host.schedule(program.send) for _ in range(2)]
            with pytest.raises(TasksSaturatedError, match="2 recording tasks have reached max_pending=2") as caught:
                host.schedule(program.send)
            assert (caught.value.recording, caught.value.waiting, caught.value.deferred) == (2, 0, 0)
            await host.schedule(turns)  # a function that is not in the journal has a free slot
            disk.go_on.set()
            for task in tasks:
                await task

    async def test_a_recording_task_counts_for_its_limit_g19_g22(self, program: Program) -> None:
        async with program.host() as host:
            disk = disk_of(host)
            disk.hangs = "COMMIT"
            limited = host.task(limit=Limit(1, max_pending=1))
            task = limited.schedule(program.send)
            with pytest.raises(TasksSaturatedError):
                limited.schedule(program.send)
            disk.go_on.set()
            await task
            await limited.schedule(program.send)

    async def test_observers_hear_of_a_recording_task_once_each_g20_g22(self, program: Program) -> None:
        watch = Watch()
        async with program.host(observers=[watch]) as host:
            await host.schedule(program.send)
        assert watch.told == [
            *("scheduled new", "due recording", "started", "attempt_ended NoneType", "ended succeeded")
        ]

    async def test_settings_of_the_journal_count_in_the_first_run_too_g16_g22(self, program: Program) -> None:
        limit = Limit(3)
        kept = TaskConfig(retry=retry(attempts=2, backoff=0), timeout=7, limit=limit)
        journal = Journal(program.path, {program.fail: kept})
        async with TaskHost(journal=journal, config=TaskConfig(timeout=1, shield=True)) as host:
            task = host.task(timeout=9).schedule(program.fail)
            assert (task.config.timeout, task.config.limit, task.config.shield) == (9, limit, True)
            assert host.schedule(program.fail).config.timeout == 7
            await task.wait()
            assert task.attempt == 2

    async def test_a_sync_function_of_a_journal_runs_in_its_process_g22_g23(self, program: Program) -> None:
        journal = Journal(program.path, {abs: TaskConfig(run_in="process")})
        async with TaskHost(journal=journal) as host:
            assert await host.schedule(abs, -3) == 3


class TestRoutes:
    @pytest.mark.parametrize("phase", ["immediate", "after_route", "after_response"])
    async def test_a_task_scheduled_during_the_write_of_its_route_is_written_first_g22(
        self, program: Program, phase: str
    ) -> None:
        async with program.host() as host:
            disk = disk_of(host)
            disk.hangs = "COMMIT"

            async def schedule(tasks: Scope) -> None:
                await reached(disk)
                made.append(getattr(tasks, phase, tasks).schedule(program.hold, 2))
                await turns()
                assert made[0].status in (S.RECORDING, S.DEFERRED)
                disk.go_on.set()

            made: list[Task[None]] = []
            async with host.scope() as tasks, tasks.route():
                tasks.schedule(schedule, tasks)
                tasks.after_response.schedule(program.send, 1)
            await made[0].started.wait()
            assert program.rows()[str(made[0].message_id)] == "due"

    async def test_a_route_that_was_cancelled_waits_for_the_write_of_its_tasks_of_failure_g22(
        self, program: Program
    ) -> None:
        async with program.host() as host, host.scope() as tasks:
            with anyio.CancelScope() as request:
                async with tasks.route():
                    task = tasks.task(when="failure").after_response.schedule(program.send)
                    request.cancel()
                    await anyio.lowlevel.checkpoint()
            await keeper_of(host).share.write([])  # would undo a write that was given up
            assert program.rows() == {str(task.message_id): "due"}

    async def test_a_first_step_at_the_end_of_a_route_may_schedule_g1_g22(self, program: Program) -> None:
        async def schedule(tasks: Scope) -> None:
            made.append(tasks.schedule(program.hold, 1))
            made.append(tasks.after_response.schedule(program.hold, 2))

        made: list[Task[None]] = []
        async with program.host() as host:
            async with host.scope() as tasks, tasks.route():
                tasks.schedule(schedule, tasks)
            for task in made:
                await task.started.wait()
            assert program.rows() == {str(task.message_id): "due" for task in made}

    @pytest.mark.parametrize("is_busy", [True, False])
    async def test_a_task_that_asks_twice_for_its_write_is_written_once_g22(
        self, program: Program, is_busy: bool
    ) -> None:
        """Its batch was started in a route, and the route is cancelled during its write."""

        async def end_route() -> None:
            async with host.scope() as tasks, tasks.route():
                early = TasksScheduler(host.tg)
                made.append(early.after_route.schedule(program.send, 2))
                early.after_route.start(early)

        async with program.host() as host:
            disk = disk_of(host)
            disk.hangs = "COMMIT"
            made = list[Task[object]]()
            if is_busy:  # then the first request for a write waits until the cancellation
                made.append(host.schedule(program.send, 1))
                await reached(disk)
            async with anyio.create_task_group() as tg:
                tg.start_soon(end_route)
                await reached(disk)
                await until(lambda: made[-1].args == (2,))
                await turns()
                tg.cancel_scope.cancel()
            disk.go_on.set()
            assert [await task for task in made] == ([1, 2] if is_busy else [2])

    async def test_a_task_that_is_scheduled_after_its_route_is_written_first_g22(self, program: Program) -> None:
        async with program.host() as host, host.scope() as tasks:
            async with tasks.route():
                pass
            task = tasks.schedule(program.hold)
            await task.started.wait()
            assert program.rows() == {str(task.message_id): "due"}

    async def test_a_task_that_is_in_the_file_is_struck_out_although_its_route_fails_g22(
        self, program: Program
    ) -> None:
        async with program.host() as host, host.scope() as tasks:
            with pytest.raises(JournalError):
                async with tasks.route():
                    task = tasks.task(key="a").schedule(program.hold)
                    await task.started.wait()
                    tasks.after_route.schedule(program.send)
                    disk_of(host).fails = "INSERT"
            program.release.set()
            await task.wait()
            await program.has({})

    async def test_a_task_whose_write_has_failed_is_not_written_by_its_route_g22_g24(self, program: Program) -> None:
        async def handle(_task: Task[object], _error: Exception) -> None:
            await program.release.wait()

        async with program.host() as host, host.scope() as tasks:
            with pytest.raises(JournalError):
                async with tasks.route():
                    disk = disk_of(host)
                    disk.fails = "INSERT"
                    task = tasks.task(key="a", on_error=handle).schedule(program.send)
                    await until(lambda: task.status is S.HANDLING)
                    disk.fails = "never"
            assert program.rows() == {}
            program.release.set()


class TestCancellations:
    async def test_a_task_that_user_code_cancels_is_struck_out_g22(self, program: Program) -> None:
        async with program.host() as host:
            running, delayed = host.schedule(program.wait), host.task(delay=100).schedule(program.wait)
            await running.started.wait()
            await until(lambda: delayed.status is S.DELAYED)
            running.cancel()
            await anyio.to_thread.run_sync(delayed.cancel)
            await program.has({})
            assert (running.status, delayed.status) == (S.CANCELLED, S.CANCELLED)

    async def test_a_task_that_is_cancelled_during_its_write_is_struck_out_g22(self, program: Program) -> None:
        async with program.host() as host:
            disk = disk_of(host)
            disk.hangs = "COMMIT"
            task = host.schedule(program.send)
            await reached(disk)
            task.cancel()
            assert task.status is S.CANCELLED
            disk.go_on.set()
            await program.has({})
        assert program.rows() == {}
        assert program.runs == []

    async def test_a_task_that_the_drain_cancels_stays_due_for_any_host_g9_g22(self, program: Program) -> None:
        async with program.host() as host:
            tasks = [host.schedule(program.wait), host.task(delay=100).schedule(program.wait)]
            await tasks[0].started.wait()
            await until(lambda: tasks[1].status is S.DELAYED)
        assert look(program.path, "message_id, state, owner") == [(t.message_id, "due", None) for t in tasks]

    async def test_a_task_that_the_drain_cancels_during_its_write_stays_due_g9_g22(self, program: Program) -> None:
        async with anyio.create_task_group() as tg, program.host() as host:
            disk = disk_of(host)
            disk.hangs = "COMMIT"
            task = host.schedule(program.send)
            await reached(disk)
            tg.start_soon(go_on_after_the_cut, disk, task)
        assert program.rows() == {str(task.message_id): "due"}
        assert task.status is S.CANCELLED

    async def test_a_shielded_task_ends_in_the_drain_and_leaves_no_row_g9_g22(self, program: Program) -> None:
        async with program.host() as host:
            task = host.task(shield=True).schedule(program.send)
        assert task.status is S.SUCCEEDED
        assert program.rows() == {}

    @native_cancel_only
    async def test_a_native_cancellation_leaves_the_task_due_g2_g22(self, program: Program) -> None:
        async with program.host() as host:
            task = host.schedule(program.wait)
            await task.started.wait()
            native = host._runner.alive[task]
            assert isinstance(native, asyncio.Task)
            native.cancel()
            await task.wait()
            assert task.status is S.CANCELLED
            assert program.rows() == {str(task.message_id): "due"}

    def test_the_end_of_asyncio_run_leaves_tasks_due_and_releases_the_lock_g9_g22(self, tmp_path: Path) -> None:
        async def main() -> None:
            program = Program(tmp_path / "tasks.db")
            host = TaskHost(journal=program.journal())
            await host.__aenter__()
            task = host.schedule(program.wait)
            await task.started.wait()
            ids.append(task.message_id)

        ids: list[str | None] = []
        asyncio.run(main())
        assert look(tmp_path / "tasks.db", "message_id, state, owner") == [(ids[0], "due", None)]
        assert sorted(each.name for each in tmp_path.iterdir()) == ["tasks.db"]


class TestFailingWrites:
    async def test_a_task_that_cannot_be_written_fails_before_its_first_step_g4_g22(
        self, program: Program, logged: Callable[[], list[tuple[str, str]]]
    ) -> None:
        def asked(_task: Task[Any], _error: Exception) -> None:
            told.append("retry")

        async def handle(task: Task[Any], error: Exception) -> None:
            told.append((task.status, task.attempt, type(error), current_task() is task, variable.get()))
            raise LookupError

        told: list[object] = []
        watch, variable = Watch(), ContextVar("variable", default="")
        async with program.host(observers=[watch]) as host:
            disk_of(host).fails = "INSERT"
            variable.set("seen")
            task = host.task(retry=asked, on_error=handle).schedule(program.send)
            variable.set("")
            await task.wait()
            assert (task.status, type(task.exception), task.started.is_set()) == (S.FAILED, JournalError, False)
            with pytest.raises(TaskFailed):
                await task
            with pytest.raises(TaskFailed):
                await task.started.wait()
            assert (program.runs, program.rows(), host.recording, host.tasks()) == ([], {}, 0, ())
        assert told == [(S.HANDLING, 0, JournalError, True, "seen")]
        assert watch.told == ["scheduled new", "due recording", "ended failed"]
        assert [record for record in logged() if record[0] == "ERROR"] == [
            ("ERROR", f"the error handler of task '{task.name}' failed"),
            ("ERROR", f"task '{task.name}' failed before its first step"),
        ]

    @pytest.mark.parametrize("shield", [True, False])
    async def test_a_sync_handler_of_an_unwritten_task_runs_in_a_thread_g4_g22(
        self, program: Program, shield: bool
    ) -> None:
        def handle(_task: Task[Any], _error: Exception) -> None:
            threads.append(threading.current_thread())

        threads: list[threading.Thread] = []
        async with program.host() as host:
            disk_of(host).fails = "INSERT"
            task = host.task(on_error=handle, shield=shield).schedule(program.send)
            await task.wait()
        assert task.status is S.FAILED
        assert len(threads) == 1
        assert threads[0] is not threading.current_thread()

    async def test_a_handler_of_an_unwritten_task_can_be_cancelled_g2_g22(self, program: Program) -> None:
        async def handle(_task: Task[Any], _error: Exception) -> None:
            await anyio.sleep_forever()

        async with program.host() as host:
            disk_of(host).fails = "INSERT"
            task = host.task(on_error=handle).schedule(program.send)
            await until(lambda: task.status is S.HANDLING)
            assert "handle" in [frame.f_code.co_name for frame in task.frames() or ()]
            task.cancel()
            await task.wait()
            assert (task.status, host.running) == (S.FAILED, 0)

    async def test_one_failure_touches_no_later_task_g3_g4_g22(
        self, program: Program, logged: Callable[[], list[tuple[str, str]]]
    ) -> None:
        async with program.host() as host:
            disk = disk_of(host)
            disk.fails = "INSERT"
            failed = host.schedule(program.send)
            await failed.wait()
            disk.fails = "never"
            assert await host.schedule(program.send, 2) == 2
            await program.has({})
        errors = [message for level, message in logged() if level == "ERROR"]
        assert errors == [f"task '{failed.name}' failed before its first step"]

    async def test_a_write_that_hangs_fails_the_task_after_the_timeout_g22(self, program: Program) -> None:
        async with program.host() as host:
            disk = await hung_disk_of(host)
            task = host.schedule(program.send)
            await task.wait()
            assert isinstance(task.exception, JournalError)
            disk.go_on.set()
            keeper_of(host).share._timeout = 5
            await host.schedule(program.send, 2)
            await program.has({})
        assert program.runs == [("send", 2, False)]

    async def test_a_file_that_cannot_be_opened_keeps_the_host_closed_g22(self, tmp_path: Path) -> None:
        (path := tmp_path / "tasks.db").write_text("no journal" * 1000)
        host = TaskHost(journal=Journal(path, [abs]))
        with pytest.raises(JournalError):
            await host.__aenter__()
        assert not list(tmp_path.glob("*.alive"))

    async def test_a_drain_does_not_wait_for_a_disk_that_hangs_g9_g22(self, program: Program) -> None:
        async with program.host() as host:
            disk = await hung_disk_of(host)
            tasks = [host.schedule(program.send), host.task(shield=True).schedule(program.send)]
        assert [task.status for task in tasks] in ([S.CANCELLED, S.FAILED], [S.FAILED, S.FAILED])
        disk.go_on.set()


class TestKeys:
    async def test_a_task_whose_key_is_taken_is_dropped_and_not_written_g24(
        self, program: Program, logged: Callable[[], list[tuple[str, str]]]
    ) -> None:
        async with program.host() as host:
            keyed = host.task(key="a")
            first, second = keyed.schedule(program.wait), keyed.schedule(program.wait)
            await second.wait()
            with pytest.raises(TaskDropped):
                await second
            assert program.rows() == {str(first.message_id): "due"}
            assert [level for level, _ in logged()] == ["DEBUG"]
            program.release.set()
            await first
            assert (await keyed.schedule(program.send, 1), await keyed.schedule(program.send, 2)) == (1, 2)

    async def test_a_key_is_taken_by_a_task_of_another_host_g24(self, program: Program) -> None:
        async with program.host() as one, program.host() as two:
            first = one.task(key="a").schedule(program.wait)
            await first.started.wait()
            second = two.task(key="a").schedule(program.wait)
            await second.wait()
            assert second.status is S.DROPPED
            first.cancel()
            await first.wait()
            await program.has({})
            third = two.task(key="a").schedule(program.wait)
            await third.started.wait()
            program.release.set()

    async def test_a_key_is_taken_by_a_task_that_a_shutdown_has_cut_off_g24(self, program: Program) -> None:
        async with program.host() as host:
            first = host.task(key="a").schedule(program.hold)
            await first.started.wait()
        program.runs.clear()
        async with program.host() as host:
            await until(lambda: program.runs)
            second = host.task(key="a").schedule(program.hold)
            await second.wait()
            assert second.status is S.DROPPED
            (recovered,) = host.tasks()
            assert (recovered.message_id, recovered.config.key) == (first.message_id, "a")
            program.release.set()


async def test_a_journal_of_another_class_is_refused_g22() -> None:
    with pytest.raises(TypeError, match="journal must be a Journal"):
        TaskHost(journal="tasks.db")  # type: ignore[arg-type]


async def test_two_hosts_of_one_loop_are_two_owners_g13_g22(program: Program) -> None:
    async with program.host() as one, program.host() as two:
        assert keeper_of(one).share._owner.id != keeper_of(two).share._owner.id
        tasks = [one.schedule(program.hold), two.schedule(program.hold)]
        for task in tasks:
            await task.started.wait()
        assert len({*look(program.path, "owner")}) == 2
        program.release.set()


def test_statistics_have_the_count_of_recording_tasks_g15_g22() -> None:
    assert "recording" in HostStatistics.__dataclass_fields__


@pytest.mark.parametrize(
    "own",
    [{"timeout": 30}, {"shield": True}, {"when": "always"}, {"name": "mail"}],
    ids=lambda own: next(iter(own)),
)
async def test_the_nearest_setting_wins_even_if_the_host_has_the_same_one_g22(
    program: Program, own: dict[str, Any]
) -> None:
    [name] = own
    far: dict[str, Any] = {"timeout": 60, "shield": False, "when": "success", "name": "post"}
    journal = Journal(program.path, {program.send: TaskConfig(**far)}, sync="normal")
    async with TaskHost(journal=journal, config=TaskConfig(**own)) as host:
        inherits, sets = host.schedule(program.send), host.task(**own).schedule(program.send)
        assert (getattr(inherits.config, name), getattr(sets.config, name)) == (far[name], own[name])
        async with TasksScheduler(host.tg, TaskConfig(**own)) as tasks:
            assert getattr(tasks.schedule(program.send).config, name) == own[name]
