"""The jobs that wait for their phase, until their scope starts or drops them."""

from __future__ import annotations

from typing import Any

from .._machine.life import MAY_DROP, LifeEvent
from .._machine.scope import SCOPE, VERDICTS, Phase, ScopeEvent, Verdict, mismatch
from . import report
from .admission import Admission
from .job import Job
from .seam import Seam
from .unit import Unit
from .watching import Observer, tell, tell_all

# Each task needs these members (see `Symbol`).
_DEFER = LifeEvent.DEFER
_AFTER_ROUTE = Phase.AFTER_ROUTE
_TO_START, _TO_HOLD = Verdict.START, Verdict.HOLD


class Phases(Admission):
    """The part of a runner that knows scopes. For the loop's thread.

    :ivar late: the scopes that are over while their routes still run
    """

    deferred: int  # with its type, because a base class has its slot
    __slots__ = ("late",)

    def __init__(
        self,
        seam: Seam[Job],
        host: Any,
        max_running: int | None,
        max_pending: int | None,
        observers: tuple[Observer, ...],
    ) -> None:
        super().__init__(seam, host, max_running, max_pending, observers)
        self.late: dict[Unit[Job], None] = {}

    def _place(self, job: Job, scope: Unit[Job] | None, maker: object) -> None:  # noqa: C901 - a call costs each task
        if scope is not None:
            verdict = VERDICTS[scope._state][job.phase][job.config.when]
            if verdict is _TO_HOLD:
                job._move(_DEFER)
                held = scope._held
                if held is None:
                    scope._held = held = {}
                if not held:
                    self.holding[scope] = None
                if job.phase is _AFTER_ROUTE:
                    scope._holds_for_route = True
                if job.config.is_gated:
                    self._note_held(job)  # first: an interruption counts each job
                # No interruption is possible in these lines, because they call no Python function.
                held[job] = maker
                job._unit = scope
                self.deferred += 1
                if self.watching is not None:
                    tell(self.watching.moved, self.telling, job)
                return
            if verdict is not _TO_START:
                self.drop(job, mismatch(job.config.when))
                return
            scope.unsettled = True
        if self.watching is None or not self.watching.holds or not self._is_held_back(job):
            self.start(job)

    def release(self, job: Job) -> None:
        """Start a deferred job: its phase has come. If the job was cancelled meanwhile, do nothing."""
        if job._unit is None:
            return
        try:
            if self.watching is None:  # as below, but faster
                self.start(job)
                self._let_go(job)
            elif self._is_held_back(job):
                self._let_go(job)
            else:
                self.start(job, self._let_go)
        except Exception as exc:
            if self.keeper is not None and job._parcel.record is not None:
                self.cancel(job)  # the journal keeps the task for another host
            self.drop(job, report.reason_of(exc))

    def _is_held_back(self, job: Job) -> bool:
        """Return whether a test holds back `job`, which is due. The runner then no longer has the job."""
        holds = None if self.watching is None else self.watching.holds
        if not holds or not any(each(job) for each in holds):
            return False
        job._taken_at = None
        if job.config.is_gated:
            self.gates.forget(job, keep_place=False)
        return True

    def route_of(self, job: Job) -> object:
        """Return the native task that runs the route for which `job` waits, or None."""
        return None if job._unit is None else job._unit._owner

    def give_up(self, scope: Unit[Job]) -> None:
        """Stop waiting for the route of a late scope: drop the tasks of the scope."""
        if scope in self.late:
            del self.late[scope]
            scope._state = SCOPE[scope._state][ScopeEvent.GIVEN_UP]
            if self.watching is not None:
                with self.busy():
                    tell_all(self.watching.scope_changed, self.telling, (scope, "ended"))
            for job in list(scope._held or ()):
                self.drop(job, "its route was still running when the host closed")

    def drop(self, job: Job, reason: str, *, level: int | None = None) -> None:
        """Drop a job that never takes a step. If the job was cancelled meanwhile, or run by hand, do nothing.

        :param level: of the log record; default: as `when` has it
        """
        if job._status in MAY_DROP:
            self._let_go(job)
            try:
                report.dropped(job, reason, level)
            finally:  # a log handler may raise KeyboardInterrupt
                if not job._has_ended:  # a log handler may have cancelled the job
                    self.end(job, LifeEvent.DROP)
                self._note_change()

    def _let_go(self, job: Job) -> None:
        scope, job._unit = job._unit, None
        if scope is not None and scope._held is not None:
            self.deferred -= 1
            del scope._held[job]
            if not scope._held:
                self.holding.pop(scope, None)
