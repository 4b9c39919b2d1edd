"""What has to be done natively, because anyio's way costs several times as much, or does not exist."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from anyio import current_effective_deadline, get_cancelled_exc_class

if TYPE_CHECKING:
    from types import TracebackType

    from .job import Job


class CancelScope(Protocol):
    """That of anyio, or trio's own, which anyio's wraps."""

    @property
    def cancel_called(self) -> bool: ...
    @property
    def cancelled_caught(self) -> bool: ...
    def cancel(self) -> None: ...
    def __enter__(self) -> object: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> bool | None: ...


class Seam(Protocol):
    """One event loop, as a runner needs it."""

    cancelled: type[BaseException]
    """What cancellation raises."""

    thread: int
    """The identifier of the loop's thread."""

    in_order: bool
    """Whether tasks take their first steps in the order in which they were asked to."""

    begins: bool
    """Whether attempts have to `begin()`. It may become True, and is then before the first step of whoever has to."""

    running: Callable[[], object]
    """Returns the native task that runs in this loop now, or None. For the loop's thread."""

    has_running: Callable[[], object]
    """The same, but that anything true stands for the task: each `schedule()` asks this."""

    def is_here(self) -> bool:
        """Return whether a task of this event loop runs here. False in other threads, and in the loop's own thread in a
        callback, and in a signal handler that finds the loop asleep. From any thread.
        """
        ...

    def runs_here(self) -> bool:
        """Return whether this event loop runs here, in a task or not. From any thread."""
        ...

    def check_loop(self) -> None:
        """Make sure that no other event loop runs in the loop's thread.

        :raises RuntimeError: if another one does
        """
        ...

    def was_cancelled(self) -> bool:
        """Return whether the native task that runs here was cancelled natively: not by a cancel scope."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Return a context in which tasks can be started, and which none outlives."""
        ...

    def start(self, job: Job) -> object:
        """Ask for an attempt at `job` to start, in its context. Return its native task, or None if only `begin()` will
        know it.
        """
        ...

    def first_steps(self) -> Awaitable[None]:
        """Have every task that was asked to start take its first step: here and now, in order, where that can be done.
        Else it is for the loop, and what is returned waits for its `turns()`.
        """
        ...

    def turns(self) -> Awaitable[None]:
        """Let others run, for as many turns of the event loop as are enough for every task that it was asked to start
        before. Cancellation does not shorten it, and comes here only if it is asyncio's own, which comes but once.
        """
        ...

    def begin(self, job: Job) -> None:
        """Prepare an attempt, in its first step, for being cancelled: it enters `job._scope`, or that stays None and
        `runner.alive` has the native task, for `enclose()`.
        """
        ...

    def enclose(self, native: Any) -> CancelScope:
        """Enter a cancel scope on behalf of a task that has entered none in `begin()`, as if it had: around all that
        it has entered since. Whoever ends the attempt leaves it.

        Why not at once, and what that rests on: "How a running task is cancelled" in docs/architecture.md.

        :param native: what `runner.alive` has for the job
        """
        ...

    def is_over(self, native: object) -> bool:
        """Tell whether what `start()` returned has ended. (Of an attempt that has begun the runner hears by itself.)"""
        ...

    @property
    def cancel_scope(self) -> Callable[..., CancelScope]:
        """Makes one; `shield` is its only parameter here."""
        ...

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        """Have `callback` called by the loop soon, in order. From any thread; does not wait.

        :raises RuntimeError: if the loop has ended
        """
        ...


class NativeSeam(Seam, Protocol):
    """One event loop, natively."""

    def beside(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> AbstractAsyncContextManager[None]:
        """Return a context beside whose body `work()` runs, in a native task of its own. Leaving the context waits for
        the end of `work()`, and raises what it has raised. On asyncio another task may leave the context than has
        entered it; and if `work()` has ended the context is left without a turn of the loop.
        """
        ...

    def in_task(self, callback: Callable[[], object]) -> None:
        """Call `callback` in a task, now or at the next turn, from where no task runs: in what the loop was asked
        to call.
        """
        ...


def enter_scope(job: Job, cancel_scope: Callable[..., CancelScope]) -> None:
    """Enter the scope in which an attempt can be cancelled."""
    job._scope = cancel_scope(shield=job.config.shielded)
    job._scope.__enter__()


def is_cancelled_around() -> bool:
    """Tell whether a cancel scope around what runs here is cancelled, and no shield is between."""
    return current_effective_deadline() == -inf


async def outlast(seam: Seam, wait: Callable[[], Awaitable[None]]) -> None:
    """Await `wait()`, and again whenever asyncio's own cancel() interrupts it, which knows no shield: as the end of
    `asyncio.run()` does to every task at once. The cancellation of an enclosing scope does end it.
    """
    while True:
        try:
            return await wait()
        except seam.cancelled:
            if is_cancelled_around():
                raise


def native_seam() -> NativeSeam:
    """Return the seam of the running event loop.

    :raises anyio.NoEventLoopError: if none runs in this thread (RuntimeError before anyio 4.12)
    """
    if get_cancelled_exc_class() is CancelledError:
        from .on_asyncio import AsyncioSeam

        return AsyncioSeam()
    from .on_trio import TrioSeam

    return TrioSeam()
