"""The places for calls in processes: one for each core."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

from anyio import Event
from anyio.lowlevel import checkpoint_if_cancelled


def count_cores() -> int:
    """Return the number of cores that this process may use, as far as Python knows it."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)  # the former from Python 3.13 on
    return count() or 1


class Places:
    """The places of one event loop for calls in processes: exact, first in, first out. For the loop's thread.

    Before version 4.14.2, a place of anyio's `CapacityLimiter` is lost if the waiter is cancelled in the moment when it
    gets the place.
    """

    def __init__(self, total: int) -> None:
        self._free = total  # 0 while `_line` is not empty
        self._line: OrderedDict[object, Event] = OrderedDict()

    async def take(self) -> None:
        """Wait for a place. A cancellation ends the wait at once."""
        if self._free:
            self._free -= 1
            return
        ticket = object()
        given = self._line[ticket] = Event()
        try:
            await given.wait()
            await checkpoint_if_cancelled()  # notice a cancellation that arrived after `given.set()`
        except BaseException:
            if self._line.pop(ticket, None) is None:  # the place was given to this call already
                self.give_back()
            raise

    def give_back(self) -> None:
        """Give the place to the next call in line."""
        if self._line:
            self._line.popitem(last=False)[1].set()
        else:
            self._free += 1
