"""Who is alive, who waits for a slot or a phase, and who gets the next slot."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .._machine.config import TaskConfig
from .._machine.drain import DrainEvent
from .._machine.life import ENDS, LifeEvent, TaskStatus
from .._machine.scope import Verdict
from . import report
from .admission import Admission, reason_of
from .job import Held, Job
from .seam import Seam
from .threads import Threads

# What every task passes (see `Symbol`).
_START, _DEFER = LifeEvent.START, LifeEvent.DEFER


class LateScope(Protocol):
    """A scope that is over while its route still runs."""

    def give_up(self) -> None:
        """Drop what the route has scheduled. The outcome of the route is not waited for any longer."""
        ...


class Runner(Admission):
    """The tasks of one host, or of one foreign task group. Belongs to the loop's thread, but for what `Admission` says.

    :ivar alive: the jobs that were asked to start, until the end of the last attempt, pauses between attempts included;
        the value is the native task, as soon as the seam knows it: to keep it from the garbage collector, to cancel it
    :ivar deferred: the jobs that wait for their phase; the value is where their route holds them
    :ivar late: the scopes that are over while their routes still run
    :ivar on_change: called whenever a job has gone from `alive`, `waiting` or `deferred`; None unless somebody drains
    :ivar ended: how many jobs have ended, by status
    """

    def __init__(
        self,
        seam: Seam,
        *,
        host: Any = None,
        config: TaskConfig,
        max_running: int | None = None,
        max_pending: int | None = None,
        max_threads: int = 40,
    ) -> None:
        super().__init__(seam, max_pending)
        self.host = host
        self.config = config
        self.threads = Threads(seam, max_threads)
        self.alive: dict[Job, object] = {}
        self.deferred: dict[Job, Held] = {}
        self.late: dict[LateScope, None] = {}
        self.on_change: Callable[[], None] | None = None
        self.ended = dict.fromkeys(ENDS, 0)
        self._max_running = max_running
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self._pausing = 0

    @property
    def running(self) -> int:
        """How many jobs hold a slot."""
        return len(self.alive) - self._pausing

    @property
    def waiting(self) -> int:
        """How many jobs wait for a slot."""
        return len(self._waiting)

    @property
    def pausing(self) -> int:
        """How many jobs wait for their next attempt."""
        return self._pausing

    @property
    def completed(self) -> int:
        """How many jobs have ended without having been cancelled."""
        return sum(self.ended.values()) - self.ended[TaskStatus.CANCELLED]

    @property
    def idle(self) -> bool:
        """Whether nothing of it is alive, threads that were left behind included."""
        return not (self.alive or self._waiting or self.deferred or self.has_mail or self.threads.left_behind)

    def jobs(self) -> Iterator[Job]:
        """Yield every job that has not ended, in no order that means anything."""
        yield from list(self.alive)
        yield from list(self._waiting)
        yield from list(self.deferred)
        yield from self.on_their_way()

    def abort(self) -> None:
        """Refuse whatever comes from now on, and cancel what has no native task that would be cancelled by others."""
        self.follow(DrainEvent.ABORT)
        for job in self.jobs():
            self.cancel(job)

    def start(self, job: Job, *, has_slot: bool = False) -> None:
        """Ask for a start, or queue for a slot. The runner is busy meanwhile, so that no finalizer takes the free slot.

        :raises TasksClosedError: if the task group of somebody else is closed; nothing has changed
        """
        if self._max_running is not None and not has_slot and (self._waiting or self._is_full()):
            job._move(LifeEvent.QUEUE)
            self._waiting[job] = None
            return
        native = self.seam.start(job)
        job._move(_START)
        self.alive[job] = native

    _place = start  # what is in no scope is started, whatever its phase

    def _verdict(self, job: Job) -> Verdict:  # noqa: ARG002
        return Verdict.START

    def adopt(self, job: Job) -> None:
        """Take and start a job that nobody has scheduled here, whatever `submit()` would say of it."""
        job._runner = self
        with self.busy():
            self.start(job)

    def defer(self, job: Job, held: Held, maker: object = None) -> None:
        """Hold `job` in `held` until its phase comes."""
        job._move(_DEFER)
        held[job] = maker
        self.deferred[job] = held

    def release(self, job: Job) -> None:
        """Start a deferred job, whose phase has come. If it was cancelled meanwhile nothing happens."""
        held = self.deferred.get(job)
        if held is None:
            return
        self.moving, self._moves_to_wait = job, True
        del self.deferred[job]
        held.pop(job, None)
        try:
            self.start(job)
        except Exception as exc:
            self.drop(job, reason_of(exc))
        finally:
            self.moving = None

    def drop(self, job: Job, reason: str) -> None:
        """End a job that has not been started. If it was cancelled meanwhile, or run by hand, nothing happens."""
        if job._status in (TaskStatus.NEW, TaskStatus.DEFERRED):
            self._let_go(job)
            try:
                report.dropped(job, reason)
            finally:  # an interrupt may come out of a log handler
                if not job._has_ended:  # a log handler may have cancelled it
                    self.end(job, LifeEvent.DROP)
                self._changed()

    def cancel(self, job: Job) -> None:
        """Ask a job to stop: at once if no code of it runs, at its next checkpoint if some does. Idempotent."""
        status = job.status
        if job._has_ended or status in (TaskStatus.CANCELLING, TaskStatus.ABORTING):
            return
        if status in (TaskStatus.RUNNING, TaskStatus.HANDLING):
            if job._scope is None:
                job._scope = self.seam.enclose(self.alive[job])
            job._move(LifeEvent.CANCEL)
            job._scope.cancel()
            return
        pause = job._scope  # of one that is RETRYING; others have none
        self._let_go(job)
        self._waiting.pop(job, None)
        self.end(job, LifeEvent.CANCEL)
        self._changed()
        if pause is not None:
            pause.cancel()

    def end(self, job: Job, event: LifeEvent, result: Any = None) -> None:
        """End and count a job."""
        job._end(event, result)
        self.ended[job._status] += 1

    def _let_go(self, job: Job) -> None:
        held = self.deferred.pop(job, None)
        if held is not None:
            held.pop(job, None)

    def paused(self) -> None:
        """Note that a job waits for its next attempt, and give its slot to the next in line."""
        self._pausing += 1
        self._fill()

    def resumed(self, job: Job) -> None:
        """Ask for the next attempt at `job`, unless it was cancelled while it waited."""
        with self.busy():
            self._pausing -= 1
            self.left(job)
            if not job._has_ended:
                self._start_late(job)

    def bury(self) -> None:
        """Note the end of jobs whose native tasks somebody else has cancelled before their first step."""
        for job, native in list(self.alive.items()):
            if self.seam.is_over(native):
                self.cancel(job)
                self.left(job)

    def left(self, job: Job) -> None:
        """Note that the native task of `job` is at its end, and give its slot to the next in line."""
        del self.alive[job]
        if self._waiting:
            self._fill()
        if self.on_change is not None:
            self.on_change()

    def _is_full(self, more: int = 0) -> bool:
        return self._max_running is not None and self.running + more >= self._max_running

    def _has_place(self, job: Job) -> bool:
        return job in self.alive or job in self._waiting or job in self.deferred or job._has_ended

    def _fill(self) -> None:
        was_busy, self.is_busy = self.is_busy, True
        try:
            while self._waiting and not self._is_full():
                job = next(iter(self._waiting))
                self.moving, self._moves_to_wait = job, False
                del self._waiting[job]
                self._start_late(job, has_slot=True)
        finally:
            self.moving = None
            self.is_busy = was_busy

    def _start_late(self, job: Job, *, has_slot: bool = False) -> None:
        # The caller of `schedule()` has long gone: what cannot be started (its task group was closed meanwhile, a task
        # factory raises) is cancelled.
        try:
            self.start(job, has_slot=has_slot)
        except Exception as exc:
            try:
                report.not_started(job, exc)
            finally:  # an interrupt may come out of a log handler
                self.cancel(job)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()
