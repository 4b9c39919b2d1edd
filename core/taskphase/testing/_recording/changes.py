"""Wait for changes of tasks that other threads and other event loops make."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Condition, get_ident

from anyio import Event, fail_after

from ..._drive.loops import native_seam
from ..._drive.watching import forget_everywhere, observe_everywhere
from ..._machine.text import plain


class _Waiter:
    """One wait in an event loop."""

    def __init__(self) -> None:
        self._seam = native_seam()
        self._event = Event()

    def wake(self) -> None:
        """Have the waiting code look at its condition again. From any thread."""
        if get_ident() == self._seam.thread:
            self._set()
            return
        try:
            self._seam.call_from_thread(self._set)
        except RuntimeError:
            pass  # the loop has ended, and so has the wait

    def _set(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._event = Event()  # no change is missed: only this thread sets the event
            await self._event.wait()


_CHANGES = ("due", "moved", "started", "attempt_ended", "ended")
"""The hooks that tell of a change. Recorders tell of new tasks."""


class Changes:
    """All waits of recorders, in threads and in event loops. Any thread may tell of a change."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._waiters: set[_Waiter] = set()

    def tell(self) -> None:
        """Have all waiting code look at its condition again. From any thread; does not wait."""
        with self._condition:
            self._condition.notify_all()
            waiters = tuple(self._waiters)
        for waiter in waiters:
            waiter.wake()

    @contextmanager
    def _observing(self) -> Generator[None]:
        def note(*_: object) -> None:
            self.tell()

        observe_everywhere(note, dict.fromkeys(_CHANGES, note))
        try:
            yield
        finally:
            forget_everywhere(note)

    def wait(self, condition: Callable[[], bool], timeout: float | None, describe: Callable[[], str]) -> None:
        """Wait, in a thread, until `condition()` is true.

        :raises TimeoutError: after `timeout` seconds, with `describe()`
        """
        with self._observing(), self._condition:
            if self._condition.wait_for(condition, timeout):
                return
        assert timeout is not None
        raise TimeoutError(f"after {plain(timeout)} s {describe()}")  # without the lock: a repr is user code

    async def until(self, condition: Callable[[], bool], timeout: float | None, describe: Callable[[], str]) -> None:
        """Wait, in an event loop, until `condition()` is true. A checkpoint, unless it is true already.

        :raises TimeoutError: after `timeout` seconds of the loop's time, with `describe()`
        """
        if condition():
            return
        waiter = _Waiter()
        with self._condition:
            self._waiters.add(waiter)
        try:
            with self._observing(), fail_after(timeout):
                await waiter.until(condition)
        except TimeoutError:
            assert timeout is not None
            raise TimeoutError(f"after {plain(timeout)} s {describe()}") from None
        finally:
            with self._condition:
                self._waiters.discard(waiter)


CHANGES = Changes()
"""One object for all recorders."""


def runs_a_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    try:
        native_seam()  # (anyio's own test is also true in a thread with a copy of the context of an event loop)
    except Exception:  # a RuntimeError; not so with anyio 4.12.0
        return False
    return True
