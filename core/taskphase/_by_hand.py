"""Schedulers that are made by hand: `TasksScheduler(tg)`."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Literal
from weakref import finalize

from anyio.abc import TaskGroup

from ._batch import TasksBatch
from ._drive.current import body_here
from ._drive.job import Held, Job
from ._drive.runner import Runner
from ._machine.config import UNSET, TaskConfig
from ._machine.scope import Phase, ScopeState, Verdict
from ._route import Route
from ._scheduler import TasksScheduler
from .errors import TasksClosedError

_AFTER_ROUTE, _AFTER_RESPONSE = Phase.AFTER_ROUTE, Phase.AFTER_RESPONSE


def make(tg: TaskGroup) -> TasksScheduler:
    """Return a new scheduler, without having called its `__init__()`. It is one of the scope that this code runs in, if
    `tg` is the group of the host of that scope.
    """
    scope = _scope_here(tg)
    if scope is None:
        return object.__new__(SchedulerAlone)
    within = object.__new__(SchedulerWithin)
    within._scope = scope
    return within


class SchedulerAlone(TasksScheduler):
    """A scheduler that was made by hand outside of any scope. When it is gone it drops what nobody has started."""

    __slots__ = ()

    def __init__(self, tg: TaskGroup, config: TaskConfig = UNSET) -> None:
        super().__init__(tg, config)
        self._held = Held(None)
        finalize(self, _let_go, self._runner, self._held).atexit = False

    # A batch that it keeps would keep it.

    @property
    def after_route(self) -> TasksBatch:
        return TasksBatch._of(self, _AFTER_ROUTE)

    @property
    def after_response(self) -> TasksBatch:
        return TasksBatch._of(self, _AFTER_RESPONSE)


class SchedulerWithin(TasksScheduler):
    """A scheduler that was made by hand inside a scope, which holds its tasks. `async with` makes another scope."""

    __slots__ = ("_own", "_scope")

    def __init__(self, tg: TaskGroup, config: TaskConfig = UNSET) -> None:
        self._scope: TasksScheduler
        self._own: TasksScheduler | None = None
        self._bind(self._scope._runner, tg, self._scope._runner.config.merge(config))

    def end_route(self, *, failed: bool = False) -> None:
        self._start_held(_AFTER_ROUTE, failed=failed)

    def end(self, *, failed: bool = False) -> None:
        self._start_held(_AFTER_ROUTE, failed=failed)
        self._start_held(_AFTER_RESPONSE, failed=failed)

    def route(self) -> Route:
        return self._scope.route()

    @property
    def outcome(self) -> Literal["success", "failure"] | None:
        return self._scope.outcome

    @property
    def unsettled(self) -> bool:
        return self._scope.unsettled

    async def settle(self) -> None:
        await self._scope.settle()

    async def __aenter__(self) -> TasksScheduler:
        self._own = TasksScheduler._of(self._runner, self.tg)
        self._own._config = self._config
        return await self._own.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._own is not None
        await self._own.__aexit__(exc_type, exc, tb)

    def _verdict(self, job: Job) -> Verdict:
        return self._scope._verdict(job)

    def _place(self, job: Job, maker: object = None) -> None:  # noqa: ARG002
        self._scope._place(job, self)

    def _start_held(self, phase: Phase, *, failed: bool) -> None:
        held: Mapping[Job, object] = self._scope._held or {}
        jobs = [job for job, maker in held.items() if maker is self and job.phase is phase]
        self._scope._decide(jobs, ScopeState.OVER_FAILED if failed else ScopeState.OVER)


def _scope_here(tg: TaskGroup) -> TasksScheduler | None:
    """Return the scope that this code runs in, if `tg` is the group of its host; None inside a task."""
    body = body_here()
    if body is None:
        return None
    host, _, scheduler = body
    scope: TasksScheduler | None = None if scheduler is None or host.tg is not tg else scheduler()
    return scope


def _let_go(runner: Runner, held: Held) -> None:
    """Drop what a scheduler that is gone has held. It may be gone in any thread, and in the middle of anything."""
    for job in list(held):
        try:
            runner.call(_drop_forgotten, job)
        except TasksClosedError:
            return  # the event loop has ended


def _drop_forgotten(job: Job) -> None:
    job._runner.drop(job, "its scheduler is gone, and nobody has started its batches")
