"""What the figures should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .figures import Table
from .tasks import KEPT


@dataclass(frozen=True, slots=True)
class Wanted:
    """A figure and its bound.

    :ivar table: how the title of its table begins
    :ivar row: the name of its row
    :ivar bound: of its ratio, or of its value where `is_value`; the most that it may be, or the least where `is_least`
    :ivar base: the row that its ratio refers to, if not the base of the table
    """

    table: str
    row: str
    bound: float
    is_value: bool = False
    is_least: bool = False
    base: str | None = None


WANTED = (
    Wanted("one task, asyncio", "taskphase, immediate", 1.9),
    # A task that nobody refers to may be lost, so this is what a task costs without us.
    Wanted("one task, asyncio", "taskphase, immediate", 1.9, base=KEPT),
    Wanted("one task, trio", "taskphase, immediate", 1.7),
    Wanted("one task, asyncio", "taskphase, after_response", 1.9),
    Wanted("one task, asyncio", "taskphase, after_response", 1.9, base=KEPT),
    Wanted("one task, trio", "taskphase, after_response", 1.7),
    Wanted("bytes of one task, asyncio", "taskphase, running", 2700, is_value=True),
    Wanted("bytes of one task, trio", "taskphase, running", 2700, is_value=True),
    Wanted("bytes of one task, asyncio", "taskphase, deferred", 350, is_value=True),
    Wanted("bytes of one task, trio", "taskphase, deferred", 350, is_value=True),
    Wanted("one request, uvloop", "Tasks: nothing scheduled", 1.45),
    Wanted("one request, uvloop", "Tasks: one in each phase", 2.0),
    Wanted("one request, uvloop", "Tasks: an app that has them, an endpoint that does not ask", 1.03),
    Wanted("one uvicorn worker", "Tasks: one in each phase", 0.75, is_least=True),
    Wanted("one task of many, deferred, then dropped, asyncio", "1M", 1.3),
    Wanted("one task of many, deferred, then started, asyncio", "1M", 1.3),
    Wanted("one task of many, waiting for a slot, asyncio", "1M", 1.3),
    Wanted("one task of many, deferred, then dropped, trio", "1M", 1.3),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a figure is what it should be, in words."""

    what: str
    wanted: str
    measured: str
    reached: bool


def judge(tables: Sequence[Table]) -> list[Verdict]:
    """Return a verdict for each wanted figure that has been measured."""
    return [
        _judge(wanted, table)
        for wanted in WANTED
        for table in tables
        if table.title == wanted.table or table.title.startswith(f"{wanted.table},")
    ]


def _judge(wanted: Wanted, table: Table) -> Verdict:
    figure = table[wanted.row]
    ratio = figure.ratio if wanted.base is None else figure.ratio / table[wanted.base].ratio
    measured = figure.value if wanted.is_value else ratio
    unit = "bytes" if wanted.is_value else f"x {wanted.base or table.base}"
    digits = 0 if wanted.is_value else 2
    return Verdict(
        what=f"{wanted.table}: {wanted.row}",
        wanted=f"{'>=' if wanted.is_least else '<='} {wanted.bound:g} {unit}",
        measured=f"{measured:.{digits}f}",
        reached=measured >= wanted.bound if wanted.is_least else measured <= wanted.bound,
    )
