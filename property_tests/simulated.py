"""What the properties share that each run a few lines of their own."""

from __future__ import annotations

from typing import Any

from taskphase import Phase, TasksScheduler
from taskphase.testing import simulate


def run(main: Any, backend: Any, **options: Any) -> Any:
    """Run `main()` in the simulation, and return or raise what it does."""
    return simulate(main, backend=backend, **options).result()


async def nothing() -> None:
    """Be a task."""


def place_of(tasks: TasksScheduler, phase: Phase) -> Any:
    """Return whose `schedule()` is that of a phase."""
    return tasks if phase is Phase.IMMEDIATE else getattr(tasks, phase.value)
