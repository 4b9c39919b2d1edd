"""Due tasks that no living host can run: their functions are unknown, or have other parameters now."""

from __future__ import annotations

from collections.abc import Callable, Iterable

# Seconds for which such a task stays due. While a process that can run it restarts, only other apps and older versions
# may be there; a restart takes less.
_GRACE = 60.0


class Doubts:
    """The tasks of which one host has seen this, and since when. For the thread that writes.

    :param clock: returns the time, in any thread
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: dict[str, tuple[float, str]] = {}

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._found

    def note(self, message_id: str, reason: str) -> tuple[float, str]:
        """Note that this host cannot run a task. Return since when, and the first reason."""
        return self._found.setdefault(message_id, (self._clock(), reason))

    def judge(self, found: Iterable[tuple[str, str]], *, is_all: bool) -> list[tuple[str, str, str]]:
        """Return the message ids, functions and reasons of the tasks to keep as failed. The others stay due for now.

        :param found: the message ids and functions of due tasks that no living host can run
        :param is_all: True to forget all other tasks: a host can run them now, or has done so
        """
        given_up: list[tuple[str, str, str]] = []
        kept: dict[str, tuple[float, str]] = {}
        for message_id, function in found:
            kept[message_id] = self.note(message_id, "the journal of this app has no function with this name")
            since, reason = kept[message_id]
            if self._clock() - since >= _GRACE:
                given_up.append((message_id, function, reason))
        if is_all:
            self._found = kept
        return given_up
