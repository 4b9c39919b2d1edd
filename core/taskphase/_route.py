"""The part of a scope that produces its answer."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from ._drive.recording import RECORDERS, finished
from ._machine.scope import ScopeState

if TYPE_CHECKING:
    from ._scheduler import TasksScheduler


class Route:
    """The part of a scope that produces its answer. See `TasksScheduler.route`."""

    __slots__ = ("_scheduler",)

    def __init__(self, scheduler: TasksScheduler) -> None:
        self._scheduler = scheduler

    async def __aenter__(self) -> None:
        if self._scheduler._state is not ScopeState.ROUTE:
            raise RuntimeError("the route of this scope has ended already")
        self._scheduler.in_route = True

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        scheduler = self._scheduler
        if scheduler._unsettled and not scheduler.in_order:
            await scheduler._let_step()
        if scheduler._end_late_route(failed=exc is not None):
            if scheduler._unsettled and not scheduler.in_order:
                await scheduler._let_step()
            scheduler.end()
        else:
            scheduler.end_route(failed=exc is not None)
        if may_wait(exc):
            if scheduler._unsettled:
                await scheduler._let_step()
            if RECORDERS:
                await finished(scheduler)


def may_wait(exc: BaseException | None) -> bool:
    """Tell whether what is being left with `exc` may wait before: it is not being cancelled."""
    return exc is None or isinstance(exc, Exception)
