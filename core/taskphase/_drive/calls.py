"""Calls of the user's function and of the error handler: awaited, in a thread, or in a process."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any, cast

from anyio import CancelScope, current_time

from .._machine.calling import is_async, is_awaited
from .job import Job, order_of
from .processes import call_in_process
from .raised import show_from_function
from .threads import timed_out


async def call_function(job: Job) -> Any:
    """Call the function: in the event loop if it is async, otherwise in a thread or in a process. Await an awaitable
    result, but not the result of a process. A task of a queue is handed over instead.

    :raises HandOverFailed: if the queue has not confirmed the hand-over
    :raises TimeoutError: if the call takes more than `timeout` seconds
    """
    # No frame here has the arguments as local variables: error trackers send the local variables of each frame.
    timeout, where = job.config.timeout, None
    try:
        if job._parcel.is_async:
            result = job.func(*job.args, **job._kwargs)
            deadline = current_time() + cast(float, timeout)  # without one `attempt()` calls the function itself
        elif order_of(job) is not None:
            return await order_of(job).outlet.deliver(job)
        elif job.config.run_in == "process":
            return await call_in_process(job)
        else:
            result, deadline = await job._runner.threads.call(job, partial(_call, job), timeout, surely=False)
            if result is None or not is_awaited(result):
                return result
        with CancelScope(deadline=deadline):
            try:
                return await result
            except BaseException as exc:
                where = exc  # the traceback of the cancellation shows where the function waited
                raise
        show_from_function(cast(BaseException, where))
        raise timed_out(timeout) from where
    finally:
        del where, job  # as in `attempt()`


def _call(job: Job) -> Any:
    # No closure: the frame of the user's function refers to this frame, and the exception of the job to both.
    return job.func(*job.args, **job._kwargs)


async def call_handler(job: Job, error: Exception) -> Any:
    """Call the handler: in the event loop if it is async, otherwise in a thread, even after a cancellation."""
    on_error = job.config.on_error
    assert on_error is not None
    if is_async(on_error):
        return await cast("Awaitable[Any]", on_error(job, error))
    result, _ = await job._runner.threads.call(job, partial(on_error, job, error), None, surely=True)
    return await result if is_awaited(result) else result
