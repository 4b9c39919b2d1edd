"""Type checkers check users' code as strictly as this repository's own code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RIGHT = "tests/typing/right_calls.py"
WRONG = "tests/typing/wrong_calls.py"

CHECK_WITHIN = 80.0  # seconds; without its cache mypy takes about 15

Complaints = dict[int, str]


def output_of(*command: str) -> str:
    """Run a checker from the root of the repository, where its settings are."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=CHECK_WITHIN, check=False
    )
    assert done.returncode in (0, 1), f"{command} did not work:\n{done.stdout}{done.stderr}"
    return done.stdout


def ask_mypy(path: str) -> Complaints:
    lines = output_of("mypy", "--strict", "--no-pretty", "--no-error-summary", path).splitlines()
    found = [re.fullmatch(r"(.+?):(\d+): error: (.*)", line) for line in lines]
    elsewhere = [match[0] for match in found if match and match[1] != path]
    assert not elsewhere
    return {int(match[2]): match[3] for match in found if match}


def ask_pyright(path: str) -> Complaints:
    report = json.loads(output_of("pyright", "--pythonpath", sys.executable, "--outputjson", path))
    assert report["summary"]["filesAnalyzed"] == 1
    found = report["generalDiagnostics"]
    return {entry["range"]["start"]["line"] + 1: entry["message"] for entry in found}


def ask_ty(path: str) -> Complaints:
    lines = output_of("ty", "check", "--output-format", "concise", "--python", sys.prefix, path).splitlines()
    found = [re.match(r"[^:]+:(\d+):\d+: error(.*)", line) for line in lines]
    return {int(match[1]): match[2] for match in found if match}


CHECKERS = [pytest.param(ask_mypy, id="mypy"), pytest.param(ask_pyright, id="pyright"), pytest.param(ask_ty, id="ty")]


@pytest.mark.parametrize("ask", CHECKERS)
def test_right_calls_have_the_types_that_they_are_said_to_have(ask: Callable[[str], Complaints]) -> None:
    assert ask(RIGHT) == {}


@pytest.mark.parametrize("ask", CHECKERS)
def test_each_wrong_call_is_an_error_and_nothing_else_is(ask: Callable[[str], Complaints]) -> None:
    lines = (ROOT / WRONG).read_text().splitlines()
    marked = {number: line.strip() for number, line in enumerate(lines, 1) if line.endswith("  # error")}
    complaints = ask(WRONG)

    assert marked
    assert {number: call for number, call in marked.items() if number not in complaints} == {}, "was let pass"
    assert {number: text for number, text in complaints.items() if number not in marked} == {}, "is right"


@pytest.mark.parametrize("package", ["taskphase", "fastapi_tasks"])
def test_the_type_of_every_public_name_is_written_down(package: str) -> None:
    """Count as pyright does for users of a package, who have its sources but not its settings."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # the `python` that it asks
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", package, "--ignoreexternal", "--outputjson"],
        cwd=ROOT, capture_output=True, text=True, timeout=CHECK_WITHIN, check=False, env={**os.environ, "PATH": beside},
    )  # fmt: skip
    report = json.loads(done.stdout)["typeCompleteness"]

    assert report["packageName"] == package
    assert report["symbols"], "it has not found the package"
    unsure = [symbol["name"] for symbol in report["symbols"] if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]]
    assert unsure == []
