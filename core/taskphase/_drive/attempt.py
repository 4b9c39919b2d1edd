"""One attempt at a task: its function, its handler, its end."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from datetime import timedelta
from functools import partial
from inspect import iscoroutine
from math import inf
from types import coroutine
from typing import TYPE_CHECKING, Any, cast

from anyio import CancelScope, current_effective_deadline, current_time, sleep

from .._machine.calling import is_async, is_awaited
from .._machine.dispatch import DISPATCH, Outcome
from .._machine.life import LifeEvent, TaskStatus
from .._machine.retrying import seconds_of
from . import report
from .current import JOB
from .raised import forget_locals, judge, plain, show_from_function

if TYPE_CHECKING:
    from .job import Job

# What every task passes (see `Symbol`).
_STARTING = TaskStatus.STARTING
_RUNNING = TaskStatus.RUNNING
_RETURNED = Outcome.RETURNED
_RAISED = Outcome.RAISED
_CANCELLED = Outcome.CANCELLED
_FAIL = LifeEvent.FAIL
_UNWIND = LifeEvent.UNWIND
_UNDECIDED = frozenset({_RUNNING, TaskStatus.CANCELLING, TaskStatus.HANDLING, TaskStatus.ABORTING})


async def attempt(job: Job) -> None:  # noqa: C901, PLR0912, PLR0915 - in one frame, because each task has it until its end
    """Make one attempt, from the first step to the end or to the request of another one.

    Raises nothing but what does not belong to the task: the cancellation of what encloses it and `KeyboardInterrupt`.
    """
    runner, config = job._runner, job.config
    if job._status is not _STARTING and not await _may_begin(job):
        return
    JOB.set(job)
    result: Any
    stray: BaseException | None = None
    try:
        if runner.seam.begins:
            runner.seam.begin(job)
        try:
            if not job._step():  # a signal handler or a finalizer has just cancelled it
                job._leave(None)
                runner.left(job)
                return
            if config.timeout is not None or not job._is_async:
                result = await call_function(job)
            elif job._kwargs:
                result = await job.func(*job.args, **job._kwargs)
            else:
                result = await job.func(*job.args)
        except BaseException as exc:
            if job._scope is None or not job._leave(plain(exc)):
                raise
            outcome, result = _CANCELLED, None
        else:
            if job._scope is not None:
                job._leave(None)
            outcome = _RETURNED
    except BaseException as exc:
        if isinstance(exc, GeneratorExit) and _loop_has_gone():
            raise  # the loop went without its tasks, and this is the garbage collector
        outcome, result, stray = judge(exc, job)
    if outcome is _RETURNED:
        runner.end(job, DISPATCH[outcome, False, config.on_error is not None], result)
        if job._scope is not None:
            job._leave(None)  # of a cancellation that came from a signal handler after the function had returned
        runner.left(job)
        return
    try:
        if outcome is _RAISED:
            try:
                await follow_failure(job, result)
            except BaseException as exc:
                # An interrupt in a log handler; or the handler has awaited something that raises `GeneratorExit`, which
                # unwinds each coroutine that awaits, whatever that catches.
                has_gone = isinstance(exc, GeneratorExit) and _loop_has_gone()
                if job._status in _UNDECIDED and not has_gone:
                    end_without_success(job, _FAIL, result)
                if has_gone or not isinstance(exc, GeneratorExit):
                    raise
        else:
            end_without_success(job, DISPATCH[outcome, False, config.on_error is not None], result)
    finally:
        # The exception leads here, by `f_back` of the frames in its traceback. Without this a failed task is a cycle.
        del result, job
        if stray is not None:
            try:
                raise stray
            finally:
                del stray


async def _may_begin(job: Job) -> bool:
    """Return whether an attempt that does not find its job STARTING may begin.

    Either the job was cancelled before its first step. Or a task factory takes this first step inside `schedule()`:
    then the rest waits for the next turn of the loop, in which the job is STARTING.
    """
    if not job._has_ended:
        try:
            await _turn()
        except BaseException:
            job._runner.cancel(job)
            job._runner.left(job)
            raise
    if job._has_ended:
        job._runner.left(job)
        return False
    return True


@coroutine
def _turn() -> Generator[None, None, None]:
    yield  # which `asyncio.sleep(0)` does: only asyncio has eager tasks


def end_without_success(job: Job, event: LifeEvent, error: BaseException | None) -> None:
    """Bring `job` to its end. `error`: what was raised, if anything was."""
    runner = job._runner
    if job._scope is not None:
        job._leave(None)  # of a cancellation that came from a signal handler after the function had ended
    try:
        if event is _FAIL:
            assert error is not None
            job._scope = runner.seam.cancel_scope()  # nobody enters it: it is for a log handler that cancels the task
            report.failed(job, error)
            forget_locals(error, runner.seam.cancelled)
    finally:  # an interrupt may come out of a log handler
        runner.end(job, event, None if event is _UNWIND else error)
        job._scope = None
        runner.left(job)


async def follow_failure(job: Job, error: Exception) -> None:
    """Bring `job`, of which an attempt has raised `error`, on to another attempt or to its end."""
    config, after, stray = job.config, None, None
    if config.retry is not None and job._status is _RUNNING:
        after, stray = ask_policy(job, error)
    with job._runner.busy():
        # The status last: the policy, or a signal handler after it, may have told the task to stop.
        event = DISPATCH[_RAISED, after is not None and job._status is _RUNNING, config.on_error is not None]
        if event is LifeEvent.RETRY:
            job._scope = job._runner.seam.cancel_scope(shield=config.shielded)
            job._move(event)
    if event is LifeEvent.RETRY:
        assert after is not None
        await pause(job, after, error)
        return
    if event is LifeEvent.RAISE:
        stray = await handle(job, error) or stray
    end_without_success(job, _FAIL, error)
    if stray is not None:
        raise stray


def ask_policy(job: Job, error: Exception) -> tuple[float | None, BaseException | None]:
    """Call the retry policy, in the context of the attempt.

    :return: the seconds before the next attempt, or None; and what was raised that does not belong to the task
    """
    assert job.config.retry is not None
    job._scope = job._runner.seam.cancel_scope()  # nobody enters it: it is for a policy that cancels the task
    try:
        answer = job.config.retry(job, error)
        if iscoroutine(answer):
            answer.close()  # else Python warns that nobody has awaited it
        return seconds_of(answer), None
    except BaseException as exc:
        _, raised, stray = judge(exc, job)
        report.policy_failed(job, raised or exc)
        del raised  # as in `attempt()`
        return None, stray
    finally:
        job._scope = None


async def handle(job: Job, error: Exception) -> BaseException | None:
    """Call the handler, under the shield and in the context of its task.

    :return: what it raised that does not belong to the task
    """
    stray = None
    if job._scope is not None:
        job._leave(None)  # as in `end_without_success()`
    scope = job._scope = job._runner.seam.cancel_scope(shield=job.config.shielded)
    job._move(LifeEvent.RAISE)  # from here on a cancellation goes to this scope
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
        job._scope = None
    return stray


async def pause(job: Job, seconds: float, error: Exception) -> None:
    """Wait in `job._scope`, without a slot, and ask for the next attempt, which has a fresh copy of the context."""
    scope = job._scope
    assert scope is not None
    job._runner.paused()
    stray = None
    try:
        with scope:
            report.retrying(job, error, seconds)
            await sleep(seconds)
    except BaseException as exc:
        stray = judge(exc, job)[2]
        job._runner.cancel(job)
    job._scope = None  # which was cancelled or has been left; the next attempt has one of its own, or none yet
    job._runner.resumed(job)
    if stray is not None:
        raise stray


async def call_function(job: Job) -> Any:
    """Call the function as what it is: awaited, or in a thread. An awaitable that comes out of a thread is awaited.

    (No frame here has the arguments as locals of their own: error trackers send the locals of each frame.)

    :raises TimeoutError: if it takes more than `timeout` seconds
    """
    timeout, where = job.config.timeout, None
    try:
        if job._is_async:
            result = job.func(*job.args, **job._kwargs)
            deadline = inf if timeout is None else current_time() + timeout
        else:
            result, deadline = await job._runner.threads.call(job, partial(_call, job), timeout, surely=False)
            if not is_awaited(result):
                return result
        with CancelScope(deadline=deadline):
            try:
                return await result
            except BaseException as exc:
                where = exc  # if it is the cancellation its traceback shows where the time has gone
                raise
        if where is not None:
            show_from_function(where)
        raise TimeoutError(f"timed out after {timeout:g} seconds") from where
    finally:
        del where, job  # as in `attempt()`


def _call(job: Job) -> Any:
    # No closure: the frame of the user's function refers to this one, and the job to that frame by its exception.
    return job.func(*job.args, **job._kwargs)


async def call_handler(job: Job, error: Exception) -> Any:
    """Call the handler as what it is. Cancellation does not keep a sync one from being called."""
    on_error = job.config.on_error
    assert on_error is not None
    if is_async(on_error):
        return await cast("Awaitable[Any]", on_error(job, error))
    result, _ = await job._runner.threads.call(job, partial(on_error, job, error), None, surely=True)
    return await result if is_awaited(result) else result


def _loop_has_gone() -> bool:
    try:
        current_effective_deadline()
    except RuntimeError:  # anyio's NoEventLoopError, from 4.12 on, is one too
        return True
    return False
