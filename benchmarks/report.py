"""Writes the figures for a terminal, for the documentation, and for programs."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from .chart import chart
from .figures import Figure, Table
from .processes import ROOT
from .realistic import NO_TASKS
from .tasks import KEPT
from .traffic import BASE, TITLE
from .wanted import EACH_PHASE, Verdict

FOLDER = ROOT / "docs" / "benchmarks"
WITH_JSON = sys.version_info < (3, 12)  # programs need only one file: the one of the oldest Python
if sys.version_info >= (3, 12):  # every newer Python has its own page
    FOLDER /= f"python-{sys.version_info.major}.{sys.version_info.minor}"

# The charts for readers; the other tables are text only.
PLOTTED = re.compile(r"one task, |bytes of one task|one request, uvloop|one uvicorn worker")

RESULTS = "results.json"
GOALS = "goals.md"
SUMMARY = "requests-short.svg"  # narrow enough for a phone
TASK, IMMEDIATE = "one task, asyncio", "taskphase, immediate"
SUMMARIZED = {
    NO_TASKS: NO_TASKS,
    BASE: "BackgroundTasks",
    EACH_PHASE: "Tasks",
    "Tasks of PyPI: one in each phase": "Tasks of PyPI",
}
"""The rows of the chart at the beginning of the page, with their short names."""

INTRODUCTION = """\
## How to read the tables

Compare the ratios: each is the median over the rounds of a case against the base of the same round. The spread has the
middle half of the rounds. "PyPI" is the other project of this name, `fastapi-tasks` 0.1.0. `make bench` measured all
tables in one run, and wrote this page; `benchmarks/README.md` has the method.
"""


ABOUT_GOALS = """\
For contributors: what the project wants to reach, from `benchmarks/wanted.py`, and what `make bench` has measured on
the oldest Python.
"""


def head(facts: Mapping[str, str], tables: Sequence[Table]) -> str:
    """Return the beginning of the page: what users notice, in words and in a chart, if that was measured."""
    costs = []
    traffic = served(tables)
    if traffic is not None:
        ours, theirs, none = (traffic[name] for name in (EACH_PHASE, BASE, NO_TASKS))
        costs.append(
            f"One uvicorn worker answers {ours.value:.0f} requests/s if each request schedules a task in each phase, "
            f"{theirs.value:.0f} with three `BackgroundTasks`, and {none.value:.0f} without tasks"
        )
    task = next((table for table in tables if table.title == TASK), None)
    if task is not None:
        immediate, kept = (f"{task[name].value:.0f} \N{MICRO SIGN}s" for name in (IMMEDIATE, KEPT))
        costs.append(f"A task costs {immediate} on asyncio; `create_task` with a set that keeps the task costs {kept}")
    lines = textwrap.fill(". ".join(costs) + ".", 120, break_on_hyphens=False) if costs else ""
    picture = f"![Requests per second of one uvicorn worker]({SUMMARY})\n" if traffic is not None else ""
    return "\n".join([f"# Benchmarks on {facts['Python']}\n", f"{lines}\n", picture])


def served(tables: Sequence[Table]) -> Table | None:
    """Return the table of the uvicorn worker, if it was measured."""
    return next((table for table in tables if table.title.startswith(f"{TITLE},")), None)


def summary(table: Table) -> str:
    """Return the chart at the beginning of the page."""
    figures = [replace(figure, name=SUMMARIZED[figure.name]) for figure in table.figures if figure.name in SUMMARIZED]
    title = "one uvicorn worker, requests/s and latency"
    short = replace(table, title=title, base=SUMMARIZED[table.base], figures=figures)
    return chart(short, 490, lambda figure, _: f"{figure.value:.0f}/s, {latency(figure)}")


def latency(figure: Figure) -> str:
    return f"p50 {figure.more['p50, ms']:.1f}, p99 {figure.more['p99, ms']:.1f} ms"


def text(tables: Sequence[Table], verdicts: Sequence[Verdict]) -> str:
    """Return the output for a terminal."""
    blocks = [aligned(heading(table), rows(table)) for table in tables]
    if verdicts:
        blocks.append(aligned("Wanted", [HEAD_WANTED, *map(row_of, verdicts)]))
    return "\n".join(blocks)


def write(facts: Mapping[str, str], tables: Sequence[Table], verdicts: Sequence[Verdict]) -> None:
    """Write the page, its charts and, on the oldest Python, the JSON file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw(tables)
    goals = markdown([HEAD_WANTED, *map(row_of, verdicts)])
    if not WITH_JSON:
        (FOLDER / "results.md").write_text(page(facts, tables, goals))
        return
    (FOLDER / "results.md").write_text(page(facts, tables))
    (FOLDER / GOALS).write_text(f"# Goals of the benchmarks\n\n{ABOUT_GOALS}\n{goals}")
    data = {"run": dict(facts), "tables": [asdict(table) for table in tables], "wanted": [asdict(v) for v in verdicts]}
    (FOLDER / RESULTS).write_text(json.dumps(data, indent=1, default=str) + "\n")


