"""The scope of one unit of work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Token
from types import TracebackType
from typing import Any, Literal

from anyio.abc import TaskGroup

from ._batch import TasksBatch
from ._definition import Schedules, ScopedTaskDefinition
from ._drive.current import BODY, JOB, body_here, running_host
from ._drive.job import Held, Job
from ._drive.on_group import GroupSeam
from ._drive.recording import RECORDERS, finished
from ._drive.runner import Runner
from ._machine.config import UNSET, TaskConfig
from ._machine.drain import DrainStage
from ._machine.scope import SCOPE, VERDICTS, Phase, ScopeEvent, ScopeState, Verdict
from ._route import Route, may_wait
from ._task import Task

# What every task and every scope passes (see `Symbol`).
_IMMEDIATE, _AFTER_ROUTE, _AFTER_RESPONSE = Phase.IMMEDIATE, Phase.AFTER_ROUTE, Phase.AFTER_RESPONSE
_ROUTE, _LATE = ScopeState.ROUTE, ScopeState.LATE
_ROUTE_SUCCEEDED, _ROUTE_FAILED, _ENDED = ScopeEvent.ROUTE_SUCCEEDED, ScopeEvent.ROUTE_FAILED, ScopeEvent.ENDED
_START, _HOLD = Verdict.START, Verdict.HOLD

# Tasks that schedule tasks without end must not hold the response up; what is meant to be one phase is never as deep.
_GENERATIONS = 10


class TasksScheduler(Schedules["ScopedTaskDefinition"]):
    """Schedules the tasks of one unit of work: of a request, a session, a message.

    `host.scope()` returns a scheduler whose scope is an `async with` block. You can also make a scheduler by hand:

    - With the task group of a host, inside a scope or a request: it belongs to that scope, whose phases start its
      batches.
    - Anywhere else it has no scope. You start its batches, with `end_route()` and `end()`, or by `async with`. If you
      do not, its tasks are dropped when the scheduler is gone, with a log record.

    :ivar tg: the task group; that of the host, if it belongs to one
    :ivar in_route: whether its route was entered and has not ended
    :param tg: any entered anyio task group; that of a host makes this a scheduler of the host
    :param config: settings for all of its tasks
    """

    __slots__ = (
        "__dict__",  # for tests that patch one
        "__weakref__",
        "_after_response",
        "_after_route",
        "_config",
        "_held",
        "_owner",
        "_runner",
        "_state",
        "_token",
        "_unsettled",
        "in_route",
        "tg",
    )

    def __new__(cls, tg: TaskGroup, config: TaskConfig = UNSET) -> TasksScheduler:  # noqa: ARG004 - as `__init__()`
        from . import _by_hand

        return _by_hand.make(tg)

    def __init__(self, tg: TaskGroup, config: TaskConfig = UNSET) -> None:
        host = running_host()
        if host is not None and host.tg is tg:
            self._bind(host._runner, tg, host._runner.config.merge(config))
        else:
            self._bind(Runner(GroupSeam(tg), config=UNSET), tg, config)

    @classmethod
    def _of(cls, runner: Runner, tg: TaskGroup, *, in_route: bool = False) -> TasksScheduler:
        scheduler = object.__new__(cls)
        scheduler._bind(runner, tg, runner.config)
        if in_route:
            scheduler.in_route = True
            scheduler._owner = runner.seam.running()
            BODY.set((runner.host, JOB.get(), scheduler._scheduler))
        return scheduler

    def _bind(self, runner: Runner, tg: TaskGroup, config: TaskConfig) -> None:
        self.tg: TaskGroup = tg
        self._after_route: TasksBatch | None = None
        self._after_response: TasksBatch | None = None
        self._runner = runner
        self._config = config
        self._state = _ROUTE
        self._held: Held | None = None
        self.in_route: bool = False
        self._owner: object = None
        self._unsettled = False
        self._token: Token[Any] | None = None

    @property
    def after_route(self) -> TasksBatch:
        """Tasks for when the route has returned."""
        if self._after_route is None:
            self._after_route = TasksBatch._of(self, _AFTER_ROUTE)
        return self._after_route

    @property
    def after_response(self) -> TasksBatch:
        """Tasks for when the scope is over."""
        if self._after_response is None:
            self._after_response = TasksBatch._of(self, _AFTER_RESPONSE)
        return self._after_response

    def _define(self, config: TaskConfig) -> ScopedTaskDefinition:
        return ScopedTaskDefinition(self, config)

    def start(self, task: Task[Any]) -> None:
        """Start a task that was made by hand.

        :raises RuntimeError: if it has been scheduled or started already
        :raises TasksClosedError: if tasks are no longer taken
        :raises TasksSaturatedError: if `max_pending` tasks are pending
        """
        if not task._is_new:
            raise RuntimeError(f"task {task.name!r} is {task.status.value} already; a task starts once")
        task.config = self._config.merge(task.config)
        self._runner.submit(task, self)

    def route(self) -> Route:
        """Return an async context manager around the route: the part of the scope that produces its answer.

        Leaving it starts what was scheduled for after the route, and waits until all that was started has taken its
        first step, for some turns of the event loop if it takes any (see `settle()`). An exception that leaves it makes
        the route a failed one. Without it the route ends with the scope.
        """
        return Route(self)

    def end_route(self, *, failed: bool = False) -> None:
        """Say that the route has returned, or `failed`: what was scheduled for after it is started or dropped.
        Later calls change nothing.

        What `batch.start()` does; `route()` is the better way where there is a block to put it around: here, on
        trio, tasks that were asked to start just before may take their first steps later than those that start now,
        unless `settle()` was awaited. In the event loop's thread; no checkpoint.
        """
        if self._state is _ROUTE:
            self.in_route = False
            self._follow(_ROUTE_FAILED if failed else _ROUTE_SUCCEEDED)
        elif self._end_late_route(failed=failed):
            self.end()

    def _end_late_route(self, *, failed: bool) -> bool:
        """Say that the route has ended, if the scope was over before; return whether it was."""
        if self._state is not _LATE:
            return False
        del self._runner.late[self]
        self.in_route = False
        self._follow(_ROUTE_FAILED if failed else _ROUTE_SUCCEEDED)
        return True

    def end(self, *, failed: bool = False) -> None:
        """Say that the scope is over, and its route with it: what was held is started or dropped. Later calls change
        nothing. If the route still runs (`route()` was entered and not left), its tasks are held until it ends.

        What `batch.start()` does; `async with` is the better way, for the reason given at `end_route()`. In the
        event loop's thread; no checkpoint.
        """
        if self._state is _ROUTE and not self.in_route:
            self.end_route(failed=failed)
        self._follow(_ENDED)
        if self._state is _LATE:
            self._runner.late[self] = None
            if self._runner.stage in (DrainStage.SHIELDED, DrainStage.FORCED):
                self.give_up()
        # They refer to this, and would be for the garbage collector.
        self._after_route = self._after_response = None

    def give_up(self) -> None:
        """Drop what is held for a route that still runs though the scope is over. Called when the host closes."""
        if self._state is _LATE:
            del self._runner.late[self]
            self._state = SCOPE[self._state][ScopeEvent.GIVEN_UP]
            for job in list(self._held or ()):
                self._runner.drop(job, "its route was still running when the host closed")

    @property
    def outcome(self) -> Literal["success", "failure"] | None:
        """How the route has ended; None if it has not."""
        if self._state in (_ROUTE, _LATE):
            return None
        return "success" if self._state in (ScopeState.RESPONDING, ScopeState.OVER) else "failure"

    @property
    def route_runs_here(self) -> bool:
        """Whether the route has not ended, and this code runs in it."""
        body = body_here() if self.in_route else None
        return body is not None and getattr(body[2], "__self__", None) is self

    @property
    def in_order(self) -> bool:
        """Whether tasks take their first steps in the order in which they were asked to, as on asyncio. On trio those
        that are asked in one turn do so in any order.
        """
        return self._runner.seam.in_order

    @property
    def unsettled(self) -> bool:
        """Whether a task was asked to start since the last `settle()`."""
        return self._unsettled

    async def settle(self) -> None:
        """Wait until each task that was asked to start has taken its first step: if there is any, for two turns of the
        event loop on trio, and one on asyncio. On asyncio from Python 3.12 on for none, as a rule: if the tasks are
        those of a host, nobody else makes the loop's tasks, no exception is being handled here, and this is not itself
        a first step. Cancellation does not shorten it, and comes here only if it is asyncio's own.

        Those that the first steps themselves schedule here are included, down to ten generations. Tasks that wait for a
        slot are not waited for. Where a test has tasks run inline, their ends are waited for, too, which cancellation
        does shorten.
        """
        if self._unsettled:
            await self._let_step()
            if RECORDERS:
                await finished(self)

    async def _let_step(self) -> None:
        for _ in range(_GENERATIONS):
            self._unsettled = False
            await self._runner.seam.first_steps()
            if not self._unsettled:
                break

    async def __aenter__(self) -> TasksScheduler:
        self._owner = self._runner.seam.running()
        if self._held is not None:
            self._held.owner = self._owner
        if self._runner.host is not None:
            self._token = BODY.set((self._runner.host, JOB.get(), self._scheduler))
        return self

    def _scheduler(self) -> TasksScheduler:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._token is not None:
            self._runner.host.reset_current(self._token)
        if self._state is _ROUTE and not self.in_route:
            if self._unsettled and not self._runner.seam.in_order:
                await self._let_step()
            self.end_route(failed=exc is not None)
        if self._unsettled and not self._runner.seam.in_order:
            await self._let_step()
        self.end()
        if self._held is not None and self._held.owner is self._runner.seam.running():
            self._held.owner = None  # it may wait for a route that still runs
        if RECORDERS and may_wait(exc):
            await finished(self)

    def _schedule(
        self,
        config: TaskConfig,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        phase: Phase = _IMMEDIATE,
    ) -> Task[Any]:
        config = self._config if config is UNSET else self._config.merge(config)
        task: Task[Any] = Task(func, args, kwargs, config)
        task.phase = phase
        self._runner.submit(task, self)
        return task

    def _verdict(self, job: Job) -> Verdict:
        return VERDICTS[self._state, job.phase, job.config.when]

    def _place(self, job: Job, maker: object = None) -> None:
        verdict = VERDICTS[self._state, job.phase, job.config.when]  # as `_verdict()`, without a call
        if verdict is _START:
            self._runner.start(job)
            self._unsettled = True
        elif verdict is _HOLD:
            if self._held is None:
                self._held = Held(self._owner)
            self._runner.defer(job, self._held, maker)
        else:
            self._runner.drop(job, _mismatch(job))

    def _follow(self, event: ScopeEvent) -> None:
        self._state = SCOPE[self._state][event]
        if self._held:
            self._decide(self._held, self._state)

    def _decide(self, jobs: Iterable[Job], state: ScopeState) -> None:
        """Start or drop those of `jobs` whose phase has come in `state`."""
        runner = self._runner
        was_busy, runner.is_busy = runner.is_busy, True
        try:
            for job in list(jobs):
                verdict = VERDICTS[state, job.phase, job.config.when]
                if verdict is _START:
                    runner.release(job)
                    self._unsettled = True
                elif verdict is not _HOLD:
                    runner.drop(job, _mismatch(job))
        finally:
            runner.is_busy = was_busy


def _mismatch(job: Job) -> str:
    if job.config.when == "failure":
        return "its route succeeded, and it was to run on failure only"
    return "its route failed, and it was to run on success only"
