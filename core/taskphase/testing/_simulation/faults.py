"""Faults: plain data that says what goes wrong at which step.

A fault is due at a step, counted from 1 as in the trace. The fault hits the task that makes this step. If a worker
thread makes the step, or a task with another name than the fault requires, the fault hits the next task that fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Throw:
    """Make the wait of the task raise `error`. The result of the wait is lost, as with `asyncio.Task.cancel()`.

    A task does not wait yet in its first step; the fault then hits the next task.

    :param step: 1 or more
    :param error: an exception, or an exception class, of which each run makes its own instance
    :param task: a prefix of the names, as in the trace, that the fault may hit; default: any task
    """

    step: int
    error: BaseException | type[BaseException]
    task: str = ""

    def make(self) -> BaseException:
        """Return the exception to raise."""
        return self.error() if isinstance(self.error, type) else self.error


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel the innermost cancel scope around the task, just before the task makes the step.

    Without its own scope, the task is cancelled by the scope of its task group. On asyncio a task may have no scope at
    all; then `Task.cancel()` is called.

    :param step: 1 or more
    :param native: on asyncio, call `Task.cancel()` instead; trio has no such call, and cancels the scope
    :param task: a prefix of the names, as in the trace, that the fault may hit; default: any task
    """

    step: int
    native: bool = False
    task: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """Call `func()` between two steps, in the event loop's thread but outside of any task, like a signal handler.

    :param step: 1 or more
    :param func: a sync function; if `func` raises, the run ends, and `simulate()` raises the exception
    """

    step: int
    func: Callable[[], object]


Fault = Throw | Cancel | Call