def read() -> list[Table]:
    """Return the tables of the last run on the oldest Python."""
    tables = json.loads((FOLDER / RESULTS).read_text())["tables"]
    return [Table(**{**table, "figures": [Figure(**figure) for figure in table["figures"]]}) for table in tables]


def draw(tables: Sequence[Table]) -> None:
    """Write the charts."""
    for name, content in charts(tables).items():
        (FOLDER / name).write_text(content)


def charts(tables: Sequence[Table]) -> dict[str, str]:
    """Return the charts, by the names of their files."""
    found = {plot(table): chart(table) for table in tables if PLOTTED.match(table.title)}
    traffic = served(tables)
    return found if traffic is None else {**found, SUMMARY: summary(traffic)}


def plot(table: Table) -> str:
    """Return the name of the file with the chart of a table."""
    return f"{slug(table.title)}.svg"


def page(facts: Mapping[str, str], tables: Sequence[Table], goals: str | None = None) -> str:
    """Return the page with the tables, and with the goals if they have no page of their own."""
    parts = [head(facts, tables), INTRODUCTION]
    for table in tables:
        parts.append(f"## {heading(table)}\n")
        if PLOTTED.match(table.title):
            parts.append(f"![{table.title}]({plot(table)})\n")
        parts.append(markdown(rows(table)))
    if goals is not None:
        parts += ["## Goals\n", goals]
    parts += ["## The run\n", markdown([("run", ""), *facts.items()])]
    return "\n".join(parts)


HEAD_WANTED = ("what", "wanted", "measured", "")


def row_of(verdict: Verdict) -> tuple[str, ...]:
    return verdict.what, verdict.wanted, verdict.measured, "reached" if verdict.reached else "not reached"


def heading(table: Table) -> str:
    return table.title[0].upper() + table.title[1:]


def rows(table: Table) -> list[tuple[str, ...]]:
    """Return the cells of a table, with its head first."""
    more = list(table.figures[0].more)
    head = ("", table.unit, "ratio", f"spread of {table.rounds}", *more)
    return [head, *(cells(figure, table.unit) for figure in table.figures)]


def cells(figure: Figure, unit: str) -> tuple[str, ...]:
    value = f"{figure.value:.2f}" if unit in ("us", "ms") else f"{figure.value:.0f}"
    more = (f"{number:.2f}" for number in figure.more.values())
    return figure.name, value, f"{figure.ratio:.2f}", f"{figure.low:.2f} to {figure.high:.2f}", *more


def aligned(title: str, table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in each)
        for each in (enumerate(zip(row, widths, strict=True)) for row in table)
    ]
    return "\n".join([title, *lines, ""])


def markdown(table: Sequence[Sequence[str]]) -> str:
    head, *body = table
    lines = [head, ["---", *("---:" for _ in head[1:])] if len(head) > 2 else ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.partition(" connection")[0].lower()).strip("-").removesuffix("-16")
