"""A clock that goes by itself, and is moved on by hand."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock, get_ident
from typing import Any

from ..._machine.config import check_seconds

# Seconds for an event loop to come to the end of what it is doing at a jump; only one that is blocked needs any.
_PATIENCE = 10


class LoopOfClock:
    """An event loop that goes by a clock.

    :param call: has the loop call something soon, from any thread; raises RuntimeError when it has ended
    """

    def __init__(self, call: Callable[[Callable[[], object]], object]) -> None:
        self.thread = get_ident()
        self._call = call
        self._pending: set[Event] = set()

    def reach(self) -> Event:
        """Wake it up, and return an event that is set when it has come to the end of what it does now, or has ended."""
        reached = Event()
        self._pending.add(reached)

        def note() -> None:
            self._pending.discard(reached)
            reached.set()

        try:
            self._call(note)
        except RuntimeError:
            reached.set()
        return reached

    def end(self) -> None:
        """Note that it does nothing more."""
        for reached in tuple(self._pending):
            reached.set()


class JumpClock:
    """The time of event loops, as it passes, with jumps: for retries, timeouts and whatever else sleeps.

        clock = JumpClock()
        anyio.run(main, backend="asyncio", backend_options=clock.backend_options("asyncio"))
        TestClient(app, backend_options=clock.backend_options("asyncio"))

    One clock may be that of several event loops, at once or one after the other. Only what goes by the loop's own time
    is moved: sleeps, deadlines, `anyio.current_time()`; `time.time()` and blocking threads are not. Under uvloop there
    is no way to move it: these are the loops of asyncio itself, and trio.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._loops: list[LoopOfClock] = []
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<JumpClock, {self._offset:g} s ahead>"

    def backend_options(self, backend: str = "asyncio") -> dict[str, Any]:
        """Return the `backend_options` with which `anyio.run()`, `TestClient`, a portal and the fixture
        `anyio_backend` run an event loop that goes by this clock. Others can be put beside them, but for `use_uvloop`.

        anyio 4.9 keeps those for trio to itself; `trio.run(main, **clock.backend_options("trio"))` works with any.

        :param backend: "asyncio" or "trio"
        :raises ValueError: if it is neither
        """
        if backend == "asyncio":
            from .on_asyncio import loop_factory

            return {"loop_factory": loop_factory(self)}
        if backend == "trio":
            from .on_trio import ClockOfTrio

            return {"clock": ClockOfTrio(self)}
        raise ValueError(f"backend must be 'asyncio' or 'trio', not {backend!r}")

    def jump(self, seconds: float) -> None:
        """Move the time on, as `trio.testing.MockClock.jump` does. From any thread; no checkpoint. What is due then is
        woken, and has not run yet when this returns: wait for it, as with `tasks.wait_all()`.

        Event loops of other threads first come to the end of what they are doing at that moment. So a task whose status
        is "retrying" does sleep already, and is woken by a jump over its pause.

        :param seconds: 0 or more
        :raises TimeoutError: if the event loop of another thread is blocked; nothing has changed
        :raises TypeError: if `seconds` is no number
        :raises ValueError: if it is negative or not finite
        """
        check_seconds("seconds", seconds, finite=True)
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
        """By how many seconds all jumps together have moved the time."""
        return self._offset

    def _add(self, loop: LoopOfClock) -> None:
        with self._lock:
            self._loops.append(loop)

    def _remove(self, loop: LoopOfClock) -> None:
        with self._lock:
            self._loops.remove(loop)
        loop.end()
