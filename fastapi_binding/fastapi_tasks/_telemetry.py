"""When has an app OpenTelemetry? This module decides, and imports OpenTelemetry only then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from taskphase import TaskObserver

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

# OpenTelemetry has no public question for "did the program set a provider?". FastAPI (0.142 to 0.165) also compares
# these names.
_UNSET = frozenset(
    {
        ("opentelemetry.trace", "ProxyTracerProvider"),
        ("opentelemetry.trace", "NoOpTracerProvider"),
        ("opentelemetry.metrics._internal", "_ProxyMeterProvider"),
        ("opentelemetry.metrics._internal", "NoOpMeterProvider"),
    }
)


class TelemetrySettings(TypedDict, total=False):
    """The parameters of `taskphase.opentelemetry.TraceTasks`."""

    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    trace: Literal["child", "link"]


def explicit_observer(telemetry: object, observers: Iterable[TaskObserver]) -> TaskObserver | None:
    """Return the observer that the settings of `add_tasks(telemetry=...)` ask for; None for False and None.

    :param observers: of the app
    :raises TypeError: if `telemetry` is neither None, False nor a dict, or has an unknown key, or a provider is no
        provider
    :raises ValueError: if `trace` is unknown, or if one of `observers` is for OpenTelemetry, too
    :raises ImportError: if OpenTelemetry is not installed
    """
    if telemetry is None or telemetry is False:
        return None
    if not isinstance(telemetry, Mapping):
        raise TypeError(f"telemetry must be None, False or a dict, not {telemetry!r}")
    settings = cast("Mapping[str, Any]", telemetry)
    known = TelemetrySettings.__annotations__
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise TypeError(f"telemetry has no setting {unknown[0]!r}: its settings are {', '.join(known)}")
    from taskphase.opentelemetry import TraceTasks

    if any(isinstance(each, TraceTasks) for each in observers):
        raise ValueError(
            "observers has a TraceTasks, and telemetry={...} makes another one: each attempt would have two spans. "
            "Leave one of them out"
        )
    return TraceTasks(**settings)


def global_observer(observers: Iterable[TaskObserver]) -> TaskObserver | None:
    """Return an observer for the global providers of OpenTelemetry.

    :param observers: of the app
    :return: None if the program has set no provider, or if one of `observers` is for OpenTelemetry
    """
    if not (_is_set("trace", "get_tracer_provider") or _is_set("metrics", "get_meter_provider")):
        return None
    from taskphase.opentelemetry import TraceTasks

    return None if any(isinstance(each, TraceTasks) for each in observers) else TraceTasks()


def _is_set(module: str, function: str) -> bool:
    get_provider: Callable[[], object] | None = getattr(sys.modules.get(f"opentelemetry.{module}"), function, None)
    if get_provider is None:
        return False
    cls = type(get_provider())
    return (cls.__module__, cls.__name__) not in _UNSET
