"""Take new jobs or refuse them, and bring them into the thread of the event loop.

`submit()` has two ways:

- Direct: a task of the loop calls `submit()`, and no other call is at work. The job gets its place at once.
- By mail: every other call. The job goes into the inbox, and the loop is told to read one mail.

Mails keep the order of `schedule()`: a direct call first reads all mails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import RLock, get_ident
from typing import Any

from .._machine.calling import shown
from .._machine.drain import DrainStage, accepts, refusal
from .._machine.life import ENDS, LifeEvent, TaskStatus
from .._machine.scope import OVER, Verdict
from ..errors import TasksClosedError, TasksError
from . import report
from .current import scope_here
from .hooks import Entry, Telling, Watching, telling_here
from .inbox import Mail, Wait, check_room
from .job import JOB, Job
from .outlets import prepare
from .places import Places
from .seam import Seam
from .unit import Unit
from .watching import tell_all, watch

# Each task needs these members (see `Symbol`).
_NEW = TaskStatus.NEW
_START = Verdict.START


class Admission(Places):
    """The part of a runner that takes jobs.

    Any thread may call `submit()`, `call()` and `note_refused()`, so what they call runs in any thread: `_reserve()`
    and `_admit()` under `_lock`. `_place()` and `_read_mails()` are for the loop's thread.

    *Interruptions*: a signal handler or a finalizer may interrupt the loop's thread anywhere, also in this class, and
    call `submit()`. While a change here is half done, `is_busy` is True, and such a call goes by mail. `_lock` is an
    `RLock`, because the interrupted code may hold it.

    *Invariant*, with `max_pending`: each job counts, as a mail, as `moving` or by its place. Otherwise an interruption
    admits one job too many.

    :ivar stage: the stage of the drain
    :ivar on_admit: called with each job that has got a place; None unless the host closes
    :ivar watching: the hooks of the observers; None if there are none
    """

    is_busy: bool
    __slots__ = (
        "__weakref__",
        "_has_running",
        "_is_selective",
        "_lock",
        "_reserved",
        "_thread",
        "hooks",
        "host",
        "on_admit",
        "seam",
        "stage",
        "stamp",
        "telling",
        "watching",
    )

    def __init__(
        self,
        seam: Seam[Job],
        host: Any,
        max_running: int | None,
        max_pending: int | None,
        hooks: Iterable[Entry],
    ) -> None:
        super().__init__(max_running, max_pending)
        self.seam: Seam[Job] = seam
        self.host: Any = host
        self.stage: DrainStage = DrainStage.OPEN
        self._is_selective: bool = max_pending is not None  # True if a job may be refused
        self.on_admit: Callable[[Job], None] | None = None
        self.hooks: tuple[Entry, ...] = ()
        self.watching: Watching | None = None
        self.telling: Telling = telling_here()  # of the loop's thread
        watch(self, hooks)
        self._lock = RLock()
        self._reserved = 0
        self.stamp: Callable[[], float] = seam.stamp
        self._thread, self._has_running = seam.thread, seam.has_running

    def submit(self, job: Job, scope: Unit[Job] | None = None, maker: object = None) -> None:  # noqa: C901 - a call costs
        """Take `job`, or refuse `job` and change nothing. From any thread. `_place()` then decides, in the loop's
        thread: start, hold or drop.

        :param scope: the scope of the job; None: the job starts, whatever its phase
        :param maker: see `Unit._held`
        :raises TasksClosedError: if the host takes no more tasks from the caller
        :raises TasksSaturatedError: if the job would have to wait, and `max_pending` jobs wait already
        :raises RuntimeError: if another event loop runs in the loop's thread
        :raises TasksUnportableError: if a queue or a journal takes the job, and cannot carry its call
        :raises ValueError: if `queue=` names a queue of another host
        """
        if self.prepares or job.config.queue is not None:
            prepare(job, scope, self.outlets, self.keeper)
        has_running = self._has_running  # (Python 3.11 is slow at calling an attribute of an object)
        if (
            self.is_busy
            or get_ident() != self._thread
            or not has_running()
            or self.telling.now  # no observer is called inside itself
        ):
            self._submit_by_mail(job, scope, maker)
            return
        self.is_busy = True
        try:
            if self._mails:
                self._read_all()  # these jobs were scheduled before
            limit = job.config.limit
            if self._is_selective or (limit is not None and limit.max_pending is not None):
                with self._lock:
                    self._reserve(job, scope, maker, by_mail=False)
            job._runner = self
            stamp = self.stamp  # (as above)
            job._taken_at = stamp()
            if self.watching is not None:
                self.moving = job
                if self.watching.scheduled:
                    self._tell_scheduled(job, scope, self.telling)
                self._place(job, scope, maker)
            elif scope is None:
                self.start(job)
            else:
                self._place(job, scope, maker)
            if self.on_admit is not None and self._has_place(job):
                self.on_admit(job)
        except BaseException as exc:
            self._refuse(job, exc)
            raise
        finally:
            self.moving = None
            self.is_busy = False

    def _submit_by_mail(self, job: Job, scope: Unit[Job] | None, maker: object) -> None:
        self.seam.check_loop()
        try:
            with self._lock:
                mail = self._reserve(job, scope, maker, by_mail=True)
                self._take(job, self.stamp())
                if self.watching is None:
                    self._wake(self._read_mails, job)  # `_read()` waits for the lock
                    return
                mail.is_told = not telling_here().now
                mail.is_ready = not mail.is_told
        except BaseException as exc:
            self._refuse(job, exc, by_mail=True)
            raise
        # Without the lock: observers run the user's code, and may take locks of their own.
        try:
            if mail.is_told:
                self._tell_scheduled(job, scope, telling_here())
        except BaseException:  # an interrupt
            mail.is_cancelled = True
            raise
        finally:
            mail.is_ready = True
            try:
                self._wake(self._read_mails, job)
            except TasksClosedError as exc:
                self._refuse(job, exc, by_mail=True, is_told=mail.is_told)
                raise

    def _refuse(self, job: Job, error: BaseException, *, by_mail: bool = False, is_told: bool = True) -> None:
        """Undo the part of `submit()` that was done for `job`, and tell the observers.

        :param by_mail: True if the job is at no gate yet. This may be another thread, or an interruption of the gates
        :param is_told: False if the observers do not know the job, though it was taken
        """
        self.inbox.remove_job(job)
        if job.status is not _NEW:
            return  # KeyboardInterrupt of an observer came too late: the job is in its place
        if job.config.is_gated and not by_mail:
            self.gates.forget(job, keep_place=False)
        if is_told and self.watching is not None and not job._is_new:
            self.end(job, LifeEvent.DROP, telling=telling_here())  # the observers know the job, so the job must end
            return
        job._taken_at = None
        if isinstance(error, TasksError):
            self.note_refused(job.func, error)

    def note_refused(self, func: Callable[..., Any], error: TasksError) -> None:
        """Tell the observers that `schedule(func)` raises `error`. From any thread."""
        # An observer that schedules is not told: it might schedule again, without end.
        if self.watching is not None and not telling_here().now:
            tell_all(self.watching.refused, telling_here(), (func, error))

    def _tell_scheduled(self, job: Job, scope: Unit[Job] | None, telling: Telling) -> None:
        if self.watching is not None and self.watching.scheduled:
            if scope is None:
                scope = scope_here(self.host)
                if scope is not None and scope._state in OVER:
                    scope = None  # code that a scope has left behind
            tell_all(self.watching.scheduled, telling, (job, scope))

    def _wake(self, callback: Callable[[], None], job: Job | None = None) -> None:
        try:
            self.seam.call_from_thread(callback)
        except RuntimeError as exc:
            lost = "" if job is None else f", so {shown(job.function)} was not scheduled"
            raise TasksClosedError(f"the event loop has ended{lost}: schedule while the task host is open") from exc

    def call(self, func: Callable[[], None], *, soon: bool = False) -> None:
        """Call `func()` in the loop's thread: now if the loop runs here, and no observer does. Otherwise, or if `soon`
        is set, after all earlier mails.

        :raises TasksClosedError: if the loop has ended; `RecursionError` if the stack has no room: nothing has changed
        """
        check_room()
        if soon or self.is_busy or not self.seam.runs_here() or self.telling.now:
            self._mails.append(Mail(None, call=func))
            self._wake(self._read_mails)
            return
        with self.busy():
            func()
        if not self.seam.is_here():
            self._wake(self._read_mails)  # this may be a signal handler, and the loop asleep

    def _reserve(self, job: Job, scope: Unit[Job] | None, maker: object, *, by_mail: bool) -> Mail:
        """Count `job`, or refuse `job` because of the stage or `max_pending`.

        An interruption between the count and the decision may count another job. Then `_reserved` has changed, and the
        loop decides again. No interruption is possible between the comparison and the next line.
        """
        while True:
            reserved = self._reserved
            wait = self._will_wait(job, scope)
            self._admit(job, wait)
            mail = Mail(job, scope, maker, wait)
            if reserved == self._reserved:  # otherwise an interruption has taken a place. From here on none can, ...
                self._reserved += 1
                if by_mail:
                    self._mails.append(mail)  # ... because this calls no Python function, where one could come
                else:
                    self.moving, self._moves_to = job, wait
                return mail

    def _admit(self, job: Job, wait: Wait) -> None:
        by = JOB.get()
        by_shielded = by is not None and by.status not in ENDS and by._runner is self and by.config.shielded
        if not accepts(self.stage, by_shielded=by_shielded):
            raise TasksClosedError(refusal(self.stage, shown(job.function)))
        self._check_room(job, wait)

    def _read_mails(self) -> None:
        # All mails that are there, because another thread may not yet have woken the loop for an earlier mail. No more:
        # threads that schedule without pause do not block the loop.
        with self.busy():
            self._read_all()

    def _read_all(self) -> None:
        for _ in range(len(self._mails)):
            self._read()

    def _read(self) -> None:
        with self._lock:
            mail = self.inbox.first_ready()
            if mail is None:
                return  # no mail; or a thread is about to make its mail ready, and then wakes the loop again
            self.moving, self._moves_to = mail.job, mail.wait
            self._mails.remove(mail)
        job = mail.job
        if mail.call is not None:
            mail.call()
        elif job is not None and job.status not in ENDS:
            self._arrive(job, mail)
        self.moving = None
        if self.on_admit is not None and job is not None and self._has_place(job):
            self.on_admit(job)
        self._note_change()

    def _arrive(self, job: Job, mail: Mail) -> None:
        try:
            if not mail.is_told:
                job._run_in_context(self._tell_scheduled, job, mail.scope, self.telling)
        finally:  # an interrupt may come out of an observer
            if mail.is_cancelled:
                self.cancel(job)
            else:
                self._place_late(job, mail)

    def _place_late(self, job: Job, mail: Mail) -> None:
        try:
            self._place(job, mail.scope, mail.maker)
        except Exception as exc:  # a foreign task group was closed meanwhile; or a task factory has raised
            self.drop(job, report.reason_of(exc))
