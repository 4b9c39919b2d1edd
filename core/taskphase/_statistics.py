"""The counts of a host, and its closing event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

from anyio import Event

from ._drive.runner import Runner
from ._machine.life import TaskStatus
from ._task import Task


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """The tasks of a host at one moment. The first six counts never count a task twice.

    :ivar running: tasks with a slot
    :ivar waiting: tasks that wait for a slot
    :ivar deferred: tasks that wait for their phase
    :ivar delayed: tasks that wait for their delay
    :ivar limited: tasks that wait for a place of their `Limit`
    :ivar retrying: tasks that wait for their next attempt
    :ivar threads: worker threads in use, including those that have outlived their tasks
    :ivar succeeded: tasks that have succeeded since the host opened
    :ivar failed: tasks that have failed since the host opened
    :ivar cancelled: tasks that were cancelled since the host opened
    :ivar dropped: tasks that were dropped since the host opened
    :ivar oldest_running: the task with a slot whose start was requested first; None without such a task
    """

    running: int
    waiting: int
    deferred: int
    delayed: int
    limited: int
    retrying: int
    threads: int
    succeeded: int
    failed: int
    cancelled: int
    dropped: int
    oldest_running: Task[Any] | None

    @classmethod
    def _of(cls, runner: Runner) -> HostStatistics:
        return cls(
            running=runner.running,
            waiting=runner.waiting,
            deferred=len(runner.deferred),
            delayed=runner.delayed,
            limited=runner.limited,
            retrying=runner.retrying,
            threads=runner.threads.in_use,
            succeeded=runner.ended[TaskStatus.SUCCEEDED],
            failed=runner.ended[TaskStatus.FAILED],
            cancelled=runner.ended[TaskStatus.CANCELLED],
            dropped=runner.ended[TaskStatus.DROPPED],
            oldest_running=cast("Task[Any] | None", next(iter(runner.alive), None)),
        )


class Counts(ABC):
    """The counts of a host, as properties. From any thread."""

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
        return len(self._runner.deferred)

    @property
    def delayed(self) -> int:
        """The number of tasks that wait for their delay."""
        return self._runner.delayed

    @property
    def limited(self) -> int:
        """The number of tasks that wait for a place of their `Limit`."""
        return self._runner.limited

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
