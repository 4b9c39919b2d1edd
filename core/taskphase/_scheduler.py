"""The scope of one unit of work, and who schedules for its phases."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

from anyio.abc import TaskGroup

from ._definition import Schedules, TaskDefinition
from ._drive.current import running_host
from ._drive.job import Job
from ._drive.on_group import GroupSeam
from ._drive.recording import RECORDERS, finished
from ._drive.runner import Runner
from ._machine.config import UNSET, TaskConfig
from ._machine.scope import Phase, ScopeEvent, ScopeState, Verdict, next_state, verdict
from ._route import Route, may_wait
from ._task import Task

# Tasks that schedule tasks without end must not hold the response up; what is meant to be one phase is never as deep.
_GENERATIONS = 10


class ScopedTaskDefinition(Schedules["ScopedTaskDefinition"]):
    """A definition whose tasks can be scheduled for each phase of a scope: what `tasks.task(...)` returns."""

    __slots__ = ("_config", "_scheduler")

    def __init__(self, scheduler: TasksScheduler, config: TaskConfig) -> None:
        self._scheduler = scheduler
        self._config = config

    @property
    def after_route(self) -> TaskDefinition:
        """The same settings, for tasks that start when the route has returned."""
        return TaskDefinition(self._scheduler.after_route, self._config)

    @property
    def after_response(self) -> TaskDefinition:
        """The same settings, for tasks that start when the scope is over."""
        return TaskDefinition(self._scheduler.after_response, self._config)

    def _define(self, config: TaskConfig) -> ScopedTaskDefinition:
        return ScopedTaskDefinition(self._scheduler, self._config.merge(config))

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        return self._scheduler._submit(Phase.IMMEDIATE, self._config.merge(config), func, args, kwargs)


class TasksBatch(Schedules[TaskDefinition]):
    """Tasks that are held until the batch is started.

    Those of a scheduler, `.after_route` and `.after_response`, are started by its scope. One of your own is started by
    `batch.start(scheduler)`, as often as there is something in it.
    """

    __slots__ = ("_held", "_phase", "_scheduler")

    def __init__(self) -> None:
        self._held: list[Task[Any]] = []
        self._scheduler: TasksScheduler | None = None
        self._phase = Phase.IMMEDIATE

    @classmethod
    def _of(cls, scheduler: TasksScheduler, phase: Phase) -> TasksBatch:
        batch = cls()
        batch._scheduler, batch._phase = scheduler, phase
        return batch

    def _define(self, config: TaskConfig) -> TaskDefinition:
        return TaskDefinition(self, config)

    def start(self, scheduler: TasksScheduler) -> None:
        """Start what is held. For a scheduler's own batch this says that its route has returned, or that its scope
        is over.

        :raises TasksClosedError: if a batch of your own meets a scheduler that takes no more tasks; what was not
            started stays in it
        """
        if self._scheduler is None:
            while self._held:
                if not self._held[0]._has_ended:  # it may have been cancelled
                    scheduler.start(self._held[0])
                del self._held[0]
        elif self._phase is Phase.AFTER_RESPONSE:
            self._scheduler.end()
        else:
            self._scheduler.end_route()

    def __start__(self, scheduler: TasksScheduler, /) -> None:
        """The same as `batch.start(scheduler)`."""
        self.start(scheduler)

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        if self._scheduler is not None:
            return self._scheduler._submit(self._phase, config, func, args, kwargs)
        task: Task[Any] = Task(func, args, kwargs, config)
        self._held.append(task)
        return task

    def _take(self) -> list[Task[Any]]:
        held, self._held = self._held, []
        return held


class TasksScheduler(Schedules["ScopedTaskDefinition"]):
    """Schedules the tasks of one unit of work: of a request, a session, a message.

    `host.scope()` returns one whose scope is an `async with` block. One that is made with a task group of your own
    has no scope: its batches are started by you, with `end_route()` and `end()`, or by `async with` too.

    :ivar tg: the task group; that of the host, if it belongs to one
    :param tg: any entered anyio task group; that of a host makes this a scheduler of the host
    :param config: settings for all of its tasks
    """

    def __init__(self, tg: TaskGroup, config: TaskConfig = UNSET) -> None:
        host = running_host()
        if host is not None and host.tg is tg:
            self._bind(host._runner, tg, config)
        else:
            self._bind(Runner(GroupSeam(tg), config=UNSET), tg, config)

    @classmethod
    def _of(cls, runner: Runner, tg: TaskGroup) -> TasksScheduler:
        scheduler = cls.__new__(cls)
        scheduler._bind(runner, tg, UNSET)
        return scheduler

    def _bind(self, runner: Runner, tg: TaskGroup, config: TaskConfig) -> None:
        self.tg = tg
        self._after_route: TasksBatch | None = None
        self._after_response: TasksBatch | None = None
        self._runner = runner
        self._config = runner.config.merge(config)
        self._state = ScopeState.ROUTE
        self._unsettled = False

    @property
    def after_route(self) -> TasksBatch:
        """Tasks for when the route has returned."""
        if self._after_route is None:
            self._after_route = TasksBatch._of(self, Phase.AFTER_ROUTE)
        return self._after_route

    @property
    def after_response(self) -> TasksBatch:
        """Tasks for when the scope is over."""
        if self._after_response is None:
            self._after_response = TasksBatch._of(self, Phase.AFTER_RESPONSE)
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
        self._runner.submit(task, self._place)

    def route(self) -> Route:
        """Return an async context manager around the route: the part of the scope that produces its answer.

        Leaving it starts what was scheduled for after the route, and is a checkpoint if something has been started:
        all that was has then taken its first step. An exception that leaves it makes the route a failed one.
        Without it the route ends with the scope.
        """
        return Route(self)

    def end_route(self, *, failed: bool = False) -> None:
        """Say that the route has returned, or `failed`: what was scheduled for after it is started or dropped.
        Later calls change nothing.

        What `batch.start()` does; `route()` is the better way where there is a block to put it around: here, on
        trio, tasks that were asked to start just before may take their first steps later than those that start now,
        unless `settle()` was awaited. In the event loop's thread; no checkpoint.
        """
        if self._state is ScopeState.ROUTE:
            self._follow(ScopeEvent.ROUTE_FAILED if failed else ScopeEvent.ROUTE_SUCCEEDED, self._after_route)

    def end(self, *, failed: bool = False) -> None:
        """Say that the scope is over, and its route with it, if it had not ended: what was held is started or
        dropped. Later calls change nothing.

        What `batch.start()` does; `async with` is the better way, for the reason given at `end_route()`. In the
        event loop's thread; no checkpoint.
        """
        self.end_route(failed=failed)
        self._follow(ScopeEvent.ENDED, self._after_response)

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
        """Wait until each task that was asked to start has taken its first step: for some turns of the event loop, if
        there is any. Cancellation does not shorten it.

        Those that the first steps themselves schedule here are included, down to ten generations. Tasks that wait for a
        slot are not waited for. Where a test has tasks run inline, their ends are waited for, too, which cancellation
        does shorten.
        """
        if self._unsettled:
            await self._let_step()
            if RECORDERS:
                await finished(self)

    async def _let_step(self) -> None:
        seam = self._runner.seam
        with seam.cancel_scope(shield=True):
            for _ in range(_GENERATIONS):
                self._unsettled = False
                for _ in range(seam.checkpoints):
                    await seam.checkpoint()
                if not self._unsettled:
                    break

    async def __aenter__(self) -> TasksScheduler:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._unsettled:
            await self._let_earlier_start()
        self.end_route(failed=exc is not None)
        if self._unsettled:
            await self._let_earlier_start()
        self.end()
        if RECORDERS and may_wait(exc):
            await finished(self)

    async def _let_earlier_start(self) -> None:
        """Make sure that what was asked to start takes its first step before what is asked next."""
        if not self._runner.seam.in_order:
            await self._let_step()

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        return self._submit(Phase.IMMEDIATE, config, func, args, kwargs)

    def _submit(
        self,
        phase: Phase,
        config: TaskConfig,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Task[Any]:
        task: Task[Any] = Task(func, args, kwargs, self._config.merge(config))
        task.phase = phase
        self._runner.submit(task, self._place, self._verdict)
        return task

    def _verdict(self, job: Job) -> Verdict:
        return verdict(self._state, job.phase, job._when)

    def _place(self, job: Job) -> None:
        match self._verdict(job):
            case Verdict.START:
                self._runner.start(job)
                self._unsettled = True
            case Verdict.HOLD:
                self._runner.defer(job)
                batch = self.after_route if job.phase is Phase.AFTER_ROUTE else self.after_response
                batch._held.append(cast("Task[Any]", job))
            case Verdict.DROP:
                self._runner.drop(job, _mismatch(job))

    def _follow(self, event: ScopeEvent, batch: TasksBatch | None) -> None:
        self._state = next_state(self._state, event)
        for job in () if batch is None else batch._take():
            if self._verdict(job) is Verdict.START:
                self._runner.release(job)
                self._unsettled = True
            else:
                self._runner.drop(job, _mismatch(job))


def _mismatch(job: Job) -> str:
    if job._when == "failure":
        return "its route succeeded, and it was to run on failure only"
    return "its route failed, and it was to run on success only"
