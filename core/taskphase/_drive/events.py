"""The events for code that waits for a task."""

from __future__ import annotations

from threading import get_ident

from anyio import Event


class Events:
    """The first step of a task, and its end. Most tasks have no such object.

    :ivar thread: the identifier of the thread whose event loop waits, and must set the events
    """

    __slots__ = ("ended", "started", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.started = Event()
        self.ended = Event()
