"""The part of a host that only the code needs that binds a framework."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from typing import Any

from ._drive.current import BODY
from ._drive.job import JOB
from ._drive.watching import watch
from ._observer import TaskObserver, check_observers, hooks_of
from ._scope import Scope
from ._statistics import Inspected


class Bound(Inspected):
    """Members of a host, for bindings.

    :ivar takes_over: True if the opening of the host calls `take_over()`. May be set to False before
    :ivar tells_drain: True if observers are told of the drain; False for hosts of single requests, which drain often
    """

    takes_over: bool = True
    tells_drain: bool = True

    def add_observer(self, observer: TaskObserver) -> None:
        """Tell `observer` of the open host's tasks from now on: for bindings. Earlier tasks lack `scheduled()`. The
        observer is the outermost one of the host.
        """
        watch(self._runner, hooks_of(check_observers([observer])))

    def set_current(self, scope: Callable[[], Scope] | None = None) -> Token[Any]:
        """Make this host the current host of the running context: for code that binds a framework.

        :param scope: returns the scope of the unit of work, for each `TasksScheduler` made by hand in this context
        :return: the token for `reset_current()`
        """
        return BODY.set((self, JOB.get(), scope))

    def reset_current(self, token: Token[Any]) -> None:
        """Undo `set_current()`. In another context than `set_current()` this does nothing."""
        try:
            BODY.reset(token)
        except ValueError:
            pass  # test fixtures are entered and left in different contexts

    def runs_here(self) -> bool:
        """Return whether the event loop of this host runs in this thread. From any thread.

        :raises TasksClosedError: if the host is not open yet
        """
        return self._runner.seam.runs_here()

    def take_over(self) -> None:
        """Recover tasks from the journal, if there is one, from now on until the drain begins.

        :raises TasksClosedError: if the host is not open yet
        """
        if (keeper := self._runner.keeper) is not None:
            keeper.take_over()
