"""The context: the current task and the current host, for code at any depth; and code without a context."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from types import coroutine
from typing import Any, TypeAlias, TypeVar

from .job import JOB, Job
from .unit import Unit

T = TypeVar("T")

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


@coroutine
def in_empty_context(coro: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await `coro` in an empty context.

    On asyncio connections, pipes, timers and the pool of workers keep the context of their maker, some of them as long
    as the loop lives. The context of a job would keep the job.
    """
    context = Context()
    step: Callable[[Any], Any] = coro.send
    value: Any = None
    while True:
        try:
            waits = context.run(step, value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            value = None  # the traceback of an exception leads here
        try:
            step, value = coro.send, (yield waits)
        except BaseException as exc:
            step, value = coro.throw, exc
