"""Slots: for the threads of a host, and for calls in processes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from anyio.lowlevel import checkpoint_if_cancelled

from .seam import Event

Holder = TypeVar("Holder")


class Slots(Generic[Holder]):
    """Slots in one event loop: exact, first in, first out. For the loop's thread.

    anyio's `CapacityLimiter` is not exact:

    - It frees a slot as soon as a call in a thread is abandoned, although the thread still runs.
    - Before version 4.14.2 the next waiter takes a free slot only at its next turn, and until then another call can
      take the slot. If the waiter is cancelled in the moment when it gets the slot, the slot is lost.

    *Invariant*: while `_line` is not empty, all slots are in `held`.

    :param event: the class of events
    :ivar held: the holders of the slots
    """

    def __init__(self, total: float, event: Callable[[], Event]) -> None:
        self.held: set[Holder] = set()
        self._total = total
        self._event = event
        self._line: OrderedDict[Holder, Event] = OrderedDict()

    async def take(self, holder: Holder) -> None:
        """Wait for a slot. A cancellation ends the wait at once. No checkpoint if a slot is free."""
        if len(self.held) < self._total:
            self.held.add(holder)
            return
        given = self._line[holder] = self._event()
        try:
            await given.wait()
            # Notice a cancellation that arrived after `given.set()`: the call has not begun, and must not begin.
            await checkpoint_if_cancelled()
        except BaseException:
            if self._line.pop(holder, None) is None:  # the slot was given to this holder already
                self.release(holder)
            raise

    def release(self, holder: Holder) -> bool:
        """Give the slot of `holder` to the next one in line. Return False if it was released before."""
        if holder not in self.held:
            return False
        self.held.remove(holder)
        if self._line:
            following, given = self._line.popitem(last=False)
            self.held.add(following)  # now, so that no other call takes the slot first
            given.set()
        return True
