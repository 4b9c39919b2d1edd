"""Background tasks inside one process, under structured concurrency, with exact timing: on asyncio and on trio.

async with TaskHost() as host:
    host.schedule(warm_cache)
    async with host.scope() as tasks:
        async with tasks.route():
            reply = await handle(message)
            tasks.after_route.schedule(count, message)
            tasks.task(shield=True).after_response.schedule(store, message)
        await send(reply)
"""

from ._batch import TasksBatch
from ._current import current_host, current_task
from ._drain import DrainReport
from ._host import TaskHost
from ._machine.config import TaskConfig
from ._machine.life import TaskStatus
from ._machine.retrying import RetryPolicy
from ._machine.scope import Phase
from ._observer import TaskObserver
from ._retry import retry
from ._scheduler import TasksScheduler
from ._scope import Scope
from ._statistics import HostStatistics
from ._task import Task, TaskErrorHandler, TaskRetryPolicy
from .errors import (
    NoCurrentError,
    StrayCancellation,
    TaskCancelled,
    TaskDropped,
    TaskFailed,
    TaskNotFinished,
    TasksClosedError,
    TasksError,
    TasksSaturatedError,
)

__all__ = [
    "DrainReport",
    "HostStatistics",
    "NoCurrentError",
    "Phase",
    "RetryPolicy",
    "Scope",
    "StrayCancellation",
    "Task",
    "TaskCancelled",
    "TaskConfig",
    "TaskDropped",
    "TaskErrorHandler",
    "TaskFailed",
    "TaskHost",
    "TaskNotFinished",
    "TaskObserver",
    "TaskRetryPolicy",
    "TaskStatus",
    "TasksBatch",
    "TasksClosedError",
    "TasksError",
    "TasksSaturatedError",
    "TasksScheduler",
    "current_host",
    "current_task",
    "retry",
]

# A traceback names what a user can import.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("taskphase."):
        globals()[_name].__module__ = __name__
