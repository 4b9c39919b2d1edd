"""The errors that taskphase raises.

    TasksError
     +-- TasksClosedError (also RuntimeError)      the host takes no more tasks
     +-- TasksSaturatedError (also RuntimeError)   `max_pending` tasks are pending already
     +-- NoCurrentError (also LookupError)         there is no current host, or no current task
     +-- StrayCancellation                         the task failed: it got a cancellation without a request
     +-- TaskNotFinished                           the task has no result yet
     +-- TaskFailed                                the task ended with an exception, its `__cause__`
          +-- TaskCancelled                        the task was asked to stop
          +-- TaskDropped                          the task never runs: its scope or its host has decided so

`TaskNotFinished`, `TaskFailed` and `TaskCancelled` mean the same as in anyio (4.14). `IllegalEvent` is no `TasksError`:
it is a bug of this library.
"""

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
]


class TasksError(Exception):
    """The base class of all errors that taskphase raises on purpose."""


class TasksClosedError(TasksError, RuntimeError):
    """The host is not open, or it is closing and takes no more tasks from the caller. Nothing was scheduled."""


class TasksSaturatedError(TasksError, RuntimeError):
    """`max_pending` tasks are pending already. Nothing was scheduled.

    :ivar running: the number of tasks with a slot
    :ivar waiting: the number of tasks that wait for a slot
    :ivar deferred: the number of tasks that wait for their phase
    :ivar max_pending: the limit for waiting and deferred tasks together
    """

    def __init__(self, running: int, waiting: int, deferred: int, max_pending: int) -> None:
        super().__init__(running, waiting, deferred, max_pending)  # in this order: pickle passes them to `__init__()`
        self.running = running
        self.waiting = waiting
        self.deferred = deferred
        self.max_pending = max_pending

    def __str__(self) -> str:
        return (
            f"{self.waiting} waiting and {self.deferred} deferred tasks have reached max_pending={self.max_pending} "
            f"({self.running} are running): schedule fewer tasks, raise the limit, or reject the caller"
        )


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
