"""The trace of a recovered task. Imported only if the program has loaded OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import context, propagate


def continue_trace(headers: Mapping[str, str]) -> None:
    """Make the span in `headers` the current one of the running context, which ends with its task."""
    context.attach(propagate.extract(headers))
