"""asyncio, under whichever event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING

import anyio

from .attempt import attempt

if TYPE_CHECKING:
    from .job import Job
    from .seam import CancelScope


class AsyncioSeam:
    cancelled: type[BaseException] = asyncio.CancelledError
    # The loop's queue is first in, first out.
    checkpoints = 1
    in_order = True
    checkpoint = staticmethod(partial(asyncio.sleep, 0))

    def __init__(self) -> None:
        self.thread = get_ident()
        self._loop = asyncio.get_running_loop()
        self._callbacks: set[asyncio.Task[None]] = set()
        # `anyio.CancelScope(...)` looks up the backend at each call, which costs more than the scope itself.
        self.cancel_scope: Callable[..., CancelScope] = type(anyio.CancelScope())

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        # Nothing to be opened: the runner keeps the tasks, and whoever closes it waits until it has none.
        yield

    def start(self, job: Job) -> object:
        context = job._context
        if context is not None and job.config.on_error is not None:
            # An attempt changes its context, and the next one, which only a handler can ask for, has to find it
            # untouched.
            context = context.copy()
        if _CAN_BE_EAGER and _is_eager(self._loop):
            return asyncio.Task(attempt(job), loop=self._loop, name=job.name, context=context)
        return self._loop.create_task(attempt(job), name=job.name, context=context)

    def is_over(self, native: object) -> bool:
        return isinstance(native, asyncio.Future) and native.done()

    def in_task(self, callback: Callable[[], object]) -> None:
        async def run() -> None:
            callback()

        task = self._loop.create_task(run())
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(callback)


_CAN_BE_EAGER = sys.version_info >= (3, 12)

if sys.version_info >= (3, 12):

    def _is_eager(_loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether the loop's task factory would run a task's first step inside `schedule()`."""
        code = getattr(_loop.get_task_factory(), "__code__", None)
        return code is not None and code is asyncio.eager_task_factory.__code__

else:

    def _is_eager(_loop: asyncio.AbstractEventLoop) -> bool:
        return False
