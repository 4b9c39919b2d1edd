"""G22: journals of processes that are killed, that hang, and that fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.taskphase.journal.stores import ALL, opened

PROGRAM = """
import os, sys, time
import anyio
from pathlib import Path
from tests.taskphase.journal.stores import opened, row

async def main():
    async with opened(Path(sys.argv[1])) as mine:
        await mine.write([row("app.send", number) for number in range(5)])
        reading, writing = os.pipe()
        if sys.argv[2] == "fork":
            if not os.fork():
                os.write(writing, b"x")
                time.sleep(60)
                os._exit(0)
            os.read(reading, 1)
        print(os.getpid(), flush=True)
        await anyio.sleep(60)

anyio.run(main, backend=sys.argv[3])
"""


@contextmanager
def process(path: Path, mode: str, backend: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has five due tasks, in a process group of its own."""
    command = [sys.executable, "-c", PROGRAM, str(path), mode, backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline().strip() == str(child.pid)
            yield child
        finally:
            os.killpg(child.pid, signal.SIGKILL)


@pytest.mark.parametrize("mode", ["plain", "fork"])
async def test_the_tasks_of_a_killed_process_are_taken_and_of_a_stopped_one_not_g22(
    tmp_path: Path, mode: str, backend_name: str
) -> None:
    """With "fork" a child outlives its parent. The child neither keeps nor releases the lock."""
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        with process(path, mode, backend_name) as child:
            for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGSTOP):
                os.kill(child.pid, number)
                assert (await mine.take(ALL)).tasks == []
            os.kill(child.pid, signal.SIGKILL)
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert [each.args for each in (await mine.take(ALL)).tasks] == [(number,) for number in range(5)]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_death_before_any_statement_loses_no_task_and_doubles_none_g22(tmp_path: Path, backend: str) -> None:
    command = [sys.executable, "-m", "tests.taskphase.journal.crashes", str(tmp_path), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
