"""examples/README.md has each example, with a command that is about it, and each has a test."""

from __future__ import annotations

import re
from pathlib import Path

from tests.examples.programs import EXAMPLES

ROOT = EXAMPLES.parent
NAMES = {path.name for path in EXAMPLES.glob("*.py")}
ROW = re.compile(r"^\| \[`(?P<name>\w+\.py)`\]\((?P=name)\) \| .+ \| `(?P<command>[^`]+)` \|$", re.MULTILINE)


def test_the_readme_has_a_line_for_each_example() -> None:
    rows = [row.groupdict() for row in ROW.finditer((EXAMPLES / "README.md").read_text())]
    assert sorted(row["name"] for row in rows) == sorted(NAMES)
    for row in rows:
        served = f"ADMIN_TOKEN=secret .venv/bin/uvicorn {Path(row['name']).stem}:app --app-dir examples"
        command, *_options = row["command"].split(" --")
        assert row["command"] in (served, "make demo") or command == f".venv/bin/python examples/{row['name']}", row


def test_each_example_is_run_by_a_test() -> None:
    tests = [path for folder in ("examples", "repo") for path in (ROOT / "tests" / folder).rglob("*.py")]
    sources = "".join(path.read_text() for path in tests if path != Path(__file__))
    named = {name for name in NAMES if f'"{name}"' in sources or f'served("{Path(name).stem}"' in sources}
    assert named == NAMES
