"""An SDK of OpenTelemetry of its own for a test: spans and metrics in memory, and no global provider."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

from taskphase.opentelemetry import TraceTasks

SHORT = {"code.function.name": "function", "error.type": "error"}


class Telemetry:
    """The providers, and the spans and metrics that came out of them."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.tracer_provider.get_tracer("test")

    @property
    def providers(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}

    def observer(self, **settings: Any) -> TraceTasks:
        return TraceTasks(**self.providers, **settings)

    def spans(self, *prefixes: str) -> list[ReadableSpan]:
        """Return the ended spans whose names begin with one of `prefixes`; without prefixes, the spans of tasks."""
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(prefixes or ("task ",))]

    def points(self, metric: str) -> dict[tuple[str, ...], Any]:
        """Return the data points of a metric, each by the values of its labels: a number, or a histogram's point."""
        data = self.reader.get_metrics_data()
        found: dict[tuple[str, ...], Any] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for each in scope.metrics:
                    if each.name == metric:
                        assert scope.scope.name == "taskphase"
                        for point in each.data.data_points:
                            labels = {SHORT.get(k, k.rsplit(".", 1)[-1]): v for k, v in point.attributes.items()}
                            key = tuple(f"{name}={labels[name]}" for name in sorted(labels) if name != "function")
                            value = point if isinstance(point, HistogramDataPoint) else point.value
                            found[(labels["function"].rsplit(".", 1)[-1], *key)] = value
        return found

    def counts(self, metric: str) -> dict[tuple[str, ...], int]:
        """Return the counts of a histogram."""
        return {labels: point.count for labels, point in self.points(metric).items()}


def of(span: ReadableSpan, *names: str) -> tuple[Any, ...]:
    """Return attributes of a span; a name without a dot is one of `taskphase.task`."""
    attributes = span.attributes or {}
    return tuple(attributes.get(name if "." in name else f"taskphase.task.{name}") for name in names)


def id_of(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


@contextmanager
def spans_of_records() -> Iterator[list[tuple[str, int, bool]]]:
    """Note each record of the logger `taskphase`: its level, the id of the current span, and if that span records."""
    notes: list[tuple[str, int, bool]] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            span = get_current_span()
            notes.append((record.levelname, span.get_span_context().span_id, span.is_recording()))

    logger, handler, before = logging.getLogger("taskphase"), Note(), logging.getLogger("taskphase").level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
