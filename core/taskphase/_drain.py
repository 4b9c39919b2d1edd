"""The closing of a host, stage by stage. `_machine/drain.py` decides; this module has the clock and waits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from types import MappingProxyType

from anyio import CancelScope, Event, current_time

from ._drive import report
from ._drive.job import Job, record_of
from ._drive.raw import RawGroup
from ._drive.runner import Runner
from ._drive.seam import outlast
from ._drive.threads import ThreadCall
from ._machine.drain import SWEEPS, DrainEvent, DrainStage, Sweep
from ._machine.life import ENDS, NOT_DUE, TaskStatus
from ._queue import queue_of

# Seconds after `shield_timeout` for the error handlers of hand-overs that the end of this time cuts off.
_FOR_HANDLERS = 1.0


@dataclass(frozen=True, slots=True)
class DrainReport:
    """The ends of the tasks that were alive at the beginning of the drain, or were scheduled during the drain.

    :ivar seconds: the duration of the drain
    :ivar completed: the number of tasks that ended by themselves: succeeded, failed, dropped
        or handed over
    :ivar cancelled: the number of tasks of each name that the drain has cancelled
    :ivar abandoned: the number of tasks of each name whose threads still ran when `shield_timeout` was over
    :ivar kept: of both, the number of tasks of each name that stay in the journal: another process runs them
    """

    seconds: float
    completed: int
    cancelled: Mapping[str, int]
    abandoned: Mapping[str, int]
    kept: Mapping[str, int] = field(default_factory=dict[str, int])


class Drain:
    """Closes one host.

    :param group: `host.tg`
    :param drain_timeout: the most seconds of the stage GRACE
    :param shield_timeout: the most seconds of the stage SHIELDED
    """

    def __init__(self, runner: Runner, group: RawGroup, drain_timeout: float, shield_timeout: float) -> None:
        self._runner = runner
        self._patience = {
            DrainStage.GRACE: drain_timeout,
            DrainStage.SHIELDED: shield_timeout,
            DrainStage.FORCED: math.inf,
        }
        self._group = group
        self._changed = Event()
        self._swept: dict[Job, None] = {}
        self._shields: list[tuple[float, int, Job]] = []  # a heap of the shields that are limited in time
        self._abandoned: dict[ThreadCall, Job] = {}
        self._entered = self._ends = 0.0  # of the present stage

    def wake(self) -> None:
        """Note that a task has ended or come: have `_idle()` look again."""
        self._changed.set()

    def hurry(self, drain_timeout: float) -> None:
        """Limit stage 1 to `drain_timeout` seconds from now, or from its beginning if it has not begun."""
        self._patience[DrainStage.GRACE] = drain_timeout
        if self._runner.stage is DrainStage.GRACE:
            self._enter(current_time())
            self._note_pauses()
            self.wake()

    async def run(self) -> DrainReport:
        """Close the host, which has left the stage OPEN. A cancellation does not shorten this."""
        runner = self._runner
        runner.on_change, runner.on_admit = self.wake, self._note_admitted
        began = current_time()
        before = _completed(runner)
        self._enter(began)
        runner.on_pause = self._note_paused
        self._note_pauses()
        while True:
            await outlast(runner.seam, self._idle)
            now = current_time()
            if self._is_idle:
                if not self._group.is_open:
                    if runner.close():
                        break
                elif runner.stage is DrainStage.GRACE and self._group.names:
                    self._go_on(now)  # stage 1 does not wait for raw work
                else:
                    self._group.close()
            elif now < self._ends:
                self._cancel(self._unshielded_at(now))
            else:
                self._go_on(now)
        return self._report(current_time() - began, _completed(runner) - before)

    def _report(self, seconds: float, completed: int) -> DrainReport:
        """Tell the journal and the log which tasks were cut short. Then forget all tasks: a closed host has none."""
        abandoned, keeper = list(self._abandoned.values()), self._runner.keeper
        cut = [job for job in self._swept if job.status is TaskStatus.CANCELLED and job not in abandoned]
        kept = [job for job in (*cut, *abandoned) if (record := record_of(job)) is not None and record.stays]
        if keeper is not None:
            keeper.note_abandoned({call: job.message_id for call, job in self._abandoned.items() if job in kept})
        report.drained(cut, abandoned, kept)
        result = DrainReport(seconds, completed, *map(_named, (cut, abandoned, kept)))
        self._swept.clear()
        self._shields.clear()
        self._abandoned.clear()
        return result

    def _go_on(self, now: float) -> None:
        """Enter the next stage, perhaps after a time for the handlers of hand-overs."""
        if self._cut_hand_overs(now):
            return
        self._runner.follow(DrainEvent.DEADLINE)
        self._enter(now)
        self._sweep(SWEEPS[self._runner.stage])

    def _cut_hand_overs(self, now: float) -> bool:
        """Cancel what the end of stage 3 would cancel, but give the handlers of cut hand-overs a little time: they may
        need threads, and the next stage leaves threads behind. Return False if there is no hand-over, or no time.
        """
        outlets = self._runner.outlets
        if outlets is None or outlets.is_cut or self._runner.stage is not DrainStage.SHIELDED or not outlets.alive:
            return False
        outlets.is_cut = True
        self._cancel(self._runner.jobs())
        self._ends = now + _FOR_HANDLERS
        return True

    def _enter(self, now: float) -> None:
        self._entered = now
        self._ends = now + self._patience[self._runner.stage]

    def _sweep(self, sweep: Sweep) -> None:
        runner = self._runner
        if sweep is Sweep.UNSHIELDED:
            report.raw_work_cancelled(self._group.close())
            for scope in list(runner.late):
                runner.give_up(scope)
            self._cancel(job for job in runner.jobs() if not _is_spared(job))
            for job in runner.jobs():
                self._note_admitted(job)
            report.waiting_for(job for job in runner.jobs() if _is_spared(job))
        elif sweep is Sweep.EVERYBODY:
            self._cancel(runner.jobs())
            self._abandoned |= runner.threads.abandon()

    def _cancel(self, jobs: Iterable[Job]) -> None:
        for job in list(jobs):
            self._swept[job] = None
            with self._runner.busy():
                if self._runner.stage is DrainStage.FORCED or not self._runner.cut_off(job):
                    self._runner.cancel(job)

    def _note_pauses(self) -> None:
        for job in list(self._runner.gates.pauses.ends):
            self._note_paused(job)

    def _note_paused(self, job: Job) -> None:
        """Cancel a job without a shield whose pause ends only after stage 1."""
        end = self._runner.gates.pauses.ends.get(job)
        is_late = end is not None and (end > self._ends or self._runner.stage is not DrainStage.GRACE)
        if is_late and not _is_spared(job):
            self._cancel([job])

    def _note_admitted(self, job: Job) -> None:
        # A shielded task may schedule a task without a shield. The host takes this task, and does not cancel it here.
        if self._runner.stage is DrainStage.SHIELDED and 0 < job.config.protection < math.inf:
            heappush(self._shields, (self._entered + job.config.protection, job.id, job))
            self.wake()

    def _unshielded_at(self, now: float) -> Iterator[Job]:
        """Yield the tasks whose shields are over at the time `now`."""
        while self._shields and self._shields[0][0] <= now:
            yield heappop(self._shields)[2]

    def _next_deadline(self) -> float:
        while self._shields and self._shields[0][2].status in ENDS:
            heappop(self._shields)
        return min(self._ends, self._shields[0][0]) if self._shields else self._ends

    async def _idle(self) -> None:
        """Wait until the next deadline, or until the host is idle."""
        # Look at the clock here: anyio does not cancel an asyncio task that is woken in every turn.
        while True:
            self._changed = Event()  # before the look: a signal handler may cancel the last task right after it
            if self._is_idle or current_time() >= (deadline := self._next_deadline()):
                return
            with CancelScope(deadline=deadline):
                await self._changed.wait()

    @property
    def _is_idle(self) -> bool:
        """True if no task is left, and the task group is not about to close."""
        return self._runner.idle and not (self._group.is_open and self._group.is_closing)


def _is_spared(job: Job) -> bool:
    """Return whether the drain spares `job` now. A hand-over has its shield from the end of its delay on."""
    is_early = job.status in NOT_DUE or job.status is TaskStatus.DELAYED
    return job.config.shielded and not (is_early and queue_of(job.config))


def _named(jobs: Iterable[Job]) -> Mapping[str, int]:
    return MappingProxyType(Counter(job.name for job in jobs))


def _completed(runner: Runner) -> int:
    return sum(runner.ended.values()) - runner.ended[TaskStatus.CANCELLED]
