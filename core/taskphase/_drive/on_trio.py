"""trio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_task, current_trio_token, in_trio_task

from .attempt import attempt
from .seam import enter_scope

if TYPE_CHECKING:
    from .job import Job
    from .seam import CancelScope


class TrioSeam:
    cancelled: type[BaseException] = trio.Cancelled
    in_order = False
    begins = True
    cancel_scope: Callable[..., CancelScope] = trio.CancelScope

    def __init__(self) -> None:
        self.thread = get_ident()
        self.running: Callable[[], object] = _running
        self.has_running: Callable[[], object] = in_trio_task
        self._token = current_trio_token()
        self._nursery: Any = None
        self._can_enclose = False

    def is_here(self) -> bool:
        return get_ident() == self.thread and in_trio_task()

    runs_here = is_here  # all that trio runs runs in tasks

    def check_loop(self) -> None:
        pass  # a thread has one run of trio at a time, and a host does not outlive its run

    def was_cancelled(self) -> bool:
        return True  # nobody but trio makes its `Cancelled`

    @asynccontextmanager
    async def beside(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, name=name)
            yield

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        async with trio.open_nursery() as self._nursery:
            self._can_enclose = _can_enclose(self._nursery)
            yield

    def start(self, job: Job) -> object:
        # trio copies the context in which it is asked, so the job's own stays as it was.
        assert job._context is not None
        job._context.run(self._nursery.start_soon, attempt, job, name=job.name)
        return None

    async def turns(self) -> None:
        # trio runs what is ready in batches, each in random order. A task that is asked to start is in the next batch,
        # and so is whoever lets others run meanwhile, before or behind it; the batch after that comes when all of the
        # former have stepped.
        await trio.lowlevel.cancel_shielded_checkpoint()
        await trio.lowlevel.cancel_shielded_checkpoint()

    first_steps = turns

    def begin(self, job: Job) -> None:
        # The nursery is cancelled by what breaks through it, from which a shield protects.
        if self._can_enclose and not job.config.shield:
            job._runner.alive[job] = current_task()
        else:
            enter_scope(job, trio.CancelScope)

    def enclose(self, native: Any) -> CancelScope:
        scope: Any = trio.CancelScope()
        nursery = self._nursery._cancel_status
        scope._cancel_status = status = type(nursery)(scope=scope, parent=nursery)
        outermost = native._cancel_status
        if outermost is nursery:
            native._activate_cancel_status(status)
        else:
            # (The parent is None where the user has left scopes crosswise.)
            while outermost.parent is not nursery and outermost.parent is not None:
                outermost = outermost.parent
            outermost.parent = status
        return scope  # type: ignore[no-any-return]

    def is_over(self, native: object) -> bool:  # noqa: ARG002 - every attempt takes its first step, cancelled or not
        return False

    def in_task(self, callback: Callable[[], object]) -> None:
        callback()  # trio calls back from a task of its own

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        self._token.run_sync_soon(callback)


def _running() -> object:
    return current_task() if in_trio_task() else None


def _can_enclose(nursery: Any) -> bool:
    """Tell whether trio is as `enclose()` has to have it."""
    task: Any = current_task()
    try:
        scope: Any = trio.CancelScope()
        around = nursery._cancel_status
        status = type(around)(scope=scope, parent=around)
        status.parent = None
        return callable(task._activate_cancel_status) and (task._cancel_status, scope._cancel_status) == (around, None)
    except (AttributeError, TypeError):
        return False
