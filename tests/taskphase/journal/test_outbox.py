"""G21, G22: a function in a journal and in a queue: recorded, then handed over, for as long as it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from tests.backends import turns, until
from tests.taskphase.journal.hosts import Program, die_with, disk_of
from tests.taskphase.journal.stores import look, move
from tests.taskphase.journal.test_writer import reached

from taskphase import Journal, JournalError, Task, TaskConfig, TaskHost, TaskStatus, TasksUnportableError, current_host
from taskphase.queues import Call, Queue

S = TaskStatus

pytestmark = pytest.mark.usefixtures("quick")


class Later(Queue):
    """A queue in memory.

    :ivar is_down: True if each attempt to publish fails
    :ivar published: the message ids, with the arguments
    """

    attempts = 0
    is_down = False

    def __init__(self, *functions: Callable[..., Any], name: str = "later", **settings: Any) -> None:
        super().__init__(name, functions, **settings)
        self.published: list[tuple[str, tuple[Any, ...]]] = []
        self.rows: Callable[[], object] = dict
        self.seen: list[object] = []

    def check_function(self, func: Callable[..., Any]) -> None:
        pass  # no worker imports the functions of a test

    def takes(self, func: Callable[..., Any]) -> bool:
        return func in self.functions  # a bound method is another object each time

    def prepare(self, call: Call, /) -> Call:
        return call

    async def publish(self, prepared: Call, _headers: Mapping[str, str], /) -> None:
        self.attempts += 1
        self.seen.append(self.rows())
        if self.is_down:
            raise ConnectionError
        self.published.append((prepared.id, prepared.args))


@asynccontextmanager
async def outbox(program: Program, *queues: Later, **settings: Any) -> AsyncIterator[TaskHost]:
    config = settings.pop("kept", TaskConfig())
    journal = Journal(program.path, {program.send: config, program.hold: config}, sync="normal")
    async with TaskHost(journal=journal, queues=queues, **settings) as host:
        yield host


async def test_a_task_is_recorded_before_it_is_handed_over_and_struck_out_after_g21_g22(program: Program) -> None:
    later = Later(program.send)
    later.rows = program.rows
    async with outbox(program, later, kept=TaskConfig(timeout=3)) as host, host.scope() as tasks:
        async with tasks.route():
            made = [tasks.schedule(program.send, 1), tasks.after_route.schedule(program.send, 2)]
            assert [task.status for task in made] == [S.RECORDING, S.DEFERRED]
        for task in made:
            await task.wait()
            assert (task.status, task.config.shield, task.config.timeout) == (S.HANDED_OVER, False, None)
        await program.has({})
    assert sorted(later.published) == sorted((task.message_id, task.args) for task in made)
    assert all({"due"} == set(rows.values()) for rows in later.seen if isinstance(rows, dict))


async def test_a_route_waits_until_its_immediate_hand_over_is_recorded_g21_g22(program: Program) -> None:
    async def end_route() -> None:
        async with host.scope() as tasks, tasks.route():
            tasks.schedule(program.send, 1)
            await reached(disk)  # else the end of the route would write the task
            leaves.set()
        ended.append(list(program.rows().values()))

    leaves = anyio.Event()
    ended: list[object] = []
    later = Later(program.send)
    later.is_down = True
    async with outbox(program, later, shield_timeout=0) as host, anyio.create_task_group() as tg:
        await host.task(queue="here").schedule(program.send, 0)  # a wait after a write ends with the next one
        await program.has({})
        disk = disk_of(host)
        disk.hangs = "COMMIT"
        tg.start_soon(end_route)
        await leaves.wait()
        await anyio.wait_all_tasks_blocked()
        assert ended == []
        disk.go_on.set()
        await until(lambda: ended)
    assert ended == [["due"]]


async def test_no_deadline_ends_the_hand_over_of_a_task_in_a_journal_g21_g22(program: Program) -> None:
    later = Later(program.send, deadline=0)
    later.is_down = True
    async with outbox(program, later) as host:
        task = host.schedule(program.send, 1)
        await until(lambda: later.attempts > 1)
        assert task.status is S.HANDING_OVER
        later.is_down = False
        await task.wait()
        assert task.status is S.HANDED_OVER


async def test_a_hand_over_that_the_drain_cuts_off_stays_due_without_on_error_g9_g22(
    program: Program, logged: Callable[[], list[tuple[str, str]]]
) -> None:
    def handle(_task: Task[Any], _error: Exception) -> None:
        handled.append(None)

    handled: list[None] = []
    later = Later(program.send)
    later.is_down = True
    async with outbox(program, later, shield_timeout=0) as host:
        made = [host.task(on_error=handle).schedule(program.send, number) for number in range(3)]
        made.append(host.task(delay=100, on_error=handle).schedule(program.send, 3))
        await until(lambda: later.attempts and made[3].status is S.DELAYED)
    assert [task.status for task in made] == [S.CANCELLED] * 4
    assert look(program.path, "message_id, owner") == [(task.message_id, None) for task in made]
    assert (handled, [text for level, text in logged() if level == "ERROR"]) == ([], [])
    later.is_down = False
    move(program.path, written=-100, due=0)
    async with outbox(program, later):
        await program.has({})
    assert sorted(later.published) == sorted((task.message_id, task.args) for task in made)
    assert program.runs == []


async def test_a_recorded_hand_over_begins_after_the_drain_has_cut_others_off_g9_g21_g22(program: Program) -> None:
    """It waits as long as it takes: in this host, or in the next one."""

    async def handle(_task: Task[Any], _error: Exception) -> None:
        task = current_host().task(on_error=lambda *call: handled.append(call)).schedule(program.send, 1)
        made.append(task)
        await task.wait()

    made: list[Task[Any]] = []
    handled: list[object] = []
    later, down = Later(program.send), Later(program.fail, name="down")
    down.is_down = True
    async with outbox(program, later, down, shield_timeout=0) as host:
        host.task(on_error=handle).schedule(program.fail)
        await until(lambda: down.attempts)
    [task] = made
    # The drain waits for a second.
    assert task.status in (S.HANDED_OVER, S.CANCELLED)
    assert handled == []
    async with outbox(program, later):
        await program.has({})
    assert later.published == [(task.message_id, (1,))]


async def test_a_recovered_hand_over_keeps_its_message_id_g21_g22(program: Program) -> None:
    later = Later(program.send)
    later.is_down = True
    async with outbox(program, later) as host:
        task = host.task(name="mail").schedule(program.send, 1)
        await until(lambda: later.attempts)
        die_with(host)
    later.is_down = False
    async with outbox(program, later, kept=TaskConfig(timeout=3)):
        await program.has({})
    assert later.published == [(task.message_id, (1,))]


async def test_a_task_for_here_is_recovered_here_g21_g22(program: Program) -> None:
    later = Later(program.hold)
    async with outbox(program, later) as host:
        host.task(queue="here").schedule(program.hold, 1)
        await until(lambda: program.runs)
    async with outbox(program, later):
        await until(lambda: len(program.runs) == 2)
        program.release.set()
        await program.has({})
    assert (program.runs, later.published) == ([("hold", 1, False), ("hold", 1, True)], [])


async def test_user_code_cancels_a_hand_over_for_good_g21_g22(program: Program) -> None:
    later = Later(program.send)
    later.is_down = True
    async with outbox(program, later) as host:
        task = host.schedule(program.send)
        await until(lambda: later.attempts)
        task.cancel()
        await task.wait()
        await program.has({})
        assert task.status is S.CANCELLED


async def test_a_task_that_cannot_be_recorded_is_not_handed_over_g21_g22(program: Program) -> None:
    later = Later(program.send)
    async with outbox(program, later) as host:
        disk_of(host).fails = "INSERT"
        task = host.schedule(program.send)
        await task.wait()
        assert (type(task.exception), later.attempts) == (JournalError, 0)


async def test_a_run_that_is_not_counted_yet_publishes_nothing_g22(program: Program) -> None:
    later = Later(program.send)
    later.is_down = True
    async with outbox(program, later) as host:
        host.schedule(program.send)
        await until(lambda: later.attempts)
    later.attempts = 0
    async with program.host(takes_over=False, queues=[later]) as host:
        disk = disk_of(host)
        disk.hang_at_count()
        host.take_over()
        await reached(disk)
        await turns()
        assert later.attempts == 0
        later.is_down = False
        disk.go_on.set()
        await program.has({})


async def test_both_have_to_be_able_to_carry_the_arguments_g21_g22(program: Program) -> None:
    async with outbox(program, Later(program.send)) as host:
        with pytest.raises(TasksUnportableError):
            host.schedule(program.send, (1,))
        with pytest.raises(TasksUnportableError):
            host.task(timeout=1).schedule(program.send)
        assert host.tasks() == ()


async def test_a_limit_of_attempts_holds_for_recorded_hand_overs_too_g21_g22(program: Program) -> None:
    class Few(Later):
        attempts_at_once = 2
        most = now = 0

        async def publish(self, prepared: Call, headers: Mapping[str, str], /) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            await anyio.sleep(0)
            await super().publish(prepared, headers)
            self.now -= 1

    later = Few(program.send)
    async with outbox(program, later) as host:
        for number in range(20):
            host.schedule(program.send, number)
        await until(lambda: len(later.published) == 20)
        await program.has({})
    assert later.most == 2


async def test_the_settings_of_the_journal_count_before_a_hand_over_too_g5_g18_g21_g22(program: Program) -> None:
    later = Later(program.send)
    kept = TaskConfig(when="always", name="mail", delay=1000, timeout=3)
    async with outbox(program, later, kept=kept) as host:
        with pytest.raises(LookupError):
            async with host.scope() as tasks, tasks.route():
                task = tasks.after_route.schedule(program.send, 1)
                raise LookupError
        await until(lambda: task.status is S.DELAYED)
        assert (task.name, later.published, program.rows()) == ("mail", [], {str(task.message_id): "due"})
        task.cancel()


async def test_the_journal_can_say_that_a_function_of_a_queue_runs_here_g21_g22(program: Program) -> None:
    later = Later(program.send)
    async with outbox(program, later, kept=TaskConfig(queue="here")) as host:
        assert await host.schedule(program.send, 1) == 1
        await host.task(queue=later).schedule(program.send, 2).wait()
    assert [args for _, args in later.published] == [(2,)]
