"""Who schedules for a phase."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._definition import Schedules, TaskDefinition
from ._machine.config import TaskConfig
from ._machine.scope import Phase
from ._task import Task

if TYPE_CHECKING:
    from ._scheduler import TasksScheduler


class TasksBatch(Schedules[TaskDefinition]):
    """Tasks that are held until the batch is started.

    Those of a scheduler, `.after_route` and `.after_response`, are started by its scope. One of your own is started by
    `batch.start(scheduler)`, as often as there is something in it.
    """

    __slots__ = ("_own", "_phase", "_scheduler")

    def __init__(self) -> None:
        self._own: deque[Task[Any]] = deque()
        self._scheduler: TasksScheduler | None = None
        self._phase = Phase.IMMEDIATE

    @classmethod
    def _of(cls, scheduler: TasksScheduler, phase: Phase) -> TasksBatch:
        batch = cls.__new__(cls)  # the scheduler holds what it schedules
        batch._scheduler, batch._phase = scheduler, phase
        return batch

    def _define(self, config: TaskConfig) -> TaskDefinition:
        return TaskDefinition(self, config)

    def start(self, scheduler: TasksScheduler) -> None:
        """Start what is held. For the batch of a scheduler this says that the route has returned, or that the scope is
        over; but not if the scheduler was made by hand inside a scope: then the scope has its own end.

        :raises TasksClosedError: if a batch of your own meets a scheduler that takes no more tasks; what was not
            started stays in it
        """
        if self._scheduler is None:
            while self._own:
                if not self._own[0]._has_ended:  # it may have been cancelled
                    scheduler.start(self._own[0])
                self._own.popleft()
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
            return self._scheduler._schedule(config, func, args, kwargs, self._phase)
        task: Task[Any] = Task(func, args, kwargs, config)
        self._own.append(task)
        return task
