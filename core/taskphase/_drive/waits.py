"""Refuses the waits that would never end."""

from __future__ import annotations

from anyio import get_current_task, get_running_tasks

from .._machine.life import IN_ATTEMPT, TaskStatus
from .._machine.scope import UNDECIDED
from ..errors import TaskNotFinished
from .current import body_here
from .job import JOB, Job
from .seam import Seam
from .unit import Unit


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
    if job.status is TaskStatus.DEFERRED and unit is not None and _comes_before(unit, seam):
        reason = f"is for {job.phase.value}, which comes only when this code has ended"
    elif job.status in IN_ATTEMPT and JOB.get() is job and job._runner.alive.get(job) is seam.running():
        reason = "runs this code"
    else:
        return
    raise TaskNotFinished(
        f"task {job.name!r} {reason}: waiting for it here would never end. Write `await tasks.schedule(f, ...)` for a "
        "result in this code, or wait in another task"
    )


def _comes_before(unit: Unit[Job], seam: Seam[Job]) -> bool:
    """Return whether the phases of `unit` that are left begin only after the end of this code."""
    owner = unit._owner
    if owner is None:
        return False
    if owner is seam.running():
        return True
    # A stream: for servers with an ASGI version below 2.4 Starlette sends it in a task group, and FastAPI has one for
    # server-sent events. While the route runs, its children may wait: their task group may outlive the request.
    body = body_here()
    return unit._state not in UNDECIDED and body is not None and body[2] is unit and _is_below(owner)


def _is_below(owner: object) -> bool:
    """Return whether the running native task is in a task group of `owner`, or in one of such a task."""
    parents = {task.id: task.parent_id for task in get_running_tasks()}
    above = get_current_task().parent_id
    while above is not None and above != id(owner):
        above = parents.get(above)
    return above is not None
