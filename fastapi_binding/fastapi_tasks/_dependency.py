"""The dependency that gives an endpoint its scheduler."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from taskphase import TasksScheduler

from ._request import SCOPE_KEY, RequestTasks
from .errors import FastAPITasksUninitializedAppError


async def get_tasks(connection: HTTPConnection) -> TasksScheduler:
    """Return the scheduler of this request or websocket session: the dependency behind `Tasks`, and its key in
    `dependency_overrides`.

    :raises FastAPITasksUninitializedAppError: if `add_tasks` was called neither on the app that is served nor on a
        parent of it
    """
    request: RequestTasks | None = connection.scope.get(SCOPE_KEY)
    if request is None:
        raise FastAPITasksUninitializedAppError(
            "this app has no tasks: call add_tasks(app), once, where the app that the server runs is made "
            "(if this one is mounted, on its parent)"
        )
    return request.open(connection.scope)


# What has no exit is of either scope; to be told spares FastAPI two looks at the function, for each request.
Tasks = Annotated[TasksScheduler, Depends(get_tasks, scope="request")]
"""The type of an endpoint's, a dependency's or a websocket handler's parameter that takes its scheduler."""
