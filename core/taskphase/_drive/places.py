"""The places of jobs: how many jobs wait in them, and the methods of a runner that admission calls.

(`phases.py` and `runner.py` import `admission.py`, so these methods are abstract here.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager

from .._machine.life import LifeEvent
from .._machine.limit import Limit
from .._machine.scope import VERDICTS, Verdict
from ..errors import TasksSaturatedError
from .gates import Gates
from .inbox import Inbox, Wait
from .job import Job
from .unit import Unit

_START = Verdict.START


class Places(ABC):
    """The jobs of a runner, by place: deferred, waiting or alive (see `Runner`). For the loop's thread.

    :ivar deferred: the jobs that wait for their phase, each with its scope
    """

    deferred: dict[Job, Unit]
    gates: Gates
    inbox: Inbox
    is_busy: bool
    moving: Job | None
    _moves_to: Wait
    _max_pending: int | None

    @contextmanager
    def busy(self) -> Generator[None]:
        """Return a context in which calls from signal handlers and finalizers of this thread go by mail."""
        was_busy, self.is_busy = self.is_busy, True
        try:
            yield
        finally:
            self.is_busy = was_busy

    def _will_wait(self, job: Job, scope: Unit | None) -> Wait:
        """Return for what `job` will wait if it is taken now."""
        config = job.config
        limit = config.limit
        if self._max_pending is None and (limit is None or limit.max_pending is None):
            return Wait.FOR_NOTHING  # nobody counts it
        verdict = _START if scope is None else VERDICTS[scope._state, job.phase, config.when]
        if verdict is Verdict.DROP or (verdict is _START and self.gates.has_key_of(job)):
            return Wait.FOR_NOTHING
        if verdict is Verdict.HOLD or config.delay or not self._has_free_place(job):
            return Wait.FOR_LATER
        is_full = self.waiting > 0 or self._is_full(self._on_their_way(Wait.FOR_NOTHING))
        return Wait.FOR_SLOT if is_full else Wait.FOR_NOTHING

    def _has_free_place(self, job: Job) -> bool:
        """Return whether the limit of `job`, if there is one, has a place for it now."""
        limit, line = job.config.limit, self.gates.line_of(job)
        if limit is None:
            return True
        taken, limited = (0, 0) if line is None else (len(line.held), len(line.limited))
        ahead = self._on_their_way(Wait.FOR_NOTHING, limit) + self._on_their_way(Wait.FOR_SLOT, limit)
        return not limited and taken + ahead < limit.most

    def _on_their_way(self, wait: Wait, limit: Limit | None = None) -> int:
        """Return the number of jobs, with the `limit` if it is given, that are in no place yet and will `wait`."""
        jobs = [mail.job for mail in self.inbox if mail.job is not None and mail.wait is wait]
        moving = self.moving
        if moving is not None and self._moves_to is wait and not self._has_place(moving):
            jobs.append(moving)
        return len(jobs) if limit is None else sum(job.config.limit is limit for job in jobs)

    def _check_room(self, job: Job, wait: Wait) -> None:
        """Refuse a job that would have to `wait`, if as many wait already as may wait.

        :raises TasksSaturatedError: for such a job
        """
        limit = job.config.limit
        if wait is Wait.FOR_LATER and limit is not None and limit.max_pending is not None:
            line = self.gates.line_of(job)
            held, waiting = (0, 0) if line is None else (len(line.held), len(line.waiting))
            if waiting + self._on_their_way(wait, limit) >= limit.max_pending:
                raise TasksSaturatedError(held, waiting, 0, limit.max_pending, limit=limit)
        if self._max_pending is None or wait is Wait.FOR_NOTHING:
            return
        others = self.waiting + len(self.deferred) + self.delayed + self.limited
        others += self._on_their_way(Wait.FOR_SLOT) + self._on_their_way(Wait.FOR_LATER)
        if others >= self._max_pending:
            raise TasksSaturatedError(
                running=self.running,
                waiting=self.waiting,
                deferred=len(self.deferred),
                max_pending=self._max_pending,
                delayed=self.delayed,
                limited=self.limited,
            )

    @property
    @abstractmethod
    def running(self) -> int:
        """The number of jobs with a slot."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """The number of jobs that wait for a slot."""

    @property
    @abstractmethod
    def delayed(self) -> int:
        """The number of jobs that wait for their delay."""

    @property
    @abstractmethod
    def limited(self) -> int:
        """The number of jobs that wait for a place of their limit."""

    @abstractmethod
    def start(self, job: Job, leave: Callable[[Job], None] | None = None) -> None:
        """Bring `job` as far as it may go: to a gate, into the line for a slot, or to its start."""

    @abstractmethod
    def _place(self, job: Job, scope: Unit | None, maker: object) -> None:
        """Start, hold or drop a job, as its scope decides."""

    @abstractmethod
    def end(self, job: Job, event: LifeEvent) -> None:
        """Bring a job to its end, and count the end."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Ask a job to stop."""

    @abstractmethod
    def drop(self, job: Job, reason: str, *, level: int | None = None) -> None:
        """End a job that was never asked to start."""

    @abstractmethod
    def _is_full(self, more: int = 0) -> bool:
        """Return whether no slot is free after `more` other jobs have got one."""

    @abstractmethod
    def _has_place(self, job: Job) -> bool:
        """Return whether `job` is in one of the places, or has ended."""

    @abstractmethod
    def _note_change(self) -> None:
        """Note that a job has come or gone."""
