"""G7, G9, G12, G14: in a FastAPI app, too, a message about a common mistake says what to write instead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from fastapi import Depends, FastAPI
from fastapi.exceptions import FastAPIError
from tests.fastapi_tasks.apps import app_with_tasks, serving

from fastapi_tasks import (
    NoCurrentError,
    TaskObserver,
    Tasks,
    TasksClosedError,
    TasksScheduler,
    add_tasks,
    current_host,
    get_tasks,
)

FAQ = Path(__file__).resolve().parents[2] / "docs" / "faq.md"


async def send(to: str) -> None: ...


def count(rows: int) -> int:
    return rows


ADD_TASK = "'TasksScheduler' object has no attribute 'add_task': write tasks.after_response.schedule(f, ...)"


@pytest.mark.parametrize(
    ("mistake", "error", "message"),
    [
        (lambda tasks: tasks.add_task(send, "ada"), AttributeError, ADD_TASK),
        (
            lambda tasks: tasks.schedule(send, "ada", name="mail"),
            TypeError,
            (
                f"{__name__}.send(to) cannot be called like this: got an unexpected keyword argument 'name'; settings "
                "go into .task(name=...), before .schedule()"
            ),
        ),
        (
            lambda tasks: tasks.after_response.schedule(count(3)),
            TypeError,
            "expected a callable, not int: pass the function and its arguments, not the result of calling it",
        ),
    ],
    ids=["add_task", "setting", "result"],
)
@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_a_mistake_in_an_endpoint_gets_a_hint_and_schedules_nothing_g7(
    is_async: bool, mistake: Callable[[Any], object], error: type[Exception], message: str
) -> None:
    def endpoint(tasks: Tasks) -> str:
        with pytest.raises(error) as raised:
            mistake(tasks)
        assert current_host().tasks() == ()
        return str(raised.value)

    async def async_endpoint(tasks: Tasks) -> str:
        return endpoint(tasks)

    app = app_with_tasks()
    app.add_api_route("/", async_endpoint if is_async else endpoint)
    async with serving(app) as server:
        response = await server.get()
    assert response.json() == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": 3}, "add_tasks() has no parameter 'timeout': write config=TaskConfig(timeout=...)"),
        ({"on_error": print}, "add_tasks() has no parameter 'on_error': write config=TaskConfig(on_error=...)"),
        ({"observers": TaskObserver()}, "observers must be a list, not TaskObserver: write observers=[...]"),
        ({"queues": send}, "queues must be a list, not function: write queues=[...]"),
    ],
)
def test_a_wrong_setting_of_an_app_is_refused_with_the_right_one(settings: Any, message: str) -> None:
    app = FastAPI()
    with pytest.raises(TypeError) as raised:
        add_tasks(app, **settings)
    assert str(raised.value) == message
    add_tasks(app)  # nothing has changed


async def test_a_thread_of_an_endpoint_is_told_to_take_the_scheduler_or_the_host_g14() -> None:
    def in_a_thread() -> None:
        with pytest.raises(NoCurrentError) as raised:
            current_host()
        told.append(str(raised.value))

    def endpoint() -> None:
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join()

    told: list[str] = []
    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        await server.get()
    assert told == [
        (
            "this code runs in a thread of your own (for a function in a thread use anyio.to_thread.run_sync or "
            "asyncio.to_thread, which keep the task and the host): take `tasks: Tasks` in the endpoint, or call "
            "current_host() before you start the thread, and pass the host to the thread: host.schedule() works in any "
            "thread"
        )
    ]


async def test_in_such_a_thread_a_scheduler_and_a_host_of_the_endpoint_work_g14() -> None:
    def in_a_thread(tasks: TasksScheduler) -> None:
        handles.append(tasks.schedule(send, "ada"))

    async def endpoint(tasks: Tasks) -> None:
        host = current_host()
        for schedules in (tasks, host):
            thread = threading.Thread(target=in_a_thread, args=(schedules,))
            thread.start()
            await anyio.to_thread.run_sync(thread.join)
        await anyio.to_thread.run_sync(lambda: handles.append(current_host().schedule(send, "bob")))

    handles: list[Any] = []
    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        await server.get()
    assert [task.status for task in handles] == ["succeeded"] * 3


async def test_a_scheduler_after_the_lifespan_says_that_the_host_is_closed_g9() -> None:
    async def endpoint(tasks: Tasks) -> None:
        kept.append(tasks)

    kept: list[TasksScheduler] = []
    app = app_with_tasks()
    app.add_api_route("/", endpoint)
    async with serving(app) as server:
        await server.get()
    with pytest.raises(TasksClosedError) as raised:
        kept[0].schedule(send, "ada")
    assert str(raised.value) == (
        f"the task host is closed, so {__name__}.send was not scheduled: schedule before the end of the host, or of "
        "the lifespan of the app, and not in a child of fork()"
    )


async def optional(tasks: Tasks | None = None) -> None: ...


async def bare(tasks: TasksScheduler) -> None: ...


@pytest.mark.parametrize("endpoint", [optional, bare])
def test_the_faq_knows_the_error_of_fastapi_for_such_a_parameter_g12(endpoint: Callable[..., object]) -> None:
    with pytest.raises((FastAPIError, TypeError)) as raised:
        FastAPI().add_api_route("/", endpoint)
    known = ["Invalid args for response field", "unhashable type: 'Depends'"]  # the latter from FastAPI 0.121
    assert [text for text in known if text in str(raised.value) and text in FAQ.read_text()]


async def test_the_other_forms_of_the_parameter_are_as_in_the_faq_g12() -> None:
    async def plain(tasks: Tasks) -> bool:
        return isinstance(tasks, TasksScheduler)

    async def annotated(tasks: Annotated[TasksScheduler | None, Depends(get_tasks)] = None) -> bool:
        return isinstance(tasks, TasksScheduler)

    async def called(tasks: Any = Depends(Tasks)) -> None: ...  # noqa: B008 - the mistake

    app = app_with_tasks()
    for endpoint in (plain, annotated, called):
        app.add_api_route(f"/{endpoint.__name__}", endpoint)
    async with serving(app) as server:
        assert (await server.get("/plain")).json() is True
        assert (await server.get("/annotated")).json() is True
        refused = await server.get("/called")
    assert refused.status == 422
    assert [error["loc"] for error in refused.json()["detail"]] == [["query", "args"], ["query", "kwargs"]]
