"""The rules of this repository that no linter checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.repo.test_face import PUBLIC_MODULES

ROOT = Path(__file__).resolve().parents[2]

MOST_LINES = 300  # of a module: as many as a reader can hold in mind
LONGEST_NAME = 80  # characters of a test's name, a sentence that is understood at once

# None of these patterns matches itself.
INDEX_URL = re.compile(r'https?://[^ "]*/simple\b|--(?:extra-)?index-url')
WORK_PATH = re.compile(r"(?<![\w.}])/[w]ork/")
HOME_PATH = re.compile(r"(?<![\w.}])/(?:root|tmp)/")  # in tests they may be the paths of requests

EXPONENT = re.compile(r":[\d.]*[egEG]\}|%[\d.]*[egEG]\b")  # formats that write 2.9e-06 and 3.6e+03

PIN = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.!+-]+")


def tracked_files() -> list[Path]:
    # The checkout may belong to another user, as in a container.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert listed.returncode == 0, f"these rules are about what git tracks: {listed.stderr}"
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def lines_with(pattern: re.Pattern[str], *, outside_of: str | None = None) -> Iterator[str]:
    for path in tracked_files():
        name = path.relative_to(ROOT)
        data = path.read_bytes()
        if b"\0" in data or name.parts[0] == outside_of:
            continue
        for number, line in enumerate(data.decode().splitlines(), 1):
            if pattern.search(line):
                yield f"{name}:{number}: {line.strip()}"


def test_no_number_is_shown_to_people_with_an_exponent() -> None:
    shown = [line for line in lines_with(EXPONENT) if line.startswith(("core/", "fastapi_binding/"))]
    assert shown == [], "use plain() of taskphase._machine.text, or %.3f"


@pytest.mark.parametrize("folder", ["core", "fastapi_binding"])
def test_no_module_is_longer_than_a_reader_can_hold_in_mind(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}

    assert lengths
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_no_package_index_is_named_in_a_tracked_file() -> None:
    assert list(lines_with(INDEX_URL)) == []


def test_no_path_of_a_developers_machine_is_in_a_tracked_file() -> None:
    assert list(lines_with(WORK_PATH)) == []
    assert list(lines_with(HOME_PATH, outside_of="tests")) == []


def test_constraints_are_exact_pins_and_nothing_else() -> None:
    files = sorted(ROOT.glob("constraints*.txt"))

    assert ROOT / "constraints.txt" in files
    assert [line for path in files for line in path.read_text().splitlines() if not PIN.fullmatch(line)] == []


@pytest.mark.parametrize("folder", ["taskphase", "fastapi_tasks"])
def test_the_docstring_of_a_test_file_begins_with_a_line_about_its_guarantees(folder: str) -> None:
    paths = list((ROOT / "tests" / folder).rglob("test_*.py"))
    first_lines = {path: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0] for path in paths}

    assert paths
    assert [path for path, line in first_lines.items() if not re.search(r"\bG\d+\b|no G number", line)] == []


def test_no_name_of_a_test_is_too_long_to_read_at_a_glance() -> None:
    names = {
        f"{path.relative_to(ROOT)}: {node.name}": len(node.name)
        for folder in ("tests", "property_tests")
        for path in (ROOT / folder).rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
    }

    assert names
    assert [where for where, length in names.items() if length > LONGEST_NAME] == []


def test_the_machine_imports_the_standard_library_and_itself_only() -> None:
    foreign: list[str] = []
    for path in (ROOT / "core" / "taskphase" / "_machine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                foreign += [name.name for name in node.names if not is_stdlib(name.name)]
            elif isinstance(node, ast.ImportFrom):
                is_allowed = is_stdlib(node.module or "") if node.level == 0 else node.level == 1
                foreign += [] if is_allowed else [ast.unparse(node)]

    assert foreign == []


def test_the_binding_imports_only_public_names_of_the_core() -> None:
    private = [
        f"{path.name}: {ast.unparse(node)}"
        for path in (ROOT / "fastapi_binding").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] == "taskphase"
        and (
            node.module not in {"taskphase", *(f"taskphase.{name}" for name in PUBLIC_MODULES)}
            or any(name.name.startswith("_") for name in node.names)
        )
    ]

    assert private == []


def is_stdlib(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
