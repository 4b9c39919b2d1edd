"""One attempt at a task: its function, its handler, its end."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from math import inf
from typing import TYPE_CHECKING, Any, cast

from anyio import CancelScope, current_effective_deadline, current_time, sleep

from .._machine.calling import is_async
from .._machine.dispatch import DISPATCH, Answer, Outcome, Retry, after_handler
from .._machine.life import LifeEvent, TaskStatus
from . import report
from .current import JOB
from .seam import is_cancelled_around
from .threads import ThreadAbandoned

if TYPE_CHECKING:
    from .job import Job

# What every task passes (see `Symbol`).
_STARTING = TaskStatus.STARTING
_RETURNED = Outcome.RETURNED
_CANCELLED = Outcome.CANCELLED
_SUCCEED = LifeEvent.SUCCEED
_RAISE = LifeEvent.RAISE
_FAIL = LifeEvent.FAIL
_UNWIND = LifeEvent.UNWIND


async def attempt(job: Job) -> None:  # noqa: C901, PLR0912 - in one frame, because each task has it until its end
    """Make one attempt, from the first step to the end or to the request of another one.

    Raises nothing but what does not belong to the task: the cancellation of what encloses it and `KeyboardInterrupt`.
    """
    runner, config = job._runner, job.config
    if job._status is not _STARTING:  # it was cancelled before its first step
        runner.left(job)
        return
    JOB.set(job)
    result: Any
    stray: BaseException | None = None
    try:
        if runner.seam.begins:
            runner.seam.begin(job)
        try:
            job._step()
            if config.timeout is not None or not job._is_async:
                result = await call(job, job.func, job.args, job.kwargs, job._is_async, timeout=config.timeout)
            elif job.kwargs:
                result = await job.func(*job.args, **job.kwargs)
            else:
                result = await job.func(*job.args)
        except BaseException as exc:
            if job._scope is None or not job._scope.__exit__(type(exc), exc, exc.__traceback__):
                raise
            outcome, result = _CANCELLED, None
        else:
            if job._scope is not None:
                job._scope.__exit__(None, None, None)
            outcome = _RETURNED
    except BaseException as exc:
        if isinstance(exc, GeneratorExit) and _loop_has_gone():
            raise  # the loop went without its tasks, and this is the garbage collector
        outcome, result, stray = _classify(exc, job), exc, _stray(exc, job)
    event = DISPATCH[outcome, config.on_error is not None]
    if event is _SUCCEED:
        runner.end(job, event, result)
        runner.left(job)
        return
    try:
        if event is _RAISE:
            await ask_handler(job, result)
        else:
            end_without_success(job, event, result)
    finally:
        if stray is not None:
            raise stray


def end_without_success(job: Job, event: LifeEvent, error: BaseException | None) -> None:
    """Bring `job` to its end. `error`: what was raised, if anything was."""
    runner = job._runner
    if event is _FAIL:
        if job._scope is None:
            job._scope = runner.seam.cancel_scope()  # in which nothing is: a log handler may cancel the task
        assert error is not None
        report.failed(job, error)
    runner.end(job, event, None if event is _UNWIND else error)
    runner.left(job)


async def ask_handler(job: Job, error: Exception) -> None:
    """Let the handler bring `job` to its end, or on to another attempt."""
    job._move(LifeEvent.RAISE)
    answer, value, stray = await handle(job, error)
    event = after_handler(answer, job.status)
    if event is LifeEvent.RETRY:
        job._move(event)
        report.retrying(job, error, value.after)
        await pause(job, value.after)
        return
    end_without_success(job, event, error)
    if stray is not None:
        raise stray


async def handle(job: Job, error: Exception) -> tuple[Answer, Any, BaseException | None]:
    """Call the handler, under the shield and in the context of its task.

    :return: how it ended, what it returned, and what it raised that does not belong to the task
    """
    on_error = job.config.on_error
    assert on_error is not None
    answer, value, stray = Answer.CANCELLED, None, None
    job._scope = job._runner.seam.cancel_scope(shield=job.config.shielded)
    if job.status is TaskStatus.ABORTING:
        job._scope.cancel()
    try:
        with job._scope:
            value = await call(job, on_error, (job, error), {}, is_async(on_error), surely=True)
            answer = Answer.RETRY if isinstance(value, Retry) else Answer.ACCEPTED
    except BaseException as exc:
        if _classify(exc, job) is not Outcome.CANCELLED:
            answer = Answer.RAISED
            report.handler_failed(job, exc)
        stray = _stray(exc, job)
    return answer, value, stray


async def pause(job: Job, seconds: float) -> None:
    """Wait, without a slot, and ask for the next attempt, which has a fresh copy of the context."""
    job._scope = job._runner.seam.cancel_scope(shield=job.config.shielded)
    job._runner.paused()
    stray = None
    try:
        with job._scope:
            await sleep(seconds)
    except BaseException as exc:
        stray = _stray(exc, job)
        job._runner.cancel(job)
    job._scope = None  # which was cancelled or has been left; the next attempt has one of its own, or none yet
    job._runner.resumed(job)
    if stray is not None:
        raise stray


async def call(
    job: Job,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Any,
    func_is_async: bool,
    *,
    timeout: float | None = None,
    surely: bool = False,
) -> Any:
    """Call `func` as what it is: awaited, or in a thread. An awaitable that comes out of a thread is awaited.

    :param surely: whether cancellation does not keep it from being called
    :raises TimeoutError: if it takes more than `timeout` seconds
    """
    if func_is_async:
        result = func(*args, **kwargs)
        deadline = inf if timeout is None else current_time() + timeout
    else:
        result, deadline = await job._runner.threads.call(job, lambda: func(*args, **kwargs), timeout, surely=surely)
        if not isawaitable(result):
            return result
    where: BaseException | None = None
    try:
        with CancelScope(deadline=deadline):
            try:
                return await result
            except BaseException as exc:
                where = exc  # if it is the cancellation its traceback shows where the time has gone
                raise
        raise TimeoutError(f"timed out after {timeout:g} seconds") from where
    finally:
        del where  # that traceback has this frame: a cycle


def _loop_has_gone() -> bool:
    try:
        current_effective_deadline()
    except RuntimeError:  # anyio's NoEventLoopError, from 4.12 on, is one too
        return True
    return False


def _classify(exc: BaseException, job: Job) -> Outcome:
    cancelled = (job._runner.seam.cancelled, ThreadAbandoned)
    if isinstance(exc, Exception):
        return Outcome.RAISED
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return Outcome.CANCELLED if group.split(cancelled)[1] is None else Outcome.EXITED
    return Outcome.CANCELLED if isinstance(exc, cancelled) else Outcome.EXITED


def _stray(exc: BaseException, job: Job) -> BaseException | None:
    """Return the part of `exc` that does not speak to the task, but to the loop or to what encloses the task."""
    stray: tuple[type[BaseException], ...] = (KeyboardInterrupt,)
    if is_cancelled_around():
        stray = (*stray, job._runner.seam.cancelled)
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return group.split(stray)[0]
    return exc if isinstance(exc, stray) else None
