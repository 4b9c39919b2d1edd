"""G23: programs with worker processes: Ctrl-C in a terminal, the guard of the main module, the end of the workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
ROOT = Path(__file__).parents[2]
ENDS_WITHIN = 30  # seconds; no program needs a tenth of this time

HEAD = """
    import logging, os, sys, time
    from pathlib import Path
    import anyio
    from taskphase import TaskConfig, TaskHost

    logging.disable()
    IN_PROCESS = TaskConfig(run_in="process")


    def run(main):
        backend = os.environ["BACKEND"]
        options = {"use_uvloop": True} if backend == "uvloop" else {}
        anyio.run(main, backend="trio" if backend == "trio" else "asyncio", backend_options=options)


"""


# Runs a command on a system without /proc, where no program can list its open files.
WITHOUT_PROC = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"')


def can_hide_proc() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run([*WITHOUT_PROC, "true"], capture_output=True, check=False).returncode
    )


@contextmanager
def started(
    path: Path, source: str, backend: str, *, as_command: bool = False, inside: Sequence[str] = ()
) -> Generator[subprocess.Popen[str]]:
    """Run a program in a process group of its own, as a terminal does."""
    text = dedent(HEAD) + dedent(source)
    path.write_text(text)
    command = [*inside, sys.executable, "-X", "dev", "-W", "error", *(["-c", text] if as_command else [str(path)])]
    pythonpath = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": pythonpath, "BACKEND": backend},  # a worker has another `sys.argv`
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def result_of(
    path: Path, source: str, backend: str, *, as_command: bool = False, inside: Sequence[str] = ()
) -> tuple[str, str, int]:
    """Return the output, the errors and the exit code of a program."""
    with started(path, source, backend, as_command=as_command, inside=inside) as process:
        output, errors = process.communicate(timeout=ENDS_WITHIN)
    return output, errors, process.returncode


@BACKENDS
def test_a_shielded_process_survives_ctrl_c_in_a_terminal_g9_g23(tmp_path: Path, backend: str) -> None:
    source = """

        GO = Path("go")


        def work():
            file = Path(f"started {os.getpid()}")
            file.touch()
            print("lost")
            while not GO.exists():
                time.sleep(0.001)
            return 42


        async def main():
            async with TaskHost(config=IN_PROCESS) as host:
                task = host.task(shield=True).schedule(work)
                while not list(Path().glob("started *")):
                    await anyio.sleep(0.001)
                try:
                    print("started", flush=True)
                    await anyio.sleep_forever()
                finally:
                    print("interrupted", flush=True)
                    host.task(shield=True, name="show").schedule(show, task)


        async def show(task):
            print(await task, flush=True)


        if __name__ == "__main__":
            run(main)
    """
    with started(tmp_path / "program.py", source, backend) as process:
        assert process.stdout is not None
        timer = threading.Timer(ENDS_WITHIN, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        assert process.stdout.readline() == "started\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        (tmp_path / "go").touch()
        output, errors = process.communicate()
        timer.cancel()
    assert output == "42\n"
    assert process.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "Warning" not in errors
    assert len(list(tmp_path.glob("started *"))) == 1


@BACKENDS
def test_workers_end_with_the_event_loop_and_leave_no_warning_g2_g23(tmp_path: Path, backend: str) -> None:
    source = """
        import gc


        async def main():
            async with TaskHost(config=IN_PROCESS) as host:
                pids.append(await host.schedule(os.getpid))
                cancelled = host.schedule(time.sleep, 100)
                await anyio.sleep(0.01)
            assert cancelled.status == "cancelled"
            async with TaskHost(config=IN_PROCESS) as host:
                pids.append(await host.schedule(os.getpid))


        pids = []
        if __name__ == "__main__":
            run(main)
            gc.collect()
            for pid in pids:
                try:
                    os.kill(pid, 0)
                except ProcessLookupError:
                    print("gone")
    """
    assert result_of(tmp_path / "program.py", source, backend) == ("gone\ngone\n", "", 0)


@BACKENDS
@pytest.mark.skipif(not can_hide_proc(), reason="only root may hide /proc")
def test_a_dead_worker_is_noticed_where_no_open_files_are_listed_g23(tmp_path: Path, backend: str) -> None:
    source = """
        import signal


        def leave_child():
            if os.fork() == 0:
                while not Path("over").exists():
                    time.sleep(0.001)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)


        async def main():
            async with TaskHost(config=IN_PROCESS) as host:
                task = host.schedule(leave_child)
                with anyio.move_on_after(5):
                    await task.wait()
                print(Path("/proc/self").exists(), task.status, flush=True)
                Path("over").touch()


        if __name__ == "__main__":
            run(main)
    """
    result = result_of(tmp_path / "program.py", source, backend, inside=WITHOUT_PROC)
    assert result == ("False failed\n", "", 0)


@BACKENDS
def test_functions_and_classes_of_the_main_module_travel_both_ways_g23(tmp_path: Path, backend: str) -> None:
    source = """
        class Point:
            def __init__(self, x):
                self.x = x


        class Refused(Exception):
            pass


        def move(point):
            if point.x < 0:
                raise Refused(point.x)
            return Point(point.x + 1)


        async def main():
            async with TaskHost(config=IN_PROCESS) as host:
                point = await host.schedule(move, Point(1))
                refused = host.schedule(move, Point(-1))
                await refused.wait()
                print(type(point) is Point, point.x, type(refused.exception) is Refused, refused.exception)


        if __name__ == "__main__":
            run(main)
    """
    assert result_of(tmp_path / "program.py", source, backend) == ("True 2 True -1\n", "", 0)


GUARD = 'the line that starts the program must be below `if __name__ == "__main__":`'

SHOW = """
        async def main():
            async with TaskHost() as host:
                task = host.task(run_in="process", retry=None).schedule(work)
                await task.wait()
                print(type(task.exception).__name__, task.exception)
