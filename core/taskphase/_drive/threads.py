"""Sync functions, in threads, with slots of their own so that they never take those of `def` endpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, CapacityLimiter, WouldBlock, current_time, to_thread

from .seam import Seam

if TYPE_CHECKING:
    from .job import Job

# A deadline that no timeout has, and that has always passed.
_ABANDONED = -math.inf


class ThreadAbandoned(BaseException):
    """The thread was left running, because it outlived what its host could wait."""


class Threads:
    """The worker threads of one runner.

    A thread cannot be stopped. So its call is not cancelled when the task is: the task ends when the function does,
    with its result. Only a timeout, asyncio's own cancel(), or a host that is out of patience, leaves it behind; its
    slot stays taken until it really ends.

    :ivar on_change: called when a thread that was left behind has ended; None unless somebody waits for that
    """

    def __init__(self, seam: Seam, total: float) -> None:
        self._seam = seam
        self._slots = CapacityLimiter(total)
        # anyio counts a slot as free as soon as a call is abandoned, so the slots are counted here.
        self._uncounted = CapacityLimiter(math.inf)
        self._calls: dict[Job, CancelScope] = {}
        self._queue: dict[Job, CancelScope] = {}
        self._held: set[object] = set()
        self._left_behind: dict[object, Job] = {}
        self.on_change: Callable[[], None] | None = None
        self._patience = True

    @property
    def in_use(self) -> int:
        """How many threads run, those left behind included."""
        return int(self._slots.borrowed_tokens)

    @property
    def left_behind(self) -> bool:
        """Whether a thread runs on that somebody waits for, though its call has ended."""
        return bool(self._left_behind)

    def forget(self) -> list[Job]:
        """Wait no longer for those that were left behind; return for whom they run."""
        owners = list(self._left_behind.values())
        self._left_behind.clear()
        return owners

    def abandon_new(self) -> None:
        """Leave behind at once whichever thread begins from now on."""
        self._patience = False

    def abandon(self, owner: Job) -> bool:
        """Leave behind the thread that runs for `owner`; return whether there was one."""
        if owner in self._queue:
            self._queue[owner].deadline = _ABANDONED
        scope = self._calls.get(owner)
        if scope is None:
            return False
        scope.deadline = _ABANDONED
        return True

    async def call(
        self, owner: Job, func: Callable[[], Any], timeout: float | None, *, surely: bool
    ) -> tuple[Any, float]:
        """Call `func` in a thread, in a copy of the current context, as soon as a slot is free.

        :param owner: for whom, for `abandon()`; one call at a time
        :param timeout: seconds from the moment that it has its slot
        :param surely: whether cancellation does not keep it from being called
        :return: the result, and the time at which the timeout is up
        :raises TimeoutError: if it takes longer; the thread is left running
        :raises ThreadAbandoned: if `abandon(owner)` was called; the same
        """
        slot = object()
        if not self._take_at_once(slot):
            await self._take(owner, slot, shield=surely)
        self._held.add(slot)
        deadline = math.inf if timeout is None else current_time() + timeout
        with CancelScope(shield=True, deadline=deadline if self._patience else _ABANDONED) as scope:
            self._calls[owner] = scope
            try:
                return await self._run(slot, func), deadline
            finally:
                del self._calls[owner]
                if slot in self._held and scope.deadline != _ABANDONED:
                    self._left_behind[slot] = owner
        if scope.deadline == _ABANDONED:
            raise ThreadAbandoned
        raise TimeoutError(f"timed out after {timeout:g} seconds; its thread runs on")

    def _take_at_once(self, slot: object) -> bool:
        # (The first test is for trio before anyio 4.13, where another class says that it would block.)
        if self._slots.available_tokens > 0:
            try:
                self._slots.acquire_on_behalf_of_nowait(slot)
            except WouldBlock:
                return False
            return True
        return False

    async def _take(self, owner: Job, slot: object, *, shield: bool) -> None:
        deadline = math.inf if self._patience or not shield else _ABANDONED
        with CancelScope(shield=shield, deadline=deadline) as scope:
            if shield:
                self._queue[owner] = scope
            try:
                await self._slots.acquire_on_behalf_of(slot)
                return
            finally:
                self._queue.pop(owner, None)
        raise ThreadAbandoned

    async def _run(self, slot: object, func: Callable[[], Any]) -> Any:
        # Whoever draws the 0 answers for the slot: the thread once it begins, or this task if it never did.
        draw = count()

        def work() -> tuple[Any] | None:
            if next(draw):
                return None
            try:
                return (func(),)
            finally:
                self._free_from_thread(slot)

        try:
            # Boxed, because trio refuses a coroutine as the result of a thread.
            boxed = await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._uncounted)
        except BaseException:  # cancellation, or there is no thread to be had
            if not next(draw):
                self._release(slot)
            raise
        assert boxed is not None  # only who was cancelled draws before the thread
        return boxed[0]

    def _free_from_thread(self, slot: object) -> None:
        try:
            self._seam.call_from_thread(lambda: self._release(slot))
        except RuntimeError:
            pass  # the loop is gone, and the slot with it

    def _release(self, slot: object) -> None:
        self._slots.release_on_behalf_of(slot)
        self._held.discard(slot)
        if self._left_behind.pop(slot, None) is not None and self.on_change is not None:
            self.on_change()
