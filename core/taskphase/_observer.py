"""`TaskObserver`: objects that watch the tasks of a host."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from ._drain import DrainReport
from ._drive.hooks import HOOKS, Entry
from ._machine.hints import listed
from ._machine.overrides import check_overrides
from ._scope import Scope
from ._task import Task
from .errors import TasksError

ScopeChange: TypeAlias = Literal["route_succeeded", "route_failed", "first_message", "ended"]


class TaskObserver:
    """Watches the tasks of a host. Make a subclass, and override the methods that you need.

        class Failures(TaskObserver):
            def ended(self, task: Task) -> None:
                if task.status == "failed":
                    FAILURES.inc(function=task.function)

        add_tasks(app, observers=[Failures()])      # or TaskHost(observers=[Failures()])

    The host calls only methods that the subclass overrides. Override them in the class, not in the instance.

    - The methods are sync. Make them quick: the event loop waits for them.
    - Observers are nested, the first one of the list outermost: `attempt_ended()` and `ended()` are called in reverse
      order, all other methods in order. The observer of `add_tasks(telemetry=...)` is in front of the list.
    - If a method raises, the exception is logged once, at ERROR, and the method is not called again. No observer
      changes the end of a task.
    - Do not schedule tasks in an observer. (Such a task starts like every other task. The observers are told of it a
      little later, and never of a refusal.) A task that an observer cancels is cancelled a little later.
    - Do not keep the `Task`: it holds the arguments and the result.
    - One observer may watch several hosts. Each host calls it in the thread of its event loop.
    """

    def scheduled(self, task: Task[Any], scope: Scope | None, /) -> None:
        """The host has taken `task`. Always the first call for a task. In the thread and the context of `schedule()`.

        :param scope: the scope of the request, also for `current_host().schedule()` inside the request. None outside of
            any request. None if another task has scheduled this task: see `task.parent`
        """

    def refused(self, func: Callable[..., Any], error: TasksError, /) -> None:
        """`schedule(func)` raises `error`, and there is no task. In the thread and the context of `schedule()`."""

    def due(self, task: Task[Any], /) -> None:
        """The phase of `task` has come, and `when` fits. At most once for a task. In the loop's thread, in no
        particular context.
        """

    def moved(self, task: Task[Any], /) -> None:
        """The status of `task` has changed, and no other method tells of the change. The task waits for its phase or
        its journal; it waits for its limit or its slot, after another wait; it is asked to start after such a wait; its
        hand-over or its error handler begins; or it was asked to stop. See `task.status`. In the loop's thread, in no
        particular context.
        """

    def started(self, task: Task[Any], /) -> None:
        """An attempt takes its first step. In the context of the attempt: its code sees context variables that this
        method sets. Also called for a hand-over to a queue: then `task.config.queue` is a `Queue`.
        """

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None, /) -> None:
        """An attempt has ended, and so have its error handler and its log record. In the context of the attempt. Also
        called for a hand-over.

        :param error: the exception of the attempt, a cancellation included; None if the function has returned
        :param retry_after: the seconds before the next attempt; None if there is none. In both cases
            `task.running_for` is the duration of this attempt
        """

    def ended(self, task: Task[Any], /) -> None:
        """`task` has ended; see `task.status`. Always the last call for a task, and exactly one call. In the loop's
        thread, in no particular context.
        """

    def scope_changed(self, scope: Scope, change: ScopeChange, /) -> None:
        """The route of `scope` has succeeded or failed, the first message of the response goes to the server, or the
        scope has ended. Each at most once, before the tasks that become due by it. In the loop's thread.
        """

    def drained(self, report: DrainReport, /) -> None:
        """The host is drained. Only for a `TaskHost`, and for the host of a FastAPI lifespan."""


def check_observers(observers: Iterable[TaskObserver]) -> tuple[TaskObserver, ...]:
    """Return the observers as a tuple.

    :raises TypeError: if an element is no `TaskObserver`, or the host cannot call one of its methods
    :raises ValueError: if an object is there twice: it would count each task twice
    """
    found = listed("observers", observers, TaskObserver)
    for observer in found:
        check_overrides(observer, TaskObserver)
    if len(set(map(id, found))) < len(found):
        raise ValueError("an observer is in the list twice, and would be told of each task twice: leave one out")
    return found


def hooks_of(observers: Iterable[TaskObserver]) -> list[Entry]:
    """Return the methods that the classes of `observers` override.

    `TaskObserver` has no private attribute for this: a subclass may use any name.
    """
    return [
        Entry(name, observer, getattr(observer, name))
        for observer in observers
        for name in HOOKS
        if getattr(type(observer), name) is not getattr(TaskObserver, name)
    ]
