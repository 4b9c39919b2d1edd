"""Worker threads, one at a time: at any moment either the event loop or exactly one worker runs.

A worker has a real thread. The thread parks at its start, at each `pause()`, at each call into the event loop, and at
its end. It continues when the event loop chooses the worker, as it chooses tasks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from threading import Lock, Thread
from traceback import StackSummary, extract_stack
from typing import Any, Protocol, TypeVar

from .errors import Blocked, ForeignBlock
from .record import Actor
from .schedule import Schedule, here

T = TypeVar("T")
Reply = Callable[[Any, BaseException | None], None]


class Unwound(BaseException):
    """The run is over. Raised where a worker is parked, so that its thread ends."""


class Loop(Protocol):
    """The part of the event loop that workers use. Called while nothing else runs, from any thread."""

    def make_runnable(self, worker: Worker) -> None:
        """Make `worker` a candidate for the next step."""
        ...

    def at(self, when: float, callback: Callable[[], object]) -> None:
        """Call `callback` at the virtual time `when`."""
        ...


class Crew:
    """The living workers of one run.

    :param patience: the most real seconds of a worker for one step
    """

    def __init__(self, schedule: Schedule, loop: Loop, patience: float) -> None:
        self.schedule = schedule
        self.loop = loop
        self.patience = patience
        self.workers: dict[Worker, None] = {}

    def hire(self, func: Callable[..., object], call: Callable[[], None]) -> Worker:
        """Return a new worker, which runs `call` when it is chosen. Its name comes from `func`."""
        name = getattr(func, "__qualname__", None) or type(func).__name__
        worker = Worker(self, self.schedule.spawn(f"{name}"), call)
        self.workers[worker] = None
        self.loop.make_runnable(worker)
        return worker

    def blocked(self) -> list[Blocked]:
        """Return the living workers with their stacks."""
        return [worker.blocked() for worker in self.workers]

    def unwind(self) -> None:
        """End all threads: each parked worker raises. A thread that waits for something outside of the simulation is
        left alone.
        """
        for worker in list(self.workers):
            worker.unwind()
        self.workers.clear()


class Worker:
    """One call in its own thread.

    Two locks pass control between the loop and the thread. Both are locked at first, and at most one side runs:

    1. `step()` releases `_go`, or starts the thread, and waits for `_back`.
    2. The thread runs until `park()` or its end, releases `_back`, and waits for `_go`.

    If both ran at the same time, the run would no longer depend only on its choices.
    """

    def __init__(self, crew: Crew, actor: Actor, call: Callable[[], None]) -> None:
        self.actor = actor
        self.crew = crew
        self.ended = False
        self.over = False
        self._call = call
        self._thread: Thread | None = None
        self._lost = False
        self._go, self._back = Lock(), Lock()
        self._go.acquire()
        self._back.acquire()

    # Called by the event loop.

    def step(self) -> None:
        """Run the worker until it parks or ends.

        :raises ForeignBlock: if that takes longer than the crew's `patience`
        """
        if self.over:
            return  # a timer fired after the unwinding
        if self._thread is None:
            self._thread = Thread(target=self._run, name=self.actor.label, daemon=True)
            self._thread.start()
        else:
            self._go.release()
        if not self._back.acquire(timeout=self.crew.patience):
            self._lost = True
            raise ForeignBlock(self.blocked(), self.crew.patience)
        if self.ended:
            self._thread.join()
            del self.crew.workers[self]
            self.crew.schedule.note("end", self.actor)

    def unwind(self) -> None:
        """End the thread, unless it waits for something outside of the simulation."""
        self.over = True
        if self._thread is not None and not self.ended:
            self._go.release()
            if not self._lost:
                self._thread.join(self.crew.patience)

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
        here.schedule = self.crew.schedule
        try:
            self._call()
        except Unwound:
            pass
        finally:
            self.ended = True
            self._back.release()

    def park(self) -> None:
        """Let the event loop run, and return when the worker is chosen again. Other code has to make the worker
        runnable.

        :raises Unwound: if the run is over
        """
        if not self.over:
            self._back.release()
            self._go.acquire()
        if self.over:
            raise Unwound

    def pause(self, seconds: float) -> None:
        """Park for `seconds` of virtual time."""
        crew = self.crew
        if seconds > 0 and not self.over:
            crew.loop.at(crew.schedule.now + seconds, lambda: crew.loop.make_runnable(self))
        elif not self.over:
            crew.loop.make_runnable(self)
        self.park()

    def ask(self, start: Callable[[Reply], None]) -> Any:
        """Call `start(reply)`, and park until a call of `reply(value, error)`. Return `value`, or raise `error`."""
        answer: list[tuple[Any, BaseException | None]] = []

        def reply(value: Any, error: BaseException | None) -> None:
            answer.append((value, error))
            if not self.over:
                self.crew.loop.make_runnable(self)

        if not self.over:
            start(reply)
        self.park()
        value, error = answer.pop()
        if error is None:
            return value
        try:
            raise error
        finally:
            del error


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
