"""`Keeper`: the part of a journal that belongs to one host. `_share.py` has the file, this module has the tasks.

The end of a route writes the tasks that the route has scheduled (`_collect()`, `_end_route()`). All other tasks ask for
a write, and wait for it (`_ask()`, `_write_asked()`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from anyio import CancelScope, Event, create_task_group

from .._drive import report
from .._drive.cancelling import no_loop_runs_here
from .._drive.job import Job, record_of
from .._drive.keeping import Place, Record
from .._drive.runner import Runner
from .._drive.seam import NativeSeam, outlast
from .._machine.config import DEFAULT_WHEN
from .._machine.life import ENDS, TaskStatus
from .._machine.scope import Phase
from .._queue import queue_of
from .._route import Outcome
from .._scope import Scope
from ..errors import JournalError
from ._forms import Forms, row_of, text_of
from ._recovery import Recovery
from ._share import Share

_KEY_IS_TAKEN = "another task of its function with the same key is in the journal"

_STRUCK_OUT = frozenset({TaskStatus.SUCCEEDED, TaskStatus.HANDED_OVER, TaskStatus.DROPPED})


class Keeper(Recovery):
    """See `taskphase._drive.keeping.Keeper`."""

    def __init__(self, runner: Runner, forms: Forms, share: Share) -> None:
        super().__init__(runner, forms, share)
        # `schedule()` calls `prepare()`, so one call more would cost each task.
        self.prepare, self.open, self.note_abandoned = forms.prepare, share.open, share.leave_running
        self._routes: WeakKeyDictionary[Scope, _Collected] = WeakKeyDictionary()
        self._asked: dict[Job, Record] = {}
        self._is_writing = False
        self._is_asked, self._has_written = Event(), Event()
        self._scope = CancelScope()

    async def close(self) -> None:
        """Release the tasks that are left, and close the file."""
        try:
            if self._asked and not no_loop_runs_here():  # without a drain
                with CancelScope(shield=True):
                    await self._write_gathered()
        finally:
            await self.share.close()

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
        works = {"write": self._write_asked, "recover": self._recover, "watch": self.share.watch}
        try:
            with self._scope:
                while True:  # asyncio's own `cancel()` ends the group if it comes before the first step of a task in it
                    async with create_task_group() as tg:
                        for name, work in works.items():
                            tg.start_soon(outlast, self._runner.seam, work, name=f"taskphase.journal.{name}")
        except BaseException:
            body.cancel()  # otherwise the tasks of the host would wait for their writes for ever
            raise

    def will_wait(self, job: Job) -> bool:
        """See `taskphase._drive.keeping.Keeper.will_wait()`."""
        record = record_of(job)
        if record is None:
            return False
        return _has_own_write(job) or record.route is None or not self._will_write(record.route)

    def note_deferred(self, job: Job) -> None:
        """Note that the task waits for its phase: the end of the route writes the task."""
        if (record := record_of(job)) is not None:
            self._collect(job, record)

    def ask_for_write(self, job: Job) -> bool:
        """See `taskphase._drive.keeping.Keeper.ask_for_write()`."""
        record = record_of(job)
        if record is None or record.place not in (Place.HERE, Place.ON_ITS_WAY):
            return False
        if record.place is Place.HERE:
            if job.phase is Phase.IMMEDIATE and self._collect(job, record) and not _has_own_write(job):
                return False
            self._ask(job, record)
        return True

    def note_ended(self, job: Job) -> None:
        """Note that the task has ended. While a write is on its way, the end of the write does this."""
        record = record_of(job)
        if record is None:
            return
        if record.is_recovered:
            self._note_left(job)
        if not record.is_in_file:
            return
        if job.status in _STRUCK_OUT or record.is_unwanted:
            self.share.strike_out(str(job.message_id), key=job.config.key)
        elif job.status is TaskStatus.FAILED:
            self.share.keep_failed(str(job.message_id), text_of(job._result))
        else:
            return  # it stays due
        record.place = Place.NOWHERE

    async def _write(self, jobs: Mapping[Job, Record]) -> None:
        """Write `jobs` in one transaction. Then let the jobs go on that wait for the write.

        :raises JournalError: if that fails
        """
        for record in jobs.values():
            record.place = Place.ON_ITS_WAY
        try:
            taken = await self.share.write([row_of(job, record) for job, record in jobs.items()])
        except BaseException:
            for record in jobs.values():
                record.place = Place.HERE
            raise
        for job, record in jobs.items():
            is_taken = job.message_id in taken
            record.place = Place.NOWHERE if is_taken else Place.IN_FILE
            if job.status in ENDS:
                self.note_ended(job)
            elif is_taken:
                with self._runner.busy():
                    self._runner.drop(job, _KEY_IS_TAKEN, level=logging.DEBUG)
            else:
                self._runner.note_recorded(job)

    # Tasks of routes.

    def _will_write(self, route: Scope) -> bool:
        """Return whether the end of `route` will write a task that is scheduled now. From any thread."""
        if not (route.in_route and route.takes_hooks):
            return False
        collected = self._routes.get(route)
        return collected is None or not collected.has_begun

    def _collect(self, job: Job, record: Record) -> bool:
        """Make the end of its route write `job`. Return False if there is none that will."""
        route, record.route = record.route, None
        if route is None or not self._will_write(route):
            return False
        collected = self._routes.get(route)
        if collected is None:
            collected = self._routes[route] = _Collected(self._end_route)
            route.before_route_ends(collected.write)
        collected.jobs[job] = record
        return True

    async def _end_route(self, jobs: Mapping[Job, Record], outcome: Outcome) -> None:
        """Write the tasks of a route that will start and have not ended, and the tasks that a shutdown has cut off. In
        the native task of the route.

        :raises JournalError: if that fails, and the route has succeeded
        """
        await self._write_route(jobs, outcome)
        for job in jobs:
            while job in self._asked:
                await self._has_written.wait()
        errors = [record.error for record in jobs.values() if record.error is not None]
        if errors and outcome == "success":
            raise JournalError(errors[0].path, errors[0].reason) from errors[0]

    async def _write_route(self, jobs: Mapping[Job, Record], outcome: Outcome) -> None:
        chosen = {job: record for job, record in jobs.items() if _needs_row(job, record) and _runs_after(job, outcome)}
        if not chosen:
            return
        try:
            with CancelScope(shield=True) if outcome == "failure" else nullcontext():
                await self._write(chosen)
        except BaseException as exc:
            for job, record in chosen.items():
                if job in self._runner.gates.recording:  # its batch was started before the end of the route
                    self._ask(job, record)
            if isinstance(exc, JournalError):
                self._run_unwritten(jobs, exc)
            if outcome == "success" or not isinstance(exc, JournalError):
                raise

    def _run_unwritten(self, jobs: Mapping[Job, Record], error: JournalError) -> None:
        """Let the tasks of a route run unwritten, after a failed write. Tasks that wait for the journal wait on."""
        for job, record in jobs.items():
            if job.status not in ENDS and record.place is Place.HERE and job not in self._runner.gates.recording:
                record.place = Place.NOWHERE
                if job.phase is not Phase.IMMEDIATE and _runs_after(job, "failure"):
                    report.unrecorded(job, error)

    # Tasks outside of routes.

    def _ask(self, job: Job, record: Record) -> None:
        """Ask for a write of `job`, which waits until it is written."""
        self._asked[job] = record
        self._is_asked.set()

    @property
    def has_unwritten(self) -> bool:
        """See `taskphase._drive.keeping.Keeper.has_unwritten`."""
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
                if self._runner.on_change is not None:
                    self._runner.on_change()
        finally:
            self._is_writing = False  # the drain no longer waits for writes; `close()` writes the tasks that are left

    async def _write_gathered(self) -> None:
        jobs = {job: record for job, record in self._asked.items() if _needs_row(job, record)}
        self._asked = jobs.copy()
        try:
            if jobs:
                await self._write(jobs)
        except JournalError as exc:
            for job, record in jobs.items():
                record.place = Place.NOWHERE
                if job.status not in ENDS:
                    record.error = exc
                    self._runner.note_recorded(job)
                elif not record.is_unwanted:
                    report.lost(job, exc)
        # A native cancellation does not come here: `_write_asked()` begins again.
        for job in jobs:
            del self._asked[job]
        self._has_written.set()
        self._has_written = Event()


@dataclass(eq=False, repr=False, slots=True)
class _Collected:
    """The tasks of one route. (A partial in place of the method would cost as much as the rest of the route.)

    :ivar has_begun: True from the begin of the write on. A task that is scheduled later waits for a write of its own
    """

    end_route: Callable[[Mapping[Job, Record], Outcome], Awaitable[None]]
    has_begun: bool = False
    jobs: dict[Job, Record] = field(default_factory=dict[Job, Record])

    async def write(self, outcome: Outcome) -> None:
        self.has_begun = True
        await self.end_route(self.jobs, outcome)


def _needs_row(job: Job, record: Record) -> bool:
    """Return whether the task is to be written: also if it was cut off before."""
    is_cut_off = job.status is TaskStatus.CANCELLED and not record.is_unwanted
    return record.place is Place.HERE and (job.status not in ENDS or is_cut_off)


def _runs_after(job: Job, outcome: Outcome) -> bool:
    """Return whether `job` runs, or has run, if its route ends like this."""
    return job.phase is Phase.IMMEDIATE or (job.config.when or DEFAULT_WHEN) in ("always", outcome)


def _has_own_write(job: Job) -> bool:
    """Return whether an immediate task of a route waits for a write of its own: the file decides about its key, and a
    hand-over comes after the record.
    """
    return job.phase is Phase.IMMEDIATE and (job.config.key is not None or queue_of(job.config) is not None)
