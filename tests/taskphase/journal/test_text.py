"""G3, G22, G24: text that no encoder takes, in names, keys and errors of tasks in a journal."""

from __future__ import annotations

import logging

import anyio
import pytest
from tests.taskphase.journal.hosts import MOMENT, Program

from taskphase import Journal, TaskHost, TasksUnportableError

SURROGATE = "caf\udce9.txt"  # a file name that is no UTF-8, as `os.fsdecode()` returns it


async def test_no_text_of_a_task_keeps_others_out_of_the_file_g3_g22(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """Tasks whose names and errors no encoder takes, beside others, in one write and after one another."""
    caplog.set_level(logging.CRITICAL, "taskphase")  # pytest's own report takes no such text

    async def fail(argument: object) -> None:
        raise LookupError(argument)

    journal = Journal(program.path, [program.send, fail], names={fail: "app.fail"}, sync="normal")
    async with TaskHost(journal=journal) as host:
        for _ in range(2):
            async with host.scope() as tasks, tasks.route():
                named = tasks.after_route.task(name=SURROGATE)
                made = [named.schedule(program.send, SURROGATE) for _ in range(3)]
                failing = named.schedule(fail, SURROGATE)
            for task in made:
                assert await task == SURROGATE
            await failing.wait()
        while len(entries := await journal.failed()) < 2:
            await anyio.sleep(MOMENT)
        assert [entry.name for entry in entries] == ["caf\\udce9.txt"] * 2
        assert all("caf" in str(entry.error) for entry in entries)
        assert await journal.retry(SURROGATE) is False
        assert await journal.discard(SURROGATE) is False
        assert await host.schedule(program.send, 1) == 1
    assert await journal.due() == []


async def test_a_key_that_no_file_takes_is_refused_at_once_g22_g24(program: Program) -> None:
    async with program.host() as host:
        with pytest.raises(TasksUnportableError, match=r"the key of .*send cannot go into the journal"):
            host.task(key=SURROGATE).schedule(program.send, 1)
        assert host.tasks() == ()
