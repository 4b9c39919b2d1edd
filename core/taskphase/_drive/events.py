"""The events for code that waits for a task."""

from __future__ import annotations

from anyio import Event


class Events:
    """The first step of a task, and its end. Most tasks have no such object."""

    __slots__ = ("ended", "started")

    def __init__(self) -> None:
        self.started = Event()
        self.ended = Event()
