"""What users' tests import: the tasks of an app, recorded, and a clock that can jump.

def test_a_new_user_gets_a_mail() -> None:
    with record_tasks(app) as tasks, TestClient(app) as client:
        client.post("/users", params={"email": "ada@example.org"})
        tasks.wait_all()
    tasks.after_response.assert_scheduled(send_mail, "ada@example.org")

The pytest plugin of this package has a fixture `record_tasks`, with which no `with` block is needed.
"""

from taskphase.testing import JumpClock, RecordedTasks, RunMode, UnexpectedFailures

from ._recording import AppTaskRecorder, RecordedRequest, record_tasks

__all__ = [
    "AppTaskRecorder",
    "JumpClock",
    "RecordedRequest",
    "RecordedTasks",
    "RunMode",
    "UnexpectedFailures",
    "record_tasks",
]

# A traceback names what a user can import.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("fastapi_tasks."):
        globals()[_name].__module__ = __name__
