"""G22: the tasks of a host that has died or closed run in another one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from contextvars import ContextVar
from types import coroutine
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.backends import native_cancel_only, turns, until
from tests.taskphase.journal.hosts import MOMENT, Program, die_with, disk_of, keeper_of, killed, looked
from tests.taskphase.journal.stores import look, opened, row
from tests.taskphase.journal.test_writer import reached

from taskphase import (
    Journal,
    Limit,
    Phase,
    Task,
    TaskConfig,
    TaskHost,
    TaskObserver,
    TasksSaturatedError,
    TaskStatus,
    current_task,
    retry,
)
from taskphase._drive.attempt import attempt

S = TaskStatus

pytestmark = pytest.mark.usefixtures("quick")


class Seen(TaskObserver):
    def __init__(self) -> None:
        self.tasks: list[Task[Any]] = []
        self.told: list[str] = []

    def scheduled(self, task: Task[Any], scope: object, /) -> None:
        assert scope is None
        self.tasks.append(task)
        self.told.append("scheduled")

    def due(self, task: Task[Any], /) -> None:
        self.told.append(f"due {task.status.value}")

    def started(self, _task: Task[Any], /) -> None:
        self.told.append("started")

    def ended(self, _task: Task[Any], /) -> None:
        self.told.append("ended")


async def test_the_task_of_a_dead_host_runs_in_a_living_one_g22(program: Program) -> None:
    seen = Seen()
    async with program.host(observers=[seen], config=TaskConfig(timeout=3)) as host:
        message_id = await killed(program, argument={"a": [1]}, name="my task")
        await program.has({})
        (task,) = seen.tasks
        assert program.runs == [("wait", {"a": [1]}, True)]
        assert (task.message_id, task.recovered, task.name, task.parent) == (message_id, True, "my task", None)
        assert (task.phase, task.attempt, task.status, task.config.timeout) == (Phase.IMMEDIATE, 1, S.SUCCEEDED, 3)
        assert host.statistics().recovered == 1
        assert seen.told == ["scheduled", "due recording", "started", "ended"]
        assert host.tasks() == ()


async def test_a_closed_host_leaves_its_tasks_to_the_next_one_g9_g22(program: Program) -> None:
    async with program.host() as host, host.scope() as tasks:
        async with tasks.route():
            tasks.after_route.schedule(program.wait, 1)
            tasks.task(delay=0.01).after_route.schedule(program.wait, 2)
            after_response = tasks.after_response.schedule(program.wait, 3)
        assert look(program.path, "phase") == ["after_route", "after_route", "after_response"]
        await turns()
    assert after_response.status is S.CANCELLED
    program.runs.clear()
    async with program.host():
        await program.has({})
    assert sorted(program.runs) == [("wait", number, True) for number in (1, 2, 3)]


async def test_take_over_begins_when_the_binding_says_so_g22(program: Program) -> None:
    await killed(program)
    async with program.host(takes_over=False) as host:
        await anyio.sleep(5 * MOMENT)
        assert program.runs == []
        host.take_over()
        await program.has({})


async def test_take_over_ends_when_the_drain_begins_g9_g22(program: Program) -> None:
    async with program.host(drain_timeout=10) as host:
        task = host.schedule(program.hold)
        await task.started.wait()
        async with anyio.create_task_group() as tg:
            tg.start_soon(host.aclose)
            await host.closing.wait()
            await killed(program)
            await anyio.sleep(10 * MOMENT)
            assert program.runs == []
            program.release.set()
    assert len(program.rows()) == 1


async def test_a_task_that_is_taken_while_the_drain_begins_stays_due_g9_g22(program: Program) -> None:
    message_id = await killed(program)
    async with program.host(takes_over=False, drain_timeout=10) as host:
        busy = host.schedule(program.release.wait)
        disk = disk_of(host)
        disk.hangs = "COMMIT"
        host.take_over()
        await reached(disk)
        async with anyio.create_task_group() as tg:
            tg.start_soon(host.aclose)
            await host.closing.wait()
            disk.go_on.set()
            await keeper_of(host).share.write([])
            await turns()
            program.release.set()
        await busy.wait()
    assert (program.runs, look(program.path, "message_id, owner")) == ([], [(message_id, None)])


async def test_recovered_tasks_pass_max_pending_but_not_max_running_and_limits_g15_g19_g22(program: Program) -> None:
    async with program.host() as host:
        for number in range(6):
            host.schedule(program.hold, number)
        await until(lambda: len(program.runs) == 6)
    program.runs.clear()
    limit = Limit(1)
    journal = Journal(program.path, {program.hold: TaskConfig(limit=limit)}, sync="normal")
    async with TaskHost(journal=journal, max_running=2, max_pending=0) as host:
        await until(lambda: len(host.tasks()) == 6)
        await until(lambda: program.runs)
        assert (len(program.runs), host.running, host.limited) == (1, 1, 5)
        with pytest.raises(TasksSaturatedError):
            host.schedule(program.hold)
        program.release.set()
        await program.has({})


async def test_a_waiting_recovered_task_is_not_counted_as_a_death_g22(program: Program) -> None:
    async with program.host() as host:
        tasks = [host.schedule(program.hold, number) for number in range(3)]
        await until(lambda: len(program.runs) == 3)
    program.runs.clear()
    async with program.host(max_running=1):
        await until(lambda: program.runs)
        assert look(program.path, "recoveries") == [1, 0, 0]
    assert look(program.path, "recoveries") == [0, 0, 0]  # a shutdown is no death
    assert [task.status for task in tasks] == [S.CANCELLED] * 3


async def test_a_run_is_counted_on_the_disk_before_its_first_step_g22(program: Program) -> None:
    await killed(program)
    async with program.host(takes_over=False) as host:
        disk = disk_of(host)
        disk.hang_at_count()
        host.take_over()
        await reached(disk)
        await turns()
        assert (program.runs, host.running, [task.status for task in host.tasks()]) == ([], 1, [S.RECORDING])
        disk.go_on.set()
        await program.has({})
        assert [name for name, _, _ in program.runs] == ["wait"]


async def test_a_run_that_cannot_be_counted_waits_until_it_can_g22(program: Program) -> None:
    await killed(program)

    def fail() -> None:
        if len(failed) < 3:
            failed.append(None)
            raise disk.error

    failed: list[None] = []
    async with program.host(takes_over=False) as host:
        disk = disk_of(host)
        disk.at_count = fail
        host.take_over()
        await program.has({})
        assert (len(failed), program.runs) == (3, [("wait", None, True)])


async def test_a_shielded_run_that_cannot_be_counted_does_not_keep_the_host_open_g9_g22(program: Program) -> None:
    await killed(program)
    async with program.host(config=TaskConfig(shield=True)) as host:
        disk_of(host).fails = "UPDATE tasks SET recoveries"
        await until(lambda: host.tasks())
    assert program.runs == []
    assert list(program.rows().values()) == ["due"]


async def test_a_task_that_is_discarded_before_its_run_never_runs_g22(program: Program) -> None:
    first, second = await killed(program, argument=1), ""
    async with program.host(max_running=1) as host:
        busy = host.schedule(anyio.sleep_forever)
        await until(lambda: len(host.tasks()) == 2)
        assert await program.journal().discard(first)
        busy.cancel()
        await until(lambda: not host.tasks())
        assert host.statistics().dropped == 1
    assert (program.runs, second) == ([], "")


async def test_a_recovered_task_that_user_code_cancels_is_struck_out_g22(program: Program) -> None:
    await killed(program, function="hold")
    async with program.host() as host:
        await until(lambda: program.runs)
        host.tasks()[0].cancel()
        await program.has({})


async def test_a_failed_recovered_task_is_kept_and_can_be_retried_g22(program: Program) -> None:
    message_id = await killed(program)
    journal = Journal(program.path, {program.fail: TaskConfig(retry=retry(attempts=2, backoff=0))}, sync="normal")
    other = program.journal()
    async with TaskHost(journal=other) as host:
        await program.has({})
        task = host.schedule(program.fail)
        await program.has({str(task.message_id): "failed"})
    program.runs.clear()
    async with TaskHost(journal=journal):
        assert await journal.retry(str(task.message_id))
        await until(lambda: len(program.runs) == 2)
        await program.has({str(task.message_id): "failed"})
    assert message_id != task.message_id


async def test_carry_and_the_context_of_a_recovered_task_are_its_own_g6_g22(program: Program) -> None:
    async def note() -> None:
        found.append((user.get(), other.get(), current_task().recovered))
        user.set("changed")
        await program.release.wait()

    user, other = ContextVar("user", default="nobody"), ContextVar("other", default="default")
    found: list[tuple[str, str, bool]] = []
    carry = {"user": user, "never set": ContextVar[str]("never set")}
    journal = Journal(program.path, [note], sync="normal", carry=carry)
    user.set("ann")
    other.set("set")
    async with TaskHost(journal=journal) as host:
        host.schedule(note)
        await until(lambda: found)
    async with TaskHost(journal=journal):
        await until(lambda: len(found) == 2)
        program.release.set()
    assert found == [("ann", "set", False), ("ann", "default", True)]


async def test_a_recovered_task_is_in_the_trace_of_its_request_g22(program: Program) -> None:
    async def note() -> None:
        found.append(trace.get_current_span().get_span_context().trace_id)
        await program.release.wait()

    found: list[int] = []
    journal = Journal(program.path, [note], sync="normal")
    async with TaskHost(journal=journal) as host:
        with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
            host.schedule(note)
        await until(lambda: found)
    async with TaskHost(journal=journal):
        await until(lambda: len(found) == 2)
        program.release.set()
    assert found == [span.get_span_context().trace_id] * 2


@pytest.mark.usefixtures("no_grace")
async def test_a_function_that_is_gone_or_has_changed_keeps_its_task_as_failed_g4_g22(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    async def old(a: int, b: int) -> None:
        assert (a, b) == (1, 2)
        await program.release.wait()

    async def new(a: int) -> None: ...

    async def gone() -> None:
        await program.release.wait()

    async with TaskHost(journal=Journal(program.path, [old, gone], names={old: "old"})) as host:
        tasks = [host.schedule(old, 1, 2), host.task(name="mine").schedule(gone)]
        for task in tasks:
            await task.started.wait()
    journal = Journal(program.path, [new], names={new: "old"})
    async with TaskHost(journal=journal):
        await program.has({str(task.message_id): "failed" for task in tasks})
        await until(lambda: sum(record.levelname == "ERROR" for record in caplog.records) == len(tasks))
    errors = {vars(record)["task_message_id"]: record for record in caplog.records if record.levelname == "ERROR"}
    assert errors.keys() == {task.message_id for task in tasks}
    assert all(f"(message {message_id})" in record.getMessage() for message_id, record in errors.items())
    found = {name: value for name, value in vars(errors[tasks[1].message_id]).items() if name.startswith("task_")}
    assert found == {
        "task_id": None,
        "task_function": tasks[1].function,
        "task_name": "mine",
        "task_phase": "immediate",
        "task_attempt": 0,
        "task_status": "failed",
        "task_message_id": tasks[1].message_id,
        "task_recovered": True,
    }
    reasons = {entry.function: entry.error for entry in await journal.failed()}
    assert reasons.pop("old") == "it cannot be called any more: TypeError"
    assert list(reasons.values()) == ["the journal of this app has no function with this name"]


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("broken", [{"arguments": "["}, {"arguments": "5"}, {"headers": "["}], ids=str)
async def test_a_task_whose_row_is_broken_does_not_stop_the_others_g22(
    program: Program, broken: dict[str, str]
) -> None:
    name = f"{Program.__module__}.Program.wait"
    async with opened(program.path) as mine:
        await mine.write([bad := row(name)._replace(**broken), row(name)])  # type: ignore[arg-type]
    async with program.host():
        await program.has({bad.message_id: "failed"})
    assert program.runs == [("wait", None, True)]


async def test_an_older_version_leaves_a_task_that_it_cannot_call_to_the_newer_one_g22(
    program: Program, logged: Callable[[], list[tuple[str, str]]]
) -> None:
    async def old(a: int) -> None: ...

    async def new(a: int, b: int) -> None:
        assert (a, b) == (1, 2)
        await program.release.wait()

    newer = Journal(program.path, [new], names={new: "f"}, sync="normal")
    async with TaskHost(journal=Journal(program.path, [old], names={old: "f"}, sync="normal")) as first:
        async with TaskHost(journal=newer) as second:
            task = second.schedule(new, 1, 2)
            await task.started.wait()
        await until(lambda: str(task.message_id) in keeper_of(first).share._doubts)
        async with TaskHost(journal=newer):
            program.release.set()
            await program.has({})
        assert first.statistics().recovered == 0
    assert [text for level, text in logged() if level == "ERROR"] == []


async def test_a_renamed_function_with_its_old_name_runs_the_tasks_of_the_old_one_g22(program: Program) -> None:
    async def old(argument: int) -> None:
        found.append(("old", argument))
        await program.release.wait()

    async def new(argument: int, other: int = 2) -> None:
        found.append(("new", argument, other))

    found: list[tuple[object, ...]] = []
    async with TaskHost(journal=Journal(program.path, [old])) as host:
        await host.schedule(old, 1).started.wait()
    (name,) = look(program.path, "function")
    async with TaskHost(journal=Journal(program.path, [new], names={new: name})):
        await program.has({})
    assert found == [("old", 1), ("new", 1, 2)]


async def test_many_due_tasks_are_taken_in_parts_and_all_run_g22(program: Program) -> None:
    async with program.host() as host:
        for number in range(250):
            host.schedule(program.wait, number)
        await until(lambda: len(program.runs) == 250)
    program.runs.clear()
    most = 0
    async with program.host() as host:
        while len(program.runs) < 250:
            most = max(most, len(host.tasks()))
            await anyio.sleep(0.001)
        await program.has({})
    assert most <= 100
    assert sorted(program.runs) == [("wait", number, True) for number in range(250)]


@pytest.mark.parametrize("why", ["retry", "limit"])
async def test_recovered_tasks_that_wait_hold_up_no_other_g22(
    program: Program, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr("taskphase.journal._recovery._MOST_RECOVERED", 4)
    slow = (
        TaskConfig(retry=retry(attempts=2, backoff=1000, jitter=False))
        if why == "retry"
        else TaskConfig(limit=Limit(1))
    )
    function = program.fail if why == "retry" else program.hold
    journal = Journal(program.path, {function: slow, program.wait: TaskConfig()}, sync="normal")
    async with TaskHost(journal=journal) as host:
        tasks = [host.schedule(function, number) for number in range(10)]
        first = 0 if why == "retry" else 1  # this one has the place of the limit
        await until(lambda: {task.status for task in tasks[first:]} == {S.RETRYING if why == "retry" else S.LIMITED})
        await host.schedule(program.wait).started.wait()
    program.runs.clear()
    async with TaskHost(journal=journal) as host:
        await until(lambda: ("wait", None, True) in program.runs)
        await until(lambda: len(host.tasks()) == 10)


async def test_a_host_takes_no_more_tasks_than_it_has_room_for_even_if_they_wait_g22(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskphase.journal._recovery._MOST_PRESENT", 3)
    journal = Journal(
        program.path, {program.fail: TaskConfig(retry=retry(attempts=2, backoff=1000, jitter=False))}, sync="normal"
    )
    async with TaskHost(journal=journal) as host:
        tasks = [host.schedule(program.fail, number) for number in range(5)]
        await until(lambda: {task.status for task in tasks} == {S.RETRYING})
    async with TaskHost(journal=journal) as host:
        await until(lambda: [task.status for task in host.tasks()] == [S.RETRYING] * 3)
        await looked(host)
        assert len(host.tasks()) == 3
        for task in host.tasks():
            task.cancel()
        await until(lambda: len(program.rows()) == len(host.tasks()) == 2)


async def test_two_living_hosts_never_run_a_task_at_once_g22(program: Program) -> None:
    message_ids = [await killed(program, argument=number) for number in range(10)]
    async with program.host() as one, program.host() as two:
        await program.has({})
        assert sum(host.statistics().succeeded for host in (one, two)) == len(message_ids)
    assert sorted(program.runs) == [("wait", number, True) for number in range(10)]


async def test_hosts_that_find_the_file_by_different_symlinks_know_each_other_g22(program: Program) -> None:
    """As two releases of a deployment do."""
    for release in "one", "two":
        (link := program.path.parent / release / "tasks.db").parent.mkdir()
        link.symlink_to(program.path)
    async with program.host() as host:
        await host.schedule(program.hold).started.wait()
        for release in "one", "two":
            journal = Journal(program.path.parent / release / "tasks.db", [program.hold], sync="normal")
            async with TaskHost(journal=journal) as other:
                await looked(other)
                assert other.statistics().recovered == 0
                assert [entry.owner for entry in await journal.due()] == ["alive"]


async def die_in_recovered_runs(program: Program, journal: Journal) -> None:
    """Have the process of all tasks die in their recovered runs."""
    count = len(program.rows())
    program.runs.clear()
    async with TaskHost(journal=journal) as host:
        await until(lambda: len(program.runs) == count)
        die_with(host)
    program.runs.clear()


async def test_tasks_whose_recovered_runs_have_died_run_one_after_the_other_g3_g22(program: Program) -> None:
    for number in range(3):
        await killed(program, function="hold", argument=number)
    await die_in_recovered_runs(program, program.journal())
    new = await killed(program)
    async with program.host() as host:
        await until(lambda: new not in program.rows() and len(program.runs) == 2)
        await looked(host)
        assert sorted(program.runs) == [("hold", 0, True), ("wait", None, True)]
        [first] = host.tasks()
        first.cancel()
        await until(lambda: len(program.runs) == 3)
        await looked(host)
        assert program.runs[2:] == [("hold", 1, True)]
        assert len(host.tasks()) == 1
        program.release.set()
        await program.has({})


@pytest.mark.parametrize("why", ["died again", "many"])
async def test_the_next_tasks_are_recovered_as_soon_as_there_is_room_g22(
    program: Program, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """They do not wait for the next look at the file."""
    monkeypatch.setattr("taskphase.journal._recovery._MOST_RECOVERED", 4)
    if why == "many":
        async with program.host() as host:
            for number in range(9):
                host.schedule(program.wait, number)
            await until(lambda: len(program.runs) == 9)
    else:
        for number in range(3):
            await killed(program, function="hold", argument=number)
        await die_in_recovered_runs(program, program.journal())
        program.release.set()
    monkeypatch.setattr("taskphase.journal._recovery._PAUSE", 1000)
    async with program.host():
        await program.has({})


async def test_a_retry_pause_holds_up_no_task_whose_recovered_run_has_died_g22(program: Program) -> None:
    config = {program.fail: TaskConfig(retry=retry(attempts=2, backoff=1000, jitter=False)), program.hold: TaskConfig()}
    journal = Journal(program.path, config, sync="normal")
    async with TaskHost(journal=journal) as host:
        first = host.schedule(program.fail)
        await until(lambda: first.status is S.RETRYING)
        await host.schedule(program.hold).started.wait()
    await die_in_recovered_runs(program, journal)
    async with TaskHost(journal=journal) as host:
        await until(lambda: len(program.runs) == 2)
        assert [task.status for task in host.tasks()] == [S.RETRYING, S.RUNNING]


async def test_an_observer_that_cancels_a_recovered_task_loses_no_other_g20_g22(program: Program) -> None:
    class Cancels(TaskObserver):
        def scheduled(self, task: Task[Any], _scope: object, /) -> None:
            if task.args == (1,):
                task.cancel()

    async with program.host() as host:
        for number in range(3):
            host.schedule(program.wait, number)
        await until(lambda: len(program.runs) == 3)
    program.runs.clear()
    async with program.host(observers=[Cancels()]) as host:
        await program.has({})
        assert sorted(program.runs) == [("wait", 0, True), ("wait", 2, True)]
        assert keeper_of(host)._present == set()


@native_cancel_only
async def test_a_native_cancellation_ends_a_run_that_is_not_counted_yet_g2_g22(program: Program) -> None:
    await killed(program, function="hold")
    async with program.host(takes_over=False) as host:
        disk = disk_of(host)
        disk.hang_at_count()
        host.take_over()
        await reached(disk)
        await until(lambda: host.running)
        (task,) = host.tasks()
        (native,) = (each for each in asyncio.all_tasks() if each.get_name() == task.name)
        native.cancel()
        await turns()
        disk.go_on.set()
        await task.wait()
        assert (task.status, host.running, program.runs) == (S.CANCELLED, 0, [])
    assert list(program.rows().values()) == ["due"]


@native_cancel_only
async def test_a_run_is_counted_also_if_its_factory_takes_first_steps_at_once_g2_g22(program: Program) -> None:
    """The first step is then over before the host knows that the task waits for its journal."""

    @coroutine
    def go_on(coro: Any, waits_for: object) -> Generator[Any, Any, Any]:
        yield waits_for
        return (yield from coro)

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        options.pop("eager_start", None)  # an argument of uvloop
        if sys.version_info >= (3, 12):
            return asyncio.eager_task_factory(loop, coro, **options)
        if coro.cr_code is attempt.__code__:  # as the eager factory of Python 3.12 does
            coro = go_on(coro, options["context"].run(coro.send, None))
        return asyncio.Task(coro, loop=loop, **options)

    await killed(program, function="hold")
    loop = asyncio.get_running_loop()
    async with program.host() as host:
        loop.set_task_factory(make)  # type: ignore[arg-type]
        try:
            await until(lambda: program.runs)
        finally:
            loop.set_task_factory(None)
        assert look(program.path, "recoveries") == [1]
        program.release.set()
        await program.has({})
        assert host.statistics().succeeded == 1
