"""G22, and the simulation: the thread of a journal takes part, in virtual time, when the policy chooses it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from tests.taskphase.journal.stores import look

from taskphase import Journal, JournalError, TaskHost
from taskphase.journal._file import File
from taskphase.testing import Cancel, Livelock, Policy, RandomWalk, Run, explore, mark, pause, simulate
from taskphase.testing._simulation.running import Backend


async def work() -> None:
    mark("works")
    await anyio.sleep(1)


async def program() -> None:
    with TemporaryDirectory() as folder:
        async with TaskHost(journal=Journal(path := Path(folder, "tasks.db"), [work], sync="normal")) as host:
            tasks = [host.schedule(work) for _ in range(3)]
            await tasks[0].started.wait()
            assert len(look(path)) == 3
            for task in tasks:
                await task
            while look(path):
                await anyio.sleep(0.001)


def test_the_thread_of_a_journal_is_in_the_trace_and_its_time_is_virtual(backend: Backend) -> None:
    began = time.monotonic()
    run = simulate(program, backend=backend)
    run.result()
    assert run.marks == ["works"] * 3
    assert any(entry.task.startswith("journal#") and entry.what == "step" for entry in run.trace)
    assert 1 <= run.time < 1.1
    assert time.monotonic() - began < 1


def test_a_host_looks_for_tasks_of_others_every_two_seconds_g22(backend: Backend) -> None:
    async def main() -> None:
        async def fail() -> None:
            runs.append(None)
            raise LookupError

        runs: list[None] = []
        with TemporaryDirectory() as folder:
            journal = Journal(Path(folder, "tasks.db"), [fail], sync="normal")
            async with TaskHost(journal=journal) as host:
                await (task := host.schedule(fail)).wait()
                for number in range(2, 7):
                    await anyio.sleep(2.7)
                    assert await journal.retry(str(task.message_id))
                    await anyio.sleep(2.1)
                    assert len(runs) == number

    simulate(main, backend=backend).result()


@pytest.mark.parametrize("seed", range(5))
def test_the_same_choices_make_the_same_run_with_a_journal(backend: Backend, seed: int) -> None:
    def run(policy: Policy) -> Run:
        return simulate(program, backend=backend, policy=policy)

    one, two = run(RandomWalk(seed)), run(RandomWalk(seed))
    assert one.exception is None
    assert one.trace == two.trace


@explore(schedules=40)
async def test_a_journal_works_under_all_schedules() -> None:
    await program()


def test_a_file_that_hangs_longer_than_the_timeout_fails_the_task(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def execute(self, statement: str, *args: Any) -> Any:
            if statement.startswith("INSERT"):
                pause(60)
            return self._connection.execute(statement, *args)

    async def main() -> None:
        with TemporaryDirectory() as folder:
            async with TaskHost(journal=Journal(path := Path(folder, "tasks.db"), [work], timeout=30)) as host:
                task = host.schedule(work)
                await task.wait()
                assert (type(task.exception), round(anyio.current_time() - began)) == (JournalError, 30)
                await anyio.sleep(60)
                assert look(path) == []

    def connect(file: File) -> Slow:
        return Slow(real(file))

    real = File.connect
    monkeypatch.setattr(File, "connect", connect)
    began = 0.0
    simulate(main, backend=backend).result()


def test_a_run_that_never_ends_is_a_livelock_and_leaves_no_thread(backend: Backend) -> None:
    """The host looks for tasks of others every two seconds: time goes on."""

    async def main() -> None:
        async with TaskHost(journal=Journal(Path(folder, "tasks.db"), [work], sync="normal")) as host:
            await host.schedule(work)
            await anyio.Event().wait()

    with TemporaryDirectory() as folder:
        before = set(threading.enumerate())
        run = simulate(main, backend=backend, max_steps=300)
        assert isinstance(run.exception, Livelock)
        assert set(threading.enumerate()) <= before
        assert not list(Path(folder).glob("*.alive"))


def test_a_cancellation_at_any_step_leaves_no_thread(backend: Backend) -> None:
    before = set(threading.enumerate())
    for step in range(1, simulate(program, backend=backend).steps + 1):
        simulate(program, backend=backend, faults=[Cancel(step)], max_steps=1000)
        assert set(threading.enumerate()) <= before


def test_a_journal_outside_of_the_simulation_has_its_own_thread(backend: Backend) -> None:
    def elsewhere() -> None:
        try:
            anyio.run(program, backend=backend)
        except BaseException as exc:
            errors.append(exc)

    async def main() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    errors: list[BaseException] = []
    run = simulate(main, backend=backend)
    run.result()
    assert errors == []
    assert not any(entry.task.startswith("journal#") for entry in run.trace)
