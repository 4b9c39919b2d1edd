"""`LogTasks`: an observer that logs each start and each end."""

from __future__ import annotations

import logging
from contextvars import Context, copy_context
from typing import Any

from ._drive import report
from ._machine.life import TaskStatus
from ._observer import TaskObserver
from ._queue import queue_of
from ._scope import Scope
from ._task import Task


class LogTasks(TaskObserver):
    """Logs one line when an attempt or a hand-over starts, and one line when a task ends, by the logger `taskphase`.

        add_tasks(app, observers=[LogTasks(logging.INFO)])      # or TaskHost(observers=[LogTasks(logging.INFO)])

    Each record has the attributes of all records about a task (`task_id`, `task_function` and so on), and two more:

    - `task_age`: the seconds from `schedule()` to now; of a task that a journal has recovered, from its recovery
    - `task_running_for`: the seconds of the last attempt or hand-over; 0 at its start; None if the task ends outside
      of both

    Both lines are logged with the context variables of the task. If the level is off, a task costs next to nothing.

    :param level: of both lines
    :raises TypeError: if `level` is no integer
    """

    def __init__(self, level: int = logging.DEBUG) -> None:
        if not isinstance(level, int):
            raise TypeError(f"level must be an integer such as logging.INFO, not {level!r}")
        self._level = level
        self._contexts: dict[int, Context] = {}  # of tasks that have not ended, by id

    def scheduled(self, task: Task[Any], _scope: Scope | None, /) -> None:
        """Keep the context, for a task that ends outside of an attempt."""
        if report.LOGGER.isEnabledFor(self._level):
            self._contexts[task.id] = copy_context()

    def started(self, task: Task[Any], /) -> None:
        """Log the start of an attempt."""
        if not report.LOGGER.isEnabledFor(self._level):
            return
        age = task.age
        queue = queue_of(task.config)
        what: object = task.attempt
        text = "task %r started attempt %d, %.3f s after %s"
        if queue is not None:
            text, what = "the hand-over of task %r to %r began, %.3f s after %s", queue.name
        more = {"task_age": age, "task_running_for": 0.0}
        report.log(self._level, text, task.name, what, age, _beginning(task), job=task, more=more)

    def attempt_ended(self, task: Task[Any], _error: BaseException | None, retry_after: float | None, /) -> None:
        """Log the end of a task, in the context of its last attempt."""
        if retry_after is None and report.LOGGER.isEnabledFor(self._level):
            self._log_end(task)

    def ended(self, task: Task[Any], /) -> None:
        """Log the end of a task outside of an attempt."""
        context = self._contexts.pop(task.id, None)
        if context is not None and task.running_for is None:
            context.run(self._log_end, task)

    def _log_end(self, task: Task[Any]) -> None:
        age, seconds = task.age, task.running_for
        text = "task %r ended as %s, %.3f s after %s"
        args: tuple[object, ...] = (task.name, task.status.value, age, _beginning(task))
        queue = queue_of(task.config)
        if queue is not None and task.status is TaskStatus.HANDED_OVER:
            text = "task %r was handed over to %r as message %s, %.3f s after %s"
            args = (task.name, queue.name, task.message_id, age, _beginning(task))
        if seconds is not None and queue is not None:
            text, args = f"{text}; the hand-over took %.3f s", (*args, seconds)
        elif seconds is not None:
            text, args = f"{text}; attempt %d took %.3f s", (*args, task.attempt, seconds)
        more = {"task_age": age, "task_running_for": seconds}
        report.log(self._level, text, *args, job=task, more=more)


def _beginning(task: Task[Any]) -> str:
    """Return what the age of `task` begins with."""
    return "its recovery" if task.recovered else "schedule()"
