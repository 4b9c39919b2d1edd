"""What taskphase raises.

    TasksError
     +-- TasksClosedError (also RuntimeError)      the host takes no more tasks
     +-- TasksSaturatedError (also RuntimeError)   `max_pending` tasks are pending already
     +-- NoCurrentError (also LookupError)         there is no current host, or no current task
     +-- StrayCancellation                         the task failed: it got a cancellation that nobody had asked for
     +-- TaskNotFinished                           asked for a result before the end
     +-- TaskFailed                                the task ended by an exception, its `__cause__`
          +-- TaskCancelled                        somebody asked it to stop
          +-- TaskDropped                          its scope or its host decided that it never runs

`TaskNotFinished`, `TaskFailed` and `TaskCancelled` mean what they mean in anyio (4.14). `IllegalEvent` is apart from
them: it is a bug of this library, and reaches nobody otherwise.
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
    """Anything that taskphase raises on purpose."""


class TasksClosedError(TasksError, RuntimeError):
    """The host is not open, or is closing and takes no more tasks from the caller. Nothing was scheduled."""


class TasksSaturatedError(TasksError, RuntimeError):
    """As many tasks are pending as `max_pending` allows. Nothing was scheduled.

    :ivar running: tasks that held a slot
    :ivar waiting: tasks that waited for one
    :ivar deferred: tasks that waited for their phase
    :ivar max_pending: the most that may be waiting and deferred together
    """

    def __init__(self, running: int, waiting: int, deferred: int, max_pending: int) -> None:
        super().__init__(running, waiting, deferred, max_pending)  # in this order, so that it can be pickled
        self.running = running
        self.waiting = waiting
        self.deferred = deferred
        self.max_pending = max_pending

    def __str__(self) -> str:
        return (
            f"{self.waiting} waiting and {self.deferred} deferred tasks have reached max_pending={self.max_pending} "
            f"({self.running} are running): schedule less, raise the limit, or turn the caller away"
        )


class NoCurrentError(TasksError, LookupError):
    """There is no current host, or no current task, where it was asked for."""


class StrayCancellation(TasksError):
    """A `CancelledError` reached the task that nobody had asked for, as when a driver cancels a future of its own. The
    task has failed with this error; the `CancelledError` is the `__cause__`. It happens on asyncio only.
    """


class TaskNotFinished(TasksError):
    """The task has not ended, so it has no result yet; or the caller would wait for itself."""


class TaskFailed(TasksError):
    """The task ended by an exception, which is the `__cause__` of this one."""


class TaskCancelled(TaskFailed):
    """The task was cancelled."""


class TaskDropped(TaskFailed):
    """The task was dropped: it never ran."""


IllegalEvent.__module__ = __name__
