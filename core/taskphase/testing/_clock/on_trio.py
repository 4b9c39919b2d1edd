"""trio with a `JumpClock`."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import trio

from .jumping import LoopOfClock

if TYPE_CHECKING:
    from .jumping import JumpClock


class ClockOfTrio(trio.abc.Clock):
    def __init__(self, clock: JumpClock) -> None:
        self._clock = clock

    def start_clock(self) -> None:
        # trio calls this in the thread of each run, before any task exists.
        token = trio.lowlevel.current_trio_token()
        loop = LoopOfClock(token.run_sync_soon)
        loop.begin()
        self._clock._add(loop)
        token.run_sync_soon(trio.lowlevel.spawn_system_task, self._remove_at_the_end, loop)

    def current_time(self) -> float:
        return perf_counter() + self._clock.offset

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()

    async def _remove_at_the_end(self, loop: LoopOfClock) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._clock._remove(loop)
