"""G18, G22: a delay goes on while no process runs: the time of its end is in the file."""

from __future__ import annotations

import sqlite3

import pytest
from tests.backends import until
from tests.taskphase.journal.hosts import Program, killed
from tests.taskphase.journal.stores import look, move, opened, row

from taskphase import Journal, TaskConfig, TaskHost, TaskStatus
from taskphase.journal._file import VERSION

S = TaskStatus
DAY = 86400

pytestmark = pytest.mark.usefixtures("quick")


async def cut_off(program: Program, journal: Journal | None = None, **settings: object) -> str:
    """Return the message id of a task that a shutdown has cut off in its delay."""
    async with TaskHost(journal=journal or program.journal()) as host:
        task = host.task(**settings).schedule(program.send, 1)  # type: ignore[arg-type]
        await until(lambda: task.status is S.DELAYED)
    assert task.status is S.CANCELLED
    return str(task.message_id)


async def test_a_delayed_task_of_a_closed_host_lies_in_the_file_until_its_time_g18_g22(program: Program) -> None:
    message_id = await cut_off(program, delay=DAY)
    ((due_at, written_at),) = look(program.path, "due_at, written_at")
    assert due_at - written_at == pytest.approx(DAY)
    await killed(program)
    async with program.host() as host:
        await program.has({message_id: "due"})  # the host has looked, and has taken the other task
        assert (host.tasks(), program.runs) == ((), [("wait", None, True)])
        move(program.path, written=-DAY, due=-1)
        await program.has({})
    assert program.runs[1:] == [("send", 1, True)]


async def test_a_recovered_task_waits_for_the_rest_of_its_delay_g18_g22(program: Program) -> None:
    await cut_off(program, delay=DAY)
    move(program.path, written=-DAY, due=0.2)
    async with program.host() as host:
        await until(lambda: host.delayed)
        (task,) = host.tasks()
        assert task.config.delay is not None
        assert 0 < task.config.delay <= 0.2
        await program.has({})
    assert program.runs == [("send", 1, True)]


async def test_a_clock_that_was_set_back_makes_no_delay_longer_g18_g22(program: Program) -> None:
    await cut_off(program, delay=DAY)
    move(program.path, written=DAY, due=DAY + 0.01)
    async with program.host():
        await program.has({})
    assert program.runs == [("send", 1, True)]


async def test_a_delay_of_the_journal_does_not_begin_anew_g18_g22(program: Program) -> None:
    journal = Journal(program.path, {program.send: TaskConfig(delay=DAY)}, sync="normal")
    await cut_off(program, journal)
    move(program.path, written=-DAY, due=-1)
    async with TaskHost(journal=journal):
        await program.has({})
    assert program.runs == [("send", 1, True)]


async def test_a_task_without_a_delay_gets_none_by_its_recovery_g18_g22(program: Program) -> None:
    async with program.host() as host:
        await host.schedule(program.wait).started.wait()
    assert look(program.path, "due_at") == [None]
    later = Journal(program.path, {program.wait: TaskConfig(delay=DAY)}, sync="normal")
    async with TaskHost(journal=later, config=TaskConfig(delay=DAY)):
        await program.has({})


async def test_a_file_of_version_1_gets_the_column_and_keeps_its_tasks_g22(program: Program) -> None:
    name = f"{Program.__module__}.Program.wait"
    async with opened(program.path) as mine:
        await mine.write([row(name)])
    with sqlite3.connect(program.path) as connection:
        connection.execute("ALTER TABLE tasks DROP COLUMN due_at")  # as version 1 has made the table
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    async with program.host():
        await program.has({})
    assert program.runs == [("wait", None, True)]
    with sqlite3.connect(program.path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    connection.close()
