"""How one figure is taken: the clock, the garbage collector, the event loop."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import trio
import uvloop

BACKENDS = ("asyncio", "uvloop", "trio")


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that are measured in turns, and compared with one of them.

    :ivar base: the case that is 1.00
    :ivar cases: by name; each takes one sample and returns its figure, in the unit of the section
    """

    base: str
    cases: dict[str, Callable[[], float]]

    def take(self, name: str) -> tuple[float, float]:
        """Return a sample of the case, and what the base costs at that time: before and after, because the speed of
        a shared machine drifts.
        """
        base = self.cases[self.base]
        if name == self.base:
            base()  # what ran before, in this process or in another one, has the caches
            return base(), base()
        before = base()
        taken = self.cases[name]()
        return taken, (before + base()) / 2


class Stopwatch:
    """Takes the CPU time of this process from entry to exit, all of its threads included.

    CPU time, because other work on the machine then counts for little. The garbage collector is as active as in any
    program, and has nothing to do at the beginning; what was there when the worker started it does not look at.
    """

    seconds = 0.0

    def __enter__(self) -> None:
        gc.collect()
        self._begin = time.process_time()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.seconds = time.process_time() - self._begin


def run_on(backend: str, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Call `function` in a new event loop of `backend`, and return what it returns."""
    if backend == "trio":
        return trio.run(function, *args)
    # The default policy of uvloop.run() and asyncio.run() is left alone: other loops follow in the same process.
    factory = uvloop.new_event_loop if backend == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(function(*args))  # type: ignore[arg-type]


def in_a_loop(backend: str, function: Callable[..., Awaitable[float]], *args: Any) -> Callable[[], float]:
    """Return a case that runs `function` in a loop of its own, once for each sample."""
    return lambda: run_on(backend, function, *args)


def say(text: str) -> None:
    """Tell whoever waits for a long run how far it is. Not on standard output, where the figures go."""
    print(text, file=sys.stderr, flush=True)
