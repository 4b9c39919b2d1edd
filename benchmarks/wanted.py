"""The goals for the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .apps import RECORDED
from .figures import Table
from .growth import BARE, CASES, UNCOLLECTED
from .realistic import awaits_once
from .tasks import KEPT
from .traffic import AWAITING, CONNECTIONS, JOURNAL

P99 = "p99, ms"
EACH_PHASE = "Tasks: one in each phase"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A figure and its bound.

    :ivar table: a prefix of the table's title
    :ivar row: the name of the row
    :ivar bound: for the ratio, or for the value if `is_value`; the maximum, or the minimum if `is_least`
    :ivar base: the row to which the ratio refers; default: the base of the table
    :ivar column: the column whose ratio counts: the value in this row to the value in the row of the base; default: the
        first column
    """

    table: str
    row: str
    bound: float
    is_value: bool = False
    is_least: bool = False
    base: str | None = None
    column: str | None = None


WANTED = (
    # A task without a reference may be lost, so `KEPT` is the cost of a task without this project.
    Wanted("one task, asyncio", "taskphase, immediate", 1.3, base=KEPT),
    Wanted("one task, trio", "taskphase, immediate", 1.6),
    Wanted("one task, asyncio", "taskphase, after_response", 1.5, base=KEPT),
    Wanted("one task, trio", "taskphase, after_response", 1.6),
    Wanted("one sync task, asyncio", "taskphase, immediate", 1.0, base="anyio's task group"),
    Wanted("one sync task, uvloop", "taskphase, immediate", 1.0, base="anyio's task group"),
    Wanted("one sync task, trio", "taskphase, immediate", 1.0, base="anyio's task group"),
    Wanted("one observed task, asyncio", "five empty methods", 1.35),
    Wanted("one observed task, asyncio", "History of the inspector", 1.7),
    Wanted("one observed task, asyncio", "PrometheusTasks", 2.0),
    Wanted("bytes of one task, asyncio", "taskphase, running", 1900, is_value=True),
    Wanted("bytes of one task, trio", "taskphase, running", 2700, is_value=True),
    Wanted("bytes of one task, asyncio", "taskphase, deferred", 400, is_value=True),
    Wanted("bytes of one task, trio", "taskphase, deferred", 400, is_value=True),
    Wanted("one request, uvloop", "Tasks: nothing scheduled", 1.35),
    Wanted("one request, uvloop", EACH_PHASE, 2.0),
    Wanted("one request, uvloop", "Tasks: an app that has them, an endpoint that does not ask", 1.03),
    Wanted("one load of the inspector's page, uvloop", "full rings", 10_000, is_value=True),
    Wanted("one load of the inspector's page, trio", "full rings", 10_000, is_value=True),
    Wanted("one uvicorn worker", EACH_PHASE, 0.8, is_least=True),
    Wanted("one uvicorn worker", EACH_PHASE, 2.0, column=P99),
    Wanted(AWAITING, awaits_once(EACH_PHASE), 0.85, is_least=True),
    Wanted(AWAITING, awaits_once(EACH_PHASE), 1.1, column=P99),
    Wanted(f"{JOURNAL}, 1 connection", RECORDED["normal"], 2.0),
    Wanted(f"{JOURNAL}, {CONNECTIONS} connections", RECORDED["normal"], 0.7, is_least=True),
    # The garbage collector visits a million tasks again and again, also bare ones. The rest of the growth is ours.
    *(
        Wanted(f"one task of many, {title}, {backend}", UNCOLLECTED.format("1M"), 1.3, base=UNCOLLECTED.format("10k"))
        for backend, cases in CASES.items()
        for title in cases
        if title != BARE
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a figure meets its goal, in words."""

    what: str
    wanted: str
    measured: str
    reached: bool


def judge(tables: Sequence[Table]) -> list[Verdict]:
    """Return a verdict for each measured figure with a goal."""
    return [
        _judge(wanted, table)
        for wanted in WANTED
        for table in tables
        if table.title == wanted.table or table.title.startswith((f"{wanted.table},", f"{wanted.table} of "))
    ]


def _judge(wanted: Wanted, table: Table) -> Verdict:
    figure, base = table[wanted.row], table[wanted.base or table.base]
    if wanted.column is None:
        ratio = figure.ratio if wanted.base is None else figure.ratio / base.ratio
    else:
        ratio = figure.more[wanted.column] / base.more[wanted.column]
    measured = figure.value if wanted.is_value else ratio
    unit = table.unit if wanted.is_value else f"x {wanted.base or table.base}"
    digits = 0 if wanted.is_value else 2
    return Verdict(
        what=f"{wanted.table}: {wanted.row}" + ("" if wanted.column is None else f": {wanted.column}"),
        wanted=f"{'>=' if wanted.is_least else '<='} {wanted.bound:g} {unit}",
        measured=f"{measured:.{digits}f}",
        reached=measured >= wanted.bound if wanted.is_least else measured <= wanted.bound,
    )
