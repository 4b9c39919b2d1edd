"""`.after_route` and `.after_response`: the later phases of a scope, as objects with `.schedule()` and `.task()`."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from ._definition import Schedules, TaskDefinition
from ._machine.config import TaskConfig
from ._machine.scope import Phase
from ._task import Starts, Task

_AFTER_ROUTE, _AFTER_RESPONSE = Phase.AFTER_ROUTE, Phase.AFTER_RESPONSE


class TasksBatch(Schedules[TaskDefinition]):
    """Holds tasks until the batch is started.

    - The phases of the request start `.after_route` and `.after_response`.
    - You start a batch that you have made: `batch.start(scheduler)`, again and again if you like.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: deque[Task[Any]] = deque()

    def _define(self, config: TaskConfig) -> TaskDefinition:
        return TaskDefinition(self, config)

    def start(self, scheduler: Starts) -> None:
        """Start the tasks that the batch holds now.

        - The batch of a `Scope` ends the route (`.after_route`) or the scope (`.after_response`). So does the batch of
          a scheduler made by hand outside of any scope.
        - The batch of any other scheduler starts the tasks that this scheduler has put into it. The route goes on.

        :raises TasksClosedError: if you made the batch, and the scheduler takes no more tasks. The other tasks stay in
            the batch
        """
        while self._tasks:
            if not self._tasks[0]._has_ended:  # the task may have been cancelled
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

    def __init__(self, scheduler: SchedulesPhases, phase: Phase) -> None:
        self._scheduler = scheduler
        self._phase = phase

    def start(self, scheduler: Starts) -> None:  # noqa: ARG002
        self._scheduler._start_phase(self._phase)

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        return self._scheduler._schedule(config, func, args, kwargs, self._phase)


class SchedulesPhases(Schedules["ScopedTaskDefinition"]):
    """An object with `.schedule()` and `.task()` for immediate tasks, and the same for each later phase."""

    __slots__ = ()

    @property
    def after_route(self) -> TasksBatch:
        """The phase after the endpoint, or the route, has returned, and before the response begins."""
        return _PhaseBatch(self, _AFTER_ROUTE)

    @property
    def after_response(self) -> TasksBatch:
        """The phase after the end of the request, or of the scope."""
        return _PhaseBatch(self, _AFTER_RESPONSE)

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


class ScopedTaskDefinition(Schedules["ScopedTaskDefinition"]):
    """`.schedule()` with settings, for each phase: the result of `tasks.task(...)`. Immutable, and reusable."""

    __slots__ = ("_config", "_target")

    def __init__(self, target: SchedulesPhases, config: TaskConfig) -> None:
        self._target = target
        self._config = config

    @property
    def after_route(self) -> TaskDefinition:
        """The same settings, for the phase after the endpoint, or the route."""
        return TaskDefinition(self._target.after_route, self._config)

    @property
    def after_response(self) -> TaskDefinition:
        """The same settings, for the phase after the request, or the scope."""
        return TaskDefinition(self._target.after_response, self._config)

    def _define(self, config: TaskConfig) -> ScopedTaskDefinition:
        return ScopedTaskDefinition(self._target, self._config.merge(config))

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        return self._target._schedule(self._config.merge(config), func, args, kwargs)
