"""`Stories`: what a history remembers of tasks and requests, in bounded memory, without the tasks themselves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice, pairwise
from secrets import token_hex
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast
from weakref import ref

from taskphase import Phase, Task, TaskStatus

from ._journal import JournalReader

T = TypeVar("T")

_RECENT = 64
"""A number that is missing among so many last ones may still come."""

MOST_MEASURED = 1000
"""The most tasks in one percentile: that takes half a millisecond."""

_RUNNING = TaskStatus.RUNNING

# Finer than the clock of uvloop, which has milliseconds; the same for all loops and threads of the process.
clock = time.perf_counter

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


class Stories:
    """What one history remembers. Its observer writes, the page reads. From any thread.

    :ivar keep: the number of ended tasks to remember
    :ivar alive: the stories of the tasks that have not ended, by the id of the task
    :ivar ended: the stories of the last tasks that have ended
    :ivar failed: the stories of the last tasks that have failed
    :ivar requests: the requests that have not ended, by the `id()` of `scope.info`, which the request holds meanwhile
    :ivar refused: by function and type of the exception: the last message, and how often `schedule()` has raised it
    :ivar arguments: the arguments of the tasks that have not ended, by the id of the task; None: they may be secret
    :ivar numbers: counts the tasks that have ended
    :ivar token: a random text, because a later worker may have the same process id
    :ivar wall: the difference between the wall clock and `clock()`
    """

    def __init__(self, keep: int, failures: int, *, arguments: bool) -> None:
        self.keep = keep
        self.alive: dict[int, Story] = {}
        self.ended: deque[Story] = deque(maxlen=keep)
        self.failed: deque[Story] = deque(maxlen=failures)
        self.requests: dict[int, Request] = {}
        self.refused: dict[tuple[str, str], tuple[str, int]] = {}
        self.arguments: dict[int, str] | None = {} if arguments else None
        self.journal = JournalReader(arguments=arguments)
        self.numbers = count(1)
        self.token = token_hex(4)
        self.wall = time.time() - clock()  # read once: a wall clock that is set later moves no task
        self._percentiles: tuple[int, dict[str, float] | None] = (0, None)

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        return clock() + self.wall

    def oldest(self, most: int) -> Iterator[tuple[Task[Any], Story, str | None]]:
        """Yield the oldest tasks that have not ended, at most `most`, with a copy of the story and the arguments."""
        for id, story in copied(lambda: islice(self.alive.items(), most)):  # noqa: A001
            story = story[:]  # noqa: PLW2901 - the task may go on in another thread
            key: object = story[KEY]
            if not isinstance(key, ref):
                continue  # it has just ended
            task = cast("ref[Task[Any]]", key)()
            if task is not None:
                yield task, story, (self.arguments or {}).get(id)
            else:  # its event loop has gone without an end of its tasks
                self.alive.pop(id, None)

    def ended_after(self, number: int) -> tuple[list[Ended], int]:
        """Return the tasks that have ended after the first `number` ones, the oldest first, and the new number."""
        # A look of a tab finds a few new tasks, and the ring may have a million old ones: begin at the right end.
        newest: int = max((story[KEY] for story in self._last(_RECENT)), default=number)
        fresh = [Ended.of(story) for story in self._last(newest - number + _RECENT) if story[KEY] > number]
        fresh.sort(key=lambda task: task.number)
        if not fresh:
            return [], number
        # Another thread may be about to add its task: end before a gap, unless the gap is old.
        last = fresh[-1].number
        for index, (before, after) in enumerate(pairwise(fresh), 1):
            if after.number != before.number + 1 and last - after.number < _RECENT:
                return fresh[:index], before.number
        return fresh, last

    def durations(self, number: int) -> dict[str, float] | None:
        """Return percentiles of the seconds from the first step to the end, for the last tasks in the ring that ran.

        :param number: the number of tasks that have ended: with the same number the answer is the same
        """
        if self._percentiles[0] != number:
            stories = [(story[CHANGES:-_FACTS], story[1 - _FACTS]) for story in self._last(MOST_MEASURED)]
            found = sorted(
                end - changes[changes.index(_RUNNING) + 1] for changes, end in stories if _RUNNING in changes
            )
            shares = {f"p{share}": round(found[(len(found) - 1) * share // 100], 6) for share in (50, 99) if found}
            self._percentiles = number, shares or None
        return self._percentiles[1]

    def _last(self, most: int) -> list[Story]:
        """Return the last stories of the ring, the newest first."""
        return copied(lambda: islice(reversed(self.ended), max(0, most)))

    def failures(self) -> list[Ended]:
        """Return the last tasks that have failed, the oldest first."""
        return [Ended.of(story) for story in copied(lambda: self.failed)]


def copied(read: Callable[[], Iterable[T]]) -> list[T]:
    """Return the values of `read()` as a list, although other threads may change them meanwhile."""
    while True:
        try:
            return list(read())
        except RuntimeError:  # "changed size during iteration", "mutated during iteration": begin anew
            continue
