"""asyncio's own event loop with a `JumpClock`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from .jumping import LoopOfClock

if TYPE_CHECKING:
    from .jumping import JumpClock


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: JumpClock) -> None:
        self._clock = clock
        super().__init__()
        self._of_clock = LoopOfClock(self.call_soon_threadsafe)
        clock._add(self._of_clock)

    def time(self) -> float:
        return super().time() + self._clock.offset

    def run_forever(self) -> None:
        self._of_clock.begin()
        try:
            super().run_forever()
        finally:
            self._of_clock.end()

    def close(self) -> None:
        if not self.is_closed():
            self._clock._remove(self._of_clock)
        super().close()


def loop_factory(clock: JumpClock) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a function that makes event loops with this clock."""
    return lambda: _Loop(clock)
