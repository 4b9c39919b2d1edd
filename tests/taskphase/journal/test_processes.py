"""G22: journals of processes that are killed, that hang, and that fork."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.taskphase.journal.stores import ALL, args_of, opened, row

from taskphase import Journal, JournalError
from taskphase.journal._file import File
from taskphase.journal._share import Share

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
            assert [args_of(each) for each in (await mine.take(ALL)).tasks] == [(number,) for number in range(5)]


# A process that opens the file, writes, and closes it in order. Then it prints the number of tasks in the file.
OTHER = """
import sys
import anyio
from pathlib import Path
from tests.taskphase.journal.stores import look, opened, row

async def main():
    async with opened(Path(sys.argv[1])) as mine:
        await mine.write([row()])
    print(len(look(Path(sys.argv[1]))))

anyio.run(main)
"""


def others_see(path: Path) -> int:
    command = [sys.executable, "-c", OTHER, str(path)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=20, check=True).stdout)


async def open_another_host(mine: Share) -> None:
    async with opened(mine._path):
        pass


async def fork(mine: Share) -> None:
    """Have a child close the connection: its objects end."""
    child = os.fork()
    if not child:
        mine._connection = None
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)


def by_journal(call: Callable[[Journal], Awaitable[object]]) -> Callable[[Share], Awaitable[object]]:
    return lambda mine: call(Journal(mine._path, [abs]))


USES: dict[str, Callable[[Share], Awaitable[object]]] = {
    "due": by_journal(Journal.due),
    "failed": by_journal(Journal.failed),
    "overview": by_journal(Journal.overview),
    "retry": by_journal(lambda journal: journal.retry("id")),
    "discard": by_journal(lambda journal: journal.discard("id")),
    "another host": open_another_host,
    "fork": fork,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # this process has threads
async def test_no_use_of_the_file_drops_the_locks_of_an_open_host_g22(
    tmp_path: Path, use: Callable[[Share], Awaitable[object]]
) -> None:
    """Without them, the other process deletes the WAL of this one, and later writes are on no disk."""
    path = tmp_path / "tasks.db"
    async with opened(path) as mine:
        await mine.write([row()])
        await use(mine)
        assert others_see(path) == 2
        assert Path(f"{path}-wal").exists()
        await mine.write([row()])
        assert others_see(path) == 4


def uses_of_a_child(path: Path) -> bytes:
    """Return what becomes of two uses of the file in a child of `fork()`."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        file = File(path, "normal", 5)
        for use in file.ask, file.read:
            try:
                use(id)
            except JournalError as exc:
                os.write(writing, b"spawn " if "use the start method 'spawn'" in exc.reason else b"error ")
            else:
                os.write(writing, b"done ")
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reading, 100)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # this process has threads
async def test_a_child_of_fork_is_refused_a_file_that_its_parent_has_open_g22(tmp_path: Path) -> None:
    """SQLite believes there that it has the locks of its parent: the parent would delete the WAL of the child."""
    path = tmp_path / "tasks.db"
    async with opened(path):
        assert uses_of_a_child(path) == b"spawn spawn "
    assert uses_of_a_child(path) == b"done done "


# A server that imports the app, and then forks its workers, as with "preload".
PRELOADS = """
import os, sys
import anyio
from pathlib import Path
from tests.taskphase.journal.stores import look, opened, row

async def work():
    async with opened(Path(sys.argv[1])) as mine:
        await mine.write([row()])

child = os.fork()
if not child:
    anyio.run(work)
    os._exit(0)
os.waitpid(child, 0)
print(len(look(Path(sys.argv[1]))))
"""


def test_a_worker_that_was_forked_after_the_import_uses_its_journal_g22(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRELOADS, str(tmp_path / "tasks.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as server:
        try:
            out, _ = server.communicate(timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
    assert out == "1\n"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_death_before_any_statement_loses_no_task_and_doubles_none_g22(tmp_path: Path, backend: str) -> None:
    command = [sys.executable, "-m", "tests.taskphase.journal.crashes", str(tmp_path), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


# A host with a task that kills it as soon as all its tasks run. The others end as soon as that task is not there.
POISON = """
import os, signal, sys
import anyio
from pathlib import Path
from taskphase import Journal, TaskHost, current_host
from taskphase.journal import _recovery

_recovery._PAUSE = 0.01

async def kill():
    while not all(task.started.is_set() for task in current_host().tasks()):
        await anyio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

async def wait(number):
    while any(task.func is kill for task in current_host().tasks()):
        await anyio.sleep(0.01)

async def main():
    journal = Journal(Path(sys.argv[1]), [kill, wait])
    first = not await journal.due()
    async with TaskHost(journal=journal) as host:
        if first:
            for number in range(3):
                host.schedule(wait, number)
            host.schedule(kill)
            await anyio.sleep_forever()
        while await journal.due():
            await anyio.sleep(0.01)
    print([(entry.function, entry.error) for entry in await journal.failed()])

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_that_kills_its_process_takes_no_other_along_g3_g22(tmp_path: Path, backend: str) -> None:
    command = [sys.executable, "-c", POISON, str(tmp_path / "tasks.db"), backend]
    for _ in range(4):  # the first run, and three recovered ones
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[('__main__.kill', 'its process has died in 3 recovered runs')]"
