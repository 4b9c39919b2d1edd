"""G3, G22, G24: text that no encoder takes, in names, keys and errors of tasks in a journal."""

from __future__ import annotations

import logging

import anyio
import pytest
from tests.taskphase.journal.hosts import MOMENT, Program

from taskphase import Journal, TaskHost, TasksUnportableError
from taskphase.journal._forms import text_of

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


async def test_an_error_without_a_text_is_kept_with_the_name_of_its_class_g3_g22(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "taskphase")

    class SilentError(Exception):
        @property
        def __notes__(self) -> list[str]:  # type: ignore[override]
            raise OSError

    async def fail() -> None:
        raise SilentError

    # First: with an error here the host would never close. Python 3.13 and later read such notes without an error.
    text = text_of(SilentError())
    assert SilentError.__qualname__ in text
    journal = Journal(program.path, [fail], sync="normal")
    async with TaskHost(journal=journal) as host:
        task = host.schedule(fail)
        await task.wait()
        await program.has({str(task.message_id): "failed"})
        assert [entry.error for entry in await journal.failed()] == [text]


async def test_a_key_that_no_file_takes_is_refused_at_once_g22_g24(program: Program) -> None:
    async with program.host() as host:
        with pytest.raises(TasksUnportableError, match=r"the key of .*send cannot go into the journal"):
            host.task(key=SURROGATE).schedule(program.send, 1)
        assert host.tasks() == ()
