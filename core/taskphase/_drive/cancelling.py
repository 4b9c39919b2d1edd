"""The part of cancel scopes that the driver needs."""

from __future__ import annotations

from math import inf
from types import TracebackType
from typing import Protocol

from anyio import current_effective_deadline, get_cancelled_exc_class


class CancelScope(Protocol):
    """A cancel scope of anyio's asyncio backend, or of trio itself."""

    @property
    def deadline(self) -> float: ...
    @deadline.setter
    def deadline(self, value: float, /) -> None: ...
    @property
    def cancel_called(self) -> bool: ...
    @property
    def cancelled_caught(self) -> bool: ...
    def cancel(self) -> None: ...
    def __enter__(self) -> object: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> bool | None: ...


def is_cancelled_around() -> bool:
    """Return True if a cancel scope around this code is cancelled, without a shield in between."""
    return current_effective_deadline() == -inf


def no_loop_runs_here() -> bool:
    """Return whether no event loop runs here. In a task: it has ended, and left the task to the garbage collector."""
    try:
        get_cancelled_exc_class()
    except Exception:  # a RuntimeError; in anyio 4.12.0 a class of its own
        return True
    return False
