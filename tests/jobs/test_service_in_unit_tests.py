"""A service that schedules, in unit tests: with doubles that need no loop, with a real host, and with a recorder.

docs/how-to/migrate-from-backgroundtasks.md has the recipes. The types here are checked as strictly as a user's.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any, ParamSpec, Protocol
from unittest.mock import AsyncMock, MagicMock, Mock, NonCallableMock, create_autospec

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.repo.test_typing import CHECKERS, Complaints

from fastapi_tasks import Tasks, TasksScheduler, add_tasks, get_tasks
from fastapi_tasks.testing import RunMode, record_tasks
from taskphase import TaskFailed, TaskHost
from taskphase.testing import record_tasks as record_tasks_of_host

P = ParamSpec("P")


class Schedules(Protocol):
    def schedule(self, func: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> object: ...


outbox: list[str] = []


@pytest.fixture(autouse=True)
def empty_outbox() -> None:
    outbox.clear()


async def send(to: str, subject: str = "welcome") -> None:
    if to == "eve":
        raise ConnectionError("no such mailbox")
    outbox.append(f"{subject}, {to}")


def archive(to: str) -> None:
    outbox.append(f"archived, {to}")


def register(email: str, later: Schedules) -> None:
    later.schedule(send, email)
    later.schedule(archive, email)


def unregister(email: str, tasks: TasksScheduler) -> None:
    tasks.after_response.schedule(send, email, subject="goodbye")


app = FastAPI()
add_tasks(app, drain_timeout=5)


@app.post("/users")
async def create_user(email: str, tasks: Tasks) -> None:
    register(email, tasks.after_response)


@app.delete("/users")
async def delete_user(email: str, tasks: Tasks) -> None:
    unregister(email, tasks)


# Without a loop


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def schedule(self, func: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        signature(func).bind(*args, **kwargs)
        self.calls.append((func, *args))


DOUBLES = {
    "Mock": lambda: Mock(spec=TasksScheduler),
    "Mock with spec_set": lambda: Mock(spec_set=TasksScheduler),
    "MagicMock": lambda: MagicMock(spec=TasksScheduler),
    "NonCallableMock": lambda: NonCallableMock(spec=TasksScheduler),
    "create_autospec": lambda: create_autospec(TasksScheduler, instance=True),
}


def test_a_recorder_of_ten_lines_tells_what_a_service_schedules() -> None:
    recorder = Recorder()
    register("ada", recorder)

    assert recorder.calls == [(send, "ada"), (archive, "ada")]
    with pytest.raises(TypeError):
        recorder.schedule(archive)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] # ty: ignore


@pytest.mark.parametrize("make", DOUBLES.values(), ids=DOUBLES)
def test_a_mock_with_the_spec_of_a_scheduler_has_its_phases_and_nothing_else(make: Callable[[], Mock]) -> None:
    tasks = make()
    unregister("ada", tasks)

    tasks.after_response.schedule.assert_called_once_with(send, "ada", subject="goodbye")
    assert isinstance(tasks, TasksScheduler)
    with pytest.raises(AttributeError, match="add_task"):
        _ = tasks.add_task


@pytest.mark.parametrize("make", DOUBLES.values(), ids=DOUBLES)
def test_a_mock_takes_the_place_of_a_scheduler_in_the_endpoints_of_an_app_g12(make: Callable[[], Mock]) -> None:
    tasks = make()
    app.dependency_overrides[get_tasks] = lambda: tasks
    try:
        assert TestClient(app).delete("/users", params={"email": "ada"}).status_code == 200
    finally:
        app.dependency_overrides.clear()

    tasks.after_response.schedule.assert_called_once_with(send, "ada", subject="goodbye")


# With a real host


@pytest.mark.parametrize("mailer", [Mock, MagicMock, AsyncMock, lambda: create_autospec(send)])
async def test_a_mock_can_be_scheduled_g7(mailer: Callable[[], Mock]) -> None:
    mock = mailer()
    async with TaskHost(drain_timeout=5) as host:
        host.schedule(mock, "ada")

    mock.assert_called_once_with("ada")


async def test_a_service_runs_with_a_host_and_without_fastapi_g1() -> None:
    async with TaskHost(drain_timeout=5) as host:
        async with host.scope() as tasks:
            register("ada", tasks)
            unregister("bob", TasksScheduler(tasks))
            assert "goodbye, bob" not in outbox
        register("cyd", host)

    assert sorted(outbox) == ["archived, ada", "archived, cyd", "goodbye, bob", "welcome, ada", "welcome, cyd"]


async def test_a_recorder_of_a_host_keeps_tasks_from_running() -> None:
    async with TaskHost() as host:
        with record_tasks_of_host(host, run="never") as recorded:
            async with host.scope() as tasks:
                unregister("ada", TasksScheduler(tasks))
            recorded.after_response.assert_scheduled(send, "ada", subject="goodbye")

    assert outbox == []


async def test_an_awaited_task_tells_a_script_why_it_failed_g17() -> None:
    async with TaskHost() as host:
        with pytest.raises(TaskFailed) as caught:
            await host.schedule(send, "eve")

    assert isinstance(caught.value.__cause__, ConnectionError)
    assert host.statistics().failed == 1


# With a recorder


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("run", ["normal", "inline", "never"])
def test_a_recorder_of_the_app_has_the_tasks_of_a_service_in_each_mode(backend: Any, run: RunMode) -> None:
    with record_tasks(app, run=run) as tasks, TestClient(app, backend=backend) as client:
        client.post("/users", params={"email": "ada"})
        tasks.after_response.assert_scheduled(send, "ada")
        assert [(task.func, task.args) for task in tasks] == [(send, ("ada",)), (archive, ("ada",))]
        if run == "normal":
            tasks.wait_all()
        assert sorted(outbox) == ([] if run == "never" else ["archived, ada", "welcome, ada"])


@pytest.mark.parametrize("ask", CHECKERS)
def test_type_checkers_accept_each_double(ask: Callable[[str], Complaints]) -> None:
    assert ask("tests/jobs/test_service_in_unit_tests.py") == {}
