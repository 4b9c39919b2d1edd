"""`TraceTasks`: a span for each attempt at a task, and metrics, for OpenTelemetry."""

from taskphase.opentelemetry import TraceTasks

__all__ = ["TraceTasks"]
