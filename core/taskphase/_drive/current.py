"""The running task and host, wherever the code that asks for them has been called from."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from .job import Job


# The body of an open host, or of one of its scopes: the host; the task in which the body was entered, or None; and a
# function that returns the scheduler of the scope, or None. A plain tuple, because each request makes two.
Body: TypeAlias = tuple[Any, "Job | None", Callable[[], Any] | None]

JOB: ContextVar[Job | None] = ContextVar("taskphase_job", default=None)
BODY: ContextVar[Body | None] = ContextVar("taskphase_body", default=None)


def running_job() -> Job | None:
    """Return the innermost running job, or None."""
    return JOB.get()


def running_host() -> Any:
    """Return the innermost host: that of the running job, or the one whose body this is. None without either."""
    job, body = JOB.get(), BODY.get()
    host, entered_in, _ = body or (None, None, None)
    if job is None or (body is not None and entered_in is job):
        return host
    # A job's context is that of its scheduling, so its `BODY` may be another host's.
    return job._runner.host or host


def body_here() -> Body | None:
    """Return the body that this code runs in. None in a task: the context of a task is that of its scheduling."""
    job, body = JOB.get(), BODY.get()
    return body if body is not None and body[1] is job else None
