"""Connect anyio's calls into threads, and back, to the workers on asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import Any

from .context import enter_library
from .on_asyncio import SimulatedLoop
from .privates import AnyioOnAsyncio, anyio_eventloop, replaced
from .tasks_on_asyncio import settle
from .threads import Reply, current_worker, is_over


@contextmanager
def workers_for_anyio(anyio: AnyioOnAsyncio) -> Generator[None]:
    """Make anyio use workers in every simulated loop while the context is open."""
    bridge = _Bridge(anyio)
    methods: tuple[Any, ...] = (
        bridge.run_sync_in_worker_thread,
        bridge.run_sync_from_thread,
        bridge.run_async_from_thread,
    )
    with ExitStack() as stack:
        for method in methods:
            stack.enter_context(replaced(anyio.backend, method.__name__, staticmethod(method)))
        yield


class _Bridge:
    """Replaces methods of anyio's backend. Calls anyio's own methods outside of a simulation."""

    def __init__(self, anyio: AnyioOnAsyncio) -> None:
        self._anyio = anyio
        self._to_thread = anyio.backend.run_sync_in_worker_thread
        self._call = anyio.backend.run_sync_from_thread
        self._call_async = anyio.backend.run_async_from_thread

    async def run_sync_in_worker_thread(
        self, func: Any, args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, SimulatedLoop):
            return await self._to_thread(func, args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
        backend = self._anyio.backend
        await backend.checkpoint()
        async with limiter or backend.current_default_thread_limiter():
            with self._anyio.cancel_scope(shield=not abandon_on_cancel) as scope:
                future = loop.create_future()
                # taskphase looks for this variable by its name, which is anyio's.
                worker_scope = scope if abandon_on_cancel or scope._parent_scope is None else scope._parent_scope
                loop.crew.hire(func, _work(loop, backend, func, args, future, worker_scope))
                return await future

    def run_sync_from_thread(self, func: Any, args: Any, token: Any) -> Any:
        worker = current_worker()
        if worker is None:
            return self._call(func, args, token)
        loop = worker.crew.loop
        assert isinstance(loop, SimulatedLoop)
        return worker.ask(lambda reply: _call(loop, lambda: func(*args), reply))

    def run_async_from_thread(self, func: Any, args: Any, token: Any) -> Any:
        worker = current_worker()
        if worker is None:
            return self._call_async(func, args, token)
        loop = worker.crew.loop
        assert isinstance(loop, SimulatedLoop)
        scope = getattr(anyio_eventloop().threadlocals, "current_cancel_scope", None)
        return worker.ask(lambda reply: _call_async(loop, scope, func, args, reply))


def _work(
    loop: SimulatedLoop, backend: Any, func: Any, args: Any, future: asyncio.Future[Any], scope: Any
) -> Callable[[], None]:
    """Return the worker's function: it calls `func`, and reports the result to the loop."""
    context = copy_context()
    context.run(enter_library, None)
    module = anyio_eventloop()

    def work() -> None:
        value: Any = None
        error: BaseException | None = None
        if future.cancelled():
            return
        with module.claim_worker_thread(backend, loop):
            module.threadlocals.current_cancel_scope = scope
            try:
                value = context.run(func, *args)
            except BaseException as exc:
                error = exc
            finally:
                del module.threadlocals.current_cancel_scope
        if not is_over():
            loop.call_soon_threadsafe(settle, future, value, error)

    return work


def _call(loop: SimulatedLoop, func: Callable[[], Any], reply: Reply) -> None:
    context = copy_context()
    context.run(enter_library, "asyncio")

    def answer() -> None:
        try:
            value = func()
        except BaseException as exc:
            reply(None, exc)
        else:
            reply(value, None)

    loop.call_soon_threadsafe(answer, context=context)


def _call_async(loop: SimulatedLoop, scope: Any, func: Any, args: Any, reply: Reply) -> None:
    context = copy_context()
    context.run(enter_library, "asyncio")
    states, new_state = loop.anyio.module._task_states, loop.anyio.module.TaskState

    async def answer() -> None:
        # anyio does the same: the task is inside the cancel scope of the caller of the thread.
        task = asyncio.current_task()
        if scope is not None:
            states[task] = new_state(None, scope)
            scope._tasks.add(task)
        try:
            value = await func(*args)
        except asyncio.CancelledError as exc:
            reply(None, concurrent.futures.CancelledError(str(exc)))
        except BaseException as exc:
            reply(None, exc)
        else:
            reply(value, None)
        finally:
            if scope is not None:
                scope._tasks.discard(task)

    name = getattr(func, "__qualname__", None)
    loop.call_soon_threadsafe(lambda: loop.create_task(answer(), name=name, context=context), context=context)
