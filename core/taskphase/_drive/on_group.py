"""The seam of a foreign task group: any anyio task group that other code opens and closes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio.abc import TaskGroup

from .._machine.calling import shown
from ..errors import TasksClosedError
from .attempt import attempt
from .job import enter_scope
from .loops import native_seam
from .seam import RingsInTasks

if TYPE_CHECKING:
    from .cancelling import CancelScope
    from .job import Job


class GroupSeam(RingsInTasks):
    """One foreign task group. Jobs start by its `start_soon()`; the seam of the event loop does the rest.

    Scopes are early: other code may cancel the group at any time, and by then a shielded task must be in its shield.
    """

    begins = True

    def __init__(self, tg: TaskGroup) -> None:
        self._tg = tg
        self._context = copy_context()  # for timers: the context of a task would live as long as they wait
        self._native = native_seam()
        self.cancelled = self._native.cancelled
        self.thread = self._native.thread
        self.clock = self._native.clock
        self.stamp = self._native.stamp
        self.in_order = self._native.in_order
        self.cancel_scope, self.event = self._native.cancel_scope, self._native.event
        self.first_steps = self.turns = self._native.turns
        self.is_here = self._native.is_here
        self.runs_here = self._native.runs_here
        self.check_loop = self._native.check_loop
        self.running, self.has_running = self._native.running, self._native.has_running
        self.was_cancelled, self.after_first_step = self._native.was_cancelled, self._native.after_first_step

    def start(self, job: Job) -> object:
        self._start_soon(shown(job.function), job._own_context(), attempt, job, name=job.name)
        self.after_first_step(partial(_bury_if_missed, job))
        return None

    def _start_soon(
        self, what: str, context: Context, func: Callable[..., Coroutine[Any, Any, Any]], *args: object, name: str
    ) -> None:
        try:
            context.run(partial(self._tg.start_soon, func, *args, name=name))
        except RuntimeError as exc:
            raise TasksClosedError(
                f"the task group is not open, so {what} was not scheduled: schedule inside its block, "
                "`async with create_task_group()`"
            ) from exc

    def begin(self, job: Job) -> None:
        job._runner.alive[job] = self.running()
        enter_scope(job, self.cancel_scope(shield=job.config.shielded))

    def enclose(self, native: object) -> CancelScope:
        raise AssertionError(f"{native} has entered a scope of its own")

    def _start_timer(self, ring: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._start_soon("the task", self._context, ring, name="taskphase.timer")

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        # `start_soon()` of anyio works only in a task.
        self._native.call_from_thread(lambda: self._native.in_task(callback))


def _bury_if_missed(job: Job) -> None:
    """End `job` if foreign code has cancelled its native task before the first step: see `NativeTask`."""
    runner = job._runner
    if runner.alive.get(job, job) is None:
        runner.bury(job)
