"""Tasks of hosts that have died, or have left them behind: this host takes them, and runs them again."""

from __future__ import annotations

from contextvars import Context

from anyio import Event, move_on_after, sleep

from .._drive import report
from .._drive.job import Job, record_of
from .._drive.keeping import Place
from .._drive.runner import Runner
from .._machine.calling import type_name
from .._machine.drain import DrainStage
from .._machine.life import ENDS, TaskStatus
from ..errors import JournalError
from ._forms import Forms
from ._share import Share
from ._statements import Row

# Seconds between two looks for tasks of hosts that have died, and between two tries to count a recovered run.
_PAUSE = 2.0

# The most recovered tasks that run here or may run now: other hosts get a part of the work, too.
_MOST_RECOVERED = 100

# The most recovered tasks in this host. A task that waits counts, too, perhaps for hours: each task costs memory.
_MOST_PRESENT = 2000

# A task may be in these for hours, and other tasks are not to wait for it.
_PAUSED = frozenset({TaskStatus.DELAYED, TaskStatus.RETRYING, TaskStatus.HANDING_OVER})
_WAITING = _PAUSED | {TaskStatus.LIMITED}


class Recovery:
    """The part of a keeper that knows recovered tasks.

    :ivar share: the part of the file. After `close()` it refuses all writes
    :ivar recovered: the number of tasks that the host has recovered since it opened
    """

    def __init__(self, runner: Runner, forms: Forms, share: Share) -> None:
        self._runner = runner
        self._forms = forms
        self.share = share
        self.recovered: int = 0
        self._present: set[Job] = set()  # recovered tasks that have not ended
        self._suspect: Job | None = None  # the last recovered task of which an earlier recovered run has died
        self._may_take, self._has_room, self._has_turn = Event(), Event(), Event()

    def take_over(self) -> None:
        """From now on recover tasks of other hosts, until the drain begins."""
        self._may_take.set()

    async def begin(self, job: Job) -> None:
        """See `taskphase._drive.keeping.Keeper.begin()`."""
        record, runner = record_of(job), self._runner
        while job.status not in ENDS and record is not None and record.place is Place.RECOVERED:
            try:
                is_there = await self.share.count_run(str(job.message_id))
            except JournalError:
                if runner.stage is not DrainStage.OPEN:
                    runner.cancel(job)  # it stays due
                    return
                await sleep(_PAUSE)
                continue
            record.place = Place.IN_FILE if is_there else Place.NOWHERE
            if not is_there and job.status not in ENDS:
                runner.drop(job, "it was discarded")

    def _note_left(self, job: Job) -> None:
        """Note that a recovered task has ended."""
        self._present.discard(job)
        if self._room() >= _MOST_RECOVERED // 2:
            self._has_room.set()
        if job is self._suspect:
            self._suspect = None
            self._has_turn.set()

    def _room(self) -> int:
        """Return the most tasks that this host may take now."""
        active = sum(job.status not in _WAITING for job in self._present)
        return min(_MOST_RECOVERED - active, _MOST_PRESENT - len(self._present))

    async def _recover(self) -> None:
        await self._may_take.wait()
        has_failed = False
        while self._runner.stage is DrainStage.OPEN:
            self._has_room, self._has_turn = Event(), Event()
            room = self._room()
            found: list[Row] = []
            try:
                if room > 0:
                    found = await self._take(room)
                    has_failed = False
            except JournalError as exc:
                if not has_failed:
                    report.not_taken_over(exc)
                has_failed = True
            if self._runner.stage is DrainStage.OPEN:  # otherwise `close()` gives the tasks back
                for task in found:
                    self._run_again(task)
            with move_on_after(_PAUSE):
                await (self._has_room if len(found) >= room else self._has_turn).wait()

    async def _take(self, most: int) -> list[Row]:
        # The death of a process counts for each recovered run that was under way in it. So only one *suspect*, a task
        # of which a recovered run has died, runs at a time: otherwise a task that kills its process makes the other
        # suspects fail, too. A suspect in a pause, which may be long, does not hold up the next one.
        suspects = int(self._suspect is None or self._suspect.status in _PAUSED)
        taken = await self.share.take(most, suspects=suspects)
        for row, reason in taken.given_up:
            report.given_up(*row[:4], reason)
        return taken.tasks

    def _run_again(self, found: Row) -> None:
        context = Context()
        try:
            job = context.run(self._forms.make, found, self._runner.outlets)
        except Exception as exc:  # the function has other parameters now, or the file was changed by hand
            self.share.cannot_run(found.message_id, f"it cannot be called any more: {type_name(exc)}")
            return
        if found.recoveries:
            self._suspect = job
        self.recovered += 1
        self._present.add(job)
        context.run(self._runner.recover, job)
