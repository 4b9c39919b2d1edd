"""What a host tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from anyio import Event

from ._drive.runner import Runner
from ._machine.life import TaskStatus
from ._task import Task


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """The tasks of a host at one moment. The first four count different tasks.

    :ivar running: tasks that have a slot
    :ivar waiting: tasks that wait for one
    :ivar deferred: tasks that wait for their phase
    :ivar retrying: tasks that wait for their next attempt
    :ivar threads: worker threads in use, those included whose tasks could not wait for them
    :ivar succeeded: tasks that have, since the host was opened; so the next three
    :ivar failed: tasks that have
    :ivar cancelled: tasks that were
    :ivar dropped: tasks that were
    :ivar oldest_running: of the tasks that have a slot, the one that was asked to start first; None if there is none
    """

    running: int
    waiting: int
    deferred: int
    retrying: int
    threads: int
    succeeded: int
    failed: int
    cancelled: int
    dropped: int
    oldest_running: Task[Any] | None

    @classmethod
    def _of(cls, runner: Runner) -> HostStatistics:
        oldest = next((job for job in runner.alive if job.status is not TaskStatus.RETRYING), None)
        return cls(
            running=runner.running,
            waiting=runner.waiting,
            deferred=len(runner.deferred),
            retrying=runner.pausing,
            threads=runner.threads.in_use,
            succeeded=runner.ended[TaskStatus.SUCCEEDED],
            failed=runner.ended[TaskStatus.FAILED],
            cancelled=runner.ended[TaskStatus.CANCELLED],
            dropped=runner.ended[TaskStatus.DROPPED],
            oldest_running=cast("Task[Any] | None", oldest),
        )


class Closing:
    """Whether a host is closing, with the two methods of an `anyio.Event`."""

    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event = event

    def is_set(self) -> bool:
        """Return whether the drain has begun. From any thread."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the drain begins. A checkpoint."""
        await self._event.wait()
