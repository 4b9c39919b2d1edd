"""The demo keeps its promises, and has colours where a reader wants them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tomllib

import pytest
from tests.examples.programs import ENDS_WITHIN, EXAMPLES, example

ROOT = EXAMPLES.parent
DEMO = "demo.py"
ESCAPE = "\x1b["
SUMMARY = ["Three phases: ", "A stream: ", "A failure: ", "SIGTERM: "]


def on_a_terminal(**environment: str) -> str:
    """Run the demo on a terminal, and return its output."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(EXAMPLES / DEMO)]
    variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**variables, "TERM": "xterm", **environment}
    )
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
    except OSError:  # Linux raises this when the other side has ended
        pass
    finally:
        os.close(ours)
    assert process.wait(ENDS_WITHIN) == 0, output.decode()
    return output.decode()


def test_the_demo_keeps_its_promises_and_ends_with_a_summary() -> None:
    lines = example(DEMO)

    summary = [line.removeprefix("    ok  ") for line in lines[lines.index("What you saw") + 2 : -2]]
    assert [line.startswith(begin) for line, begin in zip(summary, SUMMARY, strict=True)] == [True] * len(SUMMARY)
    assert lines[-1] == "Everything was as promised."
    assert "FAILED" not in "\n".join(lines)
    assert ESCAPE not in "\n".join(lines)


def test_the_demo_has_a_colour_for_each_phase_on_a_terminal() -> None:
    output = on_a_terminal()

    for text in (
        "immediate: avatar",
        "after_route: counted user",
        "after_response: mail",
        "shielded: payment 7 settled",
    ):
        [before] = [line.partition(text)[0] for line in output.splitlines() if text in line]
        assert before.endswith("m"), text
        assert ESCAPE in before[-6:], text


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_the_demo_has_no_colours_where_they_are_not_wanted(environment: dict[str, str]) -> None:
    assert ESCAPE not in on_a_terminal(**environment)


def test_the_group_of_the_demo_has_the_dependencies_of_the_packages() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [need for need in configuration["project"]["dependencies"] if not need.startswith("taskphase")]

    assert set(needed) <= set(configuration["dependency-groups"]["demo"])


def test_make_demo_installs_only_its_own_group() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("$(VENV)-demo/ready: ")[2].partition("\n\n")[0]

    assert recipe.count("--group") == recipe.count("--group demo\n") == 1
    assert "$(VENV)-demo" in (ROOT / "Makefile").read_text().partition("\nclean:")[2]
