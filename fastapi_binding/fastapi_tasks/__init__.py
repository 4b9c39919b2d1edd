"""Background tasks for FastAPI, with exact timing.

app = FastAPI()
add_tasks(app)

@app.post("/users")
async def create_user(email: str, tasks: Tasks) -> dict[str, str]:
    tasks.schedule(send_welcome_email, email)                  # starts at once
    tasks.after_route.schedule(count, "user_created")          # when the endpoint has returned, before the response
    tasks.after_response.schedule(count, "response_sent")      # when the request is over
    return {"email": email}
"""

import taskphase as _taskphase
from taskphase import *  # noqa: F403 - all public names of taskphase are names of this package

from ._app import add_tasks
from ._dependency import Tasks, get_tasks
from .errors import (
    FastAPITasksAlreadyAddedError,
    FastAPITasksError,
    FastAPITasksUninitializedAppError,
    FastAPITasksUnsupportedError,
)

__all__ = [
    "FastAPITasksAlreadyAddedError",
    "FastAPITasksError",
    "FastAPITasksUninitializedAppError",
    "FastAPITasksUnsupportedError",
    "Tasks",
    "add_tasks",
    "get_tasks",
]
__all__ += _taskphase.__all__

# Tracebacks must show names that a user can import.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("fastapi_tasks."):
        globals()[_name].__module__ = __name__
