"""The jobs that wait for their phase, until their scope starts or drops them."""

from __future__ import annotations

from collections.abc import Iterable

from .._machine.config import TaskConfig
from .._machine.life import ENDS, MAY_DROP, LifeEvent
from .._machine.scope import SCOPE, VERDICTS, Phase, ScopeEvent, ScopeState, Verdict, mismatch
from . import report
from .admission import Admission
from .job import Job, move, record_of
from .unit import Unit
from .watching import tell, tell_all

# Each task needs these members (see `Symbol`).
_DEFER = LifeEvent.DEFER
_AFTER_ROUTE = Phase.AFTER_ROUTE
_TO_START, _TO_HOLD = Verdict.START, Verdict.HOLD


class Phases(Admission):
    """The part of a runner that knows scopes. For the loop's thread."""

    deferred: int  # with their types, because a base class has their slots
    is_busy: bool
    __slots__ = ()

    def submit_made(self, job: Job, config: TaskConfig, scope: Unit[Job], maker: object = None) -> None:
        """Take a job that user code has made, with the settings of `config` that it leaves open. If it is refused, it
        has changed in nothing. See `submit()`.
        """
        before = job.config, job._parcel
        try:
            job._inherit(config, self.seam.thread)
            self.submit(job, scope, maker)
        except BaseException:
            job.config, job._parcel = before
            raise

    def _place(self, job: Job, scope: Unit[Job] | None, maker: object) -> None:  # noqa: C901 - a call costs each task
        if scope is not None:
            verdict = VERDICTS[scope._state][job.phase][job.config.when]
            if verdict is _TO_HOLD:
                move(job, _DEFER)
                held = scope._held
                if held is None:
                    scope._held = held = {}
                if not held:
                    self.holding[scope] = None
                if job.phase is _AFTER_ROUTE:
                    scope._holds_for_route = True
                if job.config.is_gated:
                    self._note_deferred(job)  # first: an interruption counts each job
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

    def decide(self, scope: Unit[Job], jobs: Iterable[Job], state: ScopeState) -> None:
        """Start or drop the `jobs` that `scope` holds, as far as their phase has come in `state`."""
        verdicts = VERDICTS[state]
        was_busy, self.is_busy = self.is_busy, True
        try:
            for job in list(jobs):
                verdict = verdicts[job.phase][job.config.when]
                if verdict is _TO_START:
                    scope.unsettled = True
                    if job._unit is not None:  # otherwise the job was cancelled meanwhile
                        self._release(job)
                elif verdict is not _TO_HOLD:
                    self.drop(job, mismatch(job.config.when))
        finally:
            self.is_busy = was_busy

    def _release(self, job: Job) -> None:
        try:
            if self.watching is None:  # as below, but faster
                self.start(job)
                self._let_go(job)
            elif self._is_held_back(job):
                self._let_go(job)
            else:
                self.start(job, self._let_go)
        except Exception as exc:
            if record_of(job) is None:
                self.drop(job, report.reason_of(exc))
            else:
                self._cannot_start(job, exc)  # the journal keeps the task for another host

    def _cannot_start(self, job: Job, error: Exception) -> None:
        try:
            report.not_started(job, error)
        finally:  # a log handler may raise KeyboardInterrupt
            self.cancel(job)

    def _is_held_back(self, job: Job) -> bool:
        """Return whether a test holds back `job`, which is due. The runner then no longer has the job."""
        holds = None if self.watching is None else self.watching.holds
        if not holds or not any(each(job) for each in holds):
            return False
        job._taken_at = None
        self.gates.forget(job, keep_place=False)
        return True

    def give_up(self, scope: Unit[Job]) -> None:
        """Stop waiting for the route of a late scope: drop the tasks of the scope."""
        if scope in self.late:
            del self.late[scope]
            scope._state = SCOPE[scope._state][ScopeEvent.GIVEN_UP]
            if self.watching is not None:
                with self.busy():
                    tell_all(self.watching.scope_changed, self.telling, (scope, "ended"))
            self.drop_held(scope, "its route was still running when the host closed")

    def drop_held(self, scope: Unit[Job], reason: str) -> None:
        """Drop the jobs that wait for a phase of `scope`."""
        for job in list(scope._held or ()):
            self.drop(job, reason)

    def drop(self, job: Job, reason: str, *, level: int | None = None) -> None:
        """Drop a job that never takes a step. If the job was cancelled meanwhile, or run by hand, do nothing.

        :param level: of the log record; default: as `when` has it
        """
        if job.status in MAY_DROP:
            self._let_go(job)
            try:
                report.dropped(job, reason, level)
            finally:  # a log handler may raise KeyboardInterrupt
                if job.status not in ENDS:  # a log handler may have cancelled the job
                    self.end(job, LifeEvent.DROP)
                self._note_change()

    def _let_go(self, job: Job) -> None:
        scope, job._unit = job._unit, None
        if scope is not None and scope._held is not None:
            self.deferred -= 1
            del scope._held[job]
            if not scope._held:
                self.holding.pop(scope, None)
