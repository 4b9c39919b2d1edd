"""Work of each kind in a closing host, and the predicted end of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import anyio
from anyio import CancelScope, create_task_group, current_time, get_cancelled_exc_class, move_on_after
from hypothesis import strategies as st

from taskphase import Task, TaskHost, TaskStatus
from taskphase.testing import pause

S = TaskStatus

# Virtual seconds.
BEGIN = 0.1  # when the closing begins
TIMEOUT = 0.05
CLEANING = 0.25
HANDLING = 3.0


@dataclass(frozen=True)
class Work:
    """Work that takes some seconds. After a cancellation it obeys; or cleans up and returns; or raises, for a handler
    that obeys or runs in a thread. Work in a thread cannot be cancelled, but its task may time out. Work in the plain
    group has no task.
    """

    kind: Literal["obeys", "clings", "raises", "raises for a thread", "thread", "times out", "plain"]
    seconds: float
    shield: bool = False

    def end(self, grace: float, patience: float) -> tuple[float, TaskStatus | None]:
        """Return the time and the status of the end; None as status if unspecified."""
        sweep = BEGIN + grace
        last = sweep + patience
        spared = last if self.shield else sweep
        if self.kind == "thread":
            return (self.seconds, S.SUCCEEDED) if self.seconds < last else (last, S.CANCELLED)
        if self.kind == "times out":
            return TIMEOUT, S.FAILED
        if self.kind == "plain":
            return min(self.seconds, sweep), None
        if self.seconds < spared:
            return self.seconds, S.SUCCEEDED
        if self.kind == "clings":
            return spared + CLEANING, S.SUCCEEDED
        if self.kind == "raises":
            return spared, S.FAILED
        if self.kind == "raises for a thread":
            return min(spared + HANDLING, last), None
        return spared, S.CANCELLED

    def holds_until(self, grace: float, patience: float) -> float:
        """Return the time until which the work keeps the host from closing."""
        if self.kind == "times out":
            return min(self.seconds, BEGIN + grace + patience)
        return self.end(grace, patience)[0]

    @property
    def in_thread(self) -> bool:
        return self.kind in ("thread", "times out")


# No sum of these numbers equals another sum, so events at the same time have the same cause.
works = st.builds(
    Work,
    kind=st.sampled_from(["obeys", "clings", "raises", "raises for a thread", "thread", "times out", "plain"]),
    seconds=st.sampled_from([0.3, 1.7, 4.15, 20.0]),
    shield=st.booleans(),
)


class Closing:
    """A host that closes while it runs all this work: its body ends, or a scope around the host is cancelled."""

    def __init__(self, works: list[Work], grace: float, patience: float | None, *, is_cancelled: bool) -> None:
        self.works = works
        self.ends_after, self.cancelled_after = (math.inf, BEGIN) if is_cancelled else (BEGIN, math.inf)
        self.host = TaskHost(drain_timeout=grace, shield_timeout=patience)
        self.ends: dict[int, tuple[float, TaskStatus | None]] = {}

    async def main(self) -> float:
        async with create_task_group() as watchers:
            with move_on_after(self.cancelled_after):
                async with self.host:
                    for number, work in enumerate(self.works):
                        if work.kind == "plain":
                            self.host.tg.start_soon(self._plain, number, work.seconds)
                            continue
                        watchers.start_soon(self._watch, number, self._schedule(str(number), work))
                    await anyio.sleep(self.ends_after)
            return current_time()

    def _schedule(self, name: str, work: Work) -> Task[Any]:
        timeout = TIMEOUT if work.kind == "times out" else None
        on_error = {"raises": self._handle, "raises for a thread": self._handle_in_thread}.get(work.kind)
        definition = self.host.task(name=name, shield=work.shield, on_error=on_error, timeout=timeout)
        return definition.schedule(pause, work.seconds) if work.in_thread else definition.schedule(self._do, work)

    async def _do(self, work: Work) -> None:
        try:
            await anyio.sleep(work.seconds)
        except get_cancelled_exc_class():
            if work.kind == "obeys":
                raise
            if work.kind.startswith("raises"):
                raise OSError from None
            with CancelScope(shield=True):
                await anyio.sleep(CLEANING)

    async def _handle(self, task: Task[Any], exc: Exception) -> None:
        await anyio.sleep(HANDLING)

    def _handle_in_thread(self, task: Task[Any], exc: Exception) -> None:
        pause(HANDLING)

    async def _plain(self, number: int, seconds: float) -> None:
        try:
            await anyio.sleep(seconds)
        finally:
            self.ends[number] = (current_time(), None)

    async def _watch(self, number: int, task: Task[Any]) -> None:
        await task.wait()
        self.ends[number] = (current_time(), task.status)
