"""Refuses the waits that would never end."""

from __future__ import annotations

from typing import Any

from anyio import TaskInfo, get_current_task, get_running_tasks

from .._machine.life import IN_ATTEMPT, TaskStatus
from .._machine.scope import UNDECIDED
from ..errors import TaskNotFinished
from .awaited import own_frames
from .current import BODY, body_here
from .enclosing import ANYIO_FROM_THREAD, ANYIO_TO_THREAD, TRIO_FROM_THREAD, TRIO_TO_THREAD
from .job import JOB, Job
from .unit import Unit

# The name of the supervisor of each host.
SUPERVISOR = "taskphase.TaskHost._supervise"


def check_wait(job: Job) -> None:
    """Refuse to let the running code wait for `job`, if that would never end.

    :raises TaskNotFinished: if the job cannot end, or not begin, before this code has ended
    :raises RuntimeError: if the job is of another event loop
    """
    if job._is_new:
        if hasattr(job, "_runner"):
            raise TaskNotFinished(
                f"task {job.name!r} is held back by a test, and runs only by hand: write `await task()` first. Or have "
                'the test run its tasks: run="inline", or `tasks.run_all()`'
            )
        return
    seam = job._runner.seam
    if not seam.is_here():
        raise RuntimeError(
            f"task {job.name!r} runs in another event loop, which cannot wake this code: wait for the task there. "
            "(In a `def` endpoint: `anyio.from_thread.run(task.wait)`. In a test with FastAPI's TestClient: "
            "`client.portal.call(task.wait)`)"
        )
    unit = job._unit
    if job.status is TaskStatus.DEFERRED and unit is not None and _comes_before(unit):
        reason = f"is for {job.phase.value}, which comes only when this code has ended"
    elif job.status in IN_ATTEMPT and JOB.get() is job and id(job._runner.alive.get(job)) in _asking():
        reason = "runs this code"
    else:
        return
    raise TaskNotFinished(
        f"task {job.name!r} {reason}: waiting for it here would never end. Write `await tasks.schedule(f, ...)` for a "
        "result in this code, or wait in another task"
    )


def _comes_before(unit: Unit[Job]) -> bool:
    """Return whether the phases of `unit` that are left begin only after the end of this code."""
    owner, asking = unit._owner, _asking()
    if id(owner) in asking:
        return True
    # A stream: for servers with an ASGI version below 2.4 Starlette sends it in a task group, and FastAPI has one for
    # server-sent events. While the route runs, its children may wait: their task group may outlive the request.
    body = body_here()
    return unit._state not in UNDECIDED and body is not None and body[2] is unit and _is_below(owner, asking)


def _is_below(owner: object, tasks: dict[int, TaskInfo]) -> bool:
    """Return whether one of `tasks` is in a task group of `owner`, or in one of such a task.

    On trio a host is in a task group of the code that has entered it. But `host.tg` outlives this code.
    """
    parents = {task.id: task.parent_id for task in get_running_tasks() if task.name != SUPERVISOR}
    for task in tasks.values():
        above = task.parent_id
        while above is not None and above != id(owner):
            above = parents.get(above)
        if above is not None:
            return True
    return False


def _asking() -> dict[int, TaskInfo]:
    """Return the native tasks that end only after this code, by id: the running one, and all that wait for the thread
    that calls this code.

    For `from_thread.run()` anyio makes a task: on asyncio in the cancel scope of the thread, on trio without a link to
    the thread, and only if the thread may be left behind. (Otherwise trio runs the call in the task that waits for the
    thread.) Threads of other requests may have the same scope, hence the look at the context. A thread may wait for
    another thread, hence several tasks.
    """
    here = get_current_task()
    asking = {here.id: here}
    caller, to_thread = _variables(here, ANYIO_FROM_THREAD), ANYIO_TO_THREAD[0].name
    scope = caller.get("scope")
    if scope is None:
        caller, to_thread = _variables(here, TRIO_FROM_THREAD), TRIO_TO_THREAD
    for task in get_running_tasks() if caller else ():
        thread = _variables(task, to_thread)
        context = thread.get("context")  # before a thread is free there is none
        if context is None or thread.get("worker_scope") is not scope:
            continue
        if all(context.get(each) is each.get() for each in (BODY, JOB)):
            asking[task.id] = task
    return asking


def _variables(task: TaskInfo, function: str) -> dict[str, Any]:
    """Return the local variables of the call of `function` that `task` is in; an empty dict without such a call."""
    for frame in own_frames(task.coro):
        # The name first: on Python 3.11 and 3.12 `f_locals` keeps its values alive as long as the frame.
        if frame.f_code.co_name == function:
            return frame.f_locals
    return {}
