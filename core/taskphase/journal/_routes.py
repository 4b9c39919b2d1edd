"""The part of a keeper that knows routes: the end of a route writes the tasks that the route has scheduled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from .._drive import report
from .._drive.job import Job
from .._drive.runner import Runner
from .._machine.config import DEFAULT_WHEN
from .._machine.life import ENDS
from .._machine.scope import Phase
from .._route import Outcome
from .._scope import Scope
from ..errors import JournalError
from ._record import Place, Record, own_record


class Routes(ABC):
    """The tasks that wait for the end of their route."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._routes: WeakKeyDictionary[Scope, _Collected] = WeakKeyDictionary()

    @abstractmethod
    def ask(self, job: Job) -> None:
        """Have `job` written soon. It waits for that."""

    @abstractmethod
    async def _wait_for_asked(self, jobs: list[Job]) -> None:
        """Wait until no job of `jobs` that has asked for a write waits for it."""

    @abstractmethod
    async def _write(self, jobs: list[Job], *, shield: bool = False) -> None:
        """Write `jobs` in one transaction, and bring those further that wait for that.

        :param shield: True: a cancel scope around this call does not shorten it
        :raises JournalError: if that fails
        """

    def takes(self, route: Scope) -> bool:
        """Return whether the end of `route` will write a task that is scheduled now. From any thread."""
        if not (route.in_route and route.takes_hooks):
            return False
        collected = self._routes.get(route)
        return collected is None or not collected.has_begun

    def collect(self, record: Record, job: Job) -> None:
        """Have the end of the route of `record` write `job`."""
        route = record.route
        assert route is not None
        collected = self._routes.get(route)
        if collected is None:
            collected = self._routes[route] = _Collected(self._end_route)
            route.before_route_ends(collected.write)
        collected.jobs.append(job)

    async def _end_route(self, jobs: list[Job], outcome: Outcome) -> None:
        """Write what a route has scheduled, will start and has not ended, or what a shutdown has cut off. In the native
        task of the route.

        :raises JournalError: if that fails, and the route has succeeded
        """
        await self._write_route(jobs, outcome)
        await self._wait_for_asked(jobs)
        for job in jobs:
            error = own_record(job).error
            if outcome == "success" and isinstance(error, JournalError):
                raise JournalError(error.path, error.reason) from error

    async def _write_route(self, jobs: list[Job], outcome: Outcome) -> None:
        chosen = [job for job in jobs if own_record(job).needs_row(job) and _is_wanted(job, outcome)]
        if not chosen:
            return
        try:
            await self._write(chosen, shield=outcome == "failure")
        except BaseException as exc:
            for job in chosen:
                if job in self.runner.gates.recording:  # its batch was started before the end of the route
                    self.ask(job)
            if isinstance(exc, JournalError):
                self._go_unwritten(jobs, exc)
            if outcome == "success" or not isinstance(exc, JournalError):
                raise

    def _go_unwritten(self, jobs: list[Job], error: JournalError) -> None:
        """Have the tasks of a route whose write has failed do without the journal, unless they wait for it."""
        for job in jobs:
            record = own_record(job)
            if job.status not in ENDS and record.place is Place.HERE and job not in self.runner.gates.recording:
                record.place = Place.NOWHERE
                if job.phase is not Phase.IMMEDIATE and _is_wanted(job, "failure"):
                    report.unrecorded(job, error)


class _Collected:
    """The tasks of one route. (A partial in place of the method would cost as much as the rest of the route.)

    :ivar has_begun: True from the begin of the write on. A task that is scheduled later waits for a write of its own
    """

    __slots__ = ("_write", "has_begun", "jobs")

    def __init__(self, write: Callable[[list[Job], Outcome], Awaitable[None]]) -> None:
        self._write = write
        self.has_begun = False
        self.jobs: list[Job] = []

    async def write(self, outcome: Outcome) -> None:
        self.has_begun = True
        await self._write(self.jobs, outcome)


def _is_wanted(job: Job, outcome: Outcome) -> bool:
    """Return whether `job` runs, or is to run, if its route ends like this."""
    return job.phase is Phase.IMMEDIATE or (job.config.when or DEFAULT_WHEN) in ("always", outcome)
