# pyright: strict
"""Never executed. Each call here is correct, and has the declared type."""

import asyncio
import math
from collections.abc import Callable, Generator
from datetime import timedelta
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar, assert_type

from anyio import TaskHandle, create_task_group
from anyio.abc import TaskGroup
from fastapi import FastAPI, Request, WebSocket

from fastapi_tasks import (
    Limit,
    RetryPolicy,
    Task,
    TaskConfig,
    TaskErrorHandler,
    Tasks,
    TasksBatch,
    TasksScheduler,
    TaskStatus,
    add_tasks,
    retry,
)
from fastapi_tasks.testing import AppTaskRecorder, JumpClock, RecordedRequest, RecordedTasks, record_tasks
from taskphase import Phase, Scope, TaskHost, current_host, current_task
from taskphase.opentelemetry import TraceTasks
from taskphase.testing import TaskRecorder
from taskphase.testing import record_tasks as record_tasks_of

P = ParamSpec("P")
T = TypeVar("T")


async def is_even(number: int) -> bool:
    return number % 2 == 0


def spell(number: int, *, capital: bool = False) -> str:
    return str(number).upper() if capital else str(number)


async def forget(*names: str, **reasons: int) -> None: ...


async def insert(row: dict[str, Any]) -> bool:
    return bool(row)


class Ledger:
    async def add(self, amount: float, currency: str = "EUR") -> float:
        return amount

    def total(self) -> int:
        return 0

    @classmethod
    async def load(cls, path: str) -> "Ledger":
        return cls()

    @staticmethod
    def parse(line: str) -> list[str]:
        return line.split()


class Greeter:
    def __call__(self, name: str) -> str:
        return name


class AsyncGreeter:
    async def __call__(self, name: str) -> bytes:
        return name.encode()


class Promise:
    def __await__(self) -> Generator[Any, Any, int]:
        yield
        return 1


def promise() -> Promise:
    return Promise()


async def chained(tasks: TasksScheduler) -> Task[bool]:
    return tasks.schedule(is_even, 1)


def chained_in_a_thread(tasks: TasksScheduler) -> Task[bool]:
    return tasks.schedule(is_even, 1)


def perhaps_chained(tasks: TasksScheduler) -> Task[bool] | None:
    return tasks.schedule(is_even, 1)


def future() -> asyncio.Future[int]:
    return asyncio.Future()


def native_task() -> asyncio.Task[int]:
    return asyncio.create_task(forget_number())


async def forget_number() -> int:
    return 1


def handle(tg: TaskGroup) -> TaskHandle[bool, None]:
    raise NotImplementedError


def anything() -> Any: ...


def logged(func: Callable[P, T]) -> Callable[P, T]:
    return func


@logged
async def store(row: str) -> int:
    return len(row)


ledger = Ledger()


def every_kind_of_function(tasks: TasksScheduler) -> None:
    assert_type(tasks.schedule(is_even, 1), Task[bool])
    assert_type(tasks.schedule(is_even, number=1), Task[bool])
    assert_type(tasks.schedule(spell, 1), Task[str])
    assert_type(tasks.schedule(spell, 1, capital=True), Task[str])
    assert_type(tasks.schedule(forget, "a", "b", c=1), Task[None])
    assert_type(tasks.schedule(partial(is_even, 1)), Task[bool])
    assert_type(tasks.schedule(partial(spell, capital=True), 1), Task[str])
    assert_type(tasks.schedule(ledger.add, 1.5, currency="USD"), Task[float])
    assert_type(tasks.schedule(ledger.total), Task[int])
    assert_type(tasks.schedule(Ledger.load, "path"), Task[Ledger])
    assert_type(tasks.schedule(Ledger.parse, "line"), Task[list[str]])
    assert_type(tasks.schedule(Greeter(), "Ada"), Task[str])
    assert_type(tasks.schedule(AsyncGreeter(), name="Ada"), Task[bytes])
    assert_type(tasks.schedule(Ledger), Task[Ledger])
    assert_type(tasks.schedule(lambda: ledger.total()), Task[int])
    assert_type(tasks.schedule(lambda: is_even(1)), Task[bool])
    assert_type(tasks.schedule(promise), Task[int])
    assert_type(tasks.schedule(store, "row"), Task[int])
    assert_type(tasks.schedule(print, "a", "b", sep=","), Task[None])
    assert_type(tasks.schedule(len, "abc"), Task[int])
    assert_type(tasks.schedule(anything), Task[Any])


