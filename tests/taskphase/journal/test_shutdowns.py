"""G9, G22: what a shutdown cuts off stays due, wherever the task was; what user code cancels is forgotten."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.backends import TRIO, native_cancel_only, until
from tests.taskphase.journal.hosts import Program, disk_of, go_on_after_the_cut, hung_disk_of, killed, looked
from tests.taskphase.journal.stores import look
from tests.taskphase.journal.test_writer import reached

from taskphase import (
    Journal,
    JournalError,
    Task,
    TaskConfig,
    TaskHost,
    TasksClosedError,
    TaskStatus,
    current_task,
    retry,
)
from taskphase.journal._share import Share

S = TaskStatus

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def thread_may_end() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


class TestBeforeTheWrite:
    """Tasks that are cut off while they wait for their write."""

    async def test_a_task_that_still_waits_for_its_write_stays_due_g9_g22(self, program: Program) -> None:
        async with program.host() as host:
            task = host.schedule(program.wait, 1)
            assert task.status is S.RECORDING
        assert (task.status, host.drain_report and host.drain_report.kept) == (S.CANCELLED, {task.name: 1})
        assert look(program.path, "message_id, state, owner") == [(task.message_id, "due", None)]
        async with program.host():
            await program.has({})
        assert program.runs == [("wait", 1, True)]

    async def test_all_tasks_behind_a_slow_write_stay_due_g9_g22(self, program: Program) -> None:
        async with anyio.create_task_group() as tg, program.host() as host:
            disk = disk_of(host)
            disk.hangs = "COMMIT"
            tasks = [host.schedule(program.send)]
            await reached(disk)
            tasks += [host.schedule(program.send, number) for number in range(3)]
            tg.start_soon(go_on_after_the_cut, disk, tasks[-1])
        assert [task.status for task in tasks] == [S.CANCELLED] * 4
        assert look(program.path, "message_id, state, owner") == [(task.message_id, "due", None) for task in tasks]
        assert host.drain_report is not None
        assert host.drain_report.kept == {tasks[0].name: 4}

    async def test_a_task_that_user_code_cancels_is_not_written_any_more_g22(self, program: Program) -> None:
        async with program.host() as host:
            forgotten, kept = host.schedule(program.send, 1), host.schedule(program.send, 2)
            forgotten.cancel()
        kept.cancel()  # too late
        assert program.rows() == {str(kept.message_id): "due"}
        assert host.drain_report is not None
        assert host.drain_report.kept == {kept.name: 1}

    async def test_a_last_write_that_fails_names_the_lost_task_g9_g22(
        self, program: Program, logged: Callable[[], list[tuple[str, str]]]
    ) -> None:
        async with program.host() as host:
            disk_of(host).fails = "INSERT"
            task = host.schedule(program.send)
        assert (task.status, program.rows(), host.drain_report and host.drain_report.kept) == (S.CANCELLED, {}, {})
        errors = [text for level, text in logged() if level == "ERROR"]
        assert errors == [f"task '{task.name}' is lost: it was cut off, and is not in the journal"]

    async def test_a_disk_that_hangs_holds_a_shutdown_for_the_timeout_only_g9_g22(
        self, program: Program, logged: Callable[[], list[tuple[str, str]]]
    ) -> None:
        async with program.host() as host:
            disk = await hung_disk_of(host)
            task = host.schedule(program.send)
        disk.go_on.set()
        assert task.status is S.CANCELLED
        assert [text for level, text in logged() if level == "ERROR" and "is lost" in text]

    def test_a_task_at_the_end_of_asyncio_run_stays_due_g9_g22(self, tmp_path: Path) -> None:
        async def main() -> None:
            program = Program(tmp_path / "tasks.db")
            await (host := TaskHost(journal=program.journal())).__aenter__()
            ids.append(host.schedule(program.wait).message_id)

        ids: list[str | None] = []
        asyncio.run(main())
        assert look(tmp_path / "tasks.db", "message_id, state, owner") == [(ids[0], "due", None)]

    @pytest.mark.parametrize("anyio_backend", TRIO, indirect=True)  # asyncio leaves its loop at once
    async def test_a_task_of_a_host_that_is_interrupted_stays_due_g9_g22(self, program: Program) -> None:
        async def interrupt() -> None:
            tasks.append(host.schedule(program.wait))
            raise KeyboardInterrupt

        tasks: list[Task[None]] = []
        host = TaskHost(journal=program.journal())
        with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
            async with host:
                host.schedule(interrupt)
                await anyio.sleep_forever()
        assert tasks[0].status is S.CANCELLED
        assert look(program.path, "message_id, state, owner") == [(tasks[0].message_id, "due", None)]

    async def test_a_cancellation_does_not_keep_a_last_write_from_the_file_g9_g22(self, program: Program) -> None:
        async with TaskHost() as host:
            keeper = program.journal()._keeper_for(host._runner, TaskConfig())
            await keeper.open()
            task = Task(program.send)
            keeper.prepare(task, None, None)
            assert keeper.ask_for_write(task)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await keeper.close()
        assert program.rows() == {str(task.message_id): "due"}


class TestOpenRoutes:
    """Routes that are still open when the shutdown cuts their tasks off."""

    @pytest.mark.parametrize("succeeds", [True, False])
    async def test_the_end_of_a_route_writes_the_tasks_that_were_cut_off_g9_g22(
        self, program: Program, succeeds: bool
    ) -> None:
        made: list[Task[None]] = []
        async with program.host() as host, anyio.create_task_group() as tg:
            host.task(shield=True).schedule(program.release.wait)
            with suppress(LookupError):
                async with host.scope() as tasks, tasks.route():
                    made.append(tasks.schedule(program.hold))
                    await made[0].started.wait()
                    made.append(tasks.task(when="always").after_route.schedule(program.hold))
                    made.append(tasks.after_response.schedule(program.hold))
                    made.append(forgotten := tasks.after_response.schedule(program.hold))
                    forgotten.cancel()
                    tg.start_soon(host.aclose)
                    await until(lambda: made[2].status is S.CANCELLED)
                    if not succeeds:
                        raise LookupError
            rows = program.rows()
            program.release.set()
        assert rows == {str(task.message_id): "due" for task in made[: 3 if succeeds else 2]}

    async def test_a_route_fails_if_its_host_has_closed_and_has_cut_off_a_task_g9_g22(self, program: Program) -> None:
        async with program.host() as host:
            empty, full = host.scope(), host.scope()
            async with full, empty:
                with pytest.raises(JournalError, match="closed"):
                    async with full.route(), empty.route():
                        empty.after_response.schedule(program.send).cancel()
                        task = full.after_response.schedule(program.send)
                        await host.aclose()
        assert (task.status, program.rows(), program.runs) == (S.CANCELLED, {}, [])


class TestFailuresOnTheWay:
    """Attempts that raise while the shutdown stops them: many drivers turn a cancellation into their own exception."""

    async def test_an_attempt_that_fails_while_it_is_stopped_stays_due_g9_g16_g22(
        self, program: Program, thread_may_end: threading.Event, logged: Callable[[], list[tuple[str, str]]]
    ) -> None:
        def in_thread() -> None:
            running.append("thread")
            thread_may_end.wait()
            raise OSError

        async def driver() -> None:
            running.append("driver")
            try:
                await anyio.sleep_forever()
            finally:
                thread_may_end.set()
                raise ConnectionError

        async def leaves() -> None:
            running.append("leaves")
            try:
                await anyio.sleep_forever()
            finally:
                raise SystemExit

        running: list[str] = []
        told: list[object] = []
        config = TaskConfig(retry=retry(attempts=5, backoff=0), on_error=lambda task, _error: told.append(task.name))
        functions = [in_thread, driver, leaves]
        journal = Journal(program.path, dict.fromkeys(functions, config), sync="normal")
        async with TaskHost(journal=journal) as host:
            tasks = [host.schedule(function) for function in functions]
            await until(lambda: len(running) == 3)
        assert [(task.status, task.attempt) for task in tasks] == [(S.CANCELLED, 1)] * 3
        assert set(program.rows().values()) == {"due"}
        assert (told, await journal.failed()) == ([], [])
        assert host.drain_report is not None
        assert host.drain_report.kept == {task.name: 1 for task in tasks}
        assert [text.partition(" raised ")[2][:30] for level, text in logged() if "was being cancelled" in text]

    async def test_a_function_that_is_done_while_it_is_stopped_is_struck_out_g22(self, program: Program) -> None:
        async def swallow() -> None:
            started.set()
            with anyio.CancelScope(shield=True):
                await program.release.wait()

        started = anyio.Event()
        async with TaskHost(journal=Journal(program.path, [swallow], sync="normal")) as host:
            task = host.schedule(swallow)
            await started.wait()
            program.release.set()
        assert (task.status, program.rows()) == (S.SUCCEEDED, {})

    @pytest.mark.parametrize("handler", [True, False])
    async def test_a_task_that_user_code_cancels_is_forgotten_even_if_it_fails_g22(
        self, program: Program, handler: bool
    ) -> None:
        async def driver() -> None:
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                raise ConnectionError

        started = anyio.Event()
        told: list[object] = []
        on_error = (lambda _task, error: told.append(type(error))) if handler else None
        async with TaskHost(journal=Journal(program.path, [driver], sync="normal")) as host:
            task = host.task(on_error=on_error).schedule(driver)
            await started.wait()
            task.cancel()
            await task.wait()
            await program.has({})
        assert (task.status, told) == (S.FAILED, [ConnectionError] if handler else [])

    async def test_a_failure_that_came_before_the_shutdown_is_kept_as_failed_g4_g22(self, program: Program) -> None:
        async def handle(_task: Task[object], _error: Exception) -> None:
            handling.set()
            await anyio.sleep_forever()

        handling = anyio.Event()
        async with program.host() as host:
            task = host.task(on_error=handle).schedule(program.fail)
            await handling.wait()
        assert (task.status, program.rows()) == (S.FAILED, {str(task.message_id): "failed"})


class TestThreadsThatOutliveTheirHost:
    """No code can stop a thread, and `shield_timeout` bounds the wait for it."""

    async def test_no_other_host_runs_the_task_before_the_thread_has_ended_g9_g22(
        self, program: Program, thread_may_end: threading.Event
    ) -> None:
        def block() -> None:
            runs.append(current_task().recovered)
            if not current_task().recovered:
                thread_may_end.wait()

        runs: list[bool] = []
        journal = Journal(program.path, [block], sync="normal")
        async with TaskHost(journal=journal, shield_timeout=0) as host:
            tasks = [host.schedule(block), host.schedule(block)]
            await until(lambda: len(runs) == 2)
        assert host.drain_report is not None
        assert host.drain_report.kept == {tasks[0].name: 2}
        async with TaskHost(journal=journal) as other:
            await looked(other)
            assert runs == [False, False]
            assert [entry.owner for entry in await journal.due()] == ["alive"] * 2
            thread_may_end.set()
            await program.has({})
            assert runs == [False, False, True, True]
        # The lock depends on the threads, although this test still has the tasks.
        assert [task.status for task in tasks] == [S.CANCELLED] * 2

    async def test_a_handler_whose_thread_outlives_its_host_keeps_its_task_as_failed_g4_g22(
        self, program: Program, thread_may_end: threading.Event
    ) -> None:
        def handle(_task: Task[object], _error: Exception) -> None:
            handling.append(None)
            thread_may_end.wait()

        handling: list[None] = []
        async with program.host(shield_timeout=0) as host:
            task = host.task(on_error=handle).schedule(program.fail)
            await until(lambda: handling)
        assert program.rows() == {str(task.message_id): "failed"}
        assert host.drain_report is not None
        assert (host.drain_report.abandoned, host.drain_report.kept) == ({task.name: 1}, {})


@native_cancel_only
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # anyio wraps each coroutine
@pytest.mark.parametrize("name", ["taskphase.journal", ".write", ".recover", ".watch"])
async def test_a_journal_outlives_a_cancellation_before_its_first_steps_g2_g22(program: Program, name: str) -> None:
    def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        loop.call_soon(cancel_once)  # before the first step
        natives.append(native := asyncio.Task(coro, loop=loop, **options))
        return native

    def cancel_once() -> None:
        native = natives.pop(0)
        if native.get_name().endswith(name) and not cancelled:
            cancelled.append(native)
            native.cancel()

    natives: list[asyncio.Task[Any]] = []
    cancelled: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_task_factory(make)  # type: ignore[arg-type]
    try:
        async with program.host() as host:
            loop.set_task_factory(None)
            await host.schedule(program.send)
            await killed(program)
            await program.has({})
    finally:
        loop.set_task_factory(None)
    assert len(cancelled) == 1
    cancelled.clear()
    gc.collect()


@native_cancel_only
async def test_a_task_that_no_factory_makes_when_its_phase_comes_stays_due_g2_g5_g22(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise LookupError("no tasks today")

    loop = asyncio.get_running_loop()
    async with program.host() as host, host.scope() as tasks:
        async with tasks.route():
            task = tasks.after_response.schedule(program.send)
        loop.set_task_factory(broken)
        try:
            tasks.end()
        finally:
            loop.set_task_factory(None)
    assert (task.status, host.deferred) == (S.CANCELLED, 0)
    assert list(program.rows().values()) == ["due"]
    assert [record.task_status for record in caplog.records] == ["deferred"]  # type: ignore[attr-defined]


async def test_a_journal_with_an_unexpected_error_closes_its_host_with_this_error_g22(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise tasks would wait for ever for their writes."""

    async def take(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Share, "take", take)
    with pytest.raises(ZeroDivisionError):
        async with program.host() as host:
            with anyio.move_on_after(10) as limit:
                await until(lambda: host._closed.is_set())
    assert not limit.cancelled_caught
    with pytest.raises(TasksClosedError):
        host.schedule(program.send)
