"""Waiting for what other threads and other event loops do to tasks."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, get_ident

from anyio import Event, fail_after

from ..._drive.seam import native_seam


class _Waiter:
    """Who waits in an event loop."""

    def __init__(self) -> None:
        self._seam = native_seam()
        self._event = Event()

    def wake(self) -> None:
        """Have it look again. From any thread."""
        if get_ident() == self._seam.thread:
            self._set()
            return
        try:
            self._seam.call_from_thread(self._set)
        except RuntimeError:
            pass  # its loop has ended, and it with it

    def _set(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._event = Event()  # none is missed meanwhile: it is set in this thread only
            await self._event.wait()


class Changes:
    """Where changes are told, from any thread, and waited for, in threads and in event loops."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._waiters: set[_Waiter] = set()

    def tell(self) -> None:
        """Say that something has changed. From any thread; does not wait."""
        with self._condition:
            self._condition.notify_all()
            waiters = tuple(self._waiters)
        for waiter in waiters:
            waiter.wake()

    def wait(self, condition: Callable[[], bool], timeout: float | None, describe: Callable[[], str]) -> None:
        """Wait, in a thread, until `condition()` is true.

        :raises TimeoutError: with `describe()`, if that takes longer than `timeout` seconds
        """
        with self._condition:
            if self._condition.wait_for(condition, timeout):
                return
        raise TimeoutError(f"after {timeout:g} s {describe()}")  # without the lock: a repr is the user's code

    async def until(self, condition: Callable[[], bool], timeout: float | None, describe: Callable[[], str]) -> None:
        """Wait, in an event loop, until `condition()` is true. A checkpoint only if it is not yet.

        :raises TimeoutError: with `describe()`, if that takes longer than `timeout` seconds of the loop's time
        """
        waiter = _Waiter()
        with self._condition:
            self._waiters.add(waiter)
        try:
            with fail_after(timeout):
                await waiter.until(condition)
        except TimeoutError:
            raise TimeoutError(f"after {timeout:g} s {describe()}") from None
        finally:
            with self._condition:
                self._waiters.discard(waiter)


CHANGES = Changes()
"""One for all recorders: who waits looks again at each change."""


def runs_a_loop() -> bool:
    """Tell whether an event loop runs in this thread."""
    try:
        native_seam()  # (anyio alone takes a thread for one that has copied its context from an event loop's)
    except RuntimeError:
        return False
    return True
