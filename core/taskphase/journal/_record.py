"""`Record`: one task of a journal, in the host that runs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from traceback import format_exception_only
from typing import Protocol

from anyio import sleep

from .._drive.job import Job, record_of
from .._drive.runner import Runner
from .._machine.drain import DrainStage
from .._machine.life import ENDS, TaskStatus
from .._machine.scope import Phase
from .._machine.text import exportable
from .._scope import Scope
from ..errors import JournalError
from ._share import Share
from ._statements import Row

# Seconds between two tries to count a recovered run.
_PAUSE = 1.0

_STRUCK_OUT = frozenset({TaskStatus.SUCCEEDED, TaskStatus.HANDED_OVER, TaskStatus.DROPPED})


class Place(Enum):
    """Where is the task?"""

    HERE = "here"
    """Only in this process."""
    ON_ITS_WAY = "on its way"
    """A write has begun."""
    IN_FILE = "in the file"
    RECOVERED = "recovered"
    """In the file, from where it was recovered. The run is not counted."""
    NOWHERE = "nowhere"
    """The write has failed, the file has another task with the key, or the row was discarded. If the task runs all the
    same, the journal knows nothing of it.
    """


class Keeps(Protocol):
    """The part of a keeper that a record needs. See `Keeper`."""

    runner: Runner

    @property
    def share(self) -> Share: ...
    def takes(self, route: Scope) -> bool: ...
    def collect(self, record: Record, job: Job) -> None: ...
    def ask(self, job: Job) -> None: ...
    def note_left(self, job: Job) -> None: ...


@dataclass(eq=False, repr=False, slots=True)  # no text has the arguments: they may be secret
class Record:
    """See `taskphase._drive.keeping.Record`.

    :ivar route: the scope whose route has scheduled the task; None if there is none, or as soon as the scope knows the
        task
    :ivar place: where the task is
    :ivar is_early: True if the first step, which does not wait for the end of the route, waits for the write
    """

    keeper: Keeps
    function: str
    arguments: str
    headers: dict[str, str]
    route: Scope | None
    place: Place = Place.HERE
    is_early: bool = False
    is_recovered: bool = False
    is_unwanted: bool = False
    error: Exception | None = None

    def row_of(self, job: Job) -> Row:
        """Return the row of the task for the file."""
        return Row(
            *(str(job.message_id), self.function, exportable(job.name), job.phase.value, self.arguments),
            json.dumps(self.headers) if self.headers else "{}",
            job.config.key,
            job.config.delay,
        )

    def needs_row(self, job: Job) -> bool:
        """Return whether the task is to be written: also if it was cut off before."""
        is_cut_off = job.status is TaskStatus.CANCELLED and not self.is_unwanted
        return self.place is Place.HERE and (job.status not in ENDS or is_cut_off)

    def will_wait(self) -> bool:
        """Return whether the task would have to wait for a write if its phase came now."""
        return self.place is not Place.RECOVERED and (self.is_early or not self._runs_in_route())

    def _runs_in_route(self) -> bool:
        return self.route is not None and self.keeper.takes(self.route)

    def note_held(self, job: Job) -> None:
        """Note that the task waits for its phase: the end of the route writes the task."""
        if self._runs_in_route():
            self.keeper.collect(self, job)
        self.route = None

    def must_wait(self, job: Job) -> bool:
        """Return whether the task, whose phase has come, has to wait for a write, which then is asked for."""
        if self.place in (Place.IN_FILE, Place.RECOVERED, Place.NOWHERE):
            return False
        if self.place is Place.HERE:
            if job.phase is Phase.IMMEDIATE and self._runs_in_route():
                self.keeper.collect(self, job)
                self.route = None
                if not self.is_early:
                    return False
            self.keeper.ask(job)
        return True

    @property
    def must_begin(self) -> bool:
        """True if `begin()` comes before the first step."""
        return self.place is Place.RECOVERED

    @property
    def stays(self) -> bool:
        """True if the journal keeps the task, which was cancelled, for another process."""
        return self.place in (Place.IN_FILE, Place.RECOVERED) and not self.is_unwanted

    async def begin(self, job: Job) -> None:
        """Wait until the recovered run is counted. Drop the job if its row is gone."""
        runner = self.keeper.runner
        while job.status not in ENDS and self.place is Place.RECOVERED:
            try:
                is_there = await self.keeper.share.count_run(str(job.message_id))
            except JournalError:
                if runner.stage is not DrainStage.OPEN:
                    runner.cancel(job)  # it stays due
                    return
                await sleep(_PAUSE)
                continue
            self.place = Place.IN_FILE if is_there else Place.NOWHERE
            if not is_there and job.status not in ENDS:
                runner.drop(job, "it was discarded")

    def note_ended(self, job: Job) -> None:
        """Note that the task has ended. While a write is on its way, the end of the write does this."""
        if self.is_recovered:
            self.keeper.note_left(job)
        if self.place not in (Place.IN_FILE, Place.RECOVERED):
            return
        share, status = self.keeper.share, job.status
        if status in _STRUCK_OUT or self.is_unwanted:
            share.strike_out(str(job.message_id), key=job.config.key)
        elif status is TaskStatus.FAILED:
            share.keep_failed(str(job.message_id), _text_of(job._result))


def own_record(job: Job) -> Record:
    """Return the record of a job that has one."""
    record = record_of(job)
    assert isinstance(record, Record)
    return record


def _text_of(error: BaseException) -> str:
    """Return the class and the text of an exception."""
    try:
        return exportable("".join(format_exception_only(error)).strip())
    except Exception:  # of the user's code
        return exportable(type(error).__qualname__)
