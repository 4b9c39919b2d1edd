"""The jobs of one host: which are alive, which wait for a slot or a phase, and which job gets the next slot."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from .._machine.config import TaskConfig
from .._machine.drain import DrainEvent
from .._machine.life import ENDS, NOT_DUE, LifeEvent, TaskStatus
from . import report
from .gates import Gates
from .job import Job
from .phases import Phases
from .seam import Seam
from .threads import Threads
from .watching import Observer, for_each, tell

# Each task needs these members (see `Symbol`).
_START = LifeEvent.START


class Runner(Phases):
    """The jobs of one host, or of one foreign task group. For the loop's thread, except as `Admission` says.

    *Invariant*: while `is_busy` is False, each job that was taken and has not ended is in one place: a mail,
    `deferred`, `gates`, `_waiting` or `alive`. A job without a place would be lost: the host closes without it.

    :ivar alive: the jobs that were asked to start, until their native tasks leave. The value is the native task, or
        None until the seam knows it: to cancel it, and to keep it from the garbage collector
    :ivar on_pause: called with a job that begins a pause; None unless the host drains
    :ivar on_change: called when a job has left a place; None unless the host drains
    :ivar ended: the number of jobs that have ended, by status
    """

    def __init__(
        self,
        seam: Seam[Job],
        *,
        host: Any = None,
        config: TaskConfig,
        max_running: int | None = None,
        max_pending: int | None = None,
        max_threads: int = 40,
        observers: tuple[Observer, ...] = (),
    ) -> None:
        super().__init__(seam, host, max_pending, observers)
        self.config = config
        self.threads: Threads[Job] = Threads(seam, max_threads, self._note_thread_ended)
        self.gates: Gates = Gates()
        self.alive: dict[Job, object] = {}
        self.on_pause: Callable[[Job], None] | None = None
        self.on_change: Callable[[], None] | None = None
        self.ended: dict[TaskStatus, int] = dict.fromkeys(ENDS, 0)
        self._max_running = max_running
        self._waiting: OrderedDict[Job, None] = OrderedDict()

    @property
    def running(self) -> int:
        """The number of jobs with a slot."""
        return len(self.alive)

    @property
    def waiting(self) -> int:
        """The number of jobs that wait for a slot."""
        return len(self._waiting)

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

    @property
    def idle(self) -> bool:
        """True if no job, no mail and no thread that was left behind is here."""
        jobs = self.alive or self._waiting or self.deferred or self.gates.pauses.ends or self.limited
        return not (jobs or self.has_mail or self.threads.left_behind)

    def jobs(self) -> Iterator[Job]:
        """Yield every job that has not ended, in any order. For the loop's thread."""
        yield from list(self.alive)
        yield from list(self._waiting)
        yield from list(self.deferred)
        yield from list(self.gates.pauses.ends)
        yield from list(self.gates.limited())
        yield from self.on_their_way()

    def snapshot(self) -> list[Job]:
        """Return every job that has not ended, the oldest first. From any thread.

        No job is missed that moves meanwhile: it enters its next place before it leaves the last one (`moving` comes
        after the inbox), and the places are copied in the order of its way, those on its way back twice.
        """
        found = dict.fromkeys(self.on_their_way())
        if (moving := self.moving) is not None:
            found[moving] = None
        found.update(dict.fromkeys(list(self.deferred)))
        for _ in range(2):
            for place in (self.gates.pauses.ends, self.gates.limited(), self._waiting, self.alive):
                found.update(dict.fromkeys(list(place)))
        return sorted((job for job in found if not job._has_ended), key=lambda job: job.id)

    def abort(self) -> None:
        """Close the runner now, and cancel all jobs: the code that runs the host is being stopped."""
        self.follow(DrainEvent.ABORT)
        self.cancel_all(self.jobs())

    def start(
        self,
        job: Job,
        leave: Callable[[Job], None] | None = None,
        *,
        past_gates: bool = False,
        has_slot: bool = False,
    ) -> None:
        """Bring `job` as far as it may go: to a gate, into the line for a slot, or to its start. Call this while
        `is_busy` is True: otherwise a finalizer may take the slot.

        :param leave: takes the job out of the place where it was
        :raises TasksClosedError: if the foreign task group is closed. Only `gates` may know the job then
        """
        watching, is_due = self.watching, False
        if watching is not None:
            is_due = job._status in NOT_DUE
        if job.config.is_gated and not (past_gates or has_slot) and self._stops(job, leave):
            return
        if self._max_running is not None and not has_slot and (self._waiting or self._is_full()):
            job._move(LifeEvent.QUEUE)
            self._waiting[job] = None
        else:
            native = self.seam.start(job)
            job._move(_START)
            self.alive[job] = native
        if leave is not None:
            leave(job)
        if watching is not None:
            tell(watching.due if is_due else watching.moved, job)

    def _stops(self, job: Job, leave: Callable[[Job], None] | None) -> bool:
        """Return True if `job` was dropped because of its key, or waits at a gate."""
        is_due = job._status in NOT_DUE
        if is_due and self.gates.has_key_of(job):
            self.drop(job, "another task of its function with the same key waits or runs", level=logging.DEBUG)
            return True
        if not self.gates.stop(job):
            return False
        if leave is not None:
            leave(job)
        if self.watching is not None:
            tell(self.watching.due if is_due else self.watching.moved, job)
        if self.on_pause is not None:
            self.on_pause(job)
        return True

    def adopt(self, job: Job) -> None:
        """Take and start a job that was never scheduled here, without the checks of `submit()`, and past its gates."""
        job._runner = self
        job._taken_at = self.clock()
        with self.busy():
            self.start(job, past_gates=True)

    def cancel(self, job: Job) -> None:
        """Ask a job to stop: at its next checkpoint if its code runs, otherwise it ends here. Idempotent."""
        status = job.status
        if job._has_ended or status in (TaskStatus.CANCELLING, TaskStatus.ABORTING):
            return
        if status in (TaskStatus.RUNNING, TaskStatus.HANDLING):
            scope = job._scope or job._set_scope(self.seam.enclose(self.alive[job]))
            job._move(LifeEvent.CANCEL)
            scope.cancel()
            if self.watching is not None:
                tell(self.watching.moved, job)
            return
        if status is TaskStatus.NEW and self.inbox.cancel_on_arrival(job):
            return
        self._let_go(job)
        self._waiting.pop(job, None)
        self.end(job, LifeEvent.CANCEL)
        self._note_change()

    def cancel_all(self, jobs: Iterable[Job]) -> None:
        """Ask all `jobs` to stop.

        :raises KeyboardInterrupt: if an observer or a log handler raises it; all jobs were asked to stop
        """
        for_each(self.cancel, list(jobs))  # all of them now: a place that is given back may start the next one

    def end(self, job: Job, event: LifeEvent, result: Any = None, error: BaseException | None = None) -> None:
        """Bring a job to its end, and count the end. During an attempt: in the context of the attempt.

        :param error: the exception of the attempt, a cancellation included
        """
        now = self.clock
        job._end(event, result, now())
        self.ended[job._status] += 1
        if job.config.is_gated:
            with self.busy():
                self.gates.forget(job, keep_place=job in self.alive)
        if self.watching is not None:
            try:
                if job._began_at is not None:
                    tell(self.watching.attempt_ended, job, error, None)
            finally:  # an observer may raise KeyboardInterrupt
                tell(self.watching.ended, job)

    def note_paused(self, job: Job, seconds: float) -> None:
        """Note that the attempt of `job` ends, and that the next one follows in `seconds`. While the runner is busy."""
        self.gates.pause(job, seconds)
        job._move(LifeEvent.RETRY)
        self.note_left(job)

    def resume(self, job: Job) -> None:
        """Bring a job further that was delayed, limited, or between attempts. While the runner is busy."""
        if self._mails and job in self.gates.pauses.ends:
            self._read_all()  # these jobs were scheduled before, and may have been promised a place
            if job._has_ended:  # by one of the mails
                return
        # `schedule()` has returned, and cannot raise. So cancel a job that cannot start (its task group was closed
        # meanwhile, or a task factory raises).
        try:
            self.start(job)
        except Exception as exc:
            self._cannot_start(job, exc)

    def bury(self) -> None:
        """End the jobs whose native tasks foreign code has cancelled before the first step."""
        for job, native in list(self.alive.items()):
            if self.seam.is_over(native):
                self.cancel(job)
                self.note_left(job)

    def note_left(self, job: Job) -> None:
        """Note that the native task of `job` leaves, and give its place and its slot to the next jobs in line."""
        del self.alive[job]
        if job.config.is_gated:
            self._give_back(job)
        if self._waiting:
            self._fill()
        if self.on_change is not None:
            self.on_change()

    def _give_back(self, job: Job) -> None:
        line = self.gates.line_of(job)
        if line is not None:
            with self.busy():
                self.gates.give_back(job, job, self.threads.left_behind_by(job, line.held))

    @staticmethod  # a bound method would make a reference cycle
    def _note_thread_ended(job: Job, slot: object) -> None:
        """Note that a thread has ended that has outlived its attempt."""
        runner = cast("Runner", job._runner)
        with runner.busy():
            runner.gates.give_back(job, slot)
        runner._note_change()

    def _is_full(self, more: int = 0) -> bool:
        return self._max_running is not None and self.running + more >= self._max_running

    def _has_place(self, job: Job) -> bool:
        return (
            job in self.alive
            or job in self._waiting
            or job in self.deferred
            or job._has_ended
            or (job.config.is_gated and job in self.gates)
        )

    def _fill(self) -> None:
        with self.busy():
            while self._waiting and not self._is_full():
                job = next(iter(self._waiting))
                try:
                    self.start(job, self._leave_line, has_slot=True)
                except Exception as exc:
                    self._cannot_start(job, exc)

    def _leave_line(self, job: Job) -> None:
        self._waiting.pop(job, None)

    def _cannot_start(self, job: Job, error: Exception) -> None:
        try:
            report.not_started(job, error)
        finally:  # a log handler may raise KeyboardInterrupt
            self.cancel(job)

    def _note_change(self) -> None:
        if self.on_change is not None:
            self.on_change()
