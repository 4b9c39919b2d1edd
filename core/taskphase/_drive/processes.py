"""Calls of sync functions in worker processes: `run_in="process"`.

The workers belong to the pool of `anyio.to_process`, so to the event loop: they are used again and again, and end with
the loop. This module adds:

- Places, one for each core. anyio's own limiter is for other code.
- A worker that is ready before the call is sent to it: `_prepare()`. It ignores SIGINT. Otherwise Ctrl-C in a terminal,
  which reaches all processes of the program, would end the function. A worker that breaks before it is ready, for
  example by Ctrl-C, is replaced: the function has not begun.
- The end of a worker whose start is cancelled: anyio leaves that worker running.
- Messages.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import (
    BrokenResourceError,
    BrokenWorkerProcess,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    IncompleteRead,
    current_time,
    to_process,
)
from anyio.abc import Process
from anyio.lowlevel import RunVar, checkpoint

from .._machine.calling import shown, type_name
from .current import in_empty_context
from .enclosing import ANYIO_PROCESS
from .portable import GUARD, Answer, run, unpack
from .slots import Slots
from .threads import UNLIMITED, timed_out

if TYPE_CHECKING:
    from .job import Job
    from .seam import Seam

T = TypeVar("T")

# How many turns of the event loop `open_process()` may take. It takes about ten on asyncio.
_TURNS = 50

# How many workers may break in a row before they are ready: some users press Ctrl-C again and again.
_MOST_BROKEN = 10

# Seconds for the start of a worker. anyio does not limit the import of the main module, which without the guard may
# run the whole program.
_MOST_SECONDS = 60

# A worker that is killed while it starts ends the conversation like this. `TimeoutError`: the start took 20 seconds.
_BROKEN_OFF = (BrokenResourceError, ClosedResourceError, EndOfStream, IncompleteRead, KeyboardInterrupt, TimeoutError)

# asyncio's exit code of a process for which other code has waited: here `Popen.kill()`, which anyio calls.
_UNKNOWN = 255


_slots: RunVar[Slots[Job]] = RunVar("taskphase_process_slots")


async def call_in_process(job: Job) -> Any:
    """Call the function of `job` in a worker process, as soon as a place is free. A cancellation kills the worker.

    :raises TimeoutError: `timeout` seconds after the call has got its place
    :raises BrokenWorkerProcess: if the worker has ended before the function, or no worker can start
    :raises TasksUnportableError: if the worker could not load the call, or this process cannot load the outcome
    """
    try:
        slots = _slots_here()
        await slots.take(job)
        try:
            timeout = job.config.timeout
            with CancelScope(deadline=math.inf if timeout is None else current_time() + timeout):
                answer = await in_empty_context(_call(shown(job.function), job._runner.seam, job._parcel.payload))
                return unpack(answer, job.func, job._parcel.payload)
            raise timed_out(timeout, "; its worker process was killed")
        finally:
            slots.release(job)
    finally:
        del job  # as in `attempt()`


def _slots_here() -> Slots[Job]:
    slots: Slots[Job] | None = _slots.get(None)
    if slots is None:
        slots = Slots(count_cores(), Event)
        _slots.set(slots)
    return slots


def count_cores() -> int:
    """Return the number of cores that this process may use, as far as Python knows it."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)  # the former from Python 3.13 on
    return count() or 1


@contextmanager
def _starting(seam: Seam[Job]) -> Generator[None]:
    """Return the context for the start of a worker: a shield for some turns of the loop, and a deadline.

    A cancellation of `open_process()` on asyncio or uvloop leaves a process behind, for which nothing waits.
    """
    left = _TURNS

    def count() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            seam.call_from_thread(count)
        elif left == 0:
            scope.shield = False

    with CancelScope(shield=True, deadline=current_time() + _MOST_SECONDS) as scope:
        seam.call_from_thread(count)
        try:
            yield
        finally:
            left = 0


