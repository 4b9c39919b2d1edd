"""One attempt at a task: its function, its retry policy, its handler, its end.

Some functions here delete their variables at the end. An exception refers to its traceback, the traceback to frames,
and a frame to its variables. A frame that still had the exception or the job would make a cycle of each failed task.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from inspect import iscoroutine
from types import coroutine
from typing import Any

from .._machine.dispatch import DISPATCH, Outcome
from .._machine.life import IN_ATTEMPT, LifeEvent, TaskStatus
from .._machine.retrying import seconds_of
from . import report
from .calls import call_function, call_handler
from .cancelling import loop_has_gone
from .job import JOB, Job
from .raised import forget_locals, judge, plain
from .watching import tell, tell_all

# Each task needs these members (see `Symbol`).
_STARTING = TaskStatus.STARTING
_RUNNING = TaskStatus.RUNNING
_RETURNED = Outcome.RETURNED
_SUCCEED = DISPATCH[Outcome.RETURNED, False, False]  # with a handler, too
_RAISED = Outcome.RAISED
_CANCELLED = Outcome.CANCELLED
_FAIL = LifeEvent.FAIL
_UNWIND = LifeEvent.UNWIND


async def attempt(job: Job) -> None:  # noqa: C901, PLR0912, PLR0915 - in one frame, because each task has it until its end
    """Make one attempt: from the first step to the end of the job, or to the request for the next attempt.

    1. `_may_begin()`: stop if the job was cancelled before its first step.
    2. `job._step()`: take the first step. From here on the job is RUNNING.
    3. Call the function. Leave the cancel scope, if there is one: entered here, or late by `enclose()`.
    4. `judge()`: find the outcome of an exception.
    5. RAISED: `follow_failure()` asks the policy and the handler. Any other outcome ends the job.

    *Invariant*: in the end the scope was left, and `note_left()` was called. Otherwise the host never closes.

    :raises BaseException: if it does not belong to the task: a cancellation from around the task, KeyboardInterrupt
    """
    runner, config = job._runner, job.config
    if job._status is not _STARTING and not await _may_begin(job):
        return
    JOB.set(job)
    result: Any
    stray: BaseException | None = None
    try:
        seam = runner.seam
        if seam.begins:
            seam.begin(job)
        if seam.early:
            job._set_scope(seam.cancel_scope(shield=config.shielded)).__enter__()
        try:
            now = runner.clock
            if not job._step(now()):  # a signal handler or a finalizer has just cancelled the job
                job._leave(None)
                runner.note_left(job)
                return
            if runner.watching is not None:
                tell(runner.watching.started, runner.telling, job)
            if config.timeout is not None or not job._is_async:
                result = await call_function(job)
            elif job._kwargs:
                result = await job.func(*job.args, **job._kwargs)
            else:
                result = await job.func(*job.args)
        except BaseException as exc:
            if job._scope is None or not job._leave(plain(exc)):
                raise
            outcome, result = _CANCELLED, exc
        else:
            if job._scope is not None:
                job._leave(None)
            outcome = _RETURNED
    except BaseException as exc:
        if isinstance(exc, GeneratorExit) and loop_has_gone():
            raise  # the event loop has ended without its tasks: the garbage collector closes this coroutine
        outcome, result, stray = judge(exc, job)
    if outcome is _RETURNED:
        runner.end(job, _SUCCEED, result)
        if job._scope is not None:
            job._leave(None)  # a signal handler has cancelled the job after the function had returned
        runner.note_left(job)
        return
    try:
        if outcome is _RAISED:
            try:
                if job._hand_over is None or not runs_here(job, result):
                    await follow_failure(job, result)
            except BaseException as exc:
                # KeyboardInterrupt in a log handler; or the error handler has awaited an object that raises
                # `GeneratorExit`, which ends each coroutine on its way, even a coroutine that catches it.
                has_gone = isinstance(exc, GeneratorExit) and loop_has_gone()
                if job._status in IN_ATTEMPT and not has_gone:
                    end_without_success(job, _FAIL, result)
                if has_gone or not isinstance(exc, GeneratorExit):
                    raise
        else:
            end_without_success(job, DISPATCH[outcome, False, config.on_error is not None], result)
    finally:
        # The frames in the traceback lead here, by `f_back`: see the docstring of this module.
        del result, job
        if stray is not None:
            try:
                raise stray
            finally:
                del stray


async def _may_begin(job: Job) -> bool:
    """Return whether the attempt may begin, although its job is not STARTING.

    The job was cancelled before its first step. Or a task factory takes the first step inside `schedule()`: then wait
    for the next turn of the loop, in which the job is STARTING.
    """
    if job._status is TaskStatus.RECORDING:
        return await _may_begin_recorded(job)
    if not job._has_ended:
        try:
            await _turn()
        except BaseException:
            job._runner.cancel(job)
            job._runner.note_left(job)
            raise
    if job._has_ended:
        job._runner.note_left(job)
        return False
    return True


async def _may_begin_recorded(job: Job) -> bool:
    """Return whether the attempt may begin: after the journal has counted the run."""
    record = job._record
    try:
        if job not in job._runner.alive:
            await _turn()  # a task factory takes the first step before the runner knows the native task
        if record.error is None:
            await record.begin(job)
    except BaseException:
        job._runner.cancel(job)
        job._runner.note_left(job)
        raise
    if job._has_ended:
        job._runner.note_left(job)
        return False
    if record.error is None:
        job._move(LifeEvent.START)
        return True
    await _fail_unrecorded(job, record.error)
    return False


async def _fail_unrecorded(job: Job, error: Exception) -> None:
    JOB.set(job)
    if job._runner.seam.begins:
        job._runner.seam.begin(job)
    stray = None if job.config.on_error is None else await handle(job, error)
    end_without_success(job, _FAIL, error)
    if stray is not None:
        raise stray


@coroutine
def _turn() -> Generator[None, None, None]:
    yield  # as `asyncio.sleep(0)`: only asyncio has eager tasks


def end_without_success(job: Job, event: LifeEvent, error: BaseException | None) -> None:
    """Bring `job` to its end, and log a failure. `error` is the exception of the attempt, a cancellation included."""
    runner = job._runner
    if job._scope is not None:
        job._leave(None)  # a signal handler has cancelled the job after the function had ended
    try:
        if event is _FAIL:
            assert error is not None
            job._set_scope(runner.seam.cancel_scope())  # for a log handler that cancels the task
            report.failed(job, error)
            forget_locals(error, runner.seam.cancelled)
    finally:  # a log handler may raise KeyboardInterrupt
        runner.end(job, event, None if event is _UNWIND else error, error)
        job._forget_scope()
        runner.note_left(job)


async def follow_failure(job: Job, error: Exception) -> None:
    """Ask the policy and the handler about `error`. Then bring `job` to its next attempt or to its end."""
    config, after, stray = job.config, None, None
    if config.retry is not None and job._status is _RUNNING:
        after, stray = ask_policy(job, error)
    event = DISPATCH[_RAISED, False, config.on_error is not None]
    if after is not None:
        with job._runner.busy():
            # Read the status last: the policy, or a signal handler after the policy, may have cancelled the task.
            if job._status is _RUNNING:
                event = DISPATCH[_RAISED, True, config.on_error is not None]
                stray = pause(job, after, error)
    if event is LifeEvent.RETRY:
        if stray is not None:
            raise stray
        return
    if event is LifeEvent.RAISE:
        stray = await handle(job, error) or stray
    end_without_success(job, _FAIL, error)
    if stray is not None:
        raise stray


def runs_here(job: Job, error: Exception) -> bool:
    """Have `job` run here after all, if its queue has refused it; return whether it does."""
    with job._runner.busy():
        if job._status is not TaskStatus.HANDING_OVER or not job._runner.run_here(job, error):
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
        del raised  # as in `attempt()`
        return None, stray
    finally:
        job._forget_scope()


async def handle(job: Job, error: Exception) -> BaseException | None:
    """Call the handler, under the shield and in the context of its task.

    :return: an exception of the handler that does not belong to the task, or None
    """
    stray = None
    if job._scope is not None:
        job._leave(None)  # as in `end_without_success()`
    scope = job._runner.seam.cancel_scope(shield=job.config.shielded)
    job._follow_in(scope, LifeEvent.RAISE)
    if job._runner.watching is not None:
        tell(job._runner.watching.moved, job._runner.telling, job)
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
        del raised  # as in `attempt()`
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