async def handles_are_results(tasks: TasksScheduler, host: TaskHost, tg: TaskGroup) -> None:
    assert_type(tasks.schedule(lambda: host.schedule(is_even, 1)), Task[Task[bool]])
    assert_type(tasks.schedule(lambda: host.task(name="parity").schedule(spell, 1)), Task[Task[str]])
    assert_type(tasks.schedule(chained, tasks), Task[Task[bool]])
    assert_type(tasks.schedule(chained_in_a_thread, tasks), Task[Task[bool]])
    assert_type(tasks.schedule(partial(chained_in_a_thread, tasks)), Task[Task[bool]])
    assert_type(tasks.schedule(perhaps_chained, tasks), Task[Task[bool] | None])
    assert_type(tasks.schedule(future), Task[asyncio.Future[int]])
    assert_type(tasks.schedule(native_task), Task[asyncio.Task[int]])
    assert_type(tasks.schedule(handle, tg), Task[TaskHandle[bool, None]])
    assert_type(tasks.task(timeout=1).after_response.schedule(chained_in_a_thread, tasks), Task[Task[bool]])
    assert_type(tasks.after_route.schedule(future), Task[asyncio.Future[int]])
    assert_type(host.schedule(chained_in_a_thread, tasks), Task[Task[bool]])
    assert_type(await host.schedule(chained_in_a_thread, tasks), Task[bool])
    assert_type(await (await host.schedule(chained_in_a_thread, tasks)), bool)
    made: Task[Task[bool]] = Task(chained_in_a_thread, (tasks,))
    assert_type(made.return_value, Task[bool])


def every_way_to_schedule(tasks: TasksScheduler) -> None:
    assert_type(tasks.after_route, TasksBatch)
    assert_type(tasks.after_route.schedule(is_even, 1), Task[bool])
    assert_type(tasks.after_route.schedule(spell, 1), Task[str])
    assert_type(tasks.after_response.schedule(is_even, number=1), Task[bool])
    assert_type(tasks.after_response.schedule(spell, 1, capital=True), Task[str])

    definition = tasks.task(name="parity", shield=True, on_error=accept, when="always", timeout=1.5)
    assert_type(definition.schedule(is_even, 1), Task[bool])
    assert_type(definition.schedule(spell, 1), Task[str])
    assert_type(definition.after_route.schedule(is_even, 1), Task[bool])
    assert_type(definition.after_response.schedule(spell, 1), Task[str])
    assert_type(definition.task(when="failure", timeout=1).after_route.schedule(is_even, 1), Task[bool])
    assert_type(tasks.task().schedule(ledger.add, 1), Task[float])
    assert_type(tasks.after_route.task(name="parity").schedule(is_even, 1), Task[bool])
    assert_type(tasks.after_response.task(shield=None).schedule(spell, 1), Task[str])


def all_settings(tasks: TasksScheduler, batch: TasksBatch, host: TaskHost) -> TaskConfig:
    few, soon = Limit(3, max_pending=10), timedelta(seconds=30)
    assert_type(few.most, float)
    assert_type(few.max_pending, int | None)
    assert_type(tasks.task(delay=30).schedule(is_even, 1), Task[bool])
    assert_type(tasks.task(delay=soon, limit=few).after_route.schedule(spell, 1, capital=True), Task[str])
    assert_type(tasks.after_response.task(limit=Limit(math.inf)).schedule(is_even, 1), Task[bool])
    assert_type(tasks.task(run_in="process").schedule(spell, 1), Task[str])
    assert_type(tasks.task(key="parity").task(run_in="thread").schedule(spell, 1), Task[str])
    assert_type(batch.task(delay=0.5, key="parity").schedule(is_even, 1), Task[bool])
    assert_type(host.task(timeout=soon, shield=soon, limit=few, delay=soon).schedule(is_even, 1), Task[bool])
    assert_type(host.task(delay=None, limit=None, run_in=None, key=None).schedule(is_even, 1), Task[bool])
    config = TaskConfig(timeout=soon, shield=soon, delay=soon, limit=few, run_in="process", key="parity")
    assert_type(config.timeout, float | None)
    assert_type(config.shield, bool | float | None)
    assert_type(config.delay, float | None)
    assert_type(config.limit, Limit | None)
    assert_type(config.run_in, Literal["thread", "process"] | None)
    assert_type(config.key, str | None)
    assert_type(retry(backoff=soon, max_delay=soon).backoff, float)
    TaskHost(config=config, drain_timeout=soon, shield_timeout=soon)
    return config


