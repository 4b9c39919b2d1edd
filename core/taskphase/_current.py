"""`current_task()` and `current_host()`."""

from __future__ import annotations

from typing import Any, cast

from ._drive.current import running_host, running_job
from ._host import TaskHost
from ._task import Task
from .errors import NoCurrentError


def current_task() -> Task[Any]:
    """Return the running task: in its function and its handler, in all code that these call, and in their threads and
    child tasks.

    :raises NoCurrentError: outside of any task
    """
    job = running_job()
    if job is None:
        raise NoCurrentError(
            "this code does not run in a task. If it runs in a thread of your own, that a task has started: call "
            "current_task() before you start the thread, and hand the task over"
        )
    return cast("Task[Any]", job)


def current_host() -> TaskHost:
    """Return the innermost host around this code: of the running task, of a `TaskHost` block, or of the FastAPI app.

    :raises NoCurrentError: without such a host
    """
    host = running_host()
    if host is None:
        raise NoCurrentError(
            "this code runs neither in a task nor in the body of a TaskHost. In a FastAPI app there are two reasons: "
            "nobody has run the lifespan by calling the app itself (a server, `with TestClient(app)` and asgi-lifespan "
            "do that; `app.router.lifespan_context(app)` does not); or the code runs in a thread of your own: call "
            "current_host() before you start the thread, and hand the host over"
        )
    return cast(TaskHost, host)
