"""`History`: an observer that remembers the last tasks in bounded memory, without the tasks themselves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from typing import Any, cast
from weakref import ref

from taskphase import Phase, Queue, Scope, Task, TaskObserver, TasksError, TaskStatus

from ._stories import REQUEST, TASK, Request, Stories, clock, copied, facts_of
from ._text import arguments_of, failure_of, message_of, name_of, texts_of, type_name

_IMMEDIATE = Phase.IMMEDIATE
_STARTING, _RUNNING, _FAILED = TaskStatus.STARTING, TaskStatus.RUNNING, TaskStatus.FAILED


class History(TaskObserver):
    """Remembers the last tasks, for the page of `router()`.

        history = History()
        add_tasks(app, observers=[history])

    The memory is bounded: about 700 bytes for an ended task. The history keeps no `Task`, and no arguments. Several
    hosts may share one history, also hosts in several threads.

    :param keep: the number of ended tasks to remember, 1 or more
    :param failures: the number of failed tasks to remember, 1 or more; tasks that succeed do not displace them
    :param arguments: True to keep the `repr()` of the arguments, shortened. Arguments may be secret
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if a number is below 1
    """

    def __init__(self, keep: int = 1000, failures: int = 200, *, arguments: bool = False) -> None:
        _check_number("keep", keep)
        _check_number("failures", failures)
        if not isinstance(arguments, bool):
            raise TypeError(f"arguments must be a bool, not {arguments!r}")
        self._stories = stories = Stories(keep, failures, arguments=arguments)
        self._alive = stories.alive
        self._has_arguments = arguments
        self._request_numbers = count(1)

    # Each of the next methods is a part of the cost of each task.

    def scheduled(self, task: Task[Any], scope: Scope | None, /) -> None:
        """Begin the story of a task."""
        now = clock()
        request = None
        if scope is not None:
            request = self._stories.requests.get(id(scope.info)) or self._begin(scope, now)
        elif task.parent is not None and (parent := self._alive.get(task.parent)) is not None:
            request = parent[REQUEST]
        arguments = arguments_of(task.args, task.kwargs) if self._has_arguments else None
        self._alive[task.id] = [ref(task), request, now, arguments]

    def due(self, task: Task[Any], /) -> None:
        """Note what the task waits for from now on. Without a wait it starts: then note nothing."""
        status = task.status
        if status is _STARTING and task.phase is _IMMEDIATE:
            return
        if (notes := self._alive.get(task.id)) is not None:
            notes += (status, clock(), None)

    def moved(self, task: Task[Any], /) -> None:
        """Note the status."""
        if (notes := self._alive.get(task.id)) is not None:
            notes += (task.status, clock(), None)

    def started(self, task: Task[Any], /) -> None:
        """Note the first step of an attempt. A hand-over is no attempt, and `moved()` notes it."""
        queue = task.config.queue
        if queue is not None and isinstance(queue, Queue):
            return
        if (notes := self._alive.get(task.id)) is not None:
            notes += (_RUNNING, clock(), None)

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None, /) -> None:
        """Note a pause before the next attempt, with the reason."""
        if retry_after is not None and (notes := self._alive.get(task.id)) is not None:
            notes += (TaskStatus.RETRYING, clock(), type_name(error))

    def ended(self, task: Task[Any], /) -> None:
        """Move the story of a task into the ring, without the task."""
        now, status = clock(), task.status
        notes = self._alive.pop(task.id, None)
        if notes is None:
            return
        failure = failure_of(cast(BaseException, task.exception)) if status is _FAILED else None
        notes[TASK] = None  # first: another thread that reads the notes sees that the task has ended
        notes += facts_of(task, status, now, failure)
        self._stories.ended.append(notes)
        if failure is not None:
            self._stories.failed.append(notes)

    def refused(self, func: Callable[..., Any], error: TasksError, /) -> None:
        """Count a task that `schedule()` has refused."""
        key = name_of(func), type_name(error)
        refused = self._stories.refused
        if key in refused or len(refused) < self._stories.keep:
            refused[key] = message_of(error), refused.get(key, ("", 0))[1] + 1

    def scope_changed(self, scope: Scope, change: str, /) -> None:
        """Note a step of a request that has tasks."""
        requests = self._stories.requests
        request = requests.get(id(scope.info))
        if request is None:
            return
        if change == "first_message":
            request.first_message = request.first_message or clock()
        elif change == "ended":
            request.ended = clock()
            request.info = texts_of(request.info)
            requests.pop(id(scope.info), None)
            self._stories.over.append(request)
        else:
            request.route_ended = clock()
            request.has_failed = change == "route_failed"

    def _begin(self, scope: Scope, now: float) -> Request:
        requests = self._stories.requests
        excess = len(requests) + 1 - self._stories.keep
        for oldest in copied(lambda: islice(requests, max(0, excess))):  # scopes that nobody ends
            requests.pop(oldest, None)
        return requests.setdefault(id(scope.info), Request(next(self._request_numbers), scope.info, now))


def _check_number(name: str, number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name} must be an int, not {number!r}")
    if number < 1:
        raise ValueError(f"{name} must be 1 or more, not {number}")
