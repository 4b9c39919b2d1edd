"""Shared code of the properties that each run a few lines of their own."""

from __future__ import annotations

from typing import Any

from taskphase import Phase, TasksScheduler
from taskphase.testing import simulate


def run(main: Any, backend: Any, **options: Any) -> Any:
    """Run `main()` in the simulation; return its value or raise its exception."""
    return simulate(main, backend=backend, **options).result()


async def nothing() -> None:
    """A task without code."""


def place_of(tasks: TasksScheduler, phase: Phase) -> Any:
    """Return the object whose `schedule()` belongs to `phase`."""
    return tasks if phase is Phase.IMMEDIATE else getattr(tasks, phase.value)
