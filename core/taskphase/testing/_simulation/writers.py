"""The thread of a journal as a worker: the event loop chooses when it goes on, one transaction in each step.

The thread parks where it waits for work. The file is a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any

from .privates import replaced
from .schedule import here
from .threads import Crew, Worker, current_worker


@contextmanager
def writers_as_workers(crew: Crew) -> Generator[None]:
    """Make journals that this thread opens use workers of `crew` while the context is open."""
    try:
        from ...journal import _writer
    except ImportError:  # this Python has no sqlite3, and so no journals
        yield
        return

    def thread(target: Callable[[], None], **options: Any) -> _Hired | Thread:
        if getattr(here, "schedule", None) is crew.schedule:
            return _Hired(crew, target)
        return Thread(target=target, **options)

    with replaced(_writer, "Thread", thread), replaced(_writer, "SimpleQueue", _Mailbox):
        yield


class _Hired:
    """Has the methods of a thread that a writer needs."""

    def __init__(self, crew: Crew, target: Callable[[], None]) -> None:
        self._crew = crew
        self._target = target
        self.worker: Worker

    def start(self) -> None:
        def journal() -> None:
            self._target()

        journal.__qualname__ = "journal"  # the name in the trace
        self.worker = self._crew.hire(journal, journal)


class _Mailbox(SimpleQueue[Any]):
    """A queue in which a worker parks. Other threads wait as in any queue."""

    _wake: Callable[[], None] | None = None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._wake_up(self._wake)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        worker = current_worker()
        if worker is None or not block:
            return super().get(block, timeout)

        def wake() -> None:
            loop.make_runnable(worker)

        loop, self._wake = worker.crew.loop, wake
        if not self.empty() or timeout == 0:
            self._wake_up(wake)
        elif timeout is not None:
            loop.at(worker.crew.schedule.now + timeout, lambda: self._wake_up(wake))
        worker.park()
        return super().get(block=False)

    def _wake_up(self, wake: Callable[[], None] | None) -> None:
        """Call `wake`, unless the worker no longer waits there."""
        if wake is not None and wake is self._wake:
            self._wake = None
            wake()
