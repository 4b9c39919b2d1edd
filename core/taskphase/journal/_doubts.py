"""Due tasks that no living host can run: their functions are unknown, or have other parameters now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

# Seconds for which such a task stays due. While a process that can run it restarts, only other apps and older versions
# may be there; a restart takes less.
_GRACE = 60.0


class GivenUp(NamedTuple):
    """A task that is kept as failed, although no host has run it now."""

    message_id: str
    function: str
    name: str
    phase: str
    reason: str


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

    def judge(self, found: Sequence[GivenUp], *, is_all: bool) -> list[GivenUp]:
        """Return the tasks to keep as failed, with the first reasons. The others stay due for now.

        :param found: the due tasks that no living host can run
        :param is_all: True to forget all other tasks: a host can run them now, or has done so
        """
        noted = {each.message_id: self.note(each.message_id, each.reason) for each in found}
        if is_all:
            self._found = noted
        now = self._clock()
        judged = [(each, *noted[each.message_id]) for each in found]
        return [each._replace(reason=reason) for each, since, reason in judged if now - since >= _GRACE]
