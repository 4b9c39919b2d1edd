"""Code from apps with the earlier fastapi-tasks, and its replacement: docs/how-to/migrate-from-fastapi-tasks.md."""

import asyncio
import json
import threading

import anyio
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from fastapi_tasks import Task, TaskConfig, TaskFailed, Tasks, TasksBatch, TasksScheduler, add_tasks, current_host
from fastapi_tasks.testing import record_tasks

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

told: list[str] = []


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


async def tell(task: Task, error: Exception) -> None:
    details = {"name": task.config.name, "args": task.args, "kwargs": task.kwargs, "shielded": task.config.shielded}
    told.append(json.dumps({**details, "error": str(error)}))


async def fail(to: str, *, subject: str) -> None:
    raise ConnectionError(f"no mailbox for {to}")


async def write(line: str) -> str:
    told.append(line)
    return line


app = FastAPI()
add_tasks(app, config=TaskConfig(name="of the app", shield=True, on_error=tell), drain_timeout=5)


@app.post("/mails")
async def mail(tasks: Tasks) -> None:
    tasks.schedule(fail, "ada", subject="welcome")


plain = FastAPI()
add_tasks(plain)


@plain.post("/direct")
async def direct(request: Request) -> None:
    scheduler = TasksScheduler(request.state.fastapi_tasks_tg, TaskConfig(name="direct"))
    scheduler.after_response.schedule(write, "after_response")
    scheduler.after_route.schedule(write, "after_route")
    scheduler.schedule(write, "immediate")
    batch = TasksBatch()
    batch.schedule(write, "a batch")
    batch.__start__(scheduler)
    Task(func=write, args=("by hand",), kwargs={}).__start__(scheduler)


@plain.post("/started-direct")
async def start_direct(request: Request) -> None:
    scheduler = TasksScheduler(request.state.fastapi_tasks_tg)
    scheduler.after_response.schedule(write, "after_response")
    scheduler.after_response.__start__(scheduler)


@app.get("/lines/{line}")
async def line(line: str, tasks: Tasks) -> list[str]:
    return [await tasks.schedule(write, line), await tasks.schedule(str.upper, line)]


@app.post("/readings")
async def read() -> None:
    home, host = threading.current_thread(), current_host()

    async def store() -> None:
        told.append("home" if threading.current_thread() is home else "elsewhere")

    async def listen() -> None:
        host.schedule(store)

    await anyio.to_thread.run_sync(asyncio.run, listen())


@BACKENDS
def test_a_handler_puts_what_a_task_was_called_with_into_json_g17(backend) -> None:
    with record_tasks(app) as tasks, TestClient(app, backend=backend) as client:
        tasks.expect_failure(ConnectionError)
        client.post("/mails")
        tasks.wait_all()

    details = {"name": "of the app", "args": ["ada"], "kwargs": {"subject": "welcome"}, "shielded": True}
    assert [json.loads(entry) for entry in told] == [{**details, "error": "no mailbox for ada"}]


@BACKENDS
def test_the_settings_of_the_app_are_no_part_of_the_state_of_a_request(backend) -> None:
    other = FastAPI()
    add_tasks(other, config=TaskConfig(name="of the app"))

    @other.get("/")
    async def names(request: Request, tasks: Tasks) -> list[object]:
        task = tasks.task(shield=True).schedule(write, "a line")
        return [hasattr(request.state, "fastapi_tasks_config"), task.config.name, task.config.shield]

    with TestClient(other, backend=backend) as client:
        assert client.get("/").json() == [False, "of the app", True]


@BACKENDS
def test_a_batch_that_is_started_by_hand_starts_g1(backend) -> None:
    with record_tasks(plain) as tasks, TestClient(plain, backend=backend) as client:
        assert client.post("/started-direct").status_code == 200
        tasks.wait_all()

    assert told == ["after_response"]


@BACKENDS
def test_the_phases_of_a_request_start_the_batches_of_a_scheduler_made_by_hand_g1(backend) -> None:
    with record_tasks(plain, timeout=2) as tasks, TestClient(plain, backend=backend) as client:
        assert client.post("/direct").status_code == 200
        tasks.wait_all()

    assert sorted(told[:3]) == ["a batch", "by hand", "immediate"]
    assert told[3:] == ["after_route", "after_response"]


@BACKENDS
def test_await_of_a_task_runs_both_kinds_of_functions_and_has_their_results_g7(backend) -> None:
    with TestClient(app, backend=backend) as client:
        assert client.get("/lines/hello").json() == ["hello", "HELLO"]


@BACKENDS
def test_a_thread_with_a_loop_of_its_own_schedules_into_the_loop_of_the_app_g8(backend) -> None:
    with record_tasks(app) as tasks, TestClient(app, backend=backend) as client:
        assert client.post("/readings").status_code == 200
        tasks.wait_all()

    assert told == ["home"]


@BACKENDS
def test_two_loops_at_a_time_each_run_the_tasks_of_their_requests_g13(backend) -> None:
    with record_tasks(app) as tasks, TestClient(app, backend=backend) as one, TestClient(app, backend=backend) as two:
        for client, line in ((one, "first"), (two, "second"), (one, "third")):
            assert client.get(f"/lines/{line}").json()[0] == line
        tasks.wait_all()

    assert told == ["first", "second", "third"]


async def test_a_call_of_a_new_task_raises_where_it_returned_none_g17() -> None:
    task = Task(func=fail, args=("ada",), kwargs={"subject": "welcome"}, config=TaskConfig(on_error=tell))
    with pytest.raises(TaskFailed) as caught:
        await task()

    assert isinstance(caught.value.__cause__, ConnectionError)
    assert len(told) == 1
    with pytest.raises(RuntimeError):
        await task()
