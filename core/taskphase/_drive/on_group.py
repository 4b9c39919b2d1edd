"""The seam of a foreign task group: any anyio task group that other code opens and closes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyio.abc import TaskGroup

from ..errors import TasksClosedError
from .attempt import attempt
from .loops import native_seam

if TYPE_CHECKING:
    from .cancelling import CancelScope
    from .job import Job


class GroupSeam:
    """One foreign task group. Jobs start by its `start_soon()`; the seam of the event loop does the rest.

    Scopes are early: other code may cancel the group at any time, and by then a shielded task must be in its shield.
    """

    begins = True
    early = True

    def __init__(self, tg: TaskGroup) -> None:
        self._tg = tg
        self._native = native_seam()
        self.cancelled = self._native.cancelled
        self.thread = self._native.thread
        self.clock = self._native.clock
        self.in_order = self._native.in_order
        self.cancel_scope = self._native.cancel_scope
        self.first_steps = self.turns = self._native.turns
        self.is_here = self._native.is_here
        self.runs_here = self._native.runs_here
        self.check_loop = self._native.check_loop
        self.running, self.has_running = self._native.running, self._native.has_running
        self.was_cancelled = self._native.was_cancelled

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        yield

    def start(self, job: Job) -> object:
        try:
            job._run_in_context(self._start_soon, job)
        except RuntimeError as exc:
            raise TasksClosedError("the task group is not open, and takes no tasks") from exc
        return None

    def _start_soon(self, job: Job) -> None:
        self._tg.start_soon(attempt, job, name=job.name)

    def begin(self, job: Job) -> None:
        job._runner.alive[job] = self.running()

    def enclose(self, native: object) -> CancelScope:
        raise AssertionError(f"{native} has entered a scope of its own")

    def is_over(self, native: object) -> bool:  # noqa: ARG002 - every attempt takes its first step, cancelled or not
        return False

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        # `start_soon()` of anyio works only in a task.
        self._native.call_from_thread(lambda: self._native.in_task(callback))
