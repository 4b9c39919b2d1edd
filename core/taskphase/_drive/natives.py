"""The native tasks of asyncio: how they are made, and how they take their first steps.

From Python 3.12 on asyncio can make tasks that take their first steps at once, not in the next turn of the loop:
`eager_start=True`. For Python 3.11 a *stepper* does that. A new task asks its loop for the first step, by
`loop.call_soon(step, context=context)`. While the task is made, the loop has another `call_soon()`, which keeps the
step; then the step is called. All of that can go with Python 3.11.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from inspect import CORO_CREATED, getcoroutinelocals, getcoroutinestate
from typing import Any, TypeAlias

from .enclosing import ASYNCIO_TASKS, check, is_forced_early
from .enclosing_asyncio import enter_task, leave_task
from .job import Job

Stepper: TypeAlias = Callable[[Coroutine[Any, Any, None], "str | None", Context, "dict[Any, Any]", Any], object]
"""Makes a native task with this coroutine, name and context. Returns after its first step. While another task runs:
between `leave_task()` and `enter_task()`. From before the first step on the task is in this dict under this key.
"""

_EAGER_CODE: Any = getattr(getattr(asyncio, "eager_task_factory", None), "__code__", None)
HAS_EAGER_TASKS = _EAGER_CODE is not None
_CALL_SOON = "call_soon"

_verdicts: dict[type, bool] = {}  # by the class of the loop: whether tasks step by hand


class NativeTask(asyncio.Task[None]):
    """A native task. Foreign code may cancel it before its first step: then `attempt()` never runs, so does not report
    the end of the job either.
    """

    __slots__ = ()

    def cancel(self, msg: Any = None) -> bool:
        coro: Any = self.get_coro()
        if getcoroutinestate(coro) == CORO_CREATED:
            bury_if_missed(self, getcoroutinelocals(coro)["job"])
        return super().cancel(msg)


def bury_if_missed(native: asyncio.Task[None], job: Job) -> None:
    """End `job` when `native` has ended, if `attempt()` has not. For each task this would cost too much."""
    if isinstance(native, asyncio.Future):  # a task factory may return anything
        native.add_done_callback(partial(_bury, job))


def _bury(job: Job, native: object) -> None:
    runner = job._runner
    if runner.alive.get(job) is native:
        runner.bury(job)


def makes_plain_tasks(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether `loop.create_task()` makes plain tasks of asyncio: then `NativeTask()` does nearly the same."""
    kind = type(loop)
    if NativeTask.__base__ is not asyncio.Task or "create_task" in getattr(loop, "__dict__", ()):  # (nest_asyncio)
        return False
    return kind.create_task is asyncio.BaseEventLoop.create_task or kind.__module__.partition(".")[0] == "uvloop"


def is_eager(factory: Any) -> bool:
    """Return whether a task factory is asyncio's eager one, for plain tasks."""
    if not HAS_EAGER_TASKS or getattr(factory, "__code__", None) is not _EAGER_CODE:
        return False
    return all(cell.cell_contents is asyncio.Task for cell in factory.__closure__ or ())


def stepper_of(loop: asyncio.AbstractEventLoop) -> Stepper | None:
    """Return the stepper of a running loop that makes plain tasks; None if it has none, or needs none."""
    if HAS_EAGER_TASKS or is_forced_early():
        return None
    if _CALL_SOON in getattr(loop, "__dict__", _CALL_SOON):  # a tool has put it there, or the loop has no `__dict__`
        return None
    if type(loop) not in _verdicts:
        _verdicts[type(loop)] = _can_step_by_hand(loop)
    return _by_hand(loop) if _verdicts[type(loop)] else None


def _by_hand(loop: asyncio.AbstractEventLoop) -> Stepper:
    """Return the stepper of Python 3.11.

    *Invariant*: no callback is lost. While `make()` makes a task, a finalizer or a signal handler may use the loop, or
    make another task. Only the first step of the new task has the context of that task.
    """
    attributes, call_soon = loop.__dict__, loop.call_soon
    wanted: Context | None = None  # of the task that is being made
    step: Any = None

    def take(callback: Callable[..., object], *args: Any, context: Context | None = None) -> object:
        nonlocal step
        if context is not wanted:
            return call_soon(callback, *args, context=context)
        step = callback
        return None

    def make(
        coro: Coroutine[Any, Any, None], name: str | None, context: Context, alive: dict[Any, Any], key: object
    ) -> None:
        nonlocal wanted, step
        before = attributes.get(_CALL_SOON)  # of a tool. First: a signal handler may raise at this call
        outer = wanted, step
        wanted = context
        attributes[_CALL_SOON] = take
        try:
            alive[key] = NativeTask(coro, loop=loop, name=name, context=context)
            first = step
        finally:
            if before is None:
                del attributes[_CALL_SOON]
            else:
                attributes[_CALL_SOON] = before
            wanted, step = outer  # last: without `take()` in the loop no callback is compared
        context.run(first)

    return make


def _can_step_by_hand(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a task of this loop takes its first step by hand: tried with one."""
    ran: list[asyncio.Task[Any] | None] = []

    async def work() -> None:
        ran.append(asyncio.current_task(loop))

    try:
        check(ASYNCIO_TASKS, asyncio.tasks)
        running = asyncio.current_task(loop)
        if running is not None:
            leave_task(loop, running)
        try:
            _by_hand(loop)(work(), None, copy_context(), {}, None)
        finally:
            if running is not None:
                enter_task(loop, running)
    except Exception:  # the host opens all the same
        return False
    has_stepped = [type(native) for native in ran] == [NativeTask] and ran != [running]
    return has_stepped and asyncio.current_task(loop) is running
