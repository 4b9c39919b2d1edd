"""The running task and host, wherever the code that asks for them has been called from."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .job import Job


class Body(NamedTuple):
    """The body of an open host, and the task in which it was entered, if any."""

    host: Any
    entered_in: Job | None


JOB: ContextVar[Job | None] = ContextVar("taskphase_job", default=None)
BODY: ContextVar[Body | None] = ContextVar("taskphase_body", default=None)


def running_job() -> Job | None:
    """Return the innermost running job, or None."""
    return JOB.get()


def running_host() -> Any:
    """Return the innermost host: that of the running job, or the one whose body this is. None without either."""
    job, body = JOB.get(), BODY.get()
    if job is None or (body is not None and body.entered_in is job):
        return None if body is None else body.host
    # A job's context is that of its scheduling, so its `BODY` may be another host's.
    return job._runner.host or (None if body is None else body.host)
