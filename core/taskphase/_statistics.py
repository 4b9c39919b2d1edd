"""The tasks of a host, their counts, and the closing event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

from anyio import Event

from ._drive.inbox import consistent
from ._drive.runner import Runner
from ._queue import queue_of
from ._task import Task


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """The tasks of a host at one moment. The first seven counts, and `recording`, never count a task twice.

    :ivar running: tasks with a slot
    :ivar waiting: tasks that wait for a slot
    :ivar deferred: tasks that wait for their phase
    :ivar delayed: tasks that wait for their delay
    :ivar limited: tasks that wait for a place of their `Limit`
    :ivar retrying: tasks that wait for their next attempt
    :ivar handing_over: tasks that are being handed over to a queue
    :ivar threads: worker threads in use, including those that have outlived their tasks
    :ivar succeeded: tasks that have succeeded since the host opened
    :ivar failed: tasks that have failed since the host opened
    :ivar cancelled: tasks that were cancelled since the host opened
    :ivar dropped: tasks that were dropped since the host opened
    :ivar handed_over: tasks that were handed over to a queue since the host opened
    :ivar oldest_running: the task with a slot whose start was requested first; None without such a task
    :ivar recording: tasks that wait for their journal
    :ivar recovered: tasks that the host has recovered from its journal since it opened
    """

    running: int
    waiting: int
    deferred: int
    delayed: int
    limited: int
    retrying: int
    handing_over: int
    threads: int
    succeeded: int
    failed: int
    cancelled: int
    dropped: int
    handed_over: int
    oldest_running: Task[Any] | None
    recording: int = 0
    recovered: int = 0


class Inspected(ABC):
    """The tasks of a host and their counts. From any thread, except `statistics()`."""

    @property
    def running(self) -> int:
        """The number of tasks with a slot."""
        return self._runner.running

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for a slot."""
        return self._runner.waiting

    @property
    def deferred(self) -> int:
        """The number of tasks that wait for their phase."""
        return self._runner.deferred

    @property
    def recording(self) -> int:
        """The number of tasks that wait for their journal."""
        return self._runner.recording

    @property
    def delayed(self) -> int:
        """The number of tasks that wait for their delay."""
        return self._runner.delayed

    @property
    def limited(self) -> int:
        """The number of tasks that wait for a place of their `Limit`."""
        return self._runner.limited

    @property
    def handing_over(self) -> int:
        """The number of tasks that are being handed over to a queue."""
        return self._runner.handing_over

    def statistics(self) -> HostStatistics:
        """Return the counts of the tasks. From any thread; in another one than the event loop's, tasks may move while
        they are counted.

        :raises TasksClosedError: if the host is not open yet
        """
        runner = self._runner
        oldest = consistent(lambda: next((job for job in runner.alive if queue_of(job.config) is None), None))
        return HostStatistics(
            running=runner.running,
            waiting=runner.waiting,
            deferred=runner.deferred,
            recording=runner.recording,
            delayed=runner.delayed,
            limited=runner.limited,
            retrying=runner.retrying,
            handing_over=runner.handing_over,
            recovered=0 if runner.keeper is None else runner.keeper.recovered,
            threads=runner.threads.in_use,
            oldest_running=cast("Task[Any] | None", oldest),
            **{end.value: count for end, count in runner.ended.items()},
        )

    def tasks(self) -> tuple[Task[Any], ...]:
        """Return the tasks that have not ended, the oldest first. From any thread, also after the end of the host.

        :raises TasksClosedError: if the host is not open yet
        """
        return cast("tuple[Task[Any], ...]", tuple(self._runner.jobs()))

    def get(self, id: int) -> Task[Any] | None:  # noqa: A002 - the name of the attribute
        """Return the task of `tasks()` with this `id`; None if it has ended, or belongs to another host."""
        return next((task for task in self.tasks() if task.id == id), None)

    @property
    @abstractmethod
    def _runner(self) -> Runner: ...


class Closing:
    """The closing event of a host, with two methods of `anyio.Event`."""

    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event = event

    def is_set(self) -> bool:
        """Return whether the drain has begun. May be called from any thread."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the drain begins. A checkpoint."""
        await self._event.wait()
