"""The dependency that passes a scheduler to an endpoint."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from taskphase import TasksScheduler

from ._request import SCOPE_KEY, RequestTasks
from .errors import FastAPITasksUninitializedAppError


async def get_tasks(connection: HTTPConnection) -> TasksScheduler:
    """Return the scheduler of this request or websocket session. `Tasks` depends on this function, which is the key in
    `dependency_overrides`.

    :raises FastAPITasksUninitializedAppError: if `add_tasks` was called neither on the served app nor on a parent app
    """
    request: RequestTasks | None = connection.scope.get(SCOPE_KEY)
    if request is None:
        raise FastAPITasksUninitializedAppError(
            "this app has no tasks: call add_tasks(app) once, after the creation of the app that the server runs "
            "(for a mounted app: on its parent)"
        )
    return request.open(connection.scope)


# `scope` changes nothing for a dependency without an exit. But FastAPI then skips two checks for each request.
Tasks = Annotated[TasksScheduler, Depends(get_tasks, scope="request")]
"""The type of the parameter `tasks: Tasks`, for a path operation function (endpoint), a dependency or a websocket.

The parameter needs no default, and is never None. The app needs `add_tasks(app)`.
"""
