"""Sync functions, in threads, with slots of their own so that they never take those of `def` endpoints."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, CapacityLimiter, Event, current_time, to_thread
from anyio.lowlevel import checkpoint_if_cancelled

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
        # The slots are counted here, because anyio's limiter is not exact enough:
        # - it counts a slot as free as soon as a call is abandoned;
        # - before anyio 4.14.2 the next in line takes a free slot at its next turn only, and others can take it before.
        # While `_line` is not empty, as many slots are held as there are.
        self._total = total
        self._held: set[object] = set()
        self._line: OrderedDict[object, Event] = OrderedDict()
        self._uncounted = CapacityLimiter(math.inf)
        self._calls: dict[Job, tuple[object, CancelScope]] = {}
        self._queue: dict[Job, CancelScope] = {}
        self._left_behind: dict[object, Job] = {}
        self.on_change: Callable[[], None] | None = None
        self._patience = True

    @property
    def in_use(self) -> int:
        """How many threads run, those left behind included."""
        return len(self._held)

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
        if owner not in self._calls:
            return False
        slot, scope = self._calls[owner]
        if slot not in self._held:  # the thread has ended, and its result is on the way
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
        if len(self._held) < self._total:
            self._held.add(slot)
        else:
            await self._wait_in_line(owner, slot, shield=surely)
        deadline = math.inf if timeout is None else current_time() + timeout
        with CancelScope(shield=True, deadline=deadline if self._patience else _ABANDONED) as scope:
            self._calls[owner] = slot, scope
            try:
                return await self._run(slot, func), deadline
            finally:
                del self._calls[owner]
                if slot in self._held and scope.deadline != _ABANDONED:
                    self._left_behind[slot] = owner
        if scope.deadline == _ABANDONED:
            raise ThreadAbandoned
        raise TimeoutError(f"timed out after {timeout:g} seconds; its thread runs on")

    async def _wait_in_line(self, owner: Job, slot: object, *, shield: bool) -> None:
        deadline = math.inf if self._patience or not shield else _ABANDONED
        with CancelScope(shield=shield, deadline=deadline) as scope:
            if shield:
                self._queue[owner] = scope
            given = self._line[slot] = Event()
            try:
                await given.wait()
                # A cancellation that came between the gift and this step: the function has not begun, and shall not.
                await checkpoint_if_cancelled()
                return
            except BaseException:
                if self._line.pop(slot, None) is None:  # it has been given already
                    self._release(slot)
                raise
            finally:
                self._queue.pop(owner, None)
        raise ThreadAbandoned

    async def _run(self, slot: object, func: Callable[[], Any]) -> Any:
        # Whoever draws the 0 answers for the slot: the thread once it begins, or this task if it never did.
        draw = count()

        def work() -> tuple[Any, GeneratorExit | None] | None:
            nonlocal func
            if next(draw):
                return None
            try:
                return func(), None
            except GeneratorExit as exc:
                return None, exc
            finally:
                del func  # which has the task, and a traceback has this frame
                self._free_from_thread(slot)

        try:
            # Boxed, because trio refuses a coroutine as the result of a thread, and asyncio takes GeneratorExit for the
            # end of every coroutine that waits for the thread.
            boxed = await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._uncounted)
        except BaseException:  # cancellation, or there is no thread to be had
            if not next(draw):
                self._release(slot)
            raise
        assert boxed is not None  # only a call that was cancelled draws before its thread
        result, exits = boxed
        if exits is None:
            return result
        try:
            raise exits
        finally:
            del boxed, exits  # its traceback has this frame: a cycle

    def _free_from_thread(self, slot: object) -> None:
        try:
            self._seam.call_from_thread(lambda: self._release(slot))
        except RuntimeError:
            pass  # the loop is gone, and the slot with it

    def _release(self, slot: object) -> None:
        self._held.remove(slot)
        if self._line:
            following, given = self._line.popitem(last=False)
            self._held.add(following)  # now, so that nobody else can take it
            given.set()
        if self._left_behind.pop(slot, None) is not None and self.on_change is not None:
            self.on_change()
