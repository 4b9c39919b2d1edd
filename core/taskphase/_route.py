"""`Route`: the part of a scope that produces its answer, and the hooks before its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Literal, Protocol, TypeAlias

from ._drive.job import Job
from ._drive.unit import Unit
from ._machine.calling import check_call
from ._machine.scope import ANSWERED, UNDECIDED, ScopeState

Outcome: TypeAlias = Literal["success", "failure"]
"""The outcome of a route."""

RouteHook: TypeAlias = Callable[[Outcome], Awaitable[object]]
"""See `Scope.before_route_ends()`."""


class Routed(Unit[Job]):
    """A unit of work with a route.

    :ivar _hooks: the hooks of `before_route_ends()`; None without any; an empty tuple if it is too late for a hook
    """

    __slots__ = ("_hooks",)

    _hooks: list[RouteHook] | tuple[()] | None

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
    def has_hooks(self) -> bool:
        """True if there is a hook of `before_route_ends()`, so `end_route()` refuses to end the route."""
        return isinstance(self._hooks, list)

    async def _call_hooks(self, exc_type: type[BaseException] | None) -> None:
        """Await the hooks of a route that ends with an exception of this class, or without one.

        :raises BaseException: the exception of the last hook that raised
        """
        if self._hooks and self.outcome is None and exc_type is not GeneratorExit:
            await _call(self._hooks, "success" if exc_type is None else "failure")

    def _refuse_to_end(self) -> None:
        """Refuse a call that would end the route, and cannot wait for hooks.

        :raises RuntimeError: if the route has not ended
        """
        if self.takes_hooks:
            raise RuntimeError(
                "a hook of before_route_ends() has to be awaited before this route ends, and this call cannot wait: "
                "end the route by `async with`"
            )


class HasRoute(Protocol):
    """The part of a scope that a route needs."""

    in_route: bool
    _state: ScopeState

    async def settle(self) -> None: ...

    async def _leave_route(self, exc_type: type[BaseException] | None) -> None: ...


class Route:
    """The part of a scope that produces its answer. See `Scope.route()`."""

    __slots__ = ("_scope",)

    def __init__(self, scope: HasRoute) -> None:
        self._scope = scope

    async def __aenter__(self) -> None:
        if self._scope._state is not ScopeState.ROUTE:
            raise RuntimeError("the route of this scope has ended already")
        self._scope.in_route = True

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            await self._scope._leave_route(exc_type)
        except Exception:  # of a hook: the route has failed, and here is its barrier, too
            await self._scope.settle()
            raise
        if may_wait(exc):
            await self._scope.settle()


def may_wait(exc: BaseException | None) -> bool:
    """Return whether a block that ends with `exc` may wait at its end: not if it is being cancelled."""
    return exc is None or isinstance(exc, Exception)


async def _call(hooks: list[RouteHook], outcome: Outcome) -> None:
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
            await _call(hooks, "failure")
        raise
    if hooks:
        await _call(hooks, outcome)
