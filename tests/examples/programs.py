"""Run an example like a user, read its output, and end it by its pid."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

ENDS_WITHIN = 60.0  # seconds for a process, start included; the longest takes 4 s on 2 cores


class Program:
    """A process, and its output so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lines: list[str] = []
        self._is_interrupted = False

    def until(self, text: str) -> str:
        """Wait for the next line with `text`."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        raise AssertionError(f"{text!r} is not in the output:\n" + "\n".join(self.lines))

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send SIGINT like Ctrl-C, or another signal, once: most programs react differently to a second one."""
        if not self._is_interrupted:
            self._is_interrupted = True
            self._process.send_signal(number)

    def end(self, code: int = 0) -> list[str]:
        """Wait for the end with this exit code, and return all lines."""
        assert self._process.stdout is not None
        self.lines += self._process.stdout.read().splitlines()
        assert self._process.wait(ENDS_WITHIN) == code, "\n".join(self.lines)
        return self.lines


@contextmanager
def started(*arguments: str, folder: Path | None = None) -> Generator[Program]:
    """Run Python with these arguments, in `folder`; the process ends with the block at the latest."""
    with subprocess.Popen(
        [sys.executable, "-u", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        timer = threading.Timer(ENDS_WITHIN, process.kill)
        timer.start()
        try:
            yield Program(process)
        finally:
            timer.cancel()
            process.kill()


def example(name: str, *arguments: str) -> list[str]:
    """Run an example to its end, and return its output."""
    with started(str(EXAMPLES / name), *arguments) as program:
        return program.end()


@contextmanager
def served(
    app: str, *options: str, folder: Path | None = None, stop: signal.Signals = signal.SIGINT
) -> Generator[tuple[Program, str]]:
    """Serve the app of an example as its docstring says, on a free port; yield the server and its URL.

    Left, the server has got the signal `stop`, and has ended properly.
    """
    command = ["-m", "uvicorn", f"{app}:app", "--app-dir", str(EXAMPLES), "--port", "0", *options]
    with started(*command, folder=folder) as server:
        found = re.search(r"http://\S+", server.until("Uvicorn running on"))
        assert found is not None
        yield server, found[0]
        server.interrupt(stop)
        server.end(0 if stop is signal.SIGINT else -stop)  # uvicorn ends by the signal itself
