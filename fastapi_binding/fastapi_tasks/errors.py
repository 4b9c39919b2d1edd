"""The errors of fastapi-tasks, and those of taskphase.

FastAPITasksError
 +-- FastAPITasksUninitializedAppError                       `Tasks` in an app without `add_tasks`
 +-- FastAPITasksAlreadyAddedError (also RuntimeError)       `add_tasks` twice, or settings on a mounted app
 +-- FastAPITasksUnsupportedError (also RuntimeError)        FastAPI lacks a feature that `Tasks` needs
"""

import taskphase.errors as _core
from taskphase.errors import *  # noqa: F403 - all errors of taskphase are names of this module

__all__ = [
    "FastAPITasksAlreadyAddedError",
    "FastAPITasksError",
    "FastAPITasksUninitializedAppError",
    "FastAPITasksUnsupportedError",
]
__all__ += _core.__all__


class FastAPITasksError(Exception):
    """The base class of the errors of fastapi-tasks itself."""


class FastAPITasksUninitializedAppError(FastAPITasksError):
    """An endpoint asked for `Tasks`, but `add_tasks` was called neither on its app nor on a parent app."""


class FastAPITasksAlreadyAddedError(FastAPITasksError, RuntimeError):
    """`add_tasks` was called on this app before, and the first call stays in force. Or the app is mounted on an app
    with tasks, and its own `add_tasks` has settings.
    """


class FastAPITasksUnsupportedError(FastAPITasksError, RuntimeError):
    """`Tasks` cannot see the end of the route: FastAPI is older than 0.121.1, or the route belongs to another
    framework.
    """
