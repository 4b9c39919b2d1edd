"""The other processes of a run: one for each environment, and a fork for each memory sample."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from . import keepers

ROOT = Path(__file__).resolve().parents[1]

PYTHONS = {"ours": Path(sys.executable), "theirs": Path(f"{sys.prefix}-peer") / "bin" / "python"}
"""The Python of each environment: this one, and the one with `fastapi-tasks` from PyPI."""


def start_python(library: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python with `arguments` in the environment of `library`, from the root of the repository."""
    return subprocess.Popen(
        [(PYTHONS | keepers.PYTHONS)[library], *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class Worker(AbstractContextManager["Worker"]):
    """A process that takes samples of one section; see `worker`.

    :ivar groups: its groups, by title, each with `base` and `cases`
    """

    def __init__(self, section: str, library: str, *, quick: bool) -> None:
        self.library = library
        self._process = start_python(
            library, "-m", "benchmarks.worker", section, library, *(["--quick"] if quick else [])
        )
        self.groups: dict[str, dict[str, Any]] = self._answer()

    def take(self, title: str, case: str) -> tuple[float, float]:
        """Return a sample of the case, and the cost of the group's base at that time."""
        assert self._process.stdin is not None
        print(json.dumps([title, case]), file=self._process.stdin, flush=True)
        taken, base = self._answer()
        return taken, base

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker with the environment of {self.library!r} has ended; see its traceback")
        return json.loads(line)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def in_a_fork(function: Callable[[], float]) -> float:
    """Call `function` in a fork of this process, and return the result."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, repr(function()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return float(answer)
