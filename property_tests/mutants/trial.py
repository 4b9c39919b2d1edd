"""One run of the properties in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from property_tests.mutants.child import LIMIT

ROOT = Path(__file__).resolve().parents[2]

# The imports of the properties, and pytest's settings. Some properties use helpers of the other tests.
_COPIED = ("core", "fastapi_binding", "property_tests", "tests", "conftest.py", "pyproject.toml")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")

# Checks that each old text is there, which is never true in a copy with a bug.
_NOT_RUN = "property_tests/test_mutants.py"

# Exit codes of pytest. The last one: an exception that a bug lets out of an event loop can break pytest itself.
_PASSED, _FAILED, _NOT_COLLECTED, _BROKEN = 0, 1, 2, 3

# On any loaded machine, this multiple of the CPU time is enough wall time.
_PATIENCE = 20

# Most runs that hang sleep for ever, and the limit of the wall time is hours. So a run hangs, too, if it uses less than
# a second of CPU time in this many seconds. No test sleeps that long, and a loaded machine gives a process more.
_IDLE = 300.0


def copy_tree(source: Path, to: Path) -> None:
    """Copy the files that the properties need."""
    to.mkdir()
    for name in _COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, to / name, ignore=_LEFT_OUT)
        else:
            shutil.copy2(source / name, to / name)


@dataclass(frozen=True)
class Outcome:
    """The end of a run. `by`: the first test that failed, hung or crashed; None if all passed."""

    by: str | None
    seconds: float


class BrokenRun(Exception):
    """The tests could not run at all, so the run says nothing about the code."""


class Trial:
    """Runs the tests of a copy in a new process, from the creation of the object on.

    `HYPOTHESIS_PROFILE=mutants` has the examples of `ci` without shrinking.

    :param limit: seconds of CPU time
    """

    def __init__(self, copy: Path, tests: Sequence[str], limit: float) -> None:
        self._limit = limit * _PATIENCE
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `stop`
        path = os.pathsep.join(str(copy / name) for name in ("core", "fastapi_binding", "."))
        plugins = ["-p", "property_tests.mutants.child", "-p", "no:cacheprovider"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-x", "-v", "--tb=short", *plugins, f"--ignore={_NOT_RUN}", *tests],
            cwd=copy,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONHASHSEED": "0",
                "HYPOTHESIS_PROFILE": "mutants",
                LIMIT: str(int(limit)),
            },
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        self._begin = self._looked = monotonic()
        self._used = ""

    def outcome(self) -> Outcome | None:
        """Return the outcome, or None while the run goes on. Kill a run that takes too long.

        :raises BrokenRun: if the tests could not run
        """
        seconds = monotonic() - self._begin
        code = self._process.poll()
        if code is None:
            if seconds < self._limit and not self._sleeps():
                return None
            self._process.kill()
            self._process.wait()
            return Outcome(f"{_latest(self.text())} (hangs)", seconds)
        if code == _PASSED:
            return Outcome(None, seconds)
        if code in (_FAILED, _NOT_COLLECTED, _BROKEN):
            found = re.search(r"^(?:FAILED|ERROR) (\S+)", self.text(), re.MULTILINE)
            return Outcome(found[1] if found else f"{_latest(self.text())} (exits)", seconds)
        if code < 0:
            how = "hangs" if -code == signal.SIGXCPU else "crashes"
            return Outcome(f"{_latest(self.text())} ({how})", seconds)
        raise BrokenRun(f"pytest ended with {code}:\n{self.text()}")

    def _sleeps(self) -> bool:
        """Return whether the process has slept since the last look, which is `_IDLE` seconds ago."""
        if monotonic() - self._looked < _IDLE:
            return False
        before, self._looked = self._used, monotonic()
        command = ["ps", "-o", "time=", "-p", str(self._process.pid)]  # in whole seconds
        self._used = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return self._used == before

    def text(self) -> str:
        """Return the output of pytest."""
        self._output.seek(0)
        return self._output.read()

    def stop(self) -> None:
        """End the run, if it still goes on, and release its output."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._output.close()


def _latest(output: str) -> str:
    """Return the test that ran last."""
    begun: list[str] = re.findall(r"^(\S+::\S+) ?", output, re.MULTILINE)
    return begun[-1] if begun else "before the first test"
