"""Worker threads for sync functions, with their own slots, so that tasks never starve `def` endpoints."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Container
from itertools import count
from typing import Any, Generic, TypeVar

from anyio import CancelScope, CapacityLimiter, Event, current_time, to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from .seam import Seam

Owner = TypeVar("Owner")
"""The record of the task that a thread runs for."""

# An `abandon()` sets this deadline. It is always over, and no timeout produces it.
_ABANDONED = -math.inf


class ThreadAbandoned(BaseException):
    """The thread still runs: its host could not wait any longer."""


class Threads(Generic[Owner]):
    """The worker threads of one runner. Used in the thread of the event loop only.

    No code can stop a thread. So a cancelled task waits for its function, and ends with the result. Only a timeout,
    asyncio's own `cancel()` and a host that stops waiting leave a thread behind. Such a thread keeps its slot until it
    ends.

    :param note_ended: called when a thread that was left behind has ended, with its job and its slot
    """

    def __init__(self, seam: Seam[Owner], total: float, note_ended: Callable[[Owner, object], None]) -> None:
        self._seam = seam
        self._note_ended = note_ended
        # This class counts the slots itself, because anyio's limiter is not exact:
        # - The limiter frees a slot as soon as a call is abandoned, although its thread still runs.
        # - Before anyio 4.14.2 the next waiter takes a free slot only at its next turn. Until then another call can
        #   take the slot.
        # Invariant: while `_line` is not empty, all `_total` slots are in `_held`.
        self._total = total
        self._held: set[object] = set()
        self._line: OrderedDict[object, Event] = OrderedDict()
        self._unlimited = CapacityLimiter(math.inf)
        self._calls: dict[Owner, tuple[object, CancelScope]] = {}
        self._queue: dict[Owner, CancelScope] = {}
        self._left_behind: dict[object, Owner] = {}
        self._patience = True

    @property
    def in_use(self) -> int:
        """The number of running threads, including those left behind."""
        return len(self._held)

    @property
    def left_behind(self) -> bool:
        """Whether the host waits for a thread that outlived its call."""
        return bool(self._left_behind)

    def left_behind_by(self, owner: Owner, known: Container[object]) -> object:
        """Return the slot of a thread that `owner` has left behind, and that is not in `known`; or None."""
        return next((slot for slot, by in self._left_behind.items() if by is owner and slot not in known), None)

    def forget(self) -> list[Owner]:
        """Stop waiting for the threads that were left behind; return their jobs."""
        owners = list(self._left_behind.values())
        self._left_behind.clear()
        return owners

    def abandon_new(self) -> None:
        """From now on leave each new thread behind at once."""
        self._patience = False

    def abandon(self, owner: Owner) -> bool:
        """Leave the thread of `owner` behind; return whether there was one."""
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
        self, owner: Owner, func: Callable[[], Any], timeout: float | None, *, surely: bool
    ) -> tuple[Any, float]:
        """Call `func` in a thread, in a copy of the current context, as soon as a slot is free.

        :param owner: the job, for `abandon()`; one call at a time
        :param timeout: seconds; the time starts when the call has its slot
        :param surely: whether a cancellation in the line is ignored, so that `func` is called in any case
        :return: the result, and the time (of the loop's clock) at which `timeout` ends
        :raises TimeoutError: after `timeout` seconds; the thread still runs
        :raises ThreadAbandoned: after `abandon(owner)`; the thread still runs
        """
        slot = object()
        if len(self._held) < self._total:
            self._held.add(slot)
        else:
            await self._wait_in_line(owner, slot, shield=surely)
        deadline = math.inf if timeout is None else current_time() + timeout
        # Shielded, so that a cancelled task waits for its thread. The wait ends early after:
        # - `timeout`, the deadline, and asyncio's own `cancel()`: the host waits for the thread until `forget()`.
        # - `abandon()`, which moves the deadline into the past: the host does not wait.
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
        raise TimeoutError(f"timed out after {timeout:g} seconds; its thread still runs")

    async def _wait_in_line(self, owner: Owner, slot: object, *, shield: bool) -> None:
        deadline = math.inf if self._patience or not shield else _ABANDONED
        with CancelScope(shield=shield, deadline=deadline) as scope:
            if shield:
                self._queue[owner] = scope
            given = self._line[slot] = Event()
            try:
                await given.wait()
                # Notice a cancellation that arrived after `given.set()`: `func` has not begun, and must not begin.
                await checkpoint_if_cancelled()
                return
            except BaseException:
                if self._line.pop(slot, None) is None:  # the slot was given to this call already
                    self._release(slot)
                raise
            finally:
                self._queue.pop(owner, None)
        raise ThreadAbandoned

    async def _run(self, slot: object, func: Callable[[], Any]) -> Any:
        # Either the thread releases the slot when `func` has ended, or this task does if it was cancelled before the
        # thread began. The first of the two to call `next(draw)`, which is atomic, gets 0 and must release the slot.
        # A slot released twice would let too many threads run; a slot never released would be lost for ever.
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
                del func  # a traceback refers to this frame, and `func` to the task
                self._free_from_thread(slot)

        try:
            # The box has two reasons: trio refuses a coroutine as the result of a thread, and on asyncio a
            # `GeneratorExit` from a thread would close every coroutine that waits for the thread.
            boxed = await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._unlimited)
        except BaseException:  # a cancellation, or the system has no thread left
            if not next(draw):
                self._release(slot)
            raise
        assert boxed is not None  # only a cancelled call draws before its thread
        result, exits = boxed
        if exits is None:
            return result
        try:
            raise exits
        finally:
            del boxed, exits  # the traceback refers to this frame: a cycle

    def _free_from_thread(self, slot: object) -> None:
        try:
            self._seam.call_from_thread(lambda: self._release(slot))
        except RuntimeError:
            pass  # the loop has ended, so nobody needs the slot

    def _release(self, slot: object) -> None:
        self._held.remove(slot)
        if self._line:
            following, given = self._line.popitem(last=False)
            self._held.add(following)  # now, so that no other call takes the slot first
            given.set()
        owner = self._left_behind.pop(slot, None)
        if owner is not None:
            self._note_ended(owner, slot)
