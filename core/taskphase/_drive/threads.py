"""Worker threads for sync functions, with their own slots, so that tasks never starve `def` endpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any, Generic, TypeVar

from anyio import CapacityLimiter, current_time, to_thread

from .._machine.text import plain
from .cancelling import CancelScope
from .seam import Seam
from .slots import Slots

Owner = TypeVar("Owner")
"""The record of the task that a thread runs for."""

# An `abandon()` sets this deadline. It is always over, and no timeout produces it.
_ABANDONED = -math.inf


def timed_out(timeout: float | None, more: str = "") -> TimeoutError:
    """Return the exception of an attempt whose time is up."""
    assert timeout is not None
    return TimeoutError(f"timed out after {plain(timeout)} seconds{more}")


class ThreadAbandoned(BaseException):
    """The thread still runs: its host could not wait any longer."""


class _Unlimited(CapacityLimiter):
    """A limiter without a limit. anyio's `CapacityLimiter(inf)` has none either, but takes a turn of the event loop for
    each call.
    """

    def __new__(cls) -> _Unlimited:
        return object.__new__(cls)

    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def acquire_on_behalf_of(self, borrower: object) -> None: ...
    def release_on_behalf_of(self, borrower: object) -> None: ...


UNLIMITED = _Unlimited()


class ThreadCall:
    """One call of a function in a thread. It holds a slot.

    The task may stop waiting at the moment when the thread begins or ends. So each of the two first sets its own flag,
    then reads the flags of the other. Then at least one of the two sees the other:

    - `is_left` and `has_begun`: the thread does not call the function, or the task leaves the thread its slot.
    - `is_left` and `has_ended`: the task releases the slot, or the thread does, or both do.

    :ivar is_left: True if the task no longer waits
    :ivar is_asked: True if a thread was asked to begin: the call no longer waits for its slot
    """

    __slots__ = ("_free", "_func", "has_begun", "has_ended", "is_asked", "is_left")

    def __init__(self, func: Callable[[], Any], free: Callable[[ThreadCall], None]) -> None:
        self._func, self._free = func, free
        self.has_begun = self.has_ended = self.is_left = self.is_asked = False

    def work(self) -> tuple[Any, BaseException | None]:
        """Call the function, in the thread. Return its result, and its exception.

        Both are in a box, because the event loops cannot pass each object on from a thread. trio refuses a coroutine as
        the result. On asyncio a `GeneratorExit` would close every coroutine that waits for the thread, and for an
        exception whose `__class__` raises the task would wait for ever.
        """
        self.has_begun = True
        try:
            return None if self.is_left else self._func(), None
        except BaseException as exc:
            return None, exc
        finally:
            del self._func  # a traceback refers to this frame, and the function to the task
            self.has_ended = True
            if self.is_left:
                self._free(self)

    def when_ended(self, note: Callable[[ThreadCall], object]) -> None:
        """Have `note` called at the end of a call that the task has left: in the thread, or now if no thread is in the
        function. At the moment of the end perhaps both.
        """
        free = self._free

        def note_and_free(call: ThreadCall) -> None:
            note(call)
            free(call)

        self._free = note_and_free
        if self.has_ended or not self.has_begun:
            note(self)


class Threads(Generic[Owner]):
    """The worker threads of one runner. Used in the thread of the event loop only.

    No code can stop a thread. So a cancelled task waits for its function, and ends with the result. Only a timeout,
    asyncio's own `cancel()` and a host that stops waiting leave a thread behind. Such a thread keeps its slot until it
    ends.

    The end of a thread wakes the loop once: the task takes the result, and releases the slot. Only a thread that was
    left behind sends a message about its slot.

    :param note_ended: called when a thread that was left behind has ended, with its job and its slot
    """

    def __init__(self, seam: Seam[Owner], total: float, note_ended: Callable[[Owner, object], None]) -> None:
        self._seam = seam
        self._note_ended = note_ended
        self._slots: Slots[ThreadCall] = Slots(total, seam.event)
        self._calls: dict[Owner, tuple[ThreadCall, CancelScope]] = {}
        self._left_behind: dict[ThreadCall, Owner] = {}
        self._patience = True

    @property
    def in_use(self) -> int:
        """The number of running threads, including those left behind."""
        return len(self._slots.held)

    @property
    def left_behind(self) -> bool:
        """Whether the host waits for a thread that outlived its call."""
        return bool(self._left_behind)

    def left_behind_by(self, owner: Owner, known: Container[object]) -> object:
        """Return the slot of a thread that `owner` has left behind, and that is not in `known`; or None."""
        return next((slot for slot, by in self._left_behind.items() if by is owner and slot not in known), None)

    def abandon(self) -> dict[ThreadCall, Owner]:
        """Leave all threads behind, and from now on each new thread at once. Calls wait for a slot no longer.

        :return: the calls of the threads that run, with their jobs
        """
        self._patience = False
        left = self._left_behind.copy()
        self._left_behind.clear()
        for owner, (call, scope) in self._calls.items():
            if not call.has_ended:  # otherwise its result is on the way
                scope.deadline = _ABANDONED
                if call.is_asked:
                    left[call] = owner
        return left

    async def call(
        self, owner: Owner, func: Callable[[], Any], timeout: float | None, *, surely: bool
    ) -> tuple[Any, float]:
        """Call `func` in a thread, in a copy of the current context, as soon as a slot is free.

        :param owner: the job; one call at a time
        :param timeout: seconds; the time starts when the call has its slot
        :param surely: whether a cancellation in the line is ignored, so that `func` is called in any case; without
            `timeout`
        :return: the result, and the time (of the loop's clock) at which `timeout` ends
        :raises TimeoutError: after `timeout` seconds; the thread may still run
        :raises ThreadAbandoned: after `abandon()`; the thread still runs
        """
        call = ThreadCall(func, self._free_from_thread)
        if not surely:
            await self._slots.take(call)
        deadline = math.inf if timeout is None else current_time() + timeout
        # Shielded, so that a cancelled task waits for its thread, and `surely` for its slot. The wait ends early after:
        # - `timeout`, the deadline, and asyncio's own `cancel()`: the host waits for the thread until `abandon()`.
        # - `abandon()`, which moves the deadline into the past: the host does not wait.
        scope = self._seam.cancel_scope(shield=True, deadline=deadline if self._patience else _ABANDONED)
        self._calls[owner] = call, scope
        try:
            with scope:
                if surely:
                    await self._slots.take(call)
                call.is_asked = True
                result, error = await to_thread.run_sync(call.work, abandon_on_cancel=True, limiter=UNLIMITED)
        finally:
            del self._calls[owner]
            call.is_left = True
            if not call.has_begun or call.has_ended:
                self._release(call)
            elif scope.deadline != _ABANDONED:
                self._left_behind[call] = owner
        if scope.cancelled_caught:
            if scope.deadline == _ABANDONED:
                raise ThreadAbandoned
            outlived = "; its thread still runs" if call in self._left_behind else ""
            raise timed_out(timeout, outlived)
        if error is None:
            return result, deadline
        try:
            raise error
        finally:
            del error  # the traceback refers to this frame: a cycle

    def _free_from_thread(self, call: ThreadCall) -> None:
        try:
            self._seam.call_from_thread(lambda: self._release(call))
        except RuntimeError:
            pass  # the loop has ended, so nobody needs the slot

    def _release(self, call: ThreadCall) -> None:
        """Give the slot of `call` to the next call in line. If it was released before, do nothing."""
        if self._slots.release(call) and (owner := self._left_behind.pop(call, None)) is not None:
            self._note_ended(owner, call)
