"""The worker side of a queue: the task that runs here was scheduled in another process."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

from ._drive.current import BODY
from ._drive.job import JOB
from ._machine.calling import shown
from ._queue import Queue


@dataclass(frozen=True, slots=True)
class HandedTask:
    """A task in a worker: what `current_task()` returns there. Read-only: the engine runs the task.

    :ivar message_id: the same as in the process that has scheduled the task. A call may be published more than once, so
        key the work by this id
    :ivar function: the name of the function with its module
    :ivar queue: the name of the queue
    :ivar attempt: the number of the run, from 1, if the engine counts runs; otherwise 1
    """

    message_id: str
    function: str
    queue: str
    attempt: int = 1

    @property
    def name(self) -> str:
        """The name of the function with its module."""
        return self.function

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a task in a worker has no {shown(name)!r}, only message_id, function, name, queue and attempt: an engine "
            "runs it, and its host is in another process"
        )


HANDED: ContextVar[HandedTask | None] = ContextVar("taskphase_handed_task", default=None)
"""The task of a queue that runs here."""


@contextmanager
def running(
    queue: Queue, function: str, message_id: str, headers: Mapping[str, Any], *, attempt: int = 1
) -> Generator[HandedTask]:
    """Return a context for the function of a handed-over task, in a worker: for code that binds an engine.

    Inside, `current_task()` is the returned view, and the variables of `queue.carry` have their values again. If
    OpenTelemetry is set up, there is a CONSUMER span in the trace of the request. There is no `current_host()`, even if
    a host of this process is around this code, as with an engine in memory.

    :param function: the name of the function with its module
    :param headers: what `Queue.publish()` has got; other keys and values that are no str are ignored
    """
    task = HandedTask(message_id, function, queue.name, attempt)
    texts = {name: value for name, value in headers.items() if isinstance(value, str)}
    values: dict[ContextVar[Any], object] = {HANDED: task, JOB: None, BODY: None}
    values |= {variable: texts[name] for name, variable in queue.carry.items() if name in texts}
    with ExitStack() as stack:
        for variable, value in values.items():
            stack.enter_context(_value(variable, value))
        if "opentelemetry.trace" in sys.modules:
            from ._messaging import span

            stack.enter_context(span(queue, function, message_id, texts))
        yield task


@contextmanager
def _value(variable: ContextVar[Any], value: object) -> Generator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        with suppress(ValueError):  # the engine has left the block in another context
            variable.reset(token)