async def _prepare(name: str, seam: Seam[Job]) -> None:
    """Make sure that the next call in this turn of the loop goes to a worker that runs, and ignores SIGINT.

    `run_sync()` takes the worker that was used last. From the end of its first call to the begin of the second one it
    has no checkpoint, unless the task is cancelled. So both calls go to the same worker.

    :raises BrokenWorkerProcess: if no worker can start
    """
    reason = ""
    for _ in range(_MOST_BROKEN):
        try:
            with _starting(seam):
                # Nothing needs to be imported for this call: there is hardly time for an interrupt.
                await _run_sync(signal.signal, signal.SIGINT, signal.SIG_IGN)
                return
            reason = f"the import of the main module takes more than {_MOST_SECONDS} seconds"
            break
        except (BrokenWorkerProcess, ProcessLookupError) as exc:  # the latter: anyio kills a process that has ended
            cause = exc.__cause__ if isinstance(exc, BrokenWorkerProcess) else exc.__context__
            if isinstance(cause, KeyboardInterrupt) and not exc.args:
                raise cause from None  # of this process: anyio has caught it
            reason = f"{type_name(cause)}: {cause}"
            if not isinstance(cause, _BROKEN_OFF):
                break
        except KeyboardInterrupt as exc:
            if not _is_from_worker(exc):
                raise
            reason = type_name(exc)
        finally:
            cause = None  # its traceback may lead here
    text = f"no worker process can start for {name}: {reason}"
    raise BrokenWorkerProcess(text if GUARD in text else f"{text}. {GUARD}")


async def _call(name: str, seam: Seam[Job], payload: bytes) -> Answer:
    await _prepare(name, seam)
    try:
        return Answer(*await _run_sync(run, payload))
    except BrokenWorkerProcess as exc:
        cause, process = exc.__cause__, _process_of(exc)
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None  # of this process: anyio has caught it
        text = f"the worker process of {name} has ended before the function{_ending(process)}"
    except Exception as exc:
        text = f"{name} cannot run in a worker process, because that process raised {type_name(exc)}: {exc}"
    raise BrokenWorkerProcess(text)  # outside of `except`: a frame of the caught exception has the arguments


async def _run_sync(func: Callable[..., T], *args: Any) -> T:
    try:
        return await to_process.run_sync(func, *args, cancellable=True, limiter=UNLIMITED)
    except BaseException as exc:
        process = _process_of(exc)
        has_answered = isinstance(exc, Exception) and not isinstance(exc, BrokenWorkerProcess | ProcessLookupError)
        if not has_answered:
            with CancelScope(shield=True):
                await _end(process)
        raise


async def _end(process: Process | None) -> None:
    if process is None:  # asyncio's own `cancel()` has reached `open_process()`: then asyncio ends the process
        for _ in range(_TURNS):
            await checkpoint()
        return
    with suppress(ProcessLookupError):
        process.kill()
    await process.aclose()


def _process_of(exc: BaseException) -> Process | None:
    """Return the worker of the call of `run_sync()` that raised `exc`: anyio has no other way to it."""
    at = exc.__traceback__
    while at is not None:
        if at.tb_frame.f_code is to_process.run_sync.__code__:
            return at.tb_frame.f_locals.get(ANYIO_PROCESS)
        at = at.tb_next
    return None


def _is_from_worker(exc: BaseException) -> bool:
    """Return whether the worker has sent `exc`: then anyio's function for the answer raised it."""
    at = exc.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and at.tb_frame.f_globals is to_process.run_sync.__globals__


def _ending(process: Process | None) -> str:
    code = None if process is None else process.returncode
    if code is None or code == _UNKNOWN:
        return ""
    if code >= 0:
        return f", with the exit code {code}"
    names = {each.value: each.name for each in signal.Signals}
    hint = ". The system kills a process like this if the memory is full"
    return f", by {names.get(-code, f'signal {-code}')}{hint if -code == signal.SIGKILL else ''}"
