"""A simulated asyncio loop, and the replaced parts of anyio and asyncio while it runs: the order of cancellations, and
threads. anyio itself passes calls between thread and event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context, copy_context
from inspect import getcoroutinelocals
from typing import Any
from unittest.mock import patch

from ..._machine.calling import names_of
from .loop import Loop
from .offline import without_real_time
from .on_asyncio import SimulatedLoop
from .privates import anyio_eventloop, anyio_on_asyncio, enter_library
from .schedule import Schedule
from .threads import current_worker


@contextmanager
def simulated(schedule: Schedule, main: Callable[[], Awaitable[Any]], name: str, patience: float) -> Generator[Loop]:
    """Return a new loop. Patches anyio and asyncio while the context is open."""
    anyio = anyio_on_asyncio()
    with (
        _ordered_cancellation(anyio.CancelScope),
        _workers_for_anyio(anyio),
        without_real_time(anyio.AsyncIOBackend),
    ):
        yield SimulatedLoop(schedule, main, name, patience, anyio)


@contextmanager
def _workers_for_anyio(anyio: Any) -> Generator[None]:
    """Make anyio use workers in every simulated loop while the context is open. `anyio`: its module for asyncio."""
    backend = anyio.AsyncIOBackend
    in_thread, run_coroutine = backend.run_sync_in_worker_thread, asyncio.run_coroutine_threadsafe

    async def run_sync_in_worker_thread(
        func: Any, args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, SimulatedLoop):
            return await in_thread(func, args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
        await backend.checkpoint()
        async with limiter or backend.current_default_thread_limiter():
            with anyio.CancelScope(shield=not abandon_on_cancel) as scope:
                context = copy_context()
                context.run(enter_library, None)
                # taskphase looks for this variable by its name, which is anyio's.
                worker_scope = scope if abandon_on_cancel or scope._parent_scope is None else scope._parent_scope
                return await loop.in_worker(func, lambda: _call(backend, loop, worker_scope, context, func, args))

    def run_coroutine_threadsafe(coro: Any, loop: asyncio.AbstractEventLoop) -> Future[Any]:
        if getattr(coro, "__name__", None) == "task_wrapper":  # of anyio; the trace names the function of the thread
            coro.__qualname__ = names_of(getcoroutinelocals(coro).get("func", coro))[1]
        future = run_coroutine(coro, loop)
        future.__class__ = _Answer  # asyncio has no hook for the class of this future
        return future

    with (
        patch.object(backend, "run_sync_in_worker_thread", staticmethod(run_sync_in_worker_thread)),
        patch.object(anyio, "Future", _Answer),
        patch.object(asyncio, "run_coroutine_threadsafe", run_coroutine_threadsafe),
    ):
        yield


def _call(backend: Any, loop: SimulatedLoop, scope: Any, context: Context, func: Any, args: Any) -> Any:
    """Call `func` in a thread, in `context`. The calls of the thread into the event loop are inside `scope`."""
    module = anyio_eventloop()
    with module.claim_worker_thread(backend, loop):
        module.threadlocals.current_cancel_scope = scope
        try:
            return context.run(func, *args)
        finally:
            del module.threadlocals.current_cancel_scope


class _Answer(Future[Any]):
    """The answer of an event loop to a thread. A worker parks until the answer is there; a `timeout` is virtual.
    A worker whose run is over asks for nothing more.
    """

    def __init__(self) -> None:
        worker = current_worker()
        if worker is not None:
            worker.check()
        super().__init__()

    def result(self, timeout: float | None = None) -> Any:
        worker = current_worker()
        if worker is not None and not self.done() and timeout != 0:
            wake = worker.waker()
            self.add_done_callback(lambda _: wake())
            if timeout is not None:
                worker.loop.at(worker.loop.schedule.now + timeout, wake)
            worker.park()
            timeout = 0
        return super().result(timeout)


class OrderedSet(dict[Any, None]):
    """A set that iterates in the order of insertion, with the methods that anyio uses."""

    __slots__ = ()

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)


@contextmanager
def _ordered_cancellation(cancel_scope: Any) -> Generator[None]:
    """Make anyio deliver a cancellation in the order in which tasks and scopes were entered.

    :param cancel_scope: the class of anyio's cancel scopes
    """
    original: Any = cancel_scope.__init__

    def ordered(scope: Any, *args: Any, **kwargs: Any) -> None:
        original(scope, *args, **kwargs)
        scope._tasks = OrderedSet()
        scope._child_scopes = OrderedSet()

    with patch.object(cancel_scope, "__init__", ordered):
        yield
