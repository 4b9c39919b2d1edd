"""The thread of a journal as a worker: the event loop chooses when it goes on, one transaction in each step.

The thread parks where it waits for work. The file is a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from unittest.mock import patch

from .loop import Loop
from .schedule import here
from .threads import Mailbox, Worker


@contextmanager
def writers_as_workers(loop: Loop) -> Generator[None]:
    """Make journals that this thread opens use workers of `loop` while the context is open."""
    try:
        from ...journal import _writer
    except ImportError:  # this Python has no sqlite3, and so no journals
        yield
        return

    def thread(target: Callable[[], None], **options: Any) -> _Hired | Thread:
        if getattr(here, "schedule", None) is loop.schedule:
            return _Hired(loop, target)
        return Thread(target=target, **options)

    with patch.object(_writer, "Thread", thread), patch.object(_writer, "SimpleQueue", Mailbox):
        yield


class _Hired:
    """Has the method of a thread that a writer needs.

    :ivar worker: for tests of a process that dies
    """

    def __init__(self, loop: Loop, target: Callable[[], None]) -> None:
        self._loop = loop
        self._target = target
        self.worker: Worker

    def start(self) -> None:
        self.worker = self._loop.hire("journal", self._target)
