"""What follows an attempt that has not succeeded: the retry policy, the handler, the end of the task.

Some functions here, and `attempt()`, delete their variables at the end. An exception refers to its traceback, the
traceback to frames, and a frame to its variables. A frame that still had the exception or the job would make a cycle of
each failed task.
"""

from __future__ import annotations

from datetime import timedelta
from inspect import iscoroutine
from typing import Any

from .._machine.config import check_seconds
from .._machine.dispatch import DISPATCH, Outcome
from .._machine.life import IN_ATTEMPT, TOLD_TO_STOP, LifeEvent, TaskStatus
from . import report
from .calls import call_handler
from .job import Job, leave_scope, move, order_of, record_of, set_scope
from .owner import Owner
from .raised import forget_locals, is_garbage, judge
from .watching import tell, tell_all


async def end_otherwise(
    runner: Owner[Job], job: Job, outcome: Outcome, error: Any, stray: BaseException | None
) -> None:
    """End `job`, or have it go on to its next attempt, after an attempt without success.

    The other parameters are what `judge()` has returned for the exception of the attempt.
    """
    has_handler = job.config.on_error is not None
    try:
        if outcome is not Outcome.CANCELLED and _is_cut_off(job):
            try:
                report.cut_off(job, error)
            finally:  # a log handler may raise KeyboardInterrupt
                end_without_success(runner, job, DISPATCH[Outcome.CANCELLED, False, has_handler], error)
        elif outcome is Outcome.RAISED:
            try:
                await follow_failure(runner, job, error)
            except BaseException:
                # KeyboardInterrupt in a log handler; or the error handler has awaited an object that raises
                # `GeneratorExit`, which ends each coroutine on its way, even a coroutine that catches it.
                if job.status in IN_ATTEMPT and not is_garbage():
                    end_without_success(runner, job, LifeEvent.FAIL, error)
                raise
        else:
            end_without_success(runner, job, DISPATCH[outcome, False, has_handler], error)
    finally:
        # The frames in the traceback lead here, by `f_back`: see the docstring of this module.
        del error, job
        if stray is not None:
            try:
                raise stray
            finally:
                del stray


def _is_cut_off(job: Job) -> bool:
    """Return whether another process will run `job`, which was told to stop. Its exception may be its way to stop."""
    record = record_of(job)
    return record is not None and record.stays and job.status in TOLD_TO_STOP


def end_without_success(runner: Owner[Job], job: Job, event: LifeEvent, error: BaseException | None) -> None:
    """Bring `job` to its end, and log a failure. `error` is the exception of the attempt, a cancellation included."""
    leave_scope(job)  # a signal handler has cancelled the job after the function had ended
    try:
        if event is LifeEvent.FAIL:
            assert error is not None
            set_scope(job, runner.seam.cancel_scope())  # for a log handler that cancels the task
            report.failed(job, error)
            forget_locals(error, runner.seam.cancelled)
    finally:  # a log handler may raise KeyboardInterrupt
        runner.end(job, event, None if event is LifeEvent.UNWIND else error, error)
        set_scope(job, None)
        runner.note_left(job)


async def follow_failure(runner: Owner[Job], job: Job, error: Exception) -> None:
    """Ask the policy and the handler about `error`. Then bring `job` to its next attempt or to its end. A job that its
    queue has refused may run here after all.
    """
    has_handler, after, stray = job.config.on_error is not None, None, None
    if job.config.retry is not None and job.status is TaskStatus.RUNNING:
        after, stray = ask_policy(runner, job, error)
    event = DISPATCH[Outcome.RAISED, False, has_handler]
    if after is not None or order_of(job) is not None:
        with runner.busy():
            # Read the status last: the policy, or a signal handler after the policy, may have cancelled the task.
            is_refused = job.status is TaskStatus.HANDING_OVER and runner.run_here(job, error)
            if is_refused or (after is not None and job.status is TaskStatus.RUNNING):
                event = DISPATCH[Outcome.RAISED, True, has_handler]
                pause(runner, job, after or 0.0, error)
    if event is LifeEvent.RAISE:
        stray = await handle(runner, job, error) or stray
    if event is not LifeEvent.RETRY:
        end_without_success(runner, job, LifeEvent.FAIL, error)
    if stray is not None:
        raise stray


def ask_policy(runner: Owner[Job], job: Job, error: Exception) -> tuple[float | None, BaseException | None]:
    """Call the retry policy, in the context of the attempt.

    :return: the seconds before the next attempt, or None; and an exception that does not belong to the task, or None
    """
    assert job.config.retry is not None
    set_scope(job, runner.seam.cancel_scope())  # for a policy that cancels the task
    try:
        answer = job.config.retry(job, error)
        if iscoroutine(answer):
            answer.close()  # otherwise Python warns of a coroutine that was never awaited
        after = None if answer is None else float(check_seconds("the answer of retry=", answer, finite=True))
        return after, None
    except BaseException as exc:
        _, raised, stray = judge(exc, job)
        report.policy_failed(job, raised)
        del raised  # as in `end_otherwise()`
        return None, stray
    finally:
        set_scope(job, None)


async def handle(runner: Owner[Job], job: Job, error: Exception) -> BaseException | None:
    """Call the handler, under the shield and in the context of its task.

    :return: an exception of the handler that does not belong to the task, or None
    """
    stray = None
    leave_scope(job)  # as in `end_without_success()`
    scope = runner.seam.cancel_scope(shield=job.config.shielded)
    set_scope(job, scope)  # first: in the new status a signal handler may cancel the job at once
    move(job, LifeEvent.RAISE)
    if runner.watching is not None:
        tell(runner.watching.moved, runner.telling, job)
    if job.status is TaskStatus.ABORTING:
        scope.cancel()
    try:
        with scope:
            answer = await call_handler(job, error)
            if issubclass(type(answer), (int, float, timedelta)) and type(answer) is not bool:
                report.handler_answered(job, answer)
    except BaseException as exc:
        outcome, raised, stray = judge(exc, job)
        if outcome is not Outcome.CANCELLED:
            report.handler_failed(job, raised)
        del raised  # as in `end_otherwise()`
    finally:
        set_scope(job, None)
    return stray


def pause(runner: Owner[Job], job: Job, seconds: float, error: Exception) -> None:
    """End the attempt, and have the next one begin in `seconds`. While the runner is busy: a cancellation comes later.

    :raises KeyboardInterrupt: if a log handler or an observer raises it; the attempt has ended all the same
    """
    runner.note_paused(job, seconds)
    try:
        try:
            if job.attempt:
                report.retrying(job, error, seconds)
            else:
                report.runs_here(job)
        finally:
            if runner.watching is not None:
                tell_all(runner.watching.attempt_ended, runner.telling, (job, error, seconds))
    finally:
        job._began_at = None
        if runner.on_pause is not None:
            runner.on_pause(job)
