"""The errors that taskphase raises.

    TasksError
     +-- TasksClosedError (also RuntimeError)      the host takes no more tasks
     +-- TasksSaturatedError (also RuntimeError)   `max_pending` tasks are pending already
     +-- TasksUnportableError (also TypeError)     another process cannot make the call, or cannot send the outcome
     +-- HandOverFailed                            no queue has confirmed the task
     +-- JournalError                              the journal cannot read or write its file
     +-- NoCurrentError (also LookupError)         there is no current host, or no current task
     +-- StrayCancellation                         the task failed: it got a cancellation without a request
     +-- TaskNotFinished                           the task has no result yet
     +-- TaskHandedOver                            the task has no result here: another process runs it
     +-- TaskFailed                                the task ended with an exception, its `__cause__`
          +-- TaskCancelled                        the task was asked to stop
          +-- TaskDropped                          the task never runs: its scope or its host has decided so

`TaskNotFinished`, `TaskFailed` and `TaskCancelled` mean the same as in anyio (4.14). `IllegalEvent` is no `TasksError`:
it is a bug of this library.
"""

from dataclasses import dataclass as _dataclass
from pathlib import Path as _Path
from typing import Literal as _Literal

from ._machine.limit import Limit as _Limit
from ._machine.table import IllegalEvent

__all__ = [
    "HandOverFailed",
    "IllegalEvent",
    "JournalError",
    "NoCurrentError",
    "StrayCancellation",
    "TaskCancelled",
    "TaskDropped",
    "TaskFailed",
    "TaskHandedOver",
    "TaskNotFinished",
    "TasksClosedError",
    "TasksError",
    "TasksSaturatedError",
    "TasksUnportableError",
]


class TasksError(Exception):
    """The base class of all errors that taskphase raises on purpose."""

    def __post_init__(self) -> None:  # of a dataclass
        super().__init__(*vars(self).values())  # pickle passes them to `__init__()`


class TasksClosedError(TasksError, RuntimeError):
    """The host is not open, or it is closing and takes no more tasks from the caller. Nothing was scheduled."""


@_dataclass(eq=False, repr=False)
class TasksSaturatedError(TasksError, RuntimeError):
    """`max_pending` tasks are pending already: of the host, or of one `Limit`. Nothing was scheduled.

    :ivar running: the number of tasks with a slot; with `limit`: of tasks and threads with a place
    :ivar waiting: the number of tasks that wait for a slot; with `limit`: of all tasks with the limit that wait
    :ivar deferred: the number of tasks that wait for their phase, or are on their way from another thread
    :ivar max_pending: the number that was reached
    :ivar delayed: the number of tasks that wait for their delay
    :ivar limited: the number of tasks that wait for a place of their limit
    :ivar limit: the `Limit` whose `max_pending` was reached; None if the host's `max_pending` was reached
    :ivar recording: the number of tasks that wait for their journal
    :ivar handing_over: the number of tasks that wait for their turn to be handed over to a queue

    Without `limit`, these counts add up to all tasks that are pending: `waiting`, `deferred`, `delayed`, `limited`,
    `recording`, `handing_over`.
    """

    running: int
    waiting: int
    deferred: int
    max_pending: int
    delayed: int = 0
    limited: int = 0
    limit: _Limit | None = None
    recording: int = 0
    handing_over: int = 0

    def __str__(self) -> str:
        if self.limit is not None:
            waits = f"{self.waiting} tasks with {self.limit!r} wait"
        else:
            counts = [(self.waiting, "waiting"), (self.deferred, "deferred")]
            others = ("delayed", "limited", "recording", "handing_over")
            counts += [(count, name) for name in others if (count := getattr(self, name))]
            texts = [f"{count} {name}" for count, name in counts]
            waits = f"{', '.join(texts[:-1])} and {texts[-1]} tasks have reached max_pending={self.max_pending}"
        return f"{waits} ({self.running} are running): schedule fewer tasks, raise the limit, or reject the caller"


class TasksUnportableError(TasksError, TypeError):
    """A function, an argument, a result or an exception cannot go to another process, or come back. If `schedule()`
    raises this error, nothing was scheduled. The message contains no values of arguments.
    """


@_dataclass(eq=False, repr=False)
class HandOverFailed(TasksError):
    """A task was not handed over to its queue within the deadline, or the shutdown has cut the hand-over off. The
    `__cause__` is the exception of the last attempt to publish; None if there was no attempt, or the shutdown has cut
    the attempt off.

    :ivar queue: the name of the queue
    :ivar message_id: `task.message_id`
    :ivar attempts: the number of attempts to publish
    :ivar outcome: "refused": the queue surely does not have the task. "unknown": it may have the task, and a worker may
        run it
    """

    queue: str
    message_id: str
    attempts: int
    outcome: _Literal["refused", "unknown"]

    def __str__(self) -> str:
        if not self.attempts:
            return f"message {self.message_id} was not handed over to the queue {self.queue!r}, which was down or busy"
        tried = f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}"
        has = "does not have it" if self.outcome == "refused" else "may have it all the same"
        return f"message {self.message_id} was not confirmed by the queue {self.queue!r} after {tried}: the queue {has}"


@_dataclass(eq=False, repr=False)
class JournalError(TasksError):
    """The journal cannot read or write its file. The `__cause__` is the exception of SQLite or of the system, if any.

    :ivar path: the file
    :ivar reason: the text of that exception; it contains no value of a task
    """

    path: _Path
    reason: str

    def __str__(self) -> str:
        return f"the journal {str(self.path)!r} cannot be used: {self.reason}"


class NoCurrentError(TasksError, LookupError):
    """There is no current host, or no current task, here."""


class StrayCancellation(TasksError):
    """A `CancelledError` without a request reached the task, for example because a driver cancelled its own future. The
    task has failed with this error; its `__cause__` is the `CancelledError`. Only on asyncio.
    """


class TaskNotFinished(TasksError):
    """The task has no result yet; or the caller would wait for itself."""


@_dataclass(eq=False, repr=False)
class TaskHandedOver(TasksError):
    """The task has no result here: it was handed over, and another process runs it.

    :ivar message_id: `task.message_id`
    """

    message_id: str

    def __str__(self) -> str:
        return f"message {self.message_id} was handed over to its queue: the result stays in the process that runs it"


class TaskFailed(TasksError):
    """The task ended with an exception: the `__cause__` of this error."""


class TaskCancelled(TaskFailed):
    """The task was cancelled."""


class TaskDropped(TaskFailed):
    """The task was dropped. It never ran."""


IllegalEvent.__module__ = __name__
