"""Real time with jumps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from threading import Event, Lock, get_ident
from typing import Any

from ..._machine.config import check_seconds
from ..._machine.text import plain

# Seconds that a jump waits for the current step of each event loop. Only a blocked loop needs them.
_PATIENCE = 10


class LoopOfClock:
    """An event loop that uses a clock.

    :param call: makes the loop call a function soon, from any thread; raises RuntimeError after the end of the loop
    :ivar thread: the thread in which the loop runs now, or None
    """

    thread: int | None = None

    def __init__(self, call: Callable[[Callable[[], object]], object]) -> None:
        self._call = call
        self._pending: set[Event] = set()

    def reach(self) -> Event:
        """Wake the loop. Return an event that is set when the loop has finished its current step, or does not run."""
        reached = Event()
        self._pending.add(reached)

        def note() -> None:
            self._pending.discard(reached)
            reached.set()

        try:
            self._call(note)
        except RuntimeError:
            reached.set()
        if self.thread is None:
            reached.set()
        return reached

    def begin(self) -> None:
        """Note that the loop runs, in this thread: perhaps another thread has made it."""
        self.thread = get_ident()

    def end(self) -> None:
        """Note that the loop runs no more."""
        self.thread = None
        for reached in tuple(self._pending):
            reached.set()


class JumpClock:
    """Real time with jumps: a test skips retry pauses, timeouts and other sleeps.

        clock = JumpClock()
        anyio.run(main, backend="asyncio", backend_options=clock.backend_options("asyncio"))
        TestClient(app, backend_options=clock.backend_options("asyncio"))

    Several event loops may use one clock, at once or one after the other. A jump moves the time of the loop: sleeps,
    deadlines, `anyio.current_time()`. `time.time()` and blocking threads keep real time. Works with the loops of
    asyncio itself and with trio; uvloop's time cannot be moved.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._loops: list[LoopOfClock] = []
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<JumpClock, {plain(self._offset)} s ahead>"

    def backend_options(self, backend: str = "asyncio") -> dict[str, Any]:
        """Return `backend_options` for `anyio.run()`, `TestClient`, a portal or the fixture `anyio_backend`. The event
        loop then uses this clock. You can add other options, except `use_uvloop`.

        anyio passes options on to trio from 4.14 on. `trio.run(main, **clock.backend_options("trio"))` works with any
        version.

        :param backend: "asyncio" or "trio"
        :raises ValueError: if `backend` is neither
        """
        if backend == "asyncio":
            from .on_asyncio import loop_factory

            return {"loop_factory": loop_factory(self)}
        if backend == "trio":
            from .on_trio import ClockOfTrio

            return {"clock": ClockOfTrio(self)}
        raise ValueError(f"backend must be 'asyncio' or 'trio', not {backend!r}")

    def jump(self, seconds: float | timedelta) -> None:
        """Move the time forward, like `trio.testing.MockClock.jump()`. From any thread; no checkpoint.

        The jump wakes due tasks, but they have not run yet when `jump()` returns. Wait for them, for example with
        `tasks.wait_all()`. Event loops of other threads first finish their current step. So a task with the status
        "retrying" is asleep already, and a jump over its pause wakes the task.

        :param seconds: 0 or more, finite; or a `timedelta`
        :raises TimeoutError: if the event loop of another thread is blocked; nothing has changed
        :raises TypeError: if `seconds` is neither a number nor a `timedelta`
        :raises ValueError: if `seconds` is negative or not finite
        """
        seconds = check_seconds("seconds", seconds, finite=True)
        with self._lock:
            loops = tuple(self._loops)
        for reached in [loop.reach() for loop in loops if loop.thread != get_ident()]:
            if not reached.wait(_PATIENCE):
                raise TimeoutError(f"an event loop of this clock has been blocked for {_PATIENCE} s")
        with self._lock:
            self._offset += seconds
        for loop in loops:
            loop.reach()

    @property
    def offset(self) -> float:
        """The sum of all jumps, in seconds."""
        return self._offset

    def _add(self, loop: LoopOfClock) -> None:
        with self._lock:
            self._loops.append(loop)

    def _remove(self, loop: LoopOfClock) -> None:
        with self._lock:
            self._loops.remove(loop)
        loop.end()
