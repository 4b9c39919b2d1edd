"""One run."""

from __future__ import annotations

import gc
import random
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from threading import Lock
from typing import Any, Literal

from . import privates
from .context import enter_library, running_library
from .faults import Fault
from .policy import Fifo, Policy
from .record import Run, short_name
from .schedule import Abandon, Schedule, here

Backend = Literal["asyncio", "trio"]

# anyio is patched while a run lasts, so that there is one at a time, from whichever thread.
_turnstile = Lock()


def simulate(
    main: Callable[[], Awaitable[Any]],
    *,
    backend: Backend = "asyncio",
    policy: Policy | None = None,
    faults: Iterable[Fault] = (),
    turns: bool = False,
    max_steps: int = 100_000,
    patience: float = 5.0,
) -> Run:
    """Run `main()` to its end, under virtual time, one task at a time.

    The same program, choices and faults make the same run; the global `random` gives the same numbers in each. Whatever
    is left alive at its end is cancelled, and gone when this returns. To be called where no event loop runs; one run at
    a time, others wait.

    :param main: an async function without parameters
    :param backend: "asyncio" or "trio"
    :param policy: chooses who steps; default: `Fifo()`. One object serves one run
    :param faults: what goes wrong, and at which steps
    :param turns: whether every task that is runnable when a turn begins steps before any that becomes so in it. That
        is all that trio promises of its order; asyncio is first in, first out, which only `Fifo` keeps
    :param max_steps: after how many steps to give up, 1 or more
    :param patience: how many real seconds a worker thread may take for a step, more than 0
    :return: what happened. What `main()` raises is in it, and so is what the simulation finds: `Deadlock`,
        `Livelock`, `ForeignBlock`
    :raises BaseException: what the policy, or the function of a `Call`, raised
    :raises RuntimeError: if an event loop runs in this thread
    """
    if backend not in ("asyncio", "trio"):
        raise ValueError(f"backend must be 'asyncio' or 'trio', not {backend!r}")
    if running_library() is not None or getattr(here, "schedule", None) is not None:
        raise RuntimeError("simulate() runs an event loop of its own: call it from sync code, outside of any other")
    schedule = Schedule(Fifo() if policy is None else policy, faults, max_steps, turns=turns)
    run = _on_asyncio if backend == "asyncio" else _on_trio
    with _turnstile, _alike(), _current(schedule):
        value, exception = run(main, schedule, patience)
    if schedule.parked is not None:
        raise schedule.parked
    return Run(
        backend=backend,
        value=value,
        exception=exception,
        decisions=tuple(schedule.decisions),
        trace=tuple(schedule.trace),
        steps=schedule.steps,
        time=schedule.ended,
    )


_Result = tuple[Any, BaseException | None]

_asyncio_steps = cache(privates.asyncio_steps)


def _on_asyncio(main: Callable[[], Awaitable[Any]], schedule: Schedule, patience: float) -> _Result:
    from .on_asyncio import SimulatedLoop
    from .threads_on_asyncio import workers_for_anyio

    anyio = privates.anyio_on_asyncio()
    context = copy_context()
    context.run(enter_library, "asyncio")

    async def call() -> Any:
        return await main()

    with privates.ordered_cancellation(anyio), workers_for_anyio(anyio):
        loop = SimulatedLoop(schedule, _asyncio_steps(), anyio, patience)
        try:
            task = loop.run(call(), _name_of(main), context)
            return task.result(), None
        except Abandon:
            return None, None
        except BaseException as exc:
            return None, exc
        finally:
            schedule.end()
            context.copy().run(loop.unwind)


def _on_trio(main: Callable[[], Awaitable[Any]], schedule: Schedule, patience: float) -> _Result:
    from .on_trio import Simulation
    from .threads_on_trio import workers_for_anyio

    backend = privates.anyio_on_trio()
    simulation = Simulation(schedule, main, _name_of(main), patience)
    with workers_for_anyio(backend, simulation):
        try:
            simulation.run()
            assert simulation.outcome is not None
            return simulation.outcome.unwrap(), None
        except Abandon:
            return None, None
        except BaseException as exc:
            return None, exc
        finally:
            schedule.end()
            simulation.unwind()


def _name_of(main: Callable[..., object]) -> str:
    return short_name(getattr(main, "__qualname__", "main"))


@contextmanager
def _alike() -> Generator[None]:
    """Have each run find the same: nothing is collected, as that depends on what ran before, and finalizers are seen
    by the program; and the global random numbers are always the same.
    """
    was_enabled = gc.isenabled()
    state = random.getstate()
    gc.disable()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)
        if was_enabled:
            gc.enable()


@contextmanager
def _current(schedule: Schedule) -> Generator[None]:
    here.schedule = schedule
    try:
        yield
    finally:
        here.schedule = None
