"""Turns samples into figures: rounds in which all cases take turns, and medians of ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from .processes import Worker


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a table.

    :ivar value: the median over the rounds, in the unit of its section
    :ivar ratio: the median over the rounds of the ratio to the base of the same round and environment
    :ivar low, high: the quartiles of that ratio
    :ivar more: further medians, by name
    """

    name: str
    value: float
    ratio: float
    low: float
    high: float
    more: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """The figures of one group. `base`: the name of the row to which the ratios refer."""

    title: str
    unit: str
    base: str
    figures: list[Figure]
    rounds: int

    def __getitem__(self, name: str) -> Figure:
        return next(figure for figure in self.figures if figure.name == name)


SHARED = "(PyPI environment)"
"""The suffix of a row from the other environment, if both environments have a row of this name."""


def figure_of(name: str, samples: Sequence[tuple[float, float]]) -> Figure:
    """Return the row for `samples`: pairs of a sample and the cost of the base at that time."""
    ratios = sorted(taken / base for taken, base in samples)
    quarter = len(ratios) // 4
    return Figure(
        name=name,
        value=statistics.median(taken for taken, _ in samples),
        ratio=statistics.median(ratios),
        low=ratios[quarter],
        high=ratios[-1 - quarter],
    )


def measure(section: str, unit: str, libraries: Sequence[str], rounds: int, *, quick: bool) -> list[Table]:
    """Take `rounds` samples of each case of a section. All environments take turns."""
    samples: dict[str, dict[str, list[tuple[float, float]]]] = {}
    bases: dict[str, str] = {}
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(section, library, quick=quick)) for library in libraries]
        for _ in range(rounds):
            for worker in workers:
                for title, group in worker.groups.items():
                    bases.setdefault(title, group["base"])
                    for case in group["cases"]:
                        rows = samples.setdefault(title, {})
                        rows.setdefault(_row(worker, case), []).append(worker.take(title, case))
    return [
        Table(title, unit, bases[title], [figure_of(name, taken) for name, taken in rows.items()], rounds)
        for title, rows in samples.items()
    ]


def _row(worker: Worker, case: str) -> str:
    """Return the name of a row. A case that runs in both environments has two rows."""
    return f"{case} {SHARED}" if worker.library == "theirs" and "PyPI" not in case else case
