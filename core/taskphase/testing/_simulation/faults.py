"""What goes wrong, and when: plain data, beside the choices.

A fault is due at a step, counted from 1 as in the trace. Whom it hits is decided by the choices: the task that makes
that step. If that is a worker thread, or a task of another name than the fault asks for, the next one is hit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Throw:
    """The task's wait raises `error`. What it was about to receive is lost, as with `asyncio.Task.cancel()`.

    If this is the task's first step it does not wait yet, and the next task is hit.

    :param step: 1 or more
    :param error: an exception, or its class, of which each run has an instance of its own
    :param task: the beginning of the names of the tasks that may be hit, as in the trace; default: any
    """

    step: int
    error: BaseException | type[BaseException]
    task: str = ""

    def make(self) -> BaseException:
        """Return what is to be raised."""
        return self.error() if isinstance(self.error, type) else self.error


@dataclass(frozen=True, slots=True)
class Cancel:
    """The innermost cancel scope that the task stands in is cancelled, right before it makes the step.

    That is the scope of its task group if it has entered none of its own. On asyncio a task may stand in none: then it
    is `Task.cancel()`.

    :param step: 1 or more
    :param native: on asyncio, `Task.cancel()` instead; on trio there is no such thing, and it is a scope as well
    :param task: the beginning of the names of the tasks that may be hit, as in the trace; default: any
    """

    step: int
    native: bool = False
    task: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """`func()` is called between two steps, in the event loop's thread but in no task, as by a signal.

    :param step: 1 or more
    :param func: a sync function; if it raises, the run is given up, and `simulate()` raises that
    """

    step: int
    func: Callable[[], object]


Fault = Throw | Cancel | Call
