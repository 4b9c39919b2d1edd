"""What fastapi-tasks raises: its own errors, and those of taskphase.

FastAPITasksError
 +-- FastAPITasksUninitializedAppError                       `Tasks` in an app without `add_tasks`
 +-- FastAPITasksAlreadyAddedError (also RuntimeError)       `add_tasks` twice on one app
 +-- FastAPITasksUnsupportedError (also RuntimeError)        FastAPI does not offer what is needed
"""

from taskphase.errors import (
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
    "FastAPITasksAlreadyAddedError",
    "FastAPITasksError",
    "FastAPITasksUninitializedAppError",
    "FastAPITasksUnsupportedError",
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


class FastAPITasksError(Exception):
    """Anything that fastapi-tasks itself raises."""


class FastAPITasksUninitializedAppError(FastAPITasksError):
    """`Tasks` was asked for in an app that has no tasks: neither on it nor on a parent was `add_tasks` called."""


class FastAPITasksAlreadyAddedError(FastAPITasksError, RuntimeError):
    """`add_tasks` was called on this app before. The first call stays in force."""


class FastAPITasksUnsupportedError(FastAPITasksError, RuntimeError):
    """`Tasks` was asked for where FastAPI does not tell how the route ends: by a FastAPI older than 0.121.1, or by
    another framework.
    """
