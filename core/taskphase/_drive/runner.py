"""The jobs of one host: which are alive, which wait for a slot or a phase, and which job gets the next slot."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from threading import RLock
from typing import Any, cast
from weakref import WeakSet

from .._machine.config import AnyQueue, TaskConfig
from .._machine.drain import DRAIN, DrainEvent, DrainStage
from .._machine.life import ENDS, IN_ATTEMPT, NOT_DUE, TOLD_TO_STOP, LifeEvent, TaskStatus
from .._queue import Queue
from .enclosing import is_inside_library
from .hooks import Entry, Telling
from .job import Job, move, set_scope
from .keeping import AnyJournal, Keeper
from .kept import Kept
from .outlets import Outlets, bring_home
from .seam import Seam
from .threads import Threads
from .watching import for_each, tell, tell_all

# Each task needs these members (see `Symbol`).
_START = LifeEvent.START


_runners: WeakSet[Runner] = WeakSet()


class Runner(Kept):
    """The jobs of one host, or of one foreign task group. For the loop's thread, except as `Admission` says.

    :ivar on_pause: called with a job that begins a pause; None unless the host drains
    :ivar ended: the number of jobs that have ended, by status
    """

    stage: DrainStage  # with their types, because base classes have their slots
    outlets: Outlets | None
    keeper: Keeper | None
    prepares: bool
    __slots__ = ("ended", "on_pause", "threads")

    def __init__(
        self,
        seam: Seam[Job],
        *,
        host: Any = None,
        config: TaskConfig,
        max_running: int | None = None,
        max_pending: int | None = None,
        max_threads: int = 40,
        hooks: Iterable[Entry] = (),
        queues: tuple[Queue, ...] = (),
        journal: AnyJournal | None = None,
    ) -> None:
        super().__init__(seam, host, max_running, max_pending, hooks)
        self.outlets = Outlets(queues, config) if queues else None
        self.keeper = None if journal is None else journal._keeper_for(self, config)
        self.prepares = self.outlets is not None or self.keeper is not None
        self.threads: Threads[Job] = Threads(seam, max_threads, self._note_thread_ended)
        self.on_pause: Callable[[Job], None] | None = None
        self.ended: dict[TaskStatus, int] = dict.fromkeys(ENDS, 0)
        _runners.add(self)

    @property
    def idle(self) -> bool:
        """True if no job, no mail, no thread that was left behind and no row to write is here."""
        jobs = self.alive or self._waiting or self.deferred or self.gates.pauses.ends or self.limited or self.recording
        unwritten = self.keeper is not None and self.keeper.has_unwritten
        return not (jobs or unwritten or self._mails or self.threads.left_behind)

    def follow(self, event: DrainEvent) -> None:
        """Enter the next stage of the drain."""
        # With the lock: each job that a thread was allowed to schedule in the last stage is in the inbox by now.
        with self._lock:
            self.stage = DRAIN[self.stage][event]
            self._is_selective = True

    def close(self) -> bool:
        """Close the runner, unless it has a job or a mail. Return True if it is closed: it then refuses all jobs."""
        # Busy: a job that an interruption schedules comes by mail, and between the last two lines none can come.
        with self.busy(), self._lock:
            closed = DRAIN[self.stage][DrainEvent.IDLE]
            if self.idle and not self._mails:
                self.stage = closed
        return self.stage is DrainStage.CLOSED

    def abort(self) -> None:
        """Close the runner now, and cancel all jobs: the code that runs the host is being stopped."""
        self.follow(DrainEvent.ABORT)
        self.cancel_all(self.jobs())

    def start(
        self,
        job: Job,
        leave: Callable[[Job], None] | None = None,
        past_gates: bool = False,  # (Python 3.11 is slow at calling a function with keyword-only parameters)
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
        if job.config.is_gated:
            if not (past_gates or has_slot) and self._stops(job, leave):
                return
            has_slot = has_slot or isinstance(job.config.queue, AnyQueue)  # which needs none
        if self._max_running is not None and not has_slot and (self._waiting or self._is_full()):
            move(job, LifeEvent.QUEUE)
            self._waiting[job] = None
        else:
            native = self.seam.start(job)
            move(job, _START)
            self.alive[job] = native
            if self.prepares:
                self._note_entered(job)
        if leave is not None:
            leave(job)
        if watching is not None:
            tell(watching.due if is_due else watching.moved, self.telling, job)

    def _stops(self, job: Job, leave: Callable[[Job], None] | None) -> bool:
        """Return True if `job` was dropped because of its key, or waits at a gate."""
        is_due = job.status in NOT_DUE
        if is_due and self.gates.has_key_of(job):
            self.drop(job, "another task of its function with the same key waits or runs", level=logging.DEBUG)
            return True
        if is_due and self.keeper is not None and self.keeper.ask_for_write(job):
            self.gates.record(job)
        elif not self.gates.stop(job):
            return False
        if leave is not None:
            leave(job)
        if self.watching is not None:
            tell(self.watching.due if is_due else self.watching.moved, self.telling, job)
        if self.on_pause is not None:
            self.on_pause(job)
        return True

    def adopt(self, job: Job) -> None:
        """Take and start a job that was never scheduled here, without the checks of `submit()`, and past its gates.

        Without queues the job runs here, also if it is for a queue.

        :raises TasksUnportableError: if it is for a process, too, which cannot make the call
        """
        if self.outlets is None and isinstance(job.config.queue, AnyQueue):
            bring_home(job)
        self._take(job, self.stamp())
        with self.busy():
            self.start(job, past_gates=True)

    def cancel(self, job: Job) -> None:
        """Ask a job to stop: at its next checkpoint if its code runs, otherwise it ends here. Idempotent."""
        status = job.status
        if status in ENDS or status in TOLD_TO_STOP:
            return
        if status in IN_ATTEMPT:
            scope = job._scope
            if scope is None:
                native = self.alive[job]
                if native is self.seam.running() and is_inside_library():
                    self.call(partial(self.cancel, job), soon=True)
                    return
                set_scope(job, scope := self.seam.enclose(native))
            move(job, LifeEvent.CANCEL)
            scope.cancel()
            if self.watching is not None:
                tell(self.watching.moved, self.telling, job)
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
        for_each(self.cancel, list(jobs))  # a list, because each cancellation changes the place that yields them

    def end(
        self,
        job: Job,
        event: LifeEvent,
        result: Any = None,
        error: BaseException | None = None,
        telling: Telling | None = None,
    ) -> None:
        """Bring a job to its end, and count the end. During an attempt: in the context of the attempt.

        :param error: the exception of the attempt, a cancellation included
        :param telling: of this thread, if it may be another one than the loop's
        """
        stamp = self.stamp
        job._end(event, result, stamp())
        self.ended[job._status] += 1
        if job.config.is_gated:
            with self.busy():
                self.gates.forget(job, keep_place=job in self.alive)
            if self.keeper is not None:
                self.keeper.note_ended(job)
        if self.watching is not None:
            telling = telling or self.telling
            try:
                if job._began_at is not None:
                    tell_all(self.watching.attempt_ended, telling, (job, error, None))
            finally:  # an observer may raise KeyboardInterrupt
                tell(self.watching.ended, telling, job)

    def note_paused(self, job: Job, seconds: float) -> None:
        """Note that the attempt of `job` ends, and that the next one follows in `seconds`. While the runner is busy."""
        self.gates.pause(job, seconds)
        move(job, LifeEvent.RETRY)
        self.note_left(job)

    def resume(self, job: Job) -> None:
        """Bring a job further that was recorded, delayed, limited, or between attempts. While the runner is busy."""
        if self._mails and job.status is not TaskStatus.LIMITED:
            self._read_all()  # the jobs in the mails were scheduled earlier, and may have been promised a place
            if job.status in ENDS:  # by one of the mails
                return
        # `schedule()` has returned, and cannot raise. So cancel a job that cannot start (its task group was closed
        # meanwhile, or a task factory raises).
        try:
            self.start(job)
        except Exception as exc:
            self._cannot_start(job, exc)

    def bury(self, job: Job) -> None:
        """End `job`: foreign code has cancelled its native task before the first step."""
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
        if self.outlets is not None:
            self.outlets.leave(job)
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


def _close_in_child() -> None:
    """Close all runners: in a child of `fork()` no event loop runs their tasks."""
    for runner in list(_runners):
        runner._lock = RLock()  # another thread may have held it
        if runner.stage is not DrainStage.CLOSED:
            runner.follow(DrainEvent.ABORT)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_in_child)
