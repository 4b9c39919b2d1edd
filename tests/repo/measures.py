"""Figures about the code: the calls of a task, lines of code, accesses to private attributes.

`python -m tests.repo.measures [TREE]` prints the figures of a tree of this repository; default: this one.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("core/taskphase", "fastapi_binding/fastapi_tasks")
TEST_TOOLS = {"testing", "testing.py", "_recording", "_recording.py", "_clock", "_simulation"}

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
WITH_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Runs in a new process, which imports the packages of the tree. Only the begin of a frame is a call: the next step of a
# suspended coroutine does not count, and neither does a comprehension.
WALK = """
import asyncio, dis, json, logging, sys
import taskphase
from taskphase import TaskHost

HERE = taskphase.__file__.rpartition("/")[0] + "/"
TEST_TOOLS = tuple(sys.argv[1:])
COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
walks = {}
modules = []


def watch(frame, event, arg):
    code = frame.f_code
    module = code.co_filename.removeprefix(HERE)
    is_counted = module != code.co_filename and not module.startswith(TEST_TOOLS) and code.co_name not in COMPREHENSIONS
    if event == "call" and is_counted and frame.f_lasti <= beginning_of(code):
        modules.append(module)


def beginning_of(code):
    return next(each.offset for each in dis.get_instructions(code) if each.opname == "RESUME")


def begin():
    modules.clear()
    sys.setprofile(watch)


def end(name):
    sys.setprofile(None)
    walks[name] = list(modules)


async def function(name, entered):
    end(name)
    entered.set()


async def failing(name):
    begin()
    raise ValueError(name)


async def handler(task, exc):
    end(str(exc))


async def main():
    logging.getLogger("taskphase").disabled = True
    async with TaskHost() as host:
        for attempt in range(2):  # the first one is there to warm up
            entered = asyncio.Event()
            begin()
            host.schedule(function, "immediate", entered)
            await entered.wait()
            entered = asyncio.Event()
            async with host.scope() as tasks:
                begin()
                tasks.task().after_response.schedule(function, "after_response", entered)
            await entered.wait()
            await host.task(on_error=handler).schedule(failing, "exception to on_error").wait()


asyncio.run(main())
print(json.dumps({"from": HERE, "walks": walks}))
"""


def production(tree: Path, package: str) -> list[Path]:
    """Return the modules of a package, without the tools for tests."""
    folder = tree / package
    return sorted(path for path in folder.rglob("*.py") if path.relative_to(folder).parts[0] not in TEST_TOOLS)


def code_lines(source: str) -> int:
    """Count the lines that are no blanks, comments or docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def private_accesses(source: str) -> int:
    """Count each `x._name` where `x` is not `self` or `cls`."""
    return sum(
        isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
        for node in ast.walk(ast.parse(source))
    )


def walks(tree: Path) -> dict[str, list[str]]:
    """Return, for each walk, the module of each call inside `taskphase`, in order."""
    command = [sys.executable, "-W", "error", "-c", WALK, *sorted(TEST_TOOLS)]
    ran = subprocess.run(
        command, env={"PYTHONPATH": str(tree / "core")}, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert Path(answer["from"]) == tree / "core" / "taskphase"
    found: dict[str, list[str]] = answer["walks"]
    return found


def changes(modules: Iterable[str]) -> int:
    """Count how often two calls in a row are in different modules."""
    return sum(first != second for first, second in pairwise(modules))


def rows(tree: Path) -> Iterator[tuple[str, str]]:
    """Give each figure with its name."""
    for name, modules in walks(tree).items():
        yield (
            f"walk, {name}",
            f"{len(modules)} calls, {len(set(modules))} modules, {changes(modules)} changes of module",
        )
    sources: list[str] = []
    for package in PACKAGES:
        paths = production(tree, package)
        texts = [path.read_text() for path in paths]
        sources += texts
        length, longest = max((len(text.splitlines()), path.name) for text, path in zip(texts, paths, strict=True))
        yield f"{package}, lines of code", f"{sum(map(code_lines, texts)):,} in {len(paths)} modules"
        yield f"{package}, longest module", f"{length} lines, {longest}"
    accesses, lines = sum(map(private_accesses, sources)), sum(map(code_lines, sources))
    yield "private attributes of other objects", f"{accesses}, {1000 * accesses / lines:.1f} per 1,000 lines of code"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", nargs="?", type=Path, default=ROOT)
    for name, figure in rows(parser.parse_args().tree.resolve()):
        sys.stdout.write(f"{name:48} {figure}\n")


if __name__ == "__main__":
    main()
