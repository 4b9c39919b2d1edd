"""`.after_route` and `.after_response`: the later phases of a scope, as objects with `.schedule()` and `.task()`."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._definition import Configured, Schedules, TaskDefinition
from ._machine.config import TaskConfig
from ._machine.hints import Elsewhere, refuse_call
from ._machine.scope import Phase
from ._task import Starts, Task, new

_AFTER_ROUTE, _AFTER_RESPONSE = Phase.AFTER_ROUTE, Phase.AFTER_RESPONSE


class TasksBatch(Schedules[TaskDefinition]):
    """Holds tasks until the batch is started.

    - The phases of the request start `.after_route` and `.after_response`.
    - You start a batch that you have made: `batch.start(scheduler)`, again and again if you like.
    """

    __slots__ = ("_tasks",)

    if not TYPE_CHECKING:
        __call__ = refuse_call

    def __init__(self) -> None:
        self._tasks: deque[Task[Any]] = deque()

    def _define(self, config: TaskConfig) -> TaskDefinition:
        return TaskDefinition(self, config)

    def start(self, scheduler: Starts) -> None:
        """Start the tasks that the batch holds now.

        - The batch of a `Scope` ends the route (`.after_route`) or the scope (`.after_response`). So does the batch of
          a scheduler made by hand outside of any scope.
        - The batch of any other scheduler starts the tasks that this scheduler has put into it. The route goes on.
        - On trio, tasks of a batch that you start by hand may take their first steps before earlier immediate tasks.

        :raises TasksClosedError: if you made the batch, and the scheduler takes no more tasks. The other tasks stay in
            the batch
        """
        while self._tasks:
            if self._tasks[0]._is_new:  # the task may have been cancelled, or started by hand
                scheduler._start(self._tasks[0])
            self._tasks.popleft()

    def __start__(self, scheduler: Starts, /) -> None:
        """The same as `batch.start(scheduler)`."""
        self.start(scheduler)

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        task: Task[Any] = Task(func, args, kwargs, config)
        self._tasks.append(task)
        return task


class _PhaseBatch(TasksBatch):
    """A later phase of a scope. The scope holds the tasks."""

    __slots__ = ("_phase", "_scheduler")

    _scheduler: SchedulesPhases
    _phase: Phase

    def start(self, scheduler: Starts) -> None:  # noqa: ARG002
        self._scheduler._start_phase(self._phase)

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        return self._scheduler._schedule(config, func, args, kwargs, self._phase)


_PhaseBatch.__name__ = _PhaseBatch.__qualname__ = TasksBatch.__name__  # messages show the name that users know


class SchedulesPhases(Schedules["ScopedTaskDefinition"]):
    """An object with `.schedule()` and `.task()` for immediate tasks, and the same for each later phase."""

    __slots__ = ()

    if not TYPE_CHECKING:
        add_task = Elsewhere("tasks.after_response.schedule(f, ...)")
        immediate = Elsewhere(".schedule(f, ...)")

    @property
    def after_route(self) -> TasksBatch:
        """For tasks that start when the endpoint has returned, before the response is sent.

        `tasks.after_route.schedule(f, x)`: by then the response is built, and the dependencies with `yield` and
        `scope="function"` have exited. The response waits until the task has reached its first `await`.

        If the endpoint raises, an `HTTPException` included, the task is dropped, with a log record. Settings:
        `tasks.after_route.task(when="failure")` runs it only then, `when="always"` in both cases.
        """
        batch = new(_PhaseBatch)  # (without `__init__()`, which would cost each deferred task a call)
        batch._scheduler, batch._phase = self, _AFTER_ROUTE
        return batch

    @property
    def after_response(self) -> TasksBatch:
        """For tasks that start when the request is over, and the response is sent.

        `tasks.after_response.schedule(f, x)`: by then all dependencies with `yield` have exited, so database sessions
        are closed and their commits are visible. If the client has left, the task starts too.

        If the endpoint raises, an `HTTPException` included, the task is dropped, with a log record. Settings:
        `tasks.after_response.task(when="failure")` runs it only then, `when="always"` in both cases.
        """
        batch = new(_PhaseBatch)
        batch._scheduler, batch._phase = self, _AFTER_RESPONSE
        return batch

    def _define(self, config: TaskConfig) -> ScopedTaskDefinition:
        return ScopedTaskDefinition(self, config)

    @abstractmethod
    def _schedule(
        self,
        config: TaskConfig,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        phase: Phase = Phase.IMMEDIATE,
    ) -> Task[Any]: ...

    @abstractmethod
    def _start_phase(self, phase: Phase) -> None: ...


class ScopedTaskDefinition(Configured["ScopedTaskDefinition"]):
    """`.schedule()` with settings, for each phase: the result of `tasks.task(...)`. Immutable, and reusable."""

    __slots__ = ()

    if not TYPE_CHECKING:
        add_task = Elsewhere("tasks.task(...).after_response.schedule(f, ...)")

    @property
    def after_route(self) -> TaskDefinition:
        """The same settings, for tasks that start when the endpoint has returned, before the response is sent.

        If the endpoint raises, the task is dropped, unless `when` says otherwise. See `tasks.after_route`.
        """
        return TaskDefinition(self._target.after_route, self._config)

    @property
    def after_response(self) -> TaskDefinition:
        """The same settings, for tasks that start when the request is over, and the response is sent.

        If the endpoint raises, the task is dropped, unless `when` says otherwise. See `tasks.after_response`.
        """
        return TaskDefinition(self._target.after_response, self._config)
