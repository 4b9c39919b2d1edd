"""`Stories`: what a history remembers of tasks and requests, in bounded memory, without the tasks themselves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from secrets import token_hex
from typing import Any, NamedTuple, TypeAlias, TypeVar
from weakref import ref

from taskphase import Phase, Task, TaskStatus

from ._journal import JournalReader
from ._text import queue_message

T = TypeVar("T")

MOST_MEASURED = 1000
"""The most tasks in one percentile: that takes half a millisecond."""

_RUNNING = TaskStatus.RUNNING

# Finer than the clock of uvloop, which has milliseconds; the same for all loops and threads of the process.
clock = time.perf_counter


Notes: TypeAlias = list[Any]
"""What the history has noted of a task. One flat list, because each task has the cost of it:

1. a weak reference to the task, None after its end
2. its `Request` or None; the time of `schedule()`; the arguments or None
3. for each change a status, its beginning, and the type of the exception before a pause, otherwise None
4. after its end the values of `facts_of()`: the time of the end is the first one, and the id of the task the last one
"""
TASK, REQUEST, _CHANGES, _ID = 0, 1, 4, -1


class Story(NamedTuple):
    """The notes of a task, as the page reads them.

    :ivar beginning: the time of `schedule()`
    :ivar changes: for each change a status, its beginning, and the type of the exception before a pause or None; flat
    :ivar end: the time of the end; None before
    :ivar failure: the type of the exception, its message, and the line that raised it
    :ivar message: see `queue_message()`
    """

    request: Request | None
    beginning: float
    arguments: str | None
    changes: list[Any]
    end: float | None
    status: TaskStatus
    parent: int | None
    function: str
    name: str | None
    phase: Phase
    failure: tuple[str, str, str] | None
    message: tuple[str | None, str, bool] | None
    id: int

    @classmethod
    def of(cls, notes: Notes) -> Story:
        """Read the notes of a task that has ended."""
        _, request, beginning, arguments, *changes = notes[:-_FACTS]
        return cls(request, beginning, arguments, changes, *notes[-_FACTS:])

    def steps(self) -> Iterator[tuple[TaskStatus, float, str | None]]:
        """Yield the changes one by one."""
        values = iter(self.changes)
        return zip(values, values, values, strict=True)


_FACTS = 9


def facts_of(
    task: Task[Any], status: TaskStatus, end: float | None, failure: tuple[str, str, str] | None
) -> tuple[Any, ...]:
    """Return what a `Story` has behind the changes."""
    return (
        end,
        status,
        task.parent,
        task.function,
        task.config.name,
        task.phase,
        failure,
        None if task.message_id is None else queue_message(task),
        task.id,
    )


@dataclass(slots=True, eq=False)
class Request:
    """What the history knows of one request, or of another unit of work.

    :ivar info: `scope.info`; only its texts as soon as the request has ended
    :ivar began: the time of the first task
    """

    id: int
    info: dict[str, Any]
    began: float
    route_ended: float | None = None
    has_failed: bool = False
    first_message: float | None = None
    ended: float | None = None

    def has_changed_after(self, moment: float) -> bool:
        """Return whether a step of the request is later than `moment`."""
        return any((step or 0) > moment for step in (self.route_ended, self.first_message, self.ended))


class Stories:
    """What one history remembers. Its observer writes, the page reads. From any thread.

    :ivar keep: the number of ended tasks to remember
    :ivar alive: the notes of the tasks that have not ended, by the id of the task
    :ivar ended: the notes of the last tasks that have ended
    :ivar failed: the notes of the last tasks that have failed
    :ivar requests: the requests that have not ended, by the `id()` of `scope.info`, which the request holds meanwhile
    :ivar over: the last requests that have ended
    :ivar refused: by function and type of the exception: the last message, and how often `schedule()` has raised it
    :ivar token: a random text, because a later worker may have the same process id
    :ivar wall: the difference between the wall clock and `clock()`
    """

    def __init__(self, keep: int, failures: int, *, arguments: bool) -> None:
        self.keep = keep
        self.alive: dict[int, Notes] = {}
        self.ended: deque[Notes] = deque(maxlen=keep)
        self.failed: deque[Notes] = deque(maxlen=failures)
        self.requests: dict[int, Request] = {}
        self.over: deque[Request] = deque(maxlen=keep)
        self.refused: dict[tuple[str, str], tuple[str, int]] = {}
        self.journal = JournalReader(arguments=arguments)
        self.token = token_hex(4)
        self.wall = time.time() - clock()  # read once: a wall clock that is set later moves no task

    def oldest(self, most: int) -> Iterator[tuple[Task[Any], Story]]:
        """Yield the oldest tasks that have not ended, at most `most`."""
        for id, notes in copied(lambda: islice(self.alive.items(), most)):  # noqa: A001
            notes = notes[:]  # noqa: PLW2901 - the task may go on in another thread
            reference: ref[Task[Any]] | None = notes[TASK]
            if reference is None:
                continue  # it has just ended
            task = reference()
            if task is not None:
                yield task, Story.of([*notes, *facts_of(task, task.status, None, None)])
            else:  # its event loop has gone without an end of its tasks
                self.alive.pop(id, None)

    def ended_after(self, last: int) -> list[Story]:
        """Return the tasks that have ended after the one with the id `last`, the oldest first."""
        # A look of a tab finds a few new tasks, and the ring may have a million old ones: begin at the right end.
        fresh = copied(lambda: takewhile(lambda notes: notes[_ID] != last, reversed(self.ended)))
        return [Story.of(notes) for notes in reversed(fresh)]

    def requests_after(self, moment: float) -> list[Request]:
        """Return the requests that have changed after `moment`: their tasks may have ended before."""
        # Read first the requests that have not ended: one that ends meanwhile is in both lists.
        alive = copied(self.requests.values)
        over = copied(lambda: takewhile(lambda request: request.has_changed_after(moment), reversed(self.over)))
        return [*(request for request in alive if request.has_changed_after(moment)), *over]

    def durations(self) -> dict[str, float]:
        """Return percentiles of the seconds from the first step to the end, for the last tasks in the ring that ran."""
        last = copied(lambda: islice(reversed(self.ended), MOST_MEASURED))
        found = sorted(notes[-_FACTS] - began for notes in last if (began := _first_step(notes)) is not None)
        return {f"p{share}": round(found[(len(found) - 1) * share // 100], 6) for share in (50, 99) if found}

    def failures(self) -> list[Story]:
        """Return the last tasks that have failed, the oldest first."""
        return [Story.of(notes) for notes in copied(lambda: self.failed)]


def _first_step(notes: Notes) -> float | None:
    """Return when a task that has ended took its first step; None if it never ran."""
    statuses = notes[_CHANGES:-_FACTS:3]  # elsewhere `_RUNNING` may be a text of the user, which is equal
    return notes[_CHANGES + 1 + 3 * statuses.index(_RUNNING)] if _RUNNING in statuses else None


def copied(read: Callable[[], Iterable[T]]) -> list[T]:
    """Return the values of `read()` as a list, although other threads may change them meanwhile."""
    while True:
        try:
            return list(read())
        except RuntimeError:  # "changed size during iteration", "mutated during iteration": begin anew
            continue
