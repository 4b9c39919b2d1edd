"""The places of jobs: how many jobs wait in them, and the methods of a runner that admission calls.

(`runner.py` imports `admission.py`, so these methods are abstract here.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager

from .._machine.life import LifeEvent
from .._machine.scope import VERDICTS, Verdict
from .inbox import Inbox
from .job import Job
from .unit import Unit

_START = Verdict.START


class Places(ABC):
    """The jobs of a runner, by place: deferred, waiting or alive (see `Runner`). For the loop's thread.

    :ivar deferred: the jobs that wait for their phase, each with its scope
    """

    deferred: dict[Job, Unit]
    inbox: Inbox
    is_busy: bool
    moving: Job | None
    _moves_to_wait: bool
    _max_pending: int | None

    @contextmanager
    def busy(self) -> Generator[None]:
        """Return a context in which calls from signal handlers and finalizers of this thread go by mail."""
        was_busy, self.is_busy = self.is_busy, True
        try:
            yield
        finally:
            self.is_busy = was_busy

    def _will_pend(self, job: Job, scope: Unit | None) -> bool:
        if self._max_pending is None:
            return False
        verdict = _START if scope is None else VERDICTS[scope._state, job.phase, job.config.when]
        if verdict is Verdict.DROP:
            return False
        return verdict is Verdict.HOLD or self.waiting > 0 or self._is_full(self._on_their_way(pending=False))

    def _on_their_way(self, *, pending: bool) -> int:
        count = sum(mail.call is None and mail.pending is pending for mail in self.inbox)
        moving = self.moving
        return count + (moving is not None and self._moves_to_wait is pending and not self._has_place(moving))

    @property
    @abstractmethod
    def running(self) -> int:
        """The number of jobs with a slot."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """The number of jobs that wait for a slot."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Ask `job` to start, or put `job` in line for a slot."""

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
    def drop(self, job: Job, reason: str) -> None:
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
