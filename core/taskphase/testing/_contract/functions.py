"""The functions that the contract hands over. Workers import this module, so it imports little."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..._current import current_host, current_task
from ...errors import NoCurrentError

CARRIED: ContextVar[str | None] = ContextVar("taskphase_contract", default=None)
"""A variable whose value goes to the worker."""


def note(file: str, values: list[Any], *, word: str = "") -> None:
    """Append a line about this call to `file`."""
    _write(file, note, values, word)


async def note_async(file: str, values: list[Any], *, word: str = "") -> None:
    """Append a line about this call to `file`, from an async function."""
    _write(file, note_async, values, word)


QUEUE_CONTRACT: Mapping[str, Any] = MappingProxyType(
    {"functions": (note, note_async), "carry": MappingProxyType({"x-taskphase-contract": CARRIED})}
)
"""The keyword arguments of the queues of `queue_contract()`, for the program and for its workers."""


def _write(file: str, func: Callable[..., Any], values: list[Any], word: str) -> None:
    line: dict[str, Any] = {
        "function": func.__name__,
        "values": values,
        "word": word,
        "carried": CARRIED.get(),
        "trace": _trace(),
    }
    try:
        task: Any = current_task()
        line |= {"id": task.message_id, "task": task.function}
    except NoCurrentError:
        line |= {"id": None, "task": None}
    try:
        current_host()
        line["has_host"] = True
    except NoCurrentError:
        line["has_host"] = False
    with Path(file).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


def _trace() -> str | None:
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None
