"""Which tasks are taken: the limits, the stage of the drain, and the way into the event loop. From any thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock, get_ident

from .._machine.drain import DRAIN, DrainEvent, DrainStage, accepts
from .._machine.scope import Verdict
from ..errors import TasksClosedError, TasksSaturatedError
from .current import JOB
from .job import Held, Job
from .recording import RECORDERS, Placer, recorded
from .seam import Seam

# What every task passes (see `Symbol`).
_OPEN = DrainStage.OPEN


@dataclass(eq=False, slots=True)
class _Mail:
    """A job on its way to the event loop, and what the loop does with it.

    :ivar pending: whether the job will not start when it arrives; None if it is to be cancelled or dropped
    """

    job: Job
    place: Callable[[Job], None]
    pending: bool | None


class Admission(ABC):
    """The way in.

    `submit()` and `call()` may be called from any thread, and from a signal handler or a finalizer that interrupts the
    loop's thread anywhere, even in this class. Such a call finds no running task, or finds `is_busy`. Then it goes by
    the inbox, whose lock a thread may take twice. All else belongs to the loop's thread.

    :ivar stage: of the drain
    :ivar is_busy: whether something is under way here that a signal handler or a finalizer must not find half done
    :ivar on_admit: called with each job that has been taken, and that no recorder has taken out again; None unless
        somebody drains
    """

    deferred: dict[Job, Held]

    def __init__(self, seam: Seam, max_pending: int | None) -> None:
        self.seam = seam
        self.stage = DrainStage.OPEN
        self.is_busy = False
        self.on_admit: Callable[[Job], None] | None = None
        self._max_pending = max_pending
        self._inbox: deque[_Mail] = deque()
        self._lock = RLock()
        # With `max_pending`: a job that leaves one place for another. An interruption counts it as well.
        self.moving: Job | None = None
        self._moves_to_wait = False
        self._reserved = 0
        self._thread, self._has_running = seam.thread, seam.has_running

    @property
    def has_mail(self) -> bool:
        """Whether something is on its way to the event loop."""
        return bool(self._inbox)

    def on_their_way(self) -> Iterator[Job]:
        """Yield the jobs that are on their way to the event loop."""
        yield from [mail.job for mail in tuple(self._inbox) if not mail.job._has_ended]

    def submit(self, job: Job, placer: Placer) -> None:
        """Take `job`, or refuse it with nothing changed; `placer` puts it where it belongs, in the loop's thread.

        :raises TasksClosedError: if tasks are no longer taken from the caller
        :raises TasksSaturatedError: if it would have to wait and `max_pending` others do
        :raises RuntimeError: if another event loop runs in the loop's thread
        """
        if self.is_busy or get_ident() != self._thread or not self._has_running():
            self._submit_by_mail(job, placer)
            return
        self.is_busy = True
        try:
            if self._inbox:
                self._read_all()  # these were scheduled before
            if self.stage is not _OPEN or self._max_pending is not None:
                self._reserve(job, placer, by_mail=False)
            job._runner = self  # type: ignore[assignment]  # (there is no other kind)
            if RECORDERS:
                recorded(self, job, placer)(job)  # type: ignore[arg-type]
            else:
                placer._place(job)
            if self.on_admit is not None and not job._is_new:
                self.on_admit(job)
        except BaseException:
            if not job._has_ended and hasattr(job, "_runner"):
                del job._runner
            raise
        finally:
            self.moving = None
            self.is_busy = False

    def _submit_by_mail(self, job: Job, placer: Placer) -> None:
        self.seam.check_loop()
        with self._lock:
            mail = self._reserve(job, placer, by_mail=True)
            try:
                self._wake(self._read_one)  # which waits for the lock
            except BaseException:
                self._inbox.remove(mail)
                raise
            job._runner = self  # type: ignore[assignment]  # (there is no other kind)
            if RECORDERS:
                mail.place = recorded(self, job, placer)  # type: ignore[arg-type]

    def _wake(self, callback: Callable[[], None]) -> None:
        try:
            self.seam.call_from_thread(callback)
        except RuntimeError as exc:
            raise TasksClosedError("the event loop has ended") from exc

    def call(self, func: Callable[[Job], None], job: Job) -> None:
        """Call `func(job)` in the loop's thread: now if the loop runs here, else soon.

        :raises TasksClosedError: if the loop has ended
        """
        if self.is_busy or not self.seam.runs_here():
            self._inbox.append(_Mail(job, func, None))
            self._wake(self._read_one)
            return
        with self.busy():
            func(job)
        if not self.seam.is_here():
            self._wake(self._read_one)  # it may be asleep, if this is a signal handler

    def _reserve(self, job: Job, placer: Placer, *, by_mail: bool) -> _Mail:
        """Take a place for `job`, or refuse the job if the stage or `max_pending` says so."""
        while True:
            reserved = self._reserved
            pending = self._will_pend(job, placer)
            self._admit(pending=pending)
            mail = _Mail(job, placer._place, pending)
            if reserved == self._reserved:  # else an interruption has taken a place. From here on none can.
                self._reserved += 1
                if by_mail:
                    self._inbox.append(mail)
                else:
                    self.moving, self._moves_to_wait = job, pending
                return mail

    def _admit(self, *, pending: bool) -> None:
        by = JOB.get()
        by_shielded = by is not None and by.config.shielded and by._runner is self and not by._has_ended
        if not accepts(self.stage, by_shielded=by_shielded):
            raise TasksClosedError(f"the task host is {self.stage.value} and takes no more tasks")
        if self._max_pending is None or not pending:
            return
        others = self.waiting + len(self.deferred) + self._on_their_way(pending=True)
        if others >= self._max_pending:
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
        return verdict is Verdict.HOLD or self.waiting > 0 or self._is_full(self._on_their_way(pending=False))

    def _on_their_way(self, *, pending: bool) -> int:
        count = sum(mail.pending is pending for mail in tuple(self._inbox))
        moving = self.moving
        return count + (moving is not None and self._moves_to_wait is pending and not self._has_place(moving))

    def _read_one(self) -> None:
        # One job a call, and one call a job: threads that schedule without pause do not keep the loop here.
        with self.busy():
            self._read()

    @contextmanager
    def busy(self) -> Generator[None]:
        """Have the inbox take what signal handlers and finalizers schedule or cancel meanwhile, in this thread."""
        was_busy, self.is_busy = self.is_busy, True
        try:
            yield
        finally:
            self.is_busy = was_busy

    def _read_all(self) -> None:
        for _ in range(len(self._inbox)):
            self._read()

    def _read(self) -> None:
        with self._lock:
            if not self._inbox:
                return
            mail = self._inbox[0]
            self.moving, self._moves_to_wait = mail.job, bool(mail.pending)
            self._inbox.popleft()
        if not mail.job._has_ended:
            try:
                mail.place(mail.job)
            except Exception as exc:  # a task group of somebody else, closed meanwhile; a task factory that raises
                self.drop(mail.job, reason_of(exc))
        self.moving = None
        if self.on_admit is not None and mail.pending is not None and not mail.job._is_new:
            self.on_admit(mail.job)
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

    @property
    @abstractmethod
    def running(self) -> int:
        """How many jobs hold a slot."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many jobs wait for a slot."""

    @abstractmethod
    def drop(self, job: Job, reason: str) -> None:
        """End a job that has not been started."""

    @abstractmethod
    def _is_full(self, more: int = 0) -> bool:
        """Tell whether no slot is free, if `more` jobs get one before."""

    @abstractmethod
    def _has_place(self, job: Job) -> bool:
        """Tell whether `job` is counted where it is, or has ended."""

    @abstractmethod
    def _changed(self) -> None:
        """Say that something has come or gone."""


def reason_of(exc: Exception) -> str:
    """Say why a job could not be started. The text of an exception that is not ours may be secret."""
    return str(exc) if isinstance(exc, TasksClosedError) else f"it could not be started: {type(exc).__name__}"
