"""Who is alive, who waits for a slot or a phase; admission and limits."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from threading import Lock, get_ident
from typing import Any, NamedTuple

from .._machine.config import TaskConfig
from .._machine.drain import DRAIN, DrainEvent, DrainStage, accepts
from .._machine.life import ENDS, LifeEvent, TaskStatus
from .._machine.scope import Verdict
from ..errors import TasksClosedError, TasksSaturatedError
from . import report
from .current import JOB
from .job import Job
from .recording import RECORDERS, Placer, recorded
from .seam import Seam
from .threads import Threads

# What every task passes (see `Symbol`).
_OPEN = DrainStage.OPEN
_START, _DEFER = LifeEvent.START, LifeEvent.DEFER


class _Mail(NamedTuple):
    """A job on its way from a thread. `pending`: it will not start when it arrives."""

    job: Job
    place: Callable[[Job], None]
    pending: bool


class Runner:
    """The tasks of one host, or of one foreign task group.

    All of it belongs to the loop's thread, except `submit()` and `call()`, which may be called from any.

    :ivar alive: the jobs that were asked to start, until the end of the last attempt, pauses between attempts included;
        the value is the native task, as soon as the seam knows it: to keep it from the garbage collector, to cancel it
    :ivar on_change: called whenever a job has gone from `alive`, `waiting` or `deferred`; None unless somebody drains
    :ivar on_admit: called with each job that has been taken, and that no recorder has taken out again; None unless
        somebody drains
    :ivar ended: how many jobs have ended, by status
    """

    def __init__(
        self,
        seam: Seam,
        *,
        host: object | None = None,
        config: TaskConfig,
        max_running: int | None = None,
        max_pending: int | None = None,
        max_threads: int = 40,
    ) -> None:
        self.seam = seam
        self.host = host
        self.config = config
        self.stage = DrainStage.OPEN
        self.threads = Threads(seam, max_threads)
        self.alive: dict[Job, object] = {}
        self.deferred: dict[Job, None] = {}
        self.on_change: Callable[[], None] | None = None
        self.on_admit: Callable[[Job], None] | None = None
        self.ended = dict.fromkeys(ENDS, 0)
        self._max_running = max_running
        self._max_pending = max_pending
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self._pausing = 0
        self._inbox: deque[_Mail] = deque()
        self._lock = Lock()

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
        return not (self.alive or self._waiting or self.deferred or self._inbox or self.threads.left_behind)

    def jobs(self) -> Iterator[Job]:
        """Yield every job that has not ended, in no order that means anything."""
        yield from list(self.alive)
        yield from list(self._waiting)
        yield from list(self.deferred)
        yield from [mail.job for mail in tuple(self._inbox) if not mail.job._has_ended]

    # Admission: from any thread.

    def submit(self, job: Job, placer: Placer) -> None:
        """Take `job`, or refuse it with nothing changed; `placer` puts it where it belongs, in the loop's thread.

        :raises TasksClosedError: if tasks are no longer taken from the caller
        :raises TasksSaturatedError: if it would have to wait and `max_pending` others do
        """
        if get_ident() == self.seam.thread:
            if self.stage is not _OPEN or self._max_pending is not None:
                self._admit(pending=self._will_pend(job, placer))
            job._runner = self
            if RECORDERS:
                recorded(self, job, placer)(job)
            else:
                placer._place(job)
            if self.on_admit is not None and not job._is_new:
                self.on_admit(job)
            return
        with self._lock:
            pending = self._will_pend(job, placer)
            self._admit(pending=pending)
            try:
                # What it reads, which needs the lock, is put there below.
                self.seam.call_from_thread(self._read_inbox)
            except RuntimeError as exc:
                raise TasksClosedError("the event loop has ended") from exc
            job._runner = self
            place = recorded(self, job, placer) if RECORDERS else placer._place
            self._inbox.append(_Mail(job, place, pending))

    def call(self, func: Callable[[Job], None], job: Job) -> None:
        """Call `func(job)` in the loop's thread: now if this is it, else soon."""
        if get_ident() == self.seam.thread:
            func(job)
        else:
            self.seam.call_from_thread(lambda: func(job))

    def _admit(self, *, pending: bool) -> None:
        by = JOB.get()
        by_shielded = by is not None and by.config.shielded and by._runner is self and not by._has_ended
        if not accepts(self.stage, by_shielded=by_shielded):
            raise TasksClosedError(f"the task host is {self.stage.value} and takes no more tasks")
        if self._max_pending is None or not pending:
            return
        if self.waiting + len(self.deferred) + self._on_their_way(pending=True) >= self._max_pending:
            raise TasksSaturatedError(
                running=self.running,
                waiting=self.waiting,
                deferred=len(self.deferred),
                max_pending=self._max_pending,
            )

    def _will_pend(self, job: Job, placer: Placer) -> bool:
        if self._max_pending is None:
            return False
        verdict = placer._verdict(job)
        if verdict is Verdict.DROP:
            return False
        return verdict is Verdict.HOLD or self._is_full(self._on_their_way(pending=False))

    def _on_their_way(self, *, pending: bool) -> int:
        return sum(mail.pending is pending for mail in tuple(self._inbox))

    def _read_inbox(self) -> None:
        # One job a call, and one call a job: threads that schedule without pause do not keep the loop here.
        with self._lock:
            mail = self._inbox.popleft() if self._inbox else None
        if mail is not None:
            job, place, _ = mail
            if not job._has_ended:
                try:
                    place(job)
                except TasksClosedError as exc:  # a task group of somebody else, closed meanwhile
                    self.drop(job, str(exc))
            if self.on_admit is not None and not job._is_new:
                self.on_admit(job)
            self._changed()

    def follow(self, event: DrainEvent) -> None:
        """Bring the drain on to its next stage. What a thread was allowed to schedule before is in the inbox then."""
        with self._lock:
            self.stage = DRAIN[self.stage][event]

    def close(self) -> bool:
        """Refuse whatever comes from now on. Not if something is on its way from a thread: then return False."""
        with self._lock:
            if not self._inbox:
                self.stage = DRAIN[self.stage][DrainEvent.IDLE]
        return self.stage is DrainStage.CLOSED

    def abort(self) -> None:
        """Refuse whatever comes from now on, and cancel what has no native task that would be cancelled by others."""
        self.follow(DrainEvent.ABORT)
        for job in self.jobs():
            self.cancel(job)

    # From here on: the loop's thread only.

    def start(self, job: Job, *, has_slot: bool = False) -> None:
        """Ask for a start, or queue for a slot.

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
        self.start(job)

    def defer(self, job: Job) -> None:
        """Hold `job` until its phase comes."""
        job._move(_DEFER)
        self.deferred[job] = None

    def release(self, job: Job) -> None:
        """Start a deferred job, whose phase has come. If it was cancelled meanwhile nothing happens."""
        if job in self.deferred:
            del self.deferred[job]
            try:
                self.start(job)
            except TasksClosedError as exc:
                self.drop(job, str(exc))

    def drop(self, job: Job, reason: str) -> None:
        """End a job that has not been started. If it was cancelled meanwhile, or run by hand, nothing happens."""
        if job._status in (TaskStatus.NEW, TaskStatus.DEFERRED):
            self.deferred.pop(job, None)
            report.dropped(job, reason)
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
        self.deferred.pop(job, None)
        self._waiting.pop(job, None)
        self.end(job, LifeEvent.CANCEL)
        self._changed()
        if pause is not None:
            pause.cancel()

    def end(self, job: Job, event: LifeEvent, result: Any = None) -> None:
        """End and count a job."""
        job._end(event, result)
        self.ended[job._status] += 1

    def paused(self) -> None:
        """Note that a job waits for its next attempt, and give its slot to the next in line."""
        self._pausing += 1
        self._fill()

    def resumed(self, job: Job) -> None:
        """Ask for the next attempt at `job`, unless it was cancelled while it waited."""
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

    def _fill(self) -> None:
        while self._waiting and not self._is_full():
            job, _ = self._waiting.popitem(last=False)
            self._start_late(job, has_slot=True)

    def _start_late(self, job: Job, *, has_slot: bool = False) -> None:
        # The caller of `schedule()` has long gone: a task group that was closed meanwhile cancels the job.
        try:
            self.start(job, has_slot=has_slot)
        except TasksClosedError:
            self.cancel(job)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()
