"""What follows an attempt that has not succeeded: the retry policy, the handler, the end of the task.

Some functions here, and `attempt()`, delete their variables at the end. An exception refers to its traceback, the
traceback to frames, and a frame to its variables. A frame that still had the exception or the job would make a cycle of
each failed task.
"""

from __future__ import annotations

from datetime import timedelta
from inspect import iscoroutine
from typing import Any

from .._machine.dispatch import DISPATCH, Outcome
from .._machine.life import IN_ATTEMPT, LifeEvent, TaskStatus
from .._machine.retrying import seconds_of
from . import report
from .calls import call_handler
from .cancelling import loop_has_gone
from .job import Job
from .raised import forget_locals, judge
from .watching import tell, tell_all


async def end_otherwise(job: Job, outcome: Outcome, error: Any, stray: BaseException | None) -> None:
    """End `job`, or have it go on to its next attempt, after an attempt without success.

    The other parameters are what `judge()` has returned for the exception of the attempt.
    """
    try:
        if outcome is Outcome.RAISED:
            try:
                if job._parcel.hand_over is None or not runs_here(job, error):
                    await follow_failure(job, error)
            except BaseException as exc:
                # KeyboardInterrupt in a log handler; or the error handler has awaited an object that raises
                # `GeneratorExit`, which ends each coroutine on its way, even a coroutine that catches it.
                has_gone = issubclass(type(exc), GeneratorExit) and loop_has_gone()
                if job.status in IN_ATTEMPT and not has_gone:
                    end_without_success(job, LifeEvent.FAIL, error)
                if has_gone or not issubclass(type(exc), GeneratorExit):
                    raise
        else:
            end_without_success(job, DISPATCH[outcome, False, job.config.on_error is not None], error)
    finally:
        # The frames in the traceback lead here, by `f_back`: see the docstring of this module.
        del error, job
        if stray is not None:
            try:
                raise stray
            finally:
                del stray


def end_without_success(job: Job, event: LifeEvent, error: BaseException | None) -> None:
    """Bring `job` to its end, and log a failure. `error` is the exception of the attempt, a cancellation included."""
    runner = job._runner
    job._leave(None)  # a signal handler has cancelled the job after the function had ended
    try:
        if event is LifeEvent.FAIL:
            assert error is not None
            job._set_scope(runner.seam.cancel_scope())  # for a log handler that cancels the task
            report.failed(job, error)
            forget_locals(error, runner.seam.cancelled)
    finally:  # a log handler may raise KeyboardInterrupt
        runner.end(job, event, None if event is LifeEvent.UNWIND else error, error)
        job._forget_scope()
        runner.note_left(job)


async def follow_failure(job: Job, error: Exception) -> None:
    """Ask the policy and the handler about `error`. Then bring `job` to its next attempt or to its end."""
    config, after, stray = job.config, None, None
    if config.retry is not None and job.status is TaskStatus.RUNNING:
        after, stray = ask_policy(job, error)
    event = DISPATCH[Outcome.RAISED, False, config.on_error is not None]
    if after is not None:
        with job._runner.busy():
            # Read the status last: the policy, or a signal handler after the policy, may have cancelled the task.
            if job.status is TaskStatus.RUNNING:
                event = DISPATCH[Outcome.RAISED, True, config.on_error is not None]
                stray = pause(job, after, error)
    if event is LifeEvent.RETRY:
        if stray is not None:
            raise stray
        return
    if event is LifeEvent.RAISE:
        stray = await handle(job, error) or stray
    end_without_success(job, LifeEvent.FAIL, error)
    if stray is not None:
        raise stray


def runs_here(job: Job, error: Exception) -> bool:
    """Have `job` run here after all, if its queue has refused it; return whether it does."""
    runner = job._runner
    with runner.busy():
        if job.status is not TaskStatus.HANDING_OVER or not runner.run_here(job, error):
            return False
        stray = pause(job, 0, error)
    if stray is not None:
        raise stray
    return True


def ask_policy(job: Job, error: Exception) -> tuple[float | None, BaseException | None]:
    """Call the retry policy, in the context of the attempt.

    :return: the seconds before the next attempt, or None; and an exception that does not belong to the task, or None
    """
    assert job.config.retry is not None
    job._set_scope(job._runner.seam.cancel_scope())  # for a policy that cancels the task
    try:
        answer = job.config.retry(job, error)
        if iscoroutine(answer):
            answer.close()  # otherwise Python warns of a coroutine that was never awaited
        return seconds_of(answer), None
    except BaseException as exc:
        _, raised, stray = judge(exc, job)
        report.policy_failed(job, raised or exc)
        del raised  # as in `end_otherwise()`
        return None, stray
    finally:
        job._forget_scope()


async def handle(job: Job, error: Exception) -> BaseException | None:
    """Call the handler, under the shield and in the context of its task.

    :return: an exception of the handler that does not belong to the task, or None
    """
    runner, stray = job._runner, None
    job._leave(None)  # as in `end_without_success()`
    scope = runner.seam.cancel_scope(shield=job.config.shielded)
    job._follow_in(scope, LifeEvent.RAISE)
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
        job._forget_scope()
    return stray


def pause(job: Job, seconds: float, error: Exception) -> BaseException | None:
    """End the attempt, and have the next one begin in `seconds`. While the runner is busy: a cancellation comes later.

    :return: the exception of a log handler or an observer that does not belong to the task; it has cancelled the job
    """
    runner = job._runner
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
    except BaseException as exc:
        job._began_at = None
        runner.cancel(job)
        return judge(exc, job)[2]
    job._began_at = None
    if runner.on_pause is not None:
        runner.on_pause(job)
    return None
