"""`Keeper`: the part of a journal that belongs to one host. `_share.py` has the file, this module has the tasks."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from weakref import WeakKeyDictionary

from anyio import CancelScope, Event, create_task_group, move_on_after

from .._drive import report
from .._drive.job import Job
from .._drive.runner import Runner
from .._drive.seam import outlast
from .._machine.calling import type_name
from .._machine.config import DEFAULT_WHEN
from .._machine.drain import DrainStage
from .._machine.life import ENDS
from .._machine.scope import Phase
from .._route import Outcome
from .._scope import Scope
from ..errors import JournalError
from ._forms import Forms
from ._record import Place, Record
from ._share import Share
from ._statements import Recovered, Row

# Seconds between two looks for tasks of hosts that have died.
_PAUSE = 2.0

# The most recovered tasks that wait or run here: other hosts get a part of the work, too.
_MOST_RECOVERED = 100

_KEY_IS_TAKEN = "another task of its function with the same key is in the journal"


class Keeper:
    """See `taskphase._drive.keeping.Keeper`.

    :param forms: turns tasks into rows, and rows into tasks
    :param share_of: returns the part of the file
    """

    def __init__(self, runner: Runner, forms: Forms, share_of: Callable[..., Share]) -> None:
        self.runner = runner
        self._forms = forms
        self._share_of = share_of
        self._share: Share | None = None
        self._routes: WeakKeyDictionary[Scope, _Collected] = WeakKeyDictionary()
        self._asked: list[Job] = []
        self.recovered: int = 0
        self._present = 0  # recovered tasks that have not ended
        # Of the host's event loop, so `open()` makes them.
        self._is_asked: Event
        self._may_take: Event
        self._has_room: Event
        self._scope: CancelScope

    def configure(self, job: Job) -> str | None:
        """Give `job` the settings of its function, and return the name of the function, if the journal has it."""
        return self._forms.configure(job)

    def prepare(self, job: Job, function: str, scope: Scope | None) -> None:
        """Give `job` a record. In `schedule()`, in any thread."""
        self._forms.prepare(job, function, scope, self)

    @property
    def share(self) -> Share:
        """The part of the file. Only between `open()` and `close()`."""
        assert self._share is not None
        return self._share

    async def open(self) -> None:
        """Open the file, or close it again."""
        self._is_asked, self._may_take, self._has_room = Event(), Event(), Event()
        self._scope = CancelScope()
        self._share = self._share_of(seam=self.runner.seam)
        try:
            await self._share.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Release the tasks that are left, and close the file."""
        if self._share is not None:
            share, self._share = self._share, None
            await share.close()

    async def run(self) -> None:
        """Write and recover tasks, until `stop()`."""
        with self._scope:
            async with create_task_group() as tg:
                tg.start_soon(outlast, self.runner.seam, self._write_asked, name="taskphase.journal.write")
                tg.start_soon(outlast, self.runner.seam, self._recover, name="taskphase.journal.recover")
                tg.start_soon(outlast, self.runner.seam, self.share.watch, name="taskphase.journal.watch")

    def stop(self) -> None:
        """Have `run()` return."""
        self._scope.cancel()

    # The end of a route.

    def collect(self, record: Record, job: Job) -> None:
        """Have the end of the route of `record` write `job`."""
        route = record.route
        assert route is not None
        collected = self._routes.get(route)
        if collected is None:
            collected = self._routes[route] = _Collected(self._write_route)
            route.before_route_ends(collected.write)
        collected.jobs.append(job)

    async def _write_route(self, jobs: list[Job], outcome: Outcome) -> None:
        """Write what a route has scheduled, will start and has not ended. In the native task of the route.

        :raises JournalError: if that fails, and the route has succeeded
        """
        chosen = [job for job in jobs if _record(job).place is Place.HERE and _will_start(job, outcome)]
        if not chosen:
            return
        try:
            await self._write(chosen, shield=outcome == "failure")
        except JournalError as exc:
            for job in jobs:
                if job.status not in ENDS and _record(job).place is Place.HERE:
                    _record(job).place = Place.NOWHERE
                    if job.phase is not Phase.IMMEDIATE and _will_start(job, "failure"):
                        report.unrecorded(job, exc)
            if outcome == "success":
                raise

    async def _write(self, jobs: list[Job], *, shield: bool = False) -> None:
        """Write `jobs` in one transaction, and bring those further that wait for that.

        :param shield: True: a cancel scope around this call does not shorten it
        :raises JournalError: if that fails
        """
        rows: list[Row] = []
        for job in jobs:
            record = _record(job)
            record.place = Place.ON_ITS_WAY
            rows.append(record.row_of(job))
        try:
            taken = await self.share.write(rows, shield=shield)
        except BaseException:
            for job in jobs:
                _record(job).place = Place.HERE
                if job in self.runner.gates.recording:  # its batch was started before the end of the route
                    self.ask(job)
            raise
        for job in jobs:
            self._note_written(job, is_taken=job.message_id in taken)

    def _note_written(self, job: Job, *, is_taken: bool) -> None:
        record, runner = _record(job), self.runner
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
        """Have `job` written soon. It waits for that."""
        self._asked.append(job)
        self._is_asked.set()

    async def _write_asked(self) -> None:
        """Write the tasks that have gathered, in one transaction after the other."""
        while True:
            await self._is_asked.wait()
            self._is_asked = Event()
            jobs, self._asked = [job for job in self._asked if job.status not in ENDS], []
            try:
                if jobs:
                    await self._write(jobs)
            except JournalError as exc:
                self._asked = [job for job in self._asked if job not in jobs]
                for job in jobs:
                    _record(job).place = Place.NOWHERE
                    _record(job).error = exc
                    self.runner.note_recorded(job)

    # Tasks of other hosts.

    def take_over(self) -> None:
        """From now on recover tasks of other hosts, until the drain begins."""
        self._may_take.set()

    def note_left(self) -> None:
        """Note that a recovered task has ended."""
        self._present -= 1
        if self._present <= _MOST_RECOVERED // 2:
            self._has_room.set()

    async def _recover(self) -> None:
        await self._may_take.wait()
        has_failed = False
        while self.runner.stage is DrainStage.OPEN:
            self._has_room = Event()
            room = _MOST_RECOVERED - self._present
            found: list[Recovered] = []
            try:
                if room > 0:
                    taken = await self.share.take(room)
                    has_failed = False
                    for message_id, function, reason in taken.given_up:
                        report.given_up(function, message_id, reason)
                    found = taken.tasks
            except JournalError as exc:
                if not has_failed:
                    report.not_taken_over(exc)
                has_failed = True
            if self.runner.stage is DrainStage.OPEN:  # otherwise `close()` gives the tasks back
                for each in found:
                    self._run_again(each)
            with move_on_after(_PAUSE):
                await (self._has_room if len(found) == room or room <= 0 else Event()).wait()

    def _run_again(self, found: Recovered) -> None:
        context = Context()
        try:
            job = context.run(self._forms.make, found, self)
        except Exception as exc:  # the function has other parameters now
            reason = f"it cannot be called any more: {type_name(exc)}"
            self.share.keep_failed(found.message_id, reason)
            report.given_up(found.function, found.message_id, reason)
            return
        self.recovered += 1
        self._present += 1
        context.run(self.runner.recover, job)


class _Collected:
    """The tasks of one route. (A partial in place of the method would cost as much as the rest of the route.)"""

    __slots__ = ("_write", "jobs")

    def __init__(self, write: Callable[[list[Job], Outcome], Awaitable[None]]) -> None:
        self._write = write
        self.jobs: list[Job] = []

    async def write(self, outcome: Outcome) -> None:
        await self._write(self.jobs, outcome)


def _record(job: Job) -> Record:
    record = job._parcel.record
    assert isinstance(record, Record)
    return record


def _will_start(job: Job, outcome: Outcome) -> bool:
    """Return whether `job` has not ended, and will start (or runs) if its route ends like this."""
    when = job.config.when or DEFAULT_WHEN
    return job.status not in ENDS and (job.phase is Phase.IMMEDIATE or when in ("always", outcome))
