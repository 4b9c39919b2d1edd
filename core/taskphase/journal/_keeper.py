"""`Keeper`: the part of a journal that belongs to one host. `_share.py` has the file, this module has the tasks."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial
from typing import Any

from anyio import CancelScope, Event, create_task_group, move_on_after

from .._drive import report
from .._drive.cancelling import no_loop_runs_here
from .._drive.job import Job
from .._drive.runner import Runner
from .._drive.seam import NativeSeam, outlast
from .._machine.calling import type_name
from .._machine.drain import DrainStage
from .._machine.life import ENDS, TaskStatus
from .._scope import Scope
from ..errors import JournalError
from ._forms import Forms
from ._record import Place, own_record
from ._routes import Routes
from ._share import Share
from ._statements import Recovered, Row

# Seconds between two looks for tasks of hosts that have died.
_PAUSE = 2.0

# The most recovered tasks that run here or may run now: other hosts get a part of the work, too.
_MOST_RECOVERED = 100

# The most recovered tasks in this host. A task that waits counts, too, perhaps for hours: each task costs memory.
_MOST_PRESENT = 2000

# A task may be in these for hours, and other tasks are not to wait for it.
_PAUSED = frozenset({TaskStatus.DELAYED, TaskStatus.RETRYING, TaskStatus.HANDING_OVER})
_WAITING = _PAUSED | {TaskStatus.LIMITED}

_KEY_IS_TAKEN = "another task of its function with the same key is in the journal"


class Keeper(Routes):
    """See `taskphase._drive.keeping.Keeper`.

    :param forms: turns tasks into rows, and rows into tasks
    :param share_of: returns the part of the file
    """

    def __init__(self, runner: Runner, forms: Forms, share_of: Callable[..., Share]) -> None:
        super().__init__(runner)
        self._forms = forms
        self._share_of = share_of
        self._share: Share | None = None
        self._asked: dict[Job, None] = {}
        self._is_writing = False
        self.recovered: int = 0
        self._present: set[Job] = set()  # recovered tasks that have not ended
        self._suspect: Job | None = None  # the last recovered task of which an earlier recovered run has died
        # Of the host's event loop, so `open()` makes them.
        self._is_asked: Event
        self._has_written: Event
        self._may_take: Event
        self._has_room: Event
        self._has_turn: Event
        self._scope: CancelScope

    def configure(self, job: Job) -> str | None:
        """Give `job` the settings of its function, and return the name of the function, if the journal has it."""
        return self._forms.configure(job)

    def prepare(self, job: Job, function: str, scope: Scope | None) -> None:
        """Give `job` a record. In `schedule()`, in any thread."""
        self._forms.prepare(job, function, scope, self)

    @property
    def share(self) -> Share:
        """The part of the file. After `close()` it refuses all writes."""
        assert self._share is not None
        return self._share

    async def open(self) -> None:
        """Open the file, or close it again."""
        self._is_asked, self._has_written, self._may_take = Event(), Event(), Event()
        self._scope = CancelScope()
        self._share = self._share_of(seam=self.runner.seam)
        try:
            await self._share.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Release the tasks that are left, and close the file."""
        if self._share is not None and not self._share.is_closed:
            try:
                if self._asked and not no_loop_runs_here():  # without a drain
                    await self._write_gathered(shield=True)
            finally:
                await self._share.close()

    @asynccontextmanager
    async def running(self, seam: NativeSeam[Any]) -> AsyncGenerator[None]:
        """See `taskphase._drive.keeping.Keeper.running()`."""
        with CancelScope() as body:
            async with seam.beside(partial(self._run, body), name="taskphase.journal"):
                try:
                    yield
                finally:
                    self._scope.cancel()

    async def _run(self, body: CancelScope) -> None:
        try:
            with self._scope:
                while True:  # asyncio's own `cancel()` ends the group if it comes before the first step of a task in it
                    async with create_task_group() as tg:
                        tg.start_soon(outlast, self.runner.seam, self._write_asked, name="taskphase.journal.write")
                        tg.start_soon(outlast, self.runner.seam, self._recover, name="taskphase.journal.recover")
                        tg.start_soon(outlast, self.runner.seam, self.share.watch, name="taskphase.journal.watch")
        except BaseException:
            body.cancel()  # otherwise the tasks of the host would wait for their writes for ever
            raise

    async def _write(self, jobs: list[Job], *, shield: bool = False) -> None:
        """See `Routes._write()`."""
        rows: list[Row] = []
        for job in jobs:
            record = own_record(job)
            record.place = Place.ON_ITS_WAY
            rows.append(record.row_of(job))
        try:
            taken = await self.share.write(rows, shield=shield)
        except BaseException:
            for job in jobs:
                own_record(job).place = Place.HERE
            raise
        for job in jobs:
            self._note_written(job, is_taken=job.message_id in taken)

    def _note_written(self, job: Job, *, is_taken: bool) -> None:
        record, runner = own_record(job), self.runner
        record.place = Place.NOWHERE if is_taken else Place.IN_FILE
        if job.status in ENDS:
            record.note_ended(job)
        elif is_taken:
            with runner.busy():
                runner.drop(job, _KEY_IS_TAKEN, level=logging.DEBUG)
        else:
            runner.note_recorded(job)

    # Tasks outside of routes.

    def ask(self, job: Job) -> None:
        """See `Routes.ask()`."""
        self._asked[job] = None
        self._is_asked.set()

    async def _wait_for_asked(self, jobs: list[Job]) -> None:
        """See `Routes._wait_for_asked()`."""
        for job in jobs:
            while job in self._asked:
                await self._has_written.wait()

    @property
    def owes(self) -> bool:
        """See `taskphase._drive.keeping.Keeper.owes`."""
        return self._is_writing and bool(self._asked)

    async def _write_asked(self) -> None:
        """Write the tasks that have gathered, in one transaction after the other."""
        self._is_writing = True
        try:
            while True:
                while not self._asked:
                    self._is_asked = Event()
                    await self._is_asked.wait()
                await self._write_gathered()
                if self.runner.on_change is not None:
                    self.runner.on_change()
        finally:
            self._is_writing = False  # the drain no longer waits for writes; `close()` writes the tasks that are left

    async def _write_gathered(self, *, shield: bool = False) -> None:
        jobs = [job for job in self._asked if own_record(job).needs_row(job)]
        self._asked = dict.fromkeys(jobs)
        try:
            if jobs:
                await self._write(jobs, shield=shield)
        except JournalError as exc:
            for job in jobs:
                self._note_unwritten(job, exc)
        # A native cancellation does not come here: `_write_asked()` begins again.
        for job in jobs:
            del self._asked[job]
        self._has_written.set()
        self._has_written = Event()

    def _note_unwritten(self, job: Job, error: JournalError) -> None:
        record = own_record(job)
        record.place = Place.NOWHERE
        if job.status not in ENDS:
            record.error = error
            self.runner.note_recorded(job)
        elif not record.is_unwanted:
            report.lost(job, error)

    # Tasks of other hosts.

    def take_over(self) -> None:
        """From now on recover tasks of other hosts, until the drain begins."""
        self._may_take.set()

    def note_left(self, job: Job) -> None:
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
        while self.runner.stage is DrainStage.OPEN:
            self._has_room, self._has_turn = Event(), Event()
            room = self._room()
            found: list[Recovered] = []
            # If a recovered run has died, this counts for all that were under way: such tasks run one after the other.
            # Otherwise a task that kills its process takes others along. One in a pause, which may be long, is let be.
            suspects = int(self._suspect is None or self._suspect.status in _PAUSED)
            try:
                if room > 0:
                    taken = await self.share.take(room, suspects=suspects)
                    has_failed = False
                    for each in taken.given_up:
                        report.given_up(*each)
                    found = taken.tasks
            except JournalError as exc:
                if not has_failed:
                    report.not_taken_over(exc)
                has_failed = True
            if self.runner.stage is DrainStage.OPEN:  # otherwise `close()` gives the tasks back
                for task in found:
                    self._run_again(task)
            with move_on_after(_PAUSE):
                await (self._has_room if len(found) == room or room <= 0 else self._has_turn).wait()

    def _run_again(self, found: Recovered) -> None:
        context = Context()
        try:
            job = context.run(self._forms.make, found, self)
        except Exception as exc:  # the function has other parameters now
            self.share.cannot_run(found.message_id, f"it cannot be called any more: {type_name(exc)}")
            return
        if found.recoveries:
            self._suspect = job
        self.recovered += 1
        self._present.add(job)
        context.run(self.runner.recover, job)
