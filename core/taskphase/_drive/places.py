"""The places of jobs: which jobs are where, how many, and the methods of a runner that admission calls.

(The modules with these methods import `admission.py`, so the methods are abstract here.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from .._machine.life import ENDS
from .._machine.limit import Limit
from .._machine.scope import VERDICTS, Verdict
from ..errors import TasksSaturatedError
from .gates import Gates
from .inbox import Inbox, Wait, consistent
from .job import Job, order_of
from .keeping import Keeper
from .outlets import Outlets
from .owner import Owner
from .unit import Unit

_START = Verdict.START


class Places(Owner[Job], ABC):
    """The jobs of a runner, by place. For the loop's thread, but for the counts, `jobs()` and the checks of
    `_admit()`, which read only.

    *Invariant*: while `is_busy` is False, each job that was taken and has not ended is in one place: a mail,
    a scope, `gates`, `_waiting` or `alive`. A job without a place would be lost: the host closes without it.

    :ivar deferred: the number of jobs that wait for their phase
    :ivar holding: the scopes of these jobs
    :ivar late: the scopes that are over while their routes still run
    :ivar gates: the jobs that wait for their delay, for a place of their limit, for their journal or for their next
        attempt
    :ivar alive: the jobs that were asked to start, until their native tasks leave. The value is the native task, or
        None until the seam knows it: to cancel it, and to keep it from the garbage collector
    :ivar outlets: the queues, and the part of `alive` that is being handed over; None if the host has no queues
    :ivar keeper: the journal; None if the host has none
    :ivar prepares: True if `submit()` has something to do for a queue or a journal
    :ivar is_busy: True while a change is half done
    :ivar on_change: called when a job has left a place; None unless the host drains
    :ivar moving: the job that leaves one place for another; None if there is none
    """

    __slots__ = (
        "_mails",
        "_max_pending",
        "_max_running",
        "_moves_to",
        "_waiting",
        "alive",
        "deferred",
        "gates",
        "holding",
        "inbox",
        "is_busy",
        "keeper",
        "late",
        "moving",
        "on_change",
        "outlets",
        "prepares",
    )

    def __init__(self, max_running: int | None, max_pending: int | None) -> None:
        self.inbox: Inbox = Inbox()
        self._mails = self.inbox.mails
        self.deferred: int = 0
        self.holding: dict[Unit[Job], None] = {}
        self.late: dict[Unit[Job], None] = {}
        self.gates: Gates = Gates()
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self.alive: dict[Job, object] = {}
        self.outlets: Outlets | None = None
        self.keeper: Keeper | None = None
        self.prepares: bool = False
        self.is_busy: bool = False
        # A job that is taken and in no place yet. With `max_pending`, an interruption counts it.
        self.moving: Job | None = None
        self._moves_to = Wait.FOR_NOTHING
        self.on_change: Callable[[], None] | None = None
        self._max_running = max_running
        self._max_pending = max_pending

    @property
    def running(self) -> int:
        """The number of jobs with a slot."""
        return len(self.alive) - self.handing_over

    @property
    def handing_over(self) -> int:
        """The number of jobs that are being handed over."""
        return 0 if self.outlets is None else len(self.outlets.alive)

    @property
    def waiting(self) -> int:
        """The number of jobs that wait for a slot."""
        return len(self._waiting)

    @property
    def recording(self) -> int:
        """The number of jobs that wait for their journal."""
        return len(self.gates.recording)

    @property
    def delayed(self) -> int:
        """The number of jobs that wait for their delay."""
        return len(self.gates.pauses.ends) - self.retrying

    @property
    def retrying(self) -> int:
        """The number of jobs that wait for their next attempt."""
        return self.gates.pauses.retrying

    @property
    def limited(self) -> int:
        """The number of jobs that wait for a place of their limit."""
        return self.gates.limited_count

    def jobs(self) -> list[Job]:
        """Return every job that has not ended, the oldest first. From any thread.

        No job is missed that moves meanwhile: it enters its next place before it leaves the last one (`moving` comes
        after the inbox), and the places are copied in the order of its way, those on its way back twice.
        """
        found = dict.fromkeys(mail.job for mail in self.inbox if mail.job is not None)
        if (moving := self.moving) is not None:
            found[moving] = None
        for scope in list(self.holding):
            found.update(dict.fromkeys(list(scope._held or ())))
        for _ in range(2):
            for place in (
                self.gates.recording,
                self.gates.pauses.ends,
                self.gates.limited(),
                self._waiting,
                self.alive,
            ):
                found.update(dict.fromkeys(consistent(partial(list[Job], place))))
        return sorted((job for job in found if job.status not in ENDS), key=lambda job: job.id)

    @contextmanager
    def busy(self) -> Generator[None]:
        """Return a context in which calls from signal handlers and finalizers of this thread go by mail."""
        was_busy, self.is_busy = self.is_busy, True
        try:
            yield
        finally:
            self.is_busy = was_busy

    def _will_wait(self, job: Job, scope: Unit[Job] | None) -> Wait:
        """Return for what `job` will wait if it is taken now."""
        config = job.config
        limit = config.limit
        if self._max_pending is None and (limit is None or limit.max_pending is None):
            return Wait.FOR_NOTHING  # nobody counts it
        verdict = _START if scope is None else VERDICTS[scope._state][job.phase][config.when]
        if verdict is Verdict.DROP or (verdict is _START and self.gates.has_key_of(job)):
            return Wait.FOR_NOTHING
        will_record = self.keeper is not None and self.keeper.will_wait(job)
        if verdict is Verdict.HOLD or config.delay or not self._has_free_place(job) or will_record:
            return Wait.FOR_LATER
        if (order := order_of(job)) is not None:
            return Wait.FOR_NO_SLOT if order.outlet.has_room else Wait.FOR_LATER
        is_full = self.waiting > 0 or self._is_full(self._on_their_way(Wait.FOR_NOTHING))
        return Wait.FOR_SLOT if is_full else Wait.FOR_NOTHING

    def _take(self, job: Job, now: float) -> None:
        job._runner = self
        job._taken_at = now

    def _note_deferred(self, job: Job) -> None:
        """Note that a gated job waits for its phase."""
        self.gates.note_waits(job)
        if self.keeper is not None:
            self.keeper.note_deferred(job)

    def _has_free_place(self, job: Job) -> bool:
        """Return whether the limit of `job`, if there is one, has a place for it now."""
        limit = job.config.limit
        if limit is None:
            return True
        ahead = self._on_their_way(Wait.FOR_NOTHING, limit) + self._on_their_way(Wait.FOR_SLOT, limit)
        line = self.gates.line_of(job)  # last, as in `_count_pending()`
        taken, limited = (0, 0) if line is None else (len(line.held), len(line.limited))
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
            waiting = self._on_their_way(wait, limit)
            line = self.gates.line_of(job)  # last, as in `_count_pending()`
            held, waiting = (0, waiting) if line is None else (len(line.held), len(line.waiting) + waiting)
            if waiting >= limit.max_pending:
                raise TasksSaturatedError(held, waiting, 0, limit.max_pending, limit=limit)
        if self._max_pending is None or wait is Wait.FOR_NOTHING or wait is Wait.FOR_NO_SLOT:
            return
        if self._count_pending() >= self._max_pending:
            raise TasksSaturatedError(
                running=self.running,
                waiting=self.waiting + self._on_their_way(Wait.FOR_SLOT),
                deferred=self.deferred + self._on_their_way(Wait.FOR_LATER),
                max_pending=self._max_pending,
                delayed=self.delayed,
                limited=self.limited,
                recording=self.recording,
                handing_over=0 if self.outlets is None else self.outlets.waiting,
            )

    def _count_pending(self) -> int:
        """Return the number of jobs that count for `max_pending`."""
        # In the order of a job's way, as in `jobs()`. Otherwise a thread misses a job that the loop moves meanwhile,
        # and takes one too many. In this order a thread may count such a job twice, and refuse one. To count each job
        # once, every `schedule()` of the loop would need a lock.
        pending = self._on_their_way(Wait.FOR_SLOT) + self._on_their_way(Wait.FOR_LATER)
        pending += self.deferred + self.recording + self.delayed + self.limited + self.waiting
        if self.outlets is not None:
            pending += self.outlets.waiting
        return pending

    def _is_full(self, more: int = 0) -> bool:
        return self._max_running is not None and self.running + more >= self._max_running

    def _note_change(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _has_place(self, job: Job) -> bool:
        return (
            job in self.alive
            or job in self._waiting
            or job._unit is not None
            or job.status in ENDS
            or (job.config.is_gated and job in self.gates)
        )

    @abstractmethod
    def start(self, job: Job, leave: Callable[[Job], None] | None = None) -> None:
        """Bring `job` as far as it may go: to a gate, into the line for a slot, or to its start."""

    @abstractmethod
    def _place(self, job: Job, scope: Unit[Job] | None, maker: object) -> None:
        """Start, hold or drop a job, as its scope decides."""

    @abstractmethod
    def drop(self, job: Job, reason: str, *, level: int | None = None) -> None:
        """End a job that was never asked to start."""
