"""Simulate one run."""

from __future__ import annotations

import gc
import random
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from threading import Lock
from typing import Any, Literal

import anyio

from ..._drive.enclosing import is_decided
from ..._host import TaskHost
from .._recording.changes import runs_a_loop
from .faults import Fault
from .loop import Loop
from .policy import Fifo, Policy
from .record import Run, short_name
from .schedule import Abandon, Schedule, here
from .writers import writers_as_workers

Backend = Literal["asyncio", "trio"]

# A run patches anyio, so there is only one run at a time in the process.
_one_run = Lock()


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
    """Run `main()` to its end in virtual time, one task at a time.

    The same program, choices and faults make the same run; the global `random` starts from the same seed. At the end
    the remaining tasks are cancelled, and have ended when this returns. Call this where no event loop runs. Only one
    run takes place at a time; other threads wait.

    :param main: an async function without parameters
    :param backend: "asyncio" or "trio"
    :param policy: chooses the next task to step; default: `Fifo()`. Use a new object for each run
    :param faults: the faults, each with its step
    :param turns: whether every task that is runnable at the begin of a turn steps before tasks that become runnable
        later. trio promises only this order; asyncio is first in, first out, which only `Fifo` keeps
    :param max_steps: the most steps, 1 or more
    :param patience: the most real seconds of a worker thread for one step, more than 0
    :return: the run, with the exception of `main()` or of the simulation: `Deadlock`, `Livelock`, `ForeignBlock`
    :raises BaseException: an exception of the policy, or of the function of a `Call`
    :raises RuntimeError: if an event loop runs in this thread
    """
    if backend not in ("asyncio", "trio"):
        raise ValueError(f"backend must be 'asyncio' or 'trio', not {backend!r}")
    if runs_a_loop() or getattr(here, "schedule", None) is not None:
        raise RuntimeError("simulate() runs its own event loop: call it from sync code, outside of other event loops")
    if not is_decided(backend):
        # The first host of a process tests late scopes, in tasks and a thread. No simulated run must contain that test.
        anyio.run(_open_a_host, backend=backend)
    schedule = Schedule(Fifo() if policy is None else policy, faults, max_steps, turns=turns)
    if backend == "asyncio":
        from .patches_on_asyncio import simulated
    else:
        from .patches_on_trio import simulated
    name = short_name(getattr(main, "__qualname__", "main"))
    with (
        _one_run,
        _same_start(),
        _current(schedule),
        simulated(schedule, main, name, patience) as loop,
        writers_as_workers(loop),
    ):
        value, exception = _result_of(loop, schedule)
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


def _result_of(loop: Loop, schedule: Schedule) -> tuple[Any, BaseException | None]:
    try:
        return loop.run(), None
    except Abandon:
        return None, None
    except BaseException as exc:
        return None, exc
    finally:
        schedule.end()
        loop.unwind()


async def _open_a_host() -> None:
    async with TaskHost():
        pass


@contextmanager
def _same_start() -> Generator[None]:
    """Give each run the same start: no garbage collection, which depends on earlier runs and calls finalizers that the
    program may notice; and the same seed of the global `random`.
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