"""


@BACKENDS
def test_a_program_without_the_guard_is_told_about_it_and_starts_once_g23(tmp_path: Path, backend: str) -> None:
    source = f"""
        def work():
            pass

        {SHOW}

        Path(f"ran in {{os.getpid()}}").touch()
        run(main)
    """
    output, errors, code = result_of(tmp_path / "program.py", source, backend)
    assert output.startswith("BrokenWorkerProcess no worker process can start for __main__.work: ")
    assert output.count(GUARD) == 1
    assert "this process is itself a worker process" in output
    assert (errors, code) == ("", 0)
    assert len(list(tmp_path.glob("ran in *"))) == 2


@BACKENDS
def test_a_main_module_that_ends_the_worker_is_told_about_the_guard_g23(tmp_path: Path, backend: str) -> None:
    source = f"""
        def work():
            pass

        {SHOW}

        if __name__ != "__main__":
            sys.exit("the port is in use")
        run(main)
    """
    output, errors, code = result_of(tmp_path / "program.py", source, backend)
    assert output.startswith("BrokenWorkerProcess no worker process can start for __main__.work: SystemExit: the port")
    assert GUARD in output
    assert (errors, code) == ("", 0)


@BACKENDS
def test_a_function_below_the_guard_is_told_about_it_g23(tmp_path: Path, backend: str) -> None:
    source = f"""
        {SHOW}

        if __name__ == "__main__":
            def work():
                pass

            run(main)
    """
    output, errors, code = result_of(tmp_path / "program.py", source, backend)
    assert output.startswith(
        "TasksUnportableError __main__.work cannot run in a worker process, which could not load the call: "
        "AttributeError: "
    )
    assert GUARD in output
    assert "the functions and classes above that line" in output
    assert (errors, code) == ("", 0)


def test_a_function_of_a_main_module_without_a_file_is_refused_g23(tmp_path: Path) -> None:
    source = """
        def work():
            pass


        async def main():
            async with TaskHost(config=IN_PROCESS) as host:
                print(await host.schedule(os.getpid) != os.getpid())
                try:
                    host.schedule(work)
                except TypeError as error:
                    print(type(error).__name__, error)


        run(main)
    """
    output, errors, code = result_of(tmp_path / "program.py", source, "asyncio", as_command=True)
    assert output == (
        "True\nTasksUnportableError __main__.work cannot run in a worker process: a worker process cannot import the "
        "main module of this program, because it has no file\n"
    )
    assert (errors, code) == ("", 0)
