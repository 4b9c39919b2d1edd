"""Runs every `python` block of the documentation. (tests/examples runs the examples.)

Blocks that belong together share a namespace: `<!-- continues -->` on the line above a block continues the block
before. TestClient requests the apps, as tests/repo/uses.py says; no block starts a server. An `output` block below
shows all output of the program, in order. A `py` block is only compiled.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from tests.repo import uses, uses_of_guides, uses_of_migration
from tests.repo.uses import Use

import fastapi_tasks
import taskphase

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RUNNABLE = [README, ROOT / "core/README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [*RUNNABLE, ROOT / "CHANGELOG.md"]

BLOCK = re.compile(r"^(?P<continues><!-- continues -->\n)?```python\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"^```output\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
GUARANTEE = re.compile(r"^\| G(\d+) \|", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")


# The blocks


@dataclass
class Program:
    """Blocks of a document that share a namespace.

    :ivar source: with an empty line for each other line of the document, so that line numbers in tracebacks are right
    :ivar shown: the output in the document
    """

    document: Path
    heading: str
    source: str
    shown: list[str]

    @property
    def id(self) -> str:
        return f"{self.document.relative_to(ROOT)}#{self.heading}"


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def programs(document: Path) -> Iterator[Program]:
    text = document.read_text()
    program: Program | None = None
    blocks = list(BLOCK.finditer(text))
    ends = [block.start() for block in blocks[1:]] + [len(text)]
    for block, end in zip(blocks, ends):  # noqa: B905 - a document may have no block
        shown = [line for output in OUTPUT.findall(text, block.end(), end) for line in output.splitlines()]
        lines_before = text.count("\n", 0, block.start("source"))
        if program is not None and block["continues"]:
            program.source += "\n" * (lines_before - program.source.count("\n")) + block["source"]
            program.shown += shown
            continue
        if program is not None:
            yield program
        heading = HEADING.findall(FENCED.sub("", text[: block.start()]))[-1]
        program = Program(document, anchor(heading), "\n" * lines_before + block["source"], shown)
    if program is not None:
        yield program


PROGRAMS = [program for document in RUNNABLE for program in programs(document)]


@contextmanager
def own_logging() -> Generator[None]:
    """Let a program configure logging as if it were alone."""
    root, clients = logging.getLogger(), [logging.getLogger(name) for name in ("httpx", "httpx2")]
    before = (root.handlers[:], root.level, [client.level for client in clients])
    root.handlers.clear()
    for client in clients:
        client.setLevel(logging.WARNING)  # their requests are the test's, not the program's
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        for client, level in zip(clients, before[2], strict=True):
            client.setLevel(level)


@contextmanager
def executed(program: Program) -> Generator[ModuleType]:
    """Run a program in a new module."""
    module = ModuleType("main")  # as the pages call the file
    sys.modules[module.__name__] = module
    try:
        exec(compile(program.source, program.document, "exec"), vars(module))
        yield module
    finally:
        del sys.modules[module.__name__]


USES = {**uses.USES, **uses_of_guides.USES, **uses_of_migration.USES}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.id)
def test_each_documented_program_does_what_it_says(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    use = USES.get(program.id, Use())
    assert not (program.shown and use.printed)
    with own_logging(), executed(program) as module:
        if use.run is not None:
            use.run(module)
    assert capsys.readouterr().out.splitlines() == (program.shown or list(use.printed))


COMPILED = re.compile(r"^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_a_block_that_is_not_run_is_python() -> None:
    blocks = [(path, block) for path in RUNNABLE for block in COMPILED.findall(path.read_text())]

    assert blocks
    for path, block in blocks:
        compile(block, path, "exec")


def test_each_documented_app_is_used() -> None:
    assert {program.id for program in PROGRAMS if "add_tasks(app" in program.source} <= set(USES)
    assert set(USES) <= {program.id for program in PROGRAMS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_each_link_inside_the_repository_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(FENCED.sub("", document.read_text())):
        path, _, fragment = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        if fragment and "." not in fragment:  # a fragment with a dot is a name of the reference: see test_site.py
            assert fragment in {anchor(heading) for heading in HEADING.findall(FENCED.sub("", file.read_text()))}, (
                target
            )


# The required parts of pages


@pytest.mark.parametrize("package", [fastapi_tasks, taskphase], ids=lambda package: package.__name__)
def test_the_reference_has_every_public_name(package: ModuleType) -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert [name for name in package.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_each_guarantee_has_a_row_and_is_named_by_a_test() -> None:
    numbers = [int(number) for number in GUARANTEE.findall((ROOT / "docs" / "guarantees.md").read_text())]
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))

    assert numbers == [*range(1, 25)]
    assert {int(number) for number in re.findall(r"_g(\d+)(?=_g\d|\()", tests)} == set(numbers)


@pytest.mark.parametrize(("document", "most"), [(README, 150), (ROOT / "core/README.md", 80)], ids=["both", "core"])
def test_a_readme_is_short(document: Path, most: int) -> None:
    assert len(document.read_text().splitlines()) <= most


def test_each_claim_of_what_you_get_names_tests_that_exist() -> None:
    _, *claims = (ROOT / "docs" / "what-you-get.md").read_text().split("\n## ")

    assert claims
    for claim in claims:
        named = re.findall(r"`(tests/[\w/]+\.py)`", claim.partition("\nTests: ")[2])
        assert named, claim.splitlines()[0]
        assert [path for path in named if not re.search(r"^ *(async )?def test_", source(path), re.MULTILINE)] == []


def source(path: str) -> str:
    return (ROOT / path).read_text()


def test_a_page_that_shows_log_lines_says_how_to_get_them() -> None:
    shows = [page for page in RUNNABLE if re.search(r"(?m)^(ERROR|WARNING|INFO|DEBUG):taskphase:", page.read_text())]
    assert len(shows) > 5
    assert [page.name for page in shows if "logging.basicConfig(" not in page.read_text()] == []


def test_each_step_of_the_architecture_names_a_module_and_its_functions() -> None:
    text = source("docs/architecture.md")
    modules = {name: module(name) for name in re.findall(r"`((?:_drive|_machine|fastapi_tasks)/\w+\.py)`", text)}
    steps = re.findall(r"^\| `([\w/]+\.py)` \| (.+?) \|", text, re.MULTILINE)
    walked = [(name, function) for name, functions in steps for function in re.findall(r"`(\w+)\(\)`", functions)]

    assert modules
    assert [name for name, path in modules.items() if not path.is_file()] == []
    assert len(walked) > 20
    missing = [(name, function) for name, function in walked if f"def {function}(" not in module(name).read_text()]
    assert missing == []


def module(name: str) -> Path:
    return ROOT / ("fastapi_binding" if name.startswith("fastapi_tasks/") else "core/taskphase") / name


SEARCHED = [
    "crash",
    "restart",
    "queue",
    "celery",
    "cron",
    "periodic",
    "delay",
    "workers",
    "cancel",
    "status",
    "process",
    "limit",
    "cpu",
    "list the running tasks",
    "cancel a task",
]
SEARCHED += [
    "metrics",
    "sentry",
    "request id",
    "retry",
    "test",
    "session",
    "upload",
    "websocket",
    "shutdown",
    "gunicorn",
]


@pytest.mark.parametrize("word", SEARCHED)
def test_the_faq_has_a_question_with_each_word_that_people_search_for(word: str) -> None:
    questions = HEADING.findall(FENCED.sub("", (ROOT / "docs" / "faq.md").read_text()))

    assert any(re.search(rf"\b{word}", question, re.IGNORECASE) for question in questions)
