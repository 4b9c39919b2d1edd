"""The seam of trio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import copy_context
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_clock, current_task, current_trio_token, in_trio_task

from .._machine.calling import names_of
from . import enclosing
from .attempt import attempt
from .enclosing_trio import can_enclose_here, enclose
from .job import Job, enter_scope
from .seam import RingsInTasks

if TYPE_CHECKING:
    from .cancelling import CancelScope


class TrioSeam(RingsInTasks):
    """One run of trio. Jobs start in a nursery of their own."""

    backend = "trio"
    cancelled: type[BaseException] = trio.Cancelled
    in_order = False
    cancel_scope: Callable[..., CancelScope] = trio.CancelScope
    event: Callable[..., trio.Event] = trio.Event

    def __init__(self, *, may_enclose: bool) -> None:
        self.thread = get_ident()
        self.running: Callable[[], object] = _running
        self.has_running: Callable[[], object] = in_trio_task
        clock = current_clock()
        self.clock: Callable[[], float] = clock.current_time
        # trio's own clock calls this function, and adds a constant.
        is_own = type(clock).__qualname__ == enclosing.TRIO_CLOCK
        self.stamp: Callable[[], float] = perf_counter if is_own else self.clock
        self._token = current_trio_token()
        self._nursery: Any = None
        self._context = copy_context()  # for timers: the context of a task would live as long as they wait
        self.begins, self.early = True, True
        self._may_enclose = may_enclose

    def is_here(self) -> bool:
        return get_ident() == self.thread and in_trio_task()

    runs_here = is_here  # trio runs all code in tasks

    def check_loop(self) -> None:
        pass  # a thread has one run of trio at a time, and a host does not outlive its run

    def was_cancelled(self) -> bool:
        return True  # only trio can make its `Cancelled`

    @asynccontextmanager
    async def beside(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, name=name)
            yield

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        async with trio.open_nursery() as self._nursery:
            self._start_soon = self._nursery.start_soon  # (Python 3.11 is slow at calling an attribute of an object)
            self.early = not (self._may_enclose and await can_enclose_here(self._nursery))
            yield

    def start(self, job: Job) -> object:
        # `start_soon()` copies the context of its caller. So the context of the job does not change.
        context: Any = job._context  # never None here
        name = job.config.name or (job._parcel.names or names_of(job.func))[0]
        context.run(self._start_soon, attempt, job, name=name)
        if not job.config.is_gated:
            job._context = None  # there is one attempt, and it has its copy
        return None

    async def turns(self) -> None:
        # trio runs ready tasks in batches, each batch in random order. A task that was asked to start is in the next
        # batch. So is this task after the first checkpoint, perhaps before the others. After the second checkpoint this
        # task is in the batch after that: by then all tasks of the batch before have taken a step.
        await trio.lowlevel.cancel_shielded_checkpoint()
        await trio.lowlevel.cancel_shielded_checkpoint()

    first_steps = turns

    def begin(self, job: Job) -> None:
        job._runner.alive[job] = current_task()
        if self.early or job.config.shield:  # KeyboardInterrupt in any task cancels the nursery
            enter_scope(job, trio.CancelScope(shield=job.config.shielded))

    def enclose(self, native: Any) -> CancelScope:
        return enclose(self._nursery, native)

    def _start_timer(self, ring: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._context.run(self._nursery.start_soon, ring, name="taskphase.timer")

    def is_over(self, native: object) -> bool:  # noqa: ARG002 - trio cannot cancel a task without its scopes
        return False

    def after_first_step(self, callback: Callable[[], object]) -> None:
        pass  # trio cancels no task before its first step

    def start_beside(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._nursery.start_soon(work, name=name)

    def in_task(self, callback: Callable[[], object]) -> None:
        callback()  # trio calls callbacks in a task of its own

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        self._token.run_sync_soon(callback)


def _running() -> object:
    return current_task() if in_trio_task() else None
