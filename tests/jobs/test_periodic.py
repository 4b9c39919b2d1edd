"""The app of docs/how-to/periodic.md on two real servers, of which one is killed."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from pathlib import Path

from tests.examples.programs import Program, started
from tests.repo.test_docs import ROOT, programs

ROUNDS = 5  # of the first server, while the second one asks for the lock as often


def server(folder: Path) -> AbstractContextManager[Program]:
    return started("-m", "uvicorn", "main:app", "--port", "0", folder=folder)


def test_one_server_of_two_does_the_work_and_the_other_one_takes_over(tmp_path: Path) -> None:
    [page] = programs(ROOT / "docs" / "how-to" / "periodic.md")
    source = page.source.replace("PERIOD = 3600", "PERIOD = 0.02")
    source = source.replace('print("cleaned up")', 'print("cleaned up", Path("moment").read_text())')
    (tmp_path / "main.py").write_text(source)
    moment = tmp_path / "moment"

    moment.write_text("with one server")
    with server(tmp_path) as first:
        first.until("cleaned up with one server")
        with server(tmp_path) as second:
            second.until("Application startup complete")
            moment.write_text("with two servers")
            for _ in range(ROUNDS):
                first.until("cleaned up with two servers")
            moment.write_text("after the kill")
            first.interrupt(signal.SIGKILL)
            second.until("cleaned up")
            assert [line for line in second.lines if "cleaned up" in line] == ["cleaned up after the kill"]
            second.interrupt(signal.SIGTERM)
            second.end(-signal.SIGTERM)