async def whatever_it_returns(task: Task[object]) -> None:
    assert_type(await task, object)


async def the_handle(tasks: TasksScheduler) -> None:
    task = tasks.schedule(is_even, 1)
    assert_type(await task, bool)
    assert_type(task.return_value, bool)
    assert_type(task.exception, BaseException | None)
    assert_type(task.id, int)
    assert_type(task.name, str)
    assert_type(task.config, TaskConfig)
    assert_type(task.phase, Phase)
    assert_type(task.status, TaskStatus)
    assert_type(task.attempt, int)
    assert_type(task.args, tuple[Any, ...])
    assert_type(task.kwargs, dict[str, Any])
    assert_type(task.started.is_set(), bool)
    await task.started.wait()
    await task.wait()
    task.cancel()
    assert_type(await tasks.schedule(spell, 1), str)
    assert_type(await tasks.task(timeout=1).after_response.schedule(ledger.total), int)

    await whatever_it_returns(task)
    either: list[Task[int] | Task[str]] = [tasks.schedule(len, "abc"), tasks.schedule(spell, 1)]
    assert_type([await one for one in either], list[int | str])


async def tasks_made_by_hand(tasks: TasksScheduler) -> None:
    made: Task[bool] = Task(func=is_even, args=(1,), kwargs={})
    assert_type(await made(), bool)
    assert_type(Task[str](func=spell, args=(1,), kwargs={"capital": True}, config=TaskConfig(name="spell")), Task[str])
    Task[str](spell, (1,)).__start__(tasks)
    made.__start__(tasks)


async def parameters_with_any(tasks: TasksScheduler) -> None:
    stored: Task[bool] = tasks.schedule(insert, {"id": 7})  # without the annotation mypy sees `Task[Any]`
    assert_type(await stored, bool)


async def batches_and_schedulers_made_by_hand(tg: TaskGroup) -> None:
    tasks = TasksScheduler(tg)
    assert_type(tasks.tg, TaskGroup)
    assert_type(tasks.schedule(is_even, 1), Task[bool])
    TasksScheduler(tg, TaskConfig(timeout=1)).schedule(spell, 1)
    batch = TasksBatch()
    assert_type(batch.schedule(is_even, 1), Task[bool])
    assert_type(batch.task(name="spell").schedule(spell, 1), Task[str])
    batch.start(tasks)
    batch.__start__(tasks)
    tasks.after_route.__start__(tasks)
    async with create_task_group() as other, TasksScheduler(other) as scope, scope.route():
        assert_type(scope, Scope)
        scope.end_route(failed=True)
        scope.end()
        TasksScheduler(scope).schedule(is_even, 1)


async def hosts() -> None:
    config = TaskConfig(name=None, shield=True, retry=retry(attempts=2), when="success", timeout=1)
    async with TaskHost(
        config=config, max_running=1, max_pending=2, max_threads=3, drain_timeout=5, shield_timeout=0.5
    ) as host:
        assert_type(host, TaskHost)
        assert_type(host.schedule(is_even, 1), Task[bool])
        assert_type(host.schedule(spell, 1, capital=True), Task[str])
        assert_type(host.task(name="parity", shield=True).schedule(is_even, 1), Task[bool])
        assert_type(host.task(timeout=1).task(when="always").schedule(spell, 1), Task[str])
        assert_type((host.running, host.waiting, host.deferred), tuple[int, int, int])
        async with host.scope() as tasks:
            async with tasks.route():
                assert_type(tasks, Scope)
            assert_type(await tasks.after_response.schedule(spell, 1), str)
        await host.aclose()
    assert_type(current_host(), TaskHost)
    assert_type(current_task(), Task[Any])
    assert_type(config.shielded, bool)
    assert_type(config.merge(TaskConfig()), TaskConfig)


