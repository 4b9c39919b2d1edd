"""`Owner`: the part of a runner that an attempt and a handle need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from .._machine.life import LifeEvent
from .hooks import Telling, Watching
from .keeping import Keeper
from .seam import Seam
from .threads import Threads

J = TypeVar("J")
"""The record of a task."""


class Owner(Protocol[J]):
    """The part of a runner that an attempt and a handle need. See `Runner`."""

    __slots__ = ()

    host: Any
    stamp: Callable[[], float]
    watching: Watching | None
    telling: Telling
    on_pause: Callable[[J], None] | None
    seam: Seam[J]
    threads: Threads[J]
    alive: dict[J, object]
    keeper: Keeper | None

    def call(self, func: Callable[[], None]) -> None: ...
    def busy(self) -> AbstractContextManager[None]: ...
    def cancel(self, job: J) -> None:
        """Ask a job to stop."""
        ...

    def cancel_for_good(self, job: J) -> None: ...
    def cancel_all(self, jobs: Iterable[J]) -> None: ...
    def note_paused(self, job: J, seconds: float) -> None: ...
    def resume(self, job: J) -> None: ...
    def note_left(self, job: J) -> None: ...
    def bury(self, job: J) -> None: ...
    def run_here(self, job: J, error: Exception) -> bool: ...

    def end(
        self,
        job: J,
        event: LifeEvent,
        result: Any = None,
        error: BaseException | None = None,
        telling: Telling | None = None,
    ) -> None:
        """Bring a job to its end, and count the end."""
        ...
