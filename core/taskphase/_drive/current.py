"""The current task and the current host, for code at any depth."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

from .job import JOB, Job
from .unit import Unit

# The body of a host or scope: the host; the task that entered the body, or None; the scope, a function that returns the
# scope, or None. A plain tuple, because each request makes two.
Body: TypeAlias = tuple[Any, Job | None, Unit[Job] | Callable[[], Any] | None]

BODY: ContextVar[Body | None] = ContextVar("taskphase_body", default=None)


def running_host() -> Any:
    """Return the host of the innermost task or body around this code; None without either."""
    job, body = JOB.get(), BODY.get()
    host, entered_in, _ = body or (None, None, None)
    if job is None or entered_in is job:
        return host
    # `BODY` may belong to another host: a task inherits the context of its `schedule()` call.
    return job._runner.host or host


def scope_here(host: object) -> Any:
    """Return the scope of `host` that this code runs in, or None. In a task there is none."""
    body = body_here()
    if body is None or body[0] is not host:
        return None
    unit = body[2]
    return unit() if callable(unit) else unit


def body_here() -> Body | None:
    """Return the body around this code; None in a task, which inherits `BODY` from its `schedule()` call."""
    job, body = JOB.get(), BODY.get()
    return body if body is not None and body[1] is job else None
