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

from taskphase import (
    DrainReport,
    HandOverFailed,
    HostStatistics,
    Journal,
    JournalEntry,
    JournalError,
    JournalOverview,
    Limit,
    LogTasks,
    NoCurrentError,
    Phase,
    Queue,
    RetryPolicy,
    Scope,
    StrayCancellation,
    Task,
    TaskCancelled,
    TaskConfig,
    TaskDropped,
    TaskErrorHandler,
    TaskFailed,
    TaskHandedOver,
    TaskHost,
    TaskNotFinished,
    TaskObserver,
    TaskRetryPolicy,
    TasksBatch,
    TasksClosedError,
    TasksError,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
    TasksUnportableError,
    current_host,
    current_task,
    retry,
)

from ._app import add_tasks
from ._dependency import Tasks, get_tasks
from .errors import (
    FastAPITasksAlreadyAddedError,
    FastAPITasksError,
    FastAPITasksUninitializedAppError,
    FastAPITasksUnsupportedError,
)

__all__ = [
    "DrainReport",
    "FastAPITasksAlreadyAddedError",
    "FastAPITasksError",
    "FastAPITasksUninitializedAppError",
    "FastAPITasksUnsupportedError",
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
    "Tasks",
    "TasksBatch",
    "TasksClosedError",
    "TasksError",
    "TasksSaturatedError",
    "TasksScheduler",
    "TasksUnportableError",
    "add_tasks",
    "current_host",
    "current_task",
    "get_tasks",
    "retry",
]

# Tracebacks must show names that a user can import.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("fastapi_tasks."):
        globals()[_name].__module__ = __name__
