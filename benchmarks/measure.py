"""Takes one sample: the clock, the garbage collector, the event loop."""

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
    """Cases that take turns, and are compared with one of them.

    :ivar base: the case with the ratio 1.00
    :ivar cases: by name; each takes one sample and returns its figure, in the unit of the section
    """

    base: str
    cases: dict[str, Callable[[], float]]

    def take(self, name: str) -> tuple[float, float]:
        """Return a sample of the case, and the cost of the base just before and just after, because the speed of a
        shared machine drifts.
        """
        base = self.cases[self.base]
        if name == self.base:
            base()  # warms up the caches after other code
            return base(), base()
        before = base()
        taken = self.cases[name]()
        return taken, (before + base()) / 2


class Stopwatch:
    """Measures the CPU time of this process from entry to exit, including all threads.

    CPU time, so that other programs matter little. The garbage collector is active as in any program, with empty
    generations at the start; it ignores objects from before the start of the worker.
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
    """Call `function` in a new event loop of `backend`, and return the result."""
    if backend == "trio":
        return trio.run(function, *args)
    # Do not set the loop policy, as uvloop.run() does: other loops follow in the same process.
    factory = uvloop.new_event_loop if backend == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(function(*args))  # type: ignore[arg-type]


def in_a_loop(backend: str, function: Callable[..., Awaitable[float]], *args: Any) -> Callable[[], float]:
    """Return a case that runs `function` in a new loop for each sample."""
    return lambda: run_on(backend, function, *args)


def say(text: str) -> None:
    """Report the progress of a long run. Not on standard output, which is for the figures."""
    print(text, file=sys.stderr, flush=True)
