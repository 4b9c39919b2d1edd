"""One attempt at a task: from its first step to its end, or to `failing.py`."""

from __future__ import annotations

from collections.abc import Generator
from sys import exception
from types import coroutine
from typing import Any

from .._machine.dispatch import DISPATCH, Outcome
from .._machine.life import ENDS, LifeEvent, TaskStatus
from .calls import call_function
from .failing import end_otherwise, end_without_success, handle
from .job import JOB, Job, leave_scope, move, record_of
from .owner import Owner
from .raised import is_caught, is_garbage, judge_handled
from .watching import tell

# Each task needs these members (see `Symbol`).
_STARTING = TaskStatus.STARTING
_SUCCEED = DISPATCH[Outcome.RETURNED, False, False]  # with a handler, too


async def attempt(job: Job) -> None:  # noqa: C901, PLR0912 - a call costs each task
    """Make one attempt: from the first step to the end of the job, or to the request for the next attempt.

    1. `_may_begin()`: stop if the job was cancelled before its first step.
    2. `job._step()`: take the first step. From here on the job is RUNNING.
    3. Call the function. Leave the cancel scope, if there is one: entered here, or late by `enclose()`.
    4. `judge()`: find the outcome of an exception.
    5. After a success the job ends here, otherwise in `end_otherwise()`.

    Each task has this frame until its end, on trio twice its size: the fewer variables, the better. So there is
    `exception()`, not `except ... as`.

    *Invariant*: in the end the scope was left, and `note_left()` was called. Otherwise the host never closes.

    :raises BaseException: if it does not belong to the task: a cancellation from around the task, KeyboardInterrupt
    """
    runner = job._runner
    if job._status is not _STARTING and not await _may_begin(runner, job):
        return
    JOB.set(job)
    failure: tuple[Outcome, Any, BaseException | None] | None = None
    try:
        if runner.seam.begins:
            runner.seam.begin(job)
        try:
            if not job._step(runner.stamp):  # a signal handler or a finalizer has just cancelled the job
                leave_scope(job)
                runner.note_left(job)
                return
            if runner.watching is not None:
                tell(runner.watching.started, runner.telling, job)
            if job.config.timeout is not None or not job._parcel.is_async:
                job._result = await call_function(job)
            elif job._kwargs:
                job._result = await job.func(*job.args, **job._kwargs)
            else:
                job._result = await job.func(*job.args)
        except BaseException:
            if not is_caught(job):
                raise
            failure = Outcome.CANCELLED, exception(), None
        else:
            if job._scope is not None:
                leave_scope(job)
    except BaseException:
        if is_garbage():
            raise
        failure = judge_handled(job)
    if failure is not None:
        try:
            await end_otherwise(runner, job, *failure)
        finally:
            del failure, job
        return
    runner.end(job, _SUCCEED, job._result)
    if job._scope is not None:
        leave_scope(job)  # a signal handler has cancelled the job after the function had returned
    runner.note_left(job)


async def _may_begin(runner: Owner[Job], job: Job) -> bool:
    """Return whether the attempt may begin, although its job is not STARTING.

    - The job was cancelled before its first step: no.
    - A task factory takes the first step inside `schedule()`, before the runner knows the native task: after a turn of
      the loop.
    - The job is RECORDING: after its journal has counted the run.
    """
    try:
        if not (job.status in ENDS or job in runner.alive):
            await _turn()
        record = record_of(job) if job.status is TaskStatus.RECORDING else None  # not before the turn
        if record is not None and record.error is None and runner.keeper is not None:
            await runner.keeper.begin(job)
    except BaseException:
        runner.cancel(job)
        runner.note_left(job)
        raise
    if job.status in ENDS:
        runner.note_left(job)
        return False
    if record is not None:
        if record.error is not None:
            await _fail_unrecorded(runner, job, record.error)
            return False
        move(job, LifeEvent.START)
    return True


async def _fail_unrecorded(runner: Owner[Job], job: Job, error: Exception) -> None:
    JOB.set(job)
    if runner.seam.begins:
        runner.seam.begin(job)
    stray = None if job.config.on_error is None else await handle(runner, job, error)
    end_without_success(runner, job, LifeEvent.FAIL, error)
    if stray is not None:
        raise stray


@coroutine
def _turn() -> Generator[None, None, None]:
    yield  # as `asyncio.sleep(0)`: only asyncio has eager tasks
