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

from types import FunctionType as _FunctionType

from ._batch import TasksBatch
from ._current import current_host, current_task
from ._definition import TaskErrorHandler, TaskRetryPolicy
from ._drain import DrainReport
from ._host import TaskHost
from ._lines import LogTasks
from ._machine.config import TaskConfig
from ._machine.life import TaskStatus
from ._machine.limit import Limit
from ._machine.retrying import RetryPolicy
from ._machine.scope import Phase
from ._observer import TaskObserver
from ._queue import Queue
from ._retry import retry
from ._scheduler import TasksScheduler
from ._scope import Scope
from ._statistics import HostStatistics
from ._task import Task
from .errors import (
    HandOverFailed,
    JournalError,
    NoCurrentError,
    StrayCancellation,
    TaskCancelled,
    TaskDropped,
    TaskFailed,
    TaskHandedOver,
    TaskNotFinished,
    TasksClosedError,
    TasksError,
    TasksSaturatedError,
    TasksUnportableError,
)
from .journal import Journal, JournalEntry, JournalOverview

__all__ = [
    "DrainReport",
    "HandOverFailed",
    "HostStatistics",
    "Journal",
    "JournalEntry",
    "JournalError",
    "JournalOverview",
    "Limit",
    "LogTasks",
    "NoCurrentError",
    "Phase",
    "Queue",
    "RetryPolicy",
    "Scope",
    "StrayCancellation",
    "Task",
    "TaskCancelled",
    "TaskConfig",
    "TaskDropped",
    "TaskErrorHandler",
    "TaskFailed",
    "TaskHandedOver",
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
    "TasksUnportableError",
    "current_host",
    "current_task",
    "retry",
]

# Tracebacks and `help()` show no private module: neither for the names here, nor for their base classes and methods.
for _name in __all__:
    _value: object = globals()[_name]
    for _part in (_value, *getattr(_value, "__mro__", ()), type(_value)):
        _methods = [each for each in getattr(_part, "__dict__", {}).values() if type(each) is _FunctionType]
        for _each in (_part, *_methods):
            if getattr(_each, "__module__", "").startswith("taskphase."):
                _each.__module__ = __name__