def accept(task: Task[Any], exception: Exception) -> None: ...


def ask_again(task: Task[Any], exception: Exception) -> float | timedelta | None:
    return task.attempt * 0.5 if isinstance(exception, OSError) else None


class Report:
    async def __call__(self, task: Task[object], exception: BaseException) -> str:
        return f"{task.name}: {exception}"


def handlers(tasks: TasksScheduler) -> list[TaskErrorHandler]:
    every: list[TaskErrorHandler] = [
        accept,
        ask_again,
        Report(),
        lambda task, exception: task.cancel(),
        retry(),
        retry(attempts=5, on=(OSError, TimeoutError), backoff=0.5, jitter=False, max_delay=30),
        retry(on=OSError),
    ]
    assert_type(retry(), RetryPolicy)
    tasks.task(on_error=accept).schedule(is_even, 1)
    tasks.task(on_error=ask_again).after_route.schedule(is_even, 1)
    tasks.after_response.task(on_error=Report()).schedule(is_even, 1)
    tasks.task(retry=retry(on=OSError)).schedule(is_even, 1)
    tasks.task(retry=lambda task, exception: task.attempt).schedule(is_even, 1)
    TaskConfig(on_error=accept)
    TaskConfig(on_error=ask_again)
    TaskConfig(on_error=Report())
    return every


app = FastAPI()
add_tasks(app)
add_tasks(app, telemetry=False)
add_tasks(app, telemetry={"tracer_provider": None, "trace": "link"}, observers=[TraceTasks(trace="child")])
add_tasks(
    app,
    config=TaskConfig(shield=True),
    max_running=1,
    max_pending=2,
    max_threads=3,
    drain_timeout=5,
    shield_timeout=0.5,
    hold=True,
)
add_tasks(app, drain_timeout=timedelta(seconds=5), shield_timeout=timedelta(minutes=1))


@app.post("/orders")
async def order(number: int, tasks: Tasks) -> dict[str, int]:
    assert_type(tasks, TasksScheduler)
    assert_type(tasks.schedule(is_even, number), Task[bool])
    assert_type(tasks.after_route.schedule(spell, number), Task[str])
    tasks.task(name="process", shield=True, on_error=ask_again).after_response.schedule(forget, "order")
    return {"number": number}


@app.get("/plain")
def plain(tasks: Tasks, request: Request) -> None:
    tasks.after_response.schedule(spell, 1)
    TasksScheduler(request.state.fastapi_tasks_tg).schedule(is_even, 1)


@app.websocket("/socket")
async def socket(websocket: WebSocket, tasks: Tasks) -> None:
    assert_type(await tasks.schedule(is_even, 1), bool)


async def dependency(tasks: Tasks) -> TasksScheduler:
    return tasks


async def recorders(app: FastAPI, host: TaskHost) -> None:
    with record_tasks(app, run="inline", timeout=None) as tasks:
        assert_type(tasks, AppTaskRecorder)
        assert_type(tasks[0], Task[Any])
        assert_type(tasks[1:], list[Task[Any]])
        assert_type(tasks.of(is_even), RecordedTasks[bool])
        assert_type(tasks.of(spell).after_response.failed.one(), Task[str])
        assert_type(tasks.of("by name"), RecordedTasks[Any])
        assert_type(tasks.of(chained_in_a_thread), RecordedTasks[Task[bool]])
        assert_type(tasks.assert_scheduled(future), Task[asyncio.Future[int]])
        assert_type(tasks.assert_scheduled(is_even, 1), Task[bool])
        assert_type(tasks.immediate.assert_scheduled(spell, 1, capital=True), Task[str])
        assert_type(tasks.requests[0], RecordedRequest)
        assert_type(tasks.of_request("/").of(is_even)[0].return_value, bool)
        tasks.of(is_even).expect_failure((OSError, LookupError), match="x")
        await tasks.await_all()
        await tasks.await_until("retrying")
        await tasks.arun_all()
    with record_tasks_of(host) as all_tasks:
        assert_type(all_tasks, TaskRecorder)
    clock = JumpClock()
    assert_type(clock.backend_options("trio"), dict[str, Any])
    clock.jump(1.5)
