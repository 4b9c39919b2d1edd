"""All entries of a recorder."""

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
    """All entries of a recorder, and the expectations of its test.

    :ivar entries: the recorded tasks, in the order of `schedule()`
    :ivar expected: the expected failures
    :ivar is_busy: returns True if a request whose client has the whole response may still schedule
    :ivar timeout: the most seconds of each wait; None: for ever
    :ivar has_begun: True if the recorder was entered. Before that, a test that reads would pass, whatever its tasks do
    :param block: how to enter the recorder, for the message
    """

    has_begun = False

    def __init__(self, is_busy: Callable[[], bool], timeout: float | None, block: str) -> None:
        self.entries: dict[Job, Entry] = {}
        self.expected: list[Expectation] = []
        self.is_busy = is_busy
        self.timeout = timeout
        self._block = block

    def check_begun(self) -> None:
        """Refuse to answer if the recorder was never entered.

        :raises RuntimeError: in this case
        """
        if not self.has_begun:
            raise RuntimeError(f"record_tasks() records inside {self._block}")

    def entries_for(self, keep: Callable[[Entry], bool]) -> list[Entry]:
        """Return the entries for which `keep` is true.

        :raises RuntimeError: if the recorder was never entered
        """
        self.check_begun()
        return [entry for entry in list(self.entries.values()) if keep(entry)]

    def wait(self, keep: Callable[[Entry], bool], condition: Callable[[list[Entry]], bool], what: str) -> None:
        """Wait, in a thread, until `condition` is true for the entries for which `keep` is true.

        :raises RuntimeError: in the thread of an event loop: the wait would block the loop
        :raises TimeoutError: after `timeout` seconds
        """
        if runs_a_loop():
            raise RuntimeError(
                "this would block the event loop of its thread: await await_all(), await_until() or arun_all() there"
            )
        CHANGES.wait(lambda: condition(self.entries_for(keep)), self.timeout, lambda: self._describe(keep, what))

    async def until(self, keep: Callable[[Entry], bool], condition: Callable[[list[Entry]], bool], what: str) -> None:
        """Wait, in an event loop, until `condition` is true for the entries for which `keep` is true.

        :raises TimeoutError: after `timeout` seconds
        """
        await CHANGES.until(lambda: condition(self.entries_for(keep)), self.timeout, lambda: self._describe(keep, what))

    def _describe(self, keep: Callable[[Entry], bool], what: str) -> str:
        goes_on = ", and a request whose response is complete still runs" if self.is_busy() else ""
        return f"{what}{goes_on}; recorded:{lines(self.entries_for(keep))}"
