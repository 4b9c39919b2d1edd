"""The jobs of one host: which are alive, which wait for a slot or a phase, and which job gets the next slot."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from .._machine.config import TaskConfig
from .._machine.drain import DrainEvent
from .._machine.life import ENDS, LifeEvent, TaskStatus
from .._machine.scope import SCOPE, VERDICTS, ScopeEvent, Verdict, mismatch
from . import report
from .admission import Admission
from .job import Job
from .seam import Seam
from .threads import Threads
from .unit import Unit
from .watching import Observer, tell

# Each task needs these members (see `Symbol`).
_START, _DEFER = LifeEvent.START, LifeEvent.DEFER
_TO_START, _TO_HOLD = Verdict.START, Verdict.HOLD


class Runner(Admission):
    """The jobs of one host, or of one foreign task group. For the loop's thread, except as `Admission` says.

    *Invariant*: while `is_busy` is False, each job that was taken and has not ended is in one place: a mail,
    `deferred`, `_waiting` or `alive`. A job without a place would be lost: the host closes without it.

    :ivar alive: the jobs that were asked to start, until their native tasks leave; also between attempts. The value is
        the native task, or None until the seam knows it: to cancel it, and to keep it from the garbage collector
    :ivar deferred: the jobs that wait for their phase, each with its scope
    :ivar late: the scopes that are over while their routes still run
    :ivar pausing: the number of jobs that wait for their next attempt
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
        self.threads: Threads[Job] = Threads(seam, max_threads)
        self.alive: dict[Job, object] = {}
        self.deferred: dict[Job, Unit] = {}
        self.late: dict[Unit, None] = {}
        self.on_change: Callable[[], None] | None = None
        self.ended: dict[TaskStatus, int] = dict.fromkeys(ENDS, 0)
        self._max_running = max_running
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self.pausing: int = 0

    @property
    def running(self) -> int:
        """The number of jobs with a slot."""
        return len(self.alive) - self.pausing

    @property
    def waiting(self) -> int:
        """The number of jobs that wait for a slot."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """True if no job, no mail and no thread that was left behind is here."""
        return not (self.alive or self._waiting or self.deferred or self.has_mail or self.threads.left_behind)

    def jobs(self) -> Iterator[Job]:
        """Yield every job that has not ended, in any order. For the loop's thread."""
        yield from list(self.alive)
        yield from list(self._waiting)
        yield from list(self.deferred)
        yield from self.on_their_way()

    def snapshot(self) -> list[Job]:
        """Return every job that has not ended, the oldest first. From any thread.

        No job is missed that moves meanwhile: it enters its next place before it leaves the last one (`moving` comes
        after the inbox), and the places are copied in the order of its way, those on its way back twice.
        """
        found = dict.fromkeys(self.on_their_way())
        if (moving := self.moving) is not None:
            found[moving] = None
        for place in (self.deferred, self._waiting, self.alive, self._waiting, self.alive):
            found.update(dict.fromkeys(list(place)))
        return sorted((job for job in found if not job._has_ended), key=lambda job: job.id)

    def abort(self) -> None:
        """Close the runner now, and cancel all jobs: the code that runs the host is being stopped."""
        self.follow(DrainEvent.ABORT)
        for job in self.jobs():
            self.cancel(job)

    def _place(self, job: Job, scope: Unit | None, maker: object) -> None:
        verdict = _TO_START if scope is None else VERDICTS[scope._state, job.phase, job.config.when]
        if verdict is _TO_START:
            if self.watching is None or not self._is_held_back(job):
                self.start(job)
            if scope is not None:
                scope.unsettled = True
        elif verdict is _TO_HOLD:
            assert scope is not None
            job._move(_DEFER)
            if scope._held is None:
                scope._held = {}
            scope._held[job] = maker
            self.deferred[job] = scope
            if self.watching is not None:
                tell(self.watching.moved, job)
        else:
            self.drop(job, mismatch(job.config.when))

    def start(self, job: Job, *, has_slot: bool = False, leave: Callable[[Job], None] | None = None) -> None:
        """Ask `job` to start, or put `job` in line for a slot. Call this while `is_busy` is True: otherwise a finalizer
        may take the slot.

        :param leave: takes the job out of the place where it was
        :raises TasksClosedError: if the foreign task group is closed; nothing has changed
        """
        if self._max_running is not None and not has_slot and (self._waiting or self._is_full()):
            job._move(LifeEvent.QUEUE)
            self._waiting[job] = None
        else:
            native = self.seam.start(job)
            job._move(_START)
            self.alive[job] = native
        if leave is not None:
            leave(job)
        if self.watching is not None:
            tell(self.watching.moved if job.attempt or has_slot else self.watching.due, job)

    def adopt(self, job: Job) -> None:
        """Take and start a job that was never scheduled here, without the checks of `submit()`."""
        job._runner = self
        job._taken_at = self.clock()
        with self.busy():
            self.start(job)

    def release(self, job: Job) -> None:
        """Start a deferred job: its phase has come. If the job was cancelled meanwhile, do nothing."""
        scope = self.deferred.get(job)
        if scope is None:
            return
        try:
            if self.watching is not None and self._is_held_back(job):
                self._let_go(job)
            else:
                self.start(job, leave=self._let_go)
        except Exception as exc:
            self.drop(job, report.reason_of(exc))

    def _is_held_back(self, job: Job) -> bool:
        """Return whether a test holds back `job`, which is due. The runner then no longer has the job."""
        if self.watching is None or not any(holds(job) for holds in self.watching.holds):
            return False
        job._taken_at = None
        return True

    def route_of(self, job: Job) -> object:
        """Return the native task that runs the route for which `job` waits, or None."""
        scope = self.deferred.get(job)
        return None if scope is None else scope._owner

    def give_up(self, scope: Unit) -> None:
        """Stop waiting for the route of a late scope: drop the tasks of the scope."""
        if scope in self.late:
            del self.late[scope]
            scope._state = SCOPE[scope._state][ScopeEvent.GIVEN_UP]
            if self.watching is not None:
                with self.busy():
                    tell(self.watching.scope_changed, scope, "ended")
            for job in list(scope._held or ()):
                self.drop(job, "its route was still running when the host closed")

    def drop(self, job: Job, reason: str) -> None:
        """Drop a job that was never asked to start. If the job was cancelled meanwhile, or run by hand, do nothing."""
        if job._status in (TaskStatus.NEW, TaskStatus.DEFERRED):
            self._let_go(job)
            try:
                report.dropped(job, reason)
            finally:  # a log handler may raise KeyboardInterrupt
                if not job._has_ended:  # a log handler may have cancelled the job
                    self.end(job, LifeEvent.DROP)
                self._note_change()

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
        pause = job._scope  # of a job that is RETRYING; other jobs have none
        self._let_go(job)
        self._waiting.pop(job, None)
        self.end(job, LifeEvent.CANCEL)
        self._note_change()
        if pause is not None:
            pause.cancel()

    def end(self, job: Job, event: LifeEvent, result: Any = None, error: BaseException | None = None) -> None:
        """Bring a job to its end, and count the end. During an attempt: in the context of the attempt.

        :param error: the exception of the attempt, a cancellation included
        """
        now = self.clock
        job._end(event, result, now())
        self.ended[job._status] += 1
        if self.watching is not None:
            try:
                if job._began_at is not None:
                    tell(self.watching.attempt_ended, job, error, None)
            finally:  # an observer may raise KeyboardInterrupt
                tell(self.watching.ended, job)

    def _let_go(self, job: Job) -> None:
        scope = self.deferred.pop(job, None)
        if scope is not None and scope._held is not None:
            scope._held.pop(job, None)

    def note_paused(self) -> None:
        """Note that a job waits for its next attempt, and give its slot to the next job in line."""
        self.pausing += 1
        self._fill()

    def note_resumed(self, job: Job) -> None:
        """Note that the pause of `job` is over, and ask for the next attempt, unless `job` was cancelled meanwhile."""
        with self.busy():
            has_slot = not (self._waiting or self._is_full())
            if has_slot:
                self.pausing -= 1  # now, so that no finalizer takes the slot
            if not job._has_ended:
                self._start_late(job, has_slot=has_slot)
            if not has_slot:
                self.pausing -= 1
            if job._has_ended or job in self._waiting:
                self.note_left(job)

    def bury(self) -> None:
        """End the jobs whose native tasks foreign code has cancelled before the first step."""
        for job, native in list(self.alive.items()):
            if self.seam.is_over(native):
                self.cancel(job)
                self.note_left(job)

    def note_left(self, job: Job) -> None:
        """Note that the native task of `job` leaves, and give its slot to the next job in line."""
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
        with self.busy():
            while self._waiting and not self._is_full():
                job = next(iter(self._waiting))
                self._start_late(job, has_slot=True, leave=self._leave_line)

    def _leave_line(self, job: Job) -> None:
        self._waiting.pop(job, None)

    def _start_late(self, job: Job, *, has_slot: bool = False, leave: Callable[[Job], None] | None = None) -> None:
        # `schedule()` has returned, and cannot raise. So cancel a job that cannot start (its task group was closed
        # meanwhile, or a task factory raises).
        try:
            self.start(job, has_slot=has_slot, leave=leave)
        except Exception as exc:
            try:
                report.not_started(job, exc)
            finally:  # a log handler may raise KeyboardInterrupt
                self.cancel(job)

    def _note_change(self) -> None:
        if self.on_change is not None:
            self.on_change()
