"""The trace of a task of a queue or a journal: attributes of its spans, the span in a worker. Imports OpenTelemetry."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Literal

from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach, get_current

from ._machine.calling import name_of
from ._machine.text import exportable
from ._queue import Queue


def message_attributes(
    queue: Queue, function: str, message_id: str, operation: Literal["send", "process"]
) -> dict[str, str]:
    """Return the attributes of a span about one message, by the semantic conventions for messaging."""
    attributes = {
        "messaging.destination.name": queue.name,
        "messaging.message.id": message_id,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "code.function.name": function,
    }
    return attributes if queue.system is None else {**attributes, "messaging.system": queue.system}


def type_of(error: BaseException) -> str:
    """Return the name of the class of `error`, as FastAPI's own spans have it."""
    return exportable(name_of(type(error)).removeprefix("builtins."))


def continue_trace(headers: Mapping[str, str]) -> None:
    """Make the span in `headers` the current one of the running context, which ends with its task."""
    attach(propagate.extract(headers))


@contextmanager
def span(queue: Queue, function: str, message_id: str, headers: Mapping[str, str]) -> Generator[None]:
    """Make a CONSUMER span current: a child of the span around this code, otherwise of the span in `headers`.

    If a span is around this code, the engine has an instrumentation of its own, which has restored trace and baggage.
    """
    is_inside = trace.get_current_span().get_span_context().is_valid
    token = attach(get_current() if is_inside else propagate.extract(headers))
    try:
        with trace.get_tracer("taskphase").start_as_current_span(
            f"process {queue.name}",
            kind=trace.SpanKind.CONSUMER,
            attributes=message_attributes(queue, function, message_id, "process"),
            # The message of an exception may be secret: the engine logs it.
            record_exception=False,
            set_status_on_exception=False,
        ) as own:
            try:
                yield
            except Exception as exc:
                own.set_attribute("error.type", type_of(exc))
                own.set_status(trace.StatusCode.ERROR)
                raise
    finally:
        detach(token)
