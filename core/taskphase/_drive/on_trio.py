"""trio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from threading import get_ident
from typing import TYPE_CHECKING

import trio

from .attempt import attempt

if TYPE_CHECKING:
    from .job import Job
    from .seam import CancelScope


class TrioSeam:
    cancelled: type[BaseException] = trio.Cancelled
    # trio runs what is ready in batches, each in random order. A task that is asked to start is in the next batch,
    # and so is whoever makes a checkpoint meanwhile, before or behind it; the batch after that comes when all of
    # the former have stepped.
    checkpoints = 2
    in_order = False
    checkpoint = staticmethod(trio.lowlevel.checkpoint)
    cancel_scope: Callable[..., CancelScope] = trio.CancelScope

    def __init__(self) -> None:
        self.thread = get_ident()
        self._token = trio.lowlevel.current_trio_token()
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        async with trio.open_nursery() as self._nursery:
            yield

    def start(self, job: Job) -> object:
        assert self._nursery is not None
        # trio copies the context in which it is asked, so the job's own stays as it was.
        assert job._context is not None
        job._context.run(self._start_soon, job)
        return None

    def _start_soon(self, job: Job) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(attempt, job, name=job.name)

    def is_over(self, native: object) -> bool:  # noqa: ARG002 - every attempt takes its first step, cancelled or not
        return False

    def in_task(self, callback: Callable[[], object]) -> None:
        callback()  # trio calls back from a task of its own

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        self._token.run_sync_soon(callback)
