"""Runs the files that a page shows: a program that starts processes, and tests for pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.repo.test_docs import ROOT, programs

WITHIN = 60.0  # seconds; it takes about two

# `Popen.kill()` polls the process first. Before Python 3.13 asyncio calls it, and anyio kills its workers twice as a
# loop ends. If a worker ends between the two, the poll may take the exit status before asyncio's thread does. Then the
# thread logs this line. docs/tutorial/settings.md tells users about the line.
STATUS_TAKEN = re.compile(r"^Unknown child process pid \d+, will report returncode 255\n", re.MULTILINE)

GUARD = 'if __name__ == "__main__":\n'
RUN = "anyio.run(main)"


def source_of(name: str) -> str:
    """Return a program of a page, by its name in USES."""
    [program] = [program for program in programs(ROOT / name.partition("#")[0]) if program.id == name]
    return program.source.lstrip("\n")


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WITHIN, check=False)
    if sys.version_info < (3, 13):
        done.stderr = STATUS_TAKEN.sub("", done.stderr)
    return done


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_computes_in_a_process_of_its_own(backend: str, tmp_path: Path) -> None:
    source = source_of("docs/faq.md#can-a-task-run-in-a-process-of-its-own")
    assert RUN in source
    (tmp_path / "program.py").write_text(source.replace(RUN, f"anyio.run(main, backend={backend!r})"))
    done = run_python(tmp_path, "program.py")
    assert (done.stdout, done.stderr, done.returncode) == ("25 primes\n", "", 0)


@pytest.mark.parametrize(("guard", "starts"), [(GUARD, 1), ("if True:\n", 2)], ids=["guarded", "unguarded"])
def test_a_program_without_the_guard_is_started_once_more_by_its_process(
    guard: str, starts: int, tmp_path: Path
) -> None:
    source = source_of("docs/faq.md#can-a-task-run-in-a-process-of-its-own")
    assert GUARD in source
    started = 'from pathlib import Path\n\nwith Path("starts").open("a") as file:\n    file.write("x")\n'
    started = "\n".join("    " + line for line in started.splitlines())
    (tmp_path / "program.py").write_text(source.replace(GUARD, f"{guard}{started}\n"))
    run_python(tmp_path, "program.py")
    assert (tmp_path / "starts").read_text() == "x" * starts


SERVE = "uvicorn.run(app)"
ASK = """
    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        print(client.post("/reports/7").json())
"""


@pytest.mark.parametrize("guard", [GUARD, "if True:\n"], ids=["guarded", "unguarded"])
def test_an_app_in_a_main_module_needs_the_guard_for_processes(guard: str, tmp_path: Path) -> None:
    page = "docs/tutorial/settings.md"
    source = source_of(f"{page}#a-program-that-starts-its-own-server")
    assert GUARD in source
    assert SERVE in source
    (tmp_path / "main.py").write_text(source.replace(GUARD, guard).replace(SERVE, ASK.strip()))
    done = run_python(tmp_path, "main.py")
    if guard == GUARD:
        assert (done.stdout, done.stderr, done.returncode) == ("report 7\n", "", 0)
    else:
        shown = " ".join((ROOT / page).read_text().split())
        said = "no worker process can start for __main__.render: "
        explained = (
            "A worker process imports the main module of the program again, by its path and under another name. So its "
            'imports must be absolute, the line that starts the program must be below `if __name__ == "__main__":`, '
            "and the functions and classes above that line."
        )
        for text in (said, explained):
            assert text in done.stderr
            assert text in shown


def test_pytest_runs_the_file_with_async_fixtures_g9_g13(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(source_of("docs/testing.md#async-fixtures"))
    options = ["-p", "no:cacheprovider", "-W", "error", "-q", "--rootdir", str(tmp_path)]
    done = run_python(tmp_path, "-m", "pytest", *options, "test_app.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout  # two tests, on asyncio and on trio
