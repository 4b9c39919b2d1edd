"""Worker threads, one at a time: at any moment either the event loop or exactly one worker runs.

A worker has a real thread. The thread parks at its start, where it waits for the event loop, at each `pause()`, and at
its end. It continues when the event loop chooses the worker, as it chooses tasks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread
from traceback import StackSummary, extract_stack
from typing import TYPE_CHECKING, Any

from .errors import Blocked, ForeignBlock
from .record import Actor
from .schedule import here

if TYPE_CHECKING:
    from .loop import Loop


class Unwound(BaseException):
    """The run is over. Raised where a worker is parked, so that its thread ends."""


class Worker:
    """One call in its own thread.

    Two locks pass control between the loop and the thread. Both are locked at first, and at most one side runs:

    1. `step()` releases `_go`, or starts the thread, and waits for `_back`.
    2. The thread runs until `park()` or its end, releases `_back`, and waits for `_go`.

    If both ran at the same time, the run would no longer depend only on its choices.
    """

    def __init__(
        self, loop: Loop, actor: Actor, call: Callable[[], None], give_up: Callable[[], object] | None
    ) -> None:
        self.actor = actor
        self.loop = loop
        self.over = False
        self._call = call
        self._give_up = give_up
        self._ended = False
        self._parked: object = None
        self._thread: Thread | None = None
        self._lost = False
        self._go, self._back = Lock(), Lock()
        self._go.acquire()
        self._back.acquire()

    # Called by the event loop.

    def step(self) -> None:
        """Run the worker until it parks or ends.

        :raises ForeignBlock: if that takes longer than the loop's `patience`
        """
        if self.over:
            return  # it was runnable when the run ended, or a timer fired later
        if self._thread is None:
            self._thread = Thread(target=self._run, name=self.actor.label, daemon=True)
            self._thread.start()
        else:
            self._go.release()
        if not self._back.acquire(timeout=self.loop.patience):
            self._lost = True
            raise ForeignBlock(self.blocked(), self.loop.patience)
        if self._ended:
            self._thread.join()
            del self.loop.workers[self]
            self.loop.schedule.note("end", self.actor)

    def unwind(self) -> None:
        """End the thread, unless it waits for something outside of the simulation."""
        self.over = True
        if self._thread is not None:
            self._go.release()
            if not self._lost:
                self._thread.join(self.loop.patience)
        if self._give_up is not None:
            self._give_up()

    def blocked(self) -> Blocked:
        """Return the worker with its stack, the innermost frame last."""
        frame = None
        if self._thread is not None and self._thread.ident is not None:
            frame = sys._current_frames().get(self._thread.ident)
        stack = [entry for entry in extract_stack(frame) if entry.filename != __file__] if frame is not None else []
        return Blocked(f"{self.actor.label} (thread)", StackSummary.from_list(stack))

    # Called in the worker's thread.

    def _run(self) -> None:
        here.worker = self
        here.schedule = self.loop.schedule
        try:
            self._call()
        except Unwound:
            pass
        finally:
            self._ended = True
            self._back.release()

    def waker(self) -> Callable[[], None]:
        """Return a function that ends the next `park()`, and does nothing later. From the thread of the loop."""
        self._parked = park = object()

        def wake() -> None:
            if self._parked is park:
                self._parked = None
                self.loop.make_runnable(self)

        return wake

    def park(self) -> None:
        """Let the event loop run, and return when the worker is chosen again. Get a `waker()` first.

        :raises Unwound: if the run is over
        """
        self.check()
        self._back.release()
        self._go.acquire()
        self.check()

    def check(self) -> None:
        """Refuse to go on.

        :raises Unwound: if the run is over
        """
        if self.over:
            raise Unwound

    def pause(self, seconds: float) -> None:
        """Park for `seconds` of virtual time."""
        self.check()
        wake = self.waker()
        if seconds > 0:
            self.loop.at(self.loop.schedule.now + seconds, wake)
        else:
            wake()
        self.park()


class Mailbox(SimpleQueue[Any]):
    """A queue in which a worker parks. Other threads wait as in any queue."""

    _wake: Callable[[], None] | None = None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        if self._wake is not None:
            self._wake()

    def put_nowait(self, item: Any) -> None:
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        worker = current_worker()
        if worker is None or not block:
            return super().get(block, timeout)
        worker.check()
        self._wake = worker.waker()
        if not self.empty() or timeout == 0:
            self._wake()
        elif timeout is not None:
            worker.loop.at(worker.loop.schedule.now + timeout, self._wake)
        worker.park()
        return super().get(block=False)


def current_worker() -> Worker | None:
    """Return the worker of this thread, or None."""
    return getattr(here, "worker", None)


def is_over() -> bool:
    """Return whether the run of the worker of this thread is over: nobody waits for its result."""
    worker = current_worker()
    return worker is not None and worker.over


def pause(seconds: float = 0) -> None:
    """Let other tasks run, from a worker thread. Call this where a sync function would block or could be overtaken.

    In a simulated run `seconds` are virtual, and take no real time. Elsewhere this is `time.sleep()`.

    :param seconds: 0 or more
    """
    worker = current_worker()
    if worker is not None:
        worker.pause(seconds)
    elif seconds > 0:
        time.sleep(seconds)
