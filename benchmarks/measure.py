"""Timing in one run, as ratios: what this machine does in a microsecond is nobody else's business."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping

ROUNDS = 7


async def medians(cases: Mapping[str, Callable[[int], Awaitable[None]]], count: int) -> dict[str, float]:
    """Return, by name, the median over the rounds of the microseconds for one of `count`; the cases take turns."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            gc.collect()
            begin = time.perf_counter()
            await case(count)
            taken[name].append((time.perf_counter() - begin) / count * 1e6)
    return {name: statistics.median(each) for name, each in taken.items()}


def table(title: str, figures: Mapping[str, float]) -> str:
    """Return a table of microseconds and of multiples of the first row."""
    floor = next(iter(figures.values()))
    rows = [f"{name:<44} {figure:>8.2f} us {figure / floor:>7.2f} x" for name, figure in figures.items()]
    return "\n".join([title, *rows, ""])
