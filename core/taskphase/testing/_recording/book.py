"""What a recorder has written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..._drive.job import Job
from .changes import CHANGES, runs_a_loop
from .entry import Entry
from .expecting import Expectation
from .showing import lines

Default = TypeVar("Default")


class Book:
    """What a recorder has written down, and what its test has said about it.

    :ivar entries: in the order of `schedule()`
    :ivar expected: the failures that are
    :ivar is_busy: tells whether tasks may still come from what is over for its client
    :ivar timeout: seconds that each wait may take; None: for ever
    """

    def __init__(self, is_busy: Callable[[], bool], timeout: float | None) -> None:
        self.entries: dict[Job, Entry] = {}
        self.expected: list[Expectation] = []
        self.is_busy = is_busy
        self.timeout = timeout

    def those(self, keep: Callable[[Entry], bool]) -> list[Entry]:
        """Return the entries that `keep` is true for."""
        return [entry for entry in list(self.entries.values()) if keep(entry)]

    def wait(self, keep: Callable[[Entry], bool], condition: Callable[[list[Entry]], bool], what: str) -> None:
        """Wait, in a thread, until `condition` is true for the entries that `keep` is true for.

        :raises RuntimeError: in the thread of an event loop, which this would block
        :raises TimeoutError: if that takes too long
        """
        if runs_a_loop():
            raise RuntimeError(
                "this would block the event loop of its thread: await await_all(), await_until() or arun_all() there"
            )
        CHANGES.wait(lambda: condition(self.those(keep)), self.timeout, lambda: self._describe(keep, what))

    async def until(self, keep: Callable[[Entry], bool], condition: Callable[[list[Entry]], bool], what: str) -> None:
        """Wait, in an event loop, until `condition` is true for the entries that `keep` is true for.

        :raises TimeoutError: if that takes too long
        """
        await CHANGES.until(lambda: condition(self.those(keep)), self.timeout, lambda: self._describe(keep, what))

    def _describe(self, keep: Callable[[Entry], bool], what: str) -> str:
        goes_on = ", and what is over for its client goes on" if self.is_busy() else ""
        return f"{what}{goes_on}; recorded:{lines(self.those(keep))}"
