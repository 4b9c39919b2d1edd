"""`current_task()` and `current_host()`."""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import Any, cast

from ._drive.cancelling import no_loop_runs_here
from ._drive.current import running_host
from ._drive.job import JOB
from ._handed import HANDED
from ._host import TaskHost
from ._machine.calling import shown
from ._task import Task
from .errors import NoCurrentError

# A thread of the user's own has neither a current task nor a current host: Python gives it an empty context.
_IN_A_THREAD = (
    "this code runs in a thread of your own (for a function in a thread use anyio.to_thread.run_sync or "
    "asyncio.to_thread, which keep the task and the host)"
)


def current_task() -> Task[Any]:
    """Return the running task: in its function and its handler, in all code that these call, and in their threads and
    child tasks. In a worker, the function of a handed-over task gets a read-only view: a `HandedTask`.

    :raises NoCurrentError: outside of any task
    """
    job = JOB.get()
    if job is None and (handed := HANDED.get()) is not None:
        return cast("Task[Any]", handed)
    if job is None:
        if _in_bare_thread():
            raise NoCurrentError(
                f"{_IN_A_THREAD}: call current_task() before you start the thread, and pass the task to the thread"
            )
        raise NoCurrentError(
            "this code does not run in a task: call current_task() in the function of a task, in its handler, or in "
            "code that these call"
        )
    return cast("Task[Any]", job)


def current_host() -> TaskHost:
    """Return the host of the running task, of the FastAPI app, or of the innermost `TaskHost` block around this code.

    In endpoints prefer the parameter `tasks: Tasks`. This function is for services, startup code and tasks.

    :raises NoCurrentError: without such a host
    """
    host = running_host()
    if host is None:
        if (handed := HANDED.get()) is not None:
            raise NoCurrentError(
                f"{shown(handed.function)} runs in a worker of the queue {handed.queue!r}, and its host is in the "
                "process that has scheduled it: open a host here, `async with TaskHost()`, or use the engine"
            )
        if _in_bare_thread():
            raise NoCurrentError(
                f"{_IN_A_THREAD}: take `tasks: Tasks` in the endpoint, or call current_host() before you start the "
                "thread, and pass the host to the thread: host.schedule() works in any thread"
            )
        raise NoCurrentError(
            "no task host is open around this code. In a FastAPI app with add_tasks(app), call current_host() in an "
            "endpoint, a task or the lifespan. The host opens when the app itself is called: a server, "
            "`with TestClient(app)` and asgi-lifespan do that, `app.router.lifespan_context(app)` does not. Without "
            "FastAPI, call current_host() inside `async with TaskHost()`"
        )
    return cast(TaskHost, host)


def _in_bare_thread() -> bool:
    """Return whether this code runs in a thread other than the main thread, and without an event loop."""
    return current_thread() is not main_thread() and no_loop_runs_here()
