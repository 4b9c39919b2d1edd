"""The outcome of a route, the hooks before its end, and its barrier."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from ._drive.job import Job
from ._drive.runner import Runner
from ._drive.unit import Unit
from ._machine.calling import check_call
from ._machine.scope import ANSWERED, UNDECIDED

Outcome: TypeAlias = Literal["success", "failure"]
"""The outcome of a route."""

RouteHook: TypeAlias = Callable[[Outcome], Awaitable[object]]
"""See `Scope.before_route_ends()`."""

# A barrier waits for tasks that these tasks schedule, and so on, this many times: an endless chain delays no response.
_GENERATIONS = 10


class Routed(Unit[Job]):
    """A unit of work with a route.

    :ivar _hooks: the hooks of `before_route_ends()`; None without any; an empty tuple if it is too late for a hook
    :ivar _turn: `Seam.turn` at the begin
    """

    __slots__ = ("_hooks", "_runner", "_turn")

    _hooks: list[RouteHook] | tuple[()] | None
    _runner: Runner
    _turn: int

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of the route; None while the route runs."""
        if self._state in UNDECIDED:
            return None
        return "success" if self._state in ANSWERED else "failure"

    def before_route_ends(self, hook: RouteHook) -> None:
        """Await `hook(outcome)` once, when the route ends: before any after_route task starts.

        - In FastAPI the dependencies with `yield` and `scope="function"` have exited, and the response waits.
        - `outcome` is "success" or "failure": how the route is about to end. The hooks are called in this order.
        - If a hook raises, the route fails with the exception of the hook. FastAPI answers with its handlers, as if the
          endpoint had raised the exception. In programs without FastAPI the exception leaves the block of the route.
        - If the route is cancelled, the hooks run in the cancelled scope: a hook that has to wait needs a shield.
        - A route that the host has given up, and a coroutine that is closed before its end, call no hook.

        :raises RuntimeError: if the route has ended, or its last hook was called
        :raises TypeError: if `hook` cannot be called with an outcome
        """
        if not self.takes_hooks:
            raise RuntimeError("the route of this scope has ended already")
        check_call(hook, ("success",), {})
        if not isinstance(self._hooks, list):
            self._hooks = []
        self._hooks.append(hook)

    @property
    def takes_hooks(self) -> bool:
        """True if `before_route_ends()` takes a hook: the route has not ended, and is not about to end."""
        return self.outcome is None and self._hooks != ()

    @property
    def in_order(self) -> bool:
        """True on asyncio: first steps are in the order of the requests. On trio the order within a turn is random."""
        return self._runner.seam.in_order

    async def settle(self) -> None:
        """Wait until each task that was asked to start has taken its first step: the *barrier*.

        - Without such a task this returns at once. Otherwise it takes one turn of the event loop on asyncio, two on
          trio. On asyncio with Python 3.11 and 3.12 it takes none for a scope that was not suspended before.
        - The barrier includes tasks that these first steps schedule in this scope, down to ten generations. It excludes
          tasks that wait for a slot.
        - A cancel scope does not shorten the wait. A native `Task.cancel()` of asyncio is raised here.
        - In a test with `run="inline"` this waits for the ends of the tasks. A cancel scope shortens that wait.
        """
        if self.unsettled:
            await self._let_step()
        if (watching := self._runner.watching) is not None:
            await watching.wait_for_ends(self)

    async def _let_step(self) -> None:
        """Make the tasks that were asked to start take their first steps, and the tasks that these steps schedule."""
        seam = self._runner.seam
        for _ in range(_GENERATIONS):
            self.unsettled = False
            # To wait for a turn is cheaper under load. But it would have the garbage collector count the objects of the
            # unit as old, unless the unit was suspended before.
            await (seam.first_steps() if self._turn == seam.turn else seam.turns())
            if not self.unsettled:
                break


async def call_hooks(hooks: list[RouteHook], outcome: Outcome) -> None:
    """Await each hook once, in order, and take it out of `hooks`. If a hook raises, the outcome is failure for the
    hooks behind it.

    :raises BaseException: the exception of the last hook that raised
    """
    try:
        await hooks.pop(0)(outcome)
    except GeneratorExit:  # the coroutine of the route is being closed: nothing may wait
        raise
    except BaseException:
        if hooks:
            await call_hooks(hooks, "failure")
        raise
    if hooks:
        await call_hooks(hooks, outcome)
