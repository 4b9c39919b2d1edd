"""The record of one scope: its state, and the tasks that wait for its phases."""

from __future__ import annotations

from typing import Generic, TypeVar

from .._machine.scope import ScopeState

J = TypeVar("J")
"""The record of a task."""


class Unit(Generic[J]):
    """One unit of work, as the runner knows it. `Scope` is the subclass for users.

    :ivar _state: changed only through the table `SCOPE`, by the runner and by `Scope`
    :ivar _held: the tasks that wait for a phase of this scope, in the order of `schedule()`. The value is the *maker*:
        the scheduler made by hand that has scheduled the task, or None. There is no dict until a task waits
    :ivar _holds_for_route: True if a task in `_held` waits for the end of the route
    :ivar _owner: the native task that runs the route. It must not wait for a task in `_held`: the wait would never end
    :ivar unsettled: True if a task was asked to start since the last barrier (see `Scope.settle()`)
    """

    __slots__ = ("_held", "_holds_for_route", "_owner", "_state", "unsettled")

    _state: ScopeState
    _held: dict[J, object] | None
    _holds_for_route: bool
    _owner: object
    unsettled: bool
