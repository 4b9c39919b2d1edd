"""`History`: an observer that remembers the last tasks in bounded memory, without the tasks themselves."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice, pairwise
from secrets import token_hex
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast
from weakref import ref

from taskphase import Phase, Queue, Scope, Task, TaskObserver, TasksError, TaskStatus

from ._journal import JournalReader
from ._text import arguments_of, failure_of, message_of, name_of, queue_message, texts_of, type_name

T = TypeVar("T")

_RECENT = 64
"""A number that is missing among so many last ones may still come."""

_STARTING, _RUNNING, _RETRYING, _FAILED = (
    TaskStatus.STARTING,
    TaskStatus.RUNNING,
    TaskStatus.RETRYING,
    TaskStatus.FAILED,
)
_IMMEDIATE = Phase.IMMEDIATE

# Finer than the clock of uvloop, which has milliseconds; the same for all loops and threads of the process.
_now = time.perf_counter

Story: TypeAlias = list[Any]
"""What the history knows of a task. One flat list, because each task has the cost of it:

1. a weak reference to the task; after its end a number instead, which counts the tasks that have ended
2. its `Request`, or None
3. the time of `schedule()`
4. a status and its beginning, for each change. The status of a pause has the type of the exception beside it
5. after its end the fields of `Ended` from `status` on
"""
KEY, REQUEST, BEGINNING, CHANGES = range(4)


Failure: TypeAlias = tuple[str, str, str]
"""The type of an exception, its message, and the line that raised it."""


class Ended(NamedTuple):
    """A task that has ended.

    :ivar changes: a status and its beginning, for each change; flat
    :ivar end: the time of the end
    :ivar function: the name, or a function that has it
    :ivar message: see `queue_message()`
    """

    number: int
    request: Request | None
    beginning: float
    changes: list[Any]
    status: TaskStatus
    end: float
    id: int
    parent: int | None
    function: str | Callable[..., Any]
    name: str | None
    phase: Phase
    arguments: str | None
    failure: Failure | None
    message: tuple[str | None, str, bool] | None

    @classmethod
    def of(cls, story: Story) -> Ended:
        """Read the story of a task that has ended."""
        number, request, beginning = story[:CHANGES]
        return cls(number, request, beginning, story[CHANGES:-_FACTS], *story[-_FACTS:])


_FACTS = 10
"""The number of fields of `Ended` behind the changes."""


class Request:
    """What the history knows of one request, or of another unit of work.

    :ivar info: `scope.info`; only its texts as soon as the request has ended
    :ivar began: the time of the first task
    """

    __slots__ = ("began", "ended", "first_message", "has_failed", "id", "info", "route_ended")

    def __init__(self, id: int, info: dict[str, Any], began: float) -> None:  # noqa: A002 - as `Task.id`
        self.id = id
        self.info = info
        self.began = began
        self.route_ended: float | None = None
        self.has_failed = False
        self.first_message: float | None = None
        self.ended: float | None = None


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
        self._keep = keep
        self._arguments: dict[int, str] | None = {} if arguments else None
        self._journal = JournalReader(arguments=arguments)
        self._token = token_hex(4)
        self._wall = time.time() - _now()  # read once: a wall clock that is set later moves no task
        self._numbers = count(1)
        self._request_numbers = count(1)
        self._stories: dict[int, Story] = {}
        self._requests: dict[int, Request] = {}  # by the `id()` of `scope.info`, which the request holds meanwhile
        self._ended: deque[Story] = deque(maxlen=keep)
        self._failed: deque[Story] = deque(maxlen=failures)
        self._percentiles: tuple[int, dict[str, float] | None] = (0, None)
        self._refused: Counter[tuple[str, str, str]] = Counter()

    # Each of the next methods is a part of the cost of each task.

    def scheduled(self, task: Task[Any], scope: Scope | None, /) -> None:
        """Begin the story of a task."""
        now = _now()
        request = None
        if scope is not None:
            request = self._requests.get(id(scope.info)) or self._begin(scope, now)
        elif task.parent is not None and (parent := self._stories.get(task.parent)) is not None:
            request = parent[REQUEST]
        self._stories[task.id] = [ref(task), request, now]
        if self._arguments is not None:
            self._arguments[task.id] = arguments_of(task.args, task.kwargs)

    def due(self, task: Task[Any], /) -> None:
        """Note what the task waits for from now on. Without a wait it starts: then note nothing."""
        status = task.status
        if status is _STARTING and task.phase is _IMMEDIATE:
            return
        if (story := self._stories.get(task.id)) is not None:
            story += (status, _now())

    def moved(self, task: Task[Any], /) -> None:
        """Note the status."""
        if (story := self._stories.get(task.id)) is not None:
            story += (task.status, _now())

    def started(self, task: Task[Any], /) -> None:
        """Note the first step of an attempt. A hand-over is no attempt, and `moved()` notes it."""
        if task.message_id is not None and isinstance(task.config.queue, Queue):
            return
        if (story := self._stories.get(task.id)) is not None:
            story += (_RUNNING, _now())

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None, /) -> None:
        """Note a pause before the next attempt, with the reason."""
        if retry_after is not None and (story := self._stories.get(task.id)) is not None:
            story += ((_RETRYING, type_name(error)), _now())

    def ended(self, task: Task[Any], /) -> None:
        """Move the story of a task into the ring, without the task."""
        now, status, func = _now(), task.status, task.func
        story = self._stories.pop(task.id, None)
        if story is None:
            return
        # Read the name of a plain function later. Another callable may hold data of the task: keep only its name.
        is_plain = type(func) is FunctionType and func.__closure__ is None and func.__defaults__ is None
        name = func if is_plain else task.function
        arguments = None if self._arguments is None else self._arguments.pop(task.id, None)
        failure = failure_of(cast(BaseException, task.exception)) if status is _FAILED else None
        story[KEY] = next(self._numbers)  # first: another thread that reads the story sees that it has ended
        config, message = task.config, None if task.message_id is None else queue_message(task)
        story += (status, now, task.id, task.parent, name, config.name, task.phase, arguments, failure, message)
        self._ended.append(story)
        if failure is not None:
            self._failed.append(story)

    def refused(self, func: Callable[..., Any], error: TasksError, /) -> None:
        """Count a task that `schedule()` has refused."""
        key = name_of(func), type_name(error), message_of(error)
        if key in self._refused or len(self._refused) < self._keep:
            self._refused[key] += 1

    def scope_changed(self, scope: Scope, change: str, /) -> None:
        """Note a step of a request that has tasks."""
        request = self._requests.get(id(scope.info))
        if request is None:
            return
        if change == "first_message":
            request.first_message = request.first_message or _now()
        elif change == "ended":
            request.ended = _now()
            request.info = texts_of(request.info)
            self._requests.pop(id(scope.info), None)
        else:
            request.route_ended = _now()
            request.has_failed = change == "route_failed"

    def _begin(self, scope: Scope, now: float) -> Request:
        while len(self._requests) >= self._keep:  # scopes that nobody ends
            for oldest in _copied(lambda: islice(self._requests, 1)):
                self._requests.pop(oldest, None)
        request = Request(next(self._request_numbers), scope.info, now)
        return self._requests.setdefault(id(scope.info), request)

    # The next methods are for the page. From any thread.

    def _wall_time(self, moment: float | None = None) -> float:
        """Return a time, or the present time, in seconds since 1970."""
        return (_now() if moment is None else moment) + self._wall

    def _alive(self, most: int) -> Iterator[tuple[Task[Any], Story, str | None]]:
        """Yield the oldest tasks that have not ended, at most `most`, with a copy of the story and the arguments."""
        for id, story in _copied(lambda: islice(self._stories.items(), most)):  # noqa: A001
            story = story[:]  # noqa: PLW2901 - the task may go on in another thread
            key: object = story[KEY]
            if not isinstance(key, ref):
                continue  # it has just ended
            task = cast("ref[Task[Any]]", key)()
            if task is not None:
                yield task, story, (self._arguments or {}).get(id)
            else:  # its event loop has gone without an end of its tasks
                self._stories.pop(id, None)

    def _ended_after(self, number: int) -> tuple[list[Ended], int]:
        """Return the tasks that have ended after the first `number` ones, the oldest first, and the new number."""
        fresh = [Ended.of(story) for story in _copied(lambda: self._ended) if story[KEY] > number]
        fresh.sort(key=lambda task: task.number)
        if not fresh:
            return [], number
        # Another thread may be about to add its task: end before a gap, unless the gap is old.
        last = fresh[-1].number
        for index, (before, after) in enumerate(pairwise(fresh), 1):
            if after.number != before.number + 1 and last - after.number < _RECENT:
                return fresh[:index], before.number
        return fresh, last

    def _durations(self, number: int) -> dict[str, float] | None:
        """Return percentiles of the seconds from the first step to the end, for the tasks in the ring that ran.

        :param number: the number of tasks that have ended: with the same number the answer is the same
        """
        if self._percentiles[0] != number:
            stories = [(story[CHANGES:-_FACTS], story[1 - _FACTS]) for story in _copied(lambda: self._ended)]
            found = sorted(
                end - changes[changes.index(_RUNNING) + 1] for changes, end in stories if _RUNNING in changes
            )
            shares = {f"p{share}": round(found[(len(found) - 1) * share // 100], 6) for share in (50, 99) if found}
            self._percentiles = number, shares or None
        return self._percentiles[1]

    def _failures(self) -> list[Ended]:
        return [Ended.of(story) for story in _copied(lambda: self._failed)]


def _copied(read: Callable[[], Iterable[T]]) -> list[T]:
    """Return the values of `read()` as a list, although other threads may change them meanwhile."""
    while True:
        try:
            return list(read())
        except RuntimeError:  # "changed size during iteration", "mutated during iteration": begin anew
            continue


def _check_number(name: str, number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name} must be an int, not {number!r}")
    if number < 1:
        raise ValueError(f"{name} must be 1 or more, not {number}")
