"""The errors that taskphase raises.

    TasksError
     +-- TasksClosedError (also RuntimeError)      the host takes no more tasks
     +-- TasksSaturatedError (also RuntimeError)   `max_pending` tasks are pending already
     +-- TasksUnportableError (also TypeError)     another process cannot make the call, or cannot send the outcome
     +-- NoCurrentError (also LookupError)         there is no current host, or no current task
     +-- StrayCancellation                         the task failed: it got a cancellation without a request
     +-- TaskNotFinished                           the task has no result yet
     +-- TaskFailed                                the task ended with an exception, its `__cause__`
          +-- TaskCancelled                        the task was asked to stop
          +-- TaskDropped                          the task never runs: its scope or its host has decided so

`TaskNotFinished`, `TaskFailed` and `TaskCancelled` mean the same as in anyio (4.14). `IllegalEvent` is no `TasksError`:
it is a bug of this library.
"""

from ._machine.limit import Limit as _Limit
from ._machine.table import IllegalEvent

__all__ = [
    "IllegalEvent",
    "NoCurrentError",
    "StrayCancellation",
    "TaskCancelled",
    "TaskDropped",
    "TaskFailed",
    "TaskNotFinished",
    "TasksClosedError",
    "TasksError",
    "TasksSaturatedError",
    "TasksUnportableError",
]


class TasksError(Exception):
    """The base class of all errors that taskphase raises on purpose."""


class TasksClosedError(TasksError, RuntimeError):
    """The host is not open, or it is closing and takes no more tasks from the caller. Nothing was scheduled."""


class TasksSaturatedError(TasksError, RuntimeError):
    """`max_pending` tasks are pending already: of the host, or of one `Limit`. Nothing was scheduled.

    :ivar running: the number of tasks with a slot; with `limit`: of tasks and threads with a place
    :ivar waiting: the number of tasks that wait for a slot; with `limit`: of all tasks with the limit that wait
    :ivar deferred: the number of tasks that wait for their phase
    :ivar max_pending: the number that was reached
    :ivar delayed: the number of tasks that wait for their delay
    :ivar limited: the number of tasks that wait for a place of their limit
    :ivar limit: the `Limit` whose `max_pending` was reached; None if the host's `max_pending` was reached
    """

    def __init__(
        self,
        running: int,
        waiting: int,
        deferred: int,
        max_pending: int,
        delayed: int = 0,
        limited: int = 0,
        limit: _Limit | None = None,
    ) -> None:
        # In this order: pickle passes them to `__init__()`.
        super().__init__(running, waiting, deferred, max_pending, delayed, limited, limit)
        self.running = running
        self.waiting = waiting
        self.deferred = deferred
        self.max_pending = max_pending
        self.delayed = delayed
        self.limited = limited
        self.limit = limit

    def __str__(self) -> str:
        if self.limit is not None:
            waits = f"{self.waiting} tasks with {self.limit!r} wait"
        else:
            counts = [(self.waiting, "waiting"), (self.deferred, "deferred")]
            counts += [pair for pair in ((self.delayed, "delayed"), (self.limited, "limited")) if pair[0]]
            texts = [f"{count} {name}" for count, name in counts]
            waits = f"{', '.join(texts[:-1])} and {texts[-1]} tasks have reached max_pending={self.max_pending}"
        return f"{waits} ({self.running} are running): schedule fewer tasks, raise the limit, or reject the caller"


class TasksUnportableError(TasksError, TypeError):
    """A function, an argument, a result or an exception cannot go to another process, or come back. If `schedule()`
    raises this error, nothing was scheduled. The message contains no values of arguments.
    """


class NoCurrentError(TasksError, LookupError):
    """There is no current host, or no current task, here."""


class StrayCancellation(TasksError):
    """A `CancelledError` without a request reached the task, for example because a driver cancelled its own future. The
    task has failed with this error; its `__cause__` is the `CancelledError`. Only on asyncio.
    """


class TaskNotFinished(TasksError):
    """The task has no result yet; or the caller would wait for itself."""


class TaskFailed(TasksError):
    """The task ended with an exception: the `__cause__` of this error."""


class TaskCancelled(TaskFailed):
    """The task was cancelled."""


class TaskDropped(TaskFailed):
    """The task was dropped. It never ran."""


IllegalEvent.__module__ = __name__
