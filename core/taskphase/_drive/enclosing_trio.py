"""`enclose()` on trio: see `enclosing.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_task

from . import enclosing
from .enclosing import PrivateChanged, Trial, can_enclose, check, named

if TYPE_CHECKING:
    from .cancelling import CancelScope


def enclose(nursery: trio.Nursery, native: Any) -> CancelScope:
    """Enter a cancel scope on behalf of `native`, a task in `nursery`, around all that it has entered.

    trio keeps a tree of cancel statuses, one for each scope. A task is in the status of its innermost scope. A
    cancelled status cancels its tasks, and goes down to its children. A shield stops it.

    *Invariant*: after `enclose()` the tree is as if the task had entered the new scope first. So the task leaves its
    own scopes as usual, and `attempt()` leaves the new scope last.

    The steps:

    1. Make a status for the new scope, below the status of the nursery. Otherwise the cancellation of the nursery does
       not reach the task.
    2. If the task has entered no scope, move the task into the new status.
    3. Otherwise put the outermost status of the task below the new one. trio's setter of `parent` updates the children,
       and passes a cancellation on. If the task were moved instead, its own scopes would no longer cancel it.
    """
    scope: Any = trio.CancelScope()
    outermost = native._cancel_status
    around: Any = nursery
    around = around._cancel_status
    scope._cancel_status = status = type(around)(scope=scope, parent=around)
    if outermost is around:
        native._activate_cancel_status(status)
    else:
        # (The parent is None if the user has left scopes in the wrong order.)
        while outermost.parent is not around and outermost.parent is not None:
            outermost = outermost.parent
        outermost.parent = status
    return scope  # type: ignore[no-any-return]


def look(nursery: trio.Nursery) -> None:
    """Check every name that `enclose()` uses.

    :raises PrivateChanged: if a name is gone, or its value has another type
    """
    around = check(enclosing.TRIO_NURSERY, nursery)._cancel_status
    task = check(enclosing.TRIO_TASK, current_task())
    try:
        scope = check(enclosing.TRIO_SCOPE, trio.CancelScope())
        status = check(enclosing.TRIO_STATUS, type(around)(scope=scope, parent=around))
        status.parent = None
    except (AttributeError, TypeError) as exc:
        raise PrivateChanged(f"{named('trio')}: {exc}") from None
    if task._cancel_status is not around:
        raise PrivateChanged(f"{named('trio')}: the body of a nursery has another cancel status than the nursery")


async def can_enclose_here(nursery: trio.Nursery) -> bool:
    """Return whether `enclose()` works in this process (see `can_enclose()`). Call it in the body of `nursery`."""
    return await can_enclose("trio", ("trio",), partial(look, nursery), _try)


async def _try() -> bool | None:
    """Cancel two tasks through `enclose()`: one in no scope, one in scopes and a shield. The steps are as on asyncio.

    No task waits for a thread: trio itself tells the thread when it cancels the task that waits for the thread.

    :return: True if the log is the expected one; None if a scope around the running task was cancelled meanwhile
    """
    trial = Trial(trio.Cancelled, current_task)
    async with trio.open_nursery() as nursery:
        try:
            nursery.start_soon(trial.attempt, trial.wait)
            nursery.start_soon(trial.attempt, trial.wait_in_scopes)
            await _turns(until=lambda: len(trial.waiting) == 2)
            for native in trial.waiting:
                trial.scopes[native] = scope = enclose(nursery, native)
                scope.cancel()
            trial.go_on.set()
            await _turns(until=lambda: not nursery.child_tasks)
        except Exception as exc:
            trial.log.append(repr(exc))
        finally:
            trial.release()
    if nursery.cancel_scope.cancelled_caught or trio.current_effective_deadline() == -inf:
        return None
    return sorted(trial.log) == ["caught", "caught", "shielded"]


async def _turns(until: Callable[[], bool]) -> None:
    for _ in range(enclosing.MOST_TURNS):
        if until():
            break
        await trio.lowlevel.cancel_shielded_checkpoint()
