# pyright: strict
"""Never executed. Every line with the mark is an error to each type checker, and no other line is."""

from datetime import timedelta
from functools import partial
from typing import Any

from anyio.abc import TaskGroup
from fastapi import FastAPI

from fastapi_tasks import Limit, Task, TaskConfig, TaskErrorHandler, TasksBatch, TasksScheduler, add_tasks, retry
from fastapi_tasks.testing import record_tasks
from taskphase import TaskHost
from taskphase.opentelemetry import TraceTasks


async def is_even(number: int) -> bool:
    return number % 2 == 0


def spell(number: int, *, capital: bool) -> str:
    return str(number).upper() if capital else str(number)


def chained(tasks: TasksScheduler, number: int) -> Task[bool]:
    return tasks.schedule(is_even, number)


class Greeter:
    async def __call__(self, name: str) -> str:
        return name

    def greet(self, name: str) -> str:
        return name


def arguments(tasks: TasksScheduler) -> None:
    tasks.schedule()  # error
    tasks.schedule(is_even)  # error
    tasks.schedule(is_even, "1")  # error
    tasks.schedule(is_even, 1, 2)  # error
    tasks.schedule(is_even, 1, shield=True)  # error
    tasks.schedule(is_even, numbre=1)  # error
    tasks.schedule(func=is_even)  # error
    tasks.schedule(spell, 1)  # error
    tasks.schedule(spell, 1, True)  # error
    tasks.schedule(spell, 1, capital="yes")  # error
    tasks.schedule(partial(is_even, "1"))  # error
    tasks.schedule(Greeter(), 1)  # error
    tasks.schedule(Greeter().greet)  # error
    tasks.schedule(lambda: 1, 1)  # error
    tasks.schedule(len, 1)  # error
    tasks.schedule(chained, tasks)  # error
    tasks.schedule(chained, tasks, "1")  # error
    tasks.schedule(lambda: tasks.schedule(is_even, 1), 1)  # error


def arguments_everywhere(tasks: TasksScheduler, batch: TasksBatch, host: TaskHost) -> None:
    tasks.after_route.schedule(is_even)  # error
    tasks.after_response.schedule(is_even, "1")  # error
    tasks.after_response.schedule(spell, 1, 2, capital=True)  # error
    tasks.task(name="parity").schedule(is_even, "1")  # error
    tasks.task(name="parity").after_route.schedule(is_even)  # error
    tasks.task().after_response.schedule(spell, 1, colour=True)  # error
    tasks.task().task().schedule(is_even, None)  # error
    tasks.after_route.task().schedule(spell)  # error
    batch.schedule(is_even, 1.5)  # error
    batch.task().schedule(is_even)  # error
    host.schedule(is_even, "1")  # error
    host.task().schedule(is_even, 1, 2)  # error


def no_functions(tasks: TasksScheduler) -> None:
    tasks.schedule(1)  # error
    tasks.schedule(None)  # error
    tasks.schedule("is_even", 1)  # error
    tasks.after_route.schedule(spell(1, capital=True))  # error
    tasks.task().schedule(object())  # error


def settings(tasks: TasksScheduler, host: TaskHost) -> None:
    tasks.task(when="sucess")  # error
    tasks.task(when=True)  # error
    tasks.task(timeout="1")  # error
    tasks.task(name=1)  # error
    tasks.task(shield="yes")  # error
    tasks.task("name")  # error
    tasks.task(retries=3)  # error
    tasks.after_route.task(when="never")  # error
    tasks.task(name="a").task(timeout="1")  # error
    host.task(timeout=[1])  # error
    host.task(phase="after_route")  # error
    TaskConfig(when="never")  # error
    TaskConfig(timeout="1")  # error
    TaskConfig().name = "changed"  # error
    TaskConfig().shielded = True  # error
    TaskConfig().merge({"name": "parity"})  # error


def new_settings(tasks: TasksScheduler, host: TaskHost, soon: timedelta) -> None:
    tasks.task(delay="3")  # error
    tasks.task(delay=[3])  # error
    tasks.schedule(is_even, 1, delay=3)  # error
    tasks.task(limit=3)  # error
    tasks.task(limit=Limit)  # error
    tasks.after_response.task(limit="3")  # error
    tasks.task(run_in="processes")  # error
    host.task(run_in=True)  # error
    host.task(key=7)  # error
    tasks.after_route.task(key=["parity"])  # error
    tasks.task(when=soon)  # error
    tasks.task(name=soon)  # error
    TaskConfig(delay="3")  # error
    TaskConfig(limit=3)  # error
    TaskConfig(run_in="fork")  # error
    TaskConfig(key=7)  # error
    TaskConfig(retries=3)  # error
    TaskConfig(delay=soon).delay = 3  # error
    Limit()  # error
    Limit("3")  # error
    Limit(3, 10)  # error
    Limit(3, max_pending=0.5)  # error
    Limit(soon)  # error
    retry(backoff="1")  # error
    retry(attempts=soon)  # error
    retry(max_delay="1")  # error
    TaskHost(max_running=soon)  # error
    TaskHost(shield_timeout="5")  # error


async def names_of_other_libraries(tasks: TasksScheduler, host: TaskHost) -> None:
    tasks.add_task(is_even, 1)  # error
    tasks.create_task(is_even(1))  # error
    host.start_soon(is_even, 1)  # error
    tasks.after_response.add_task(is_even, 1)  # error
    tasks.task(timeout=5).add_task(is_even, 1)  # error
    tasks.after_response(is_even, 1)  # error
    tasks.task(timeout=5)(is_even, 1)  # error
    tasks.task(is_even)  # error
    async with host.scope() as scope:
        scope.add_task(is_even, 1)  # error


def no_task(exception: Exception) -> None: ...


def no_exception(task: Task[Any]) -> None: ...


def wrong_way_round(exception: Exception, task: Task[Any]) -> None: ...


async def too_narrow(task: Task[Any], exception: ValueError) -> None: ...


def too_many(task: Task[Any], exception: Exception, attempt: int) -> None: ...


def handlers(tasks: TasksScheduler, host: TaskHost) -> None:
    tasks.task(on_error=no_task)  # error
    tasks.task(on_error=no_exception)  # error
    tasks.task(on_error=wrong_way_round)  # error
    tasks.task(on_error=too_narrow)  # error
    tasks.task(on_error=too_many)  # error
    tasks.task(retry=1)  # error
    tasks.task(on_error=retry)  # error
    tasks.task(on_error=lambda task: None)  # error
    tasks.task(on_error="log")  # error
    tasks.after_response.task(on_error=no_task)  # error
    host.task(on_error=too_narrow)  # error
    TaskConfig(on_error=too_many)  # error
    handler: TaskErrorHandler = no_exception  # error
    retry(3)  # error
    retry(attempts="3")  # error
    retry(on=ValueError())  # error
    retry(on=KeyboardInterrupt)  # error
    retry(on=[ValueError])  # error
    retry(max_delays=1)  # error
    retry().attempts = 1  # error
    retry(attempts=3)(is_even)  # error
    tasks.task(retry=lambda task, exception: "soon")  # error
    del handler


async def results(tasks: TasksScheduler, host: TaskHost) -> None:
    task = tasks.schedule(is_even, 1)
    number: list[int] = await task  # error
    word: str = task.return_value  # error
    other: Task[str] = task  # error
    later: Task[str] = tasks.task(name="parity").after_route.schedule(is_even, 1)  # error
    thread: Task[int] = host.schedule(spell, 1, capital=True)  # error
    awaited: bytes = await tasks.after_response.schedule(spell, 1, capital=True)  # error
    inline: bytes = await Task[str](spell, (1,), {"capital": True})()  # error
    task.return_value = True  # error
    parity: bool = await tasks.schedule(chained, tasks, 1)  # error
    behind: Task[bool] = host.schedule(chained, tasks, 1)  # error
    task.kwargs = {}  # error
    attempts: int = task.attempts  # error
    task.started()  # error
    del parity, behind, number, word, other, later, thread, awaited, inline, attempts


def what_is_made_by_hand(tasks: TasksScheduler, tg: TaskGroup) -> None:
    Task[bool]()  # error
    Task[bool](1)  # error
    Task[bool](is_even, [1])  # error
    Task[bool](is_even, (1,), {1: 1})  # error
    Task[bool](is_even, (1,), name="parity")  # error
    TasksScheduler()  # error
    TasksScheduler(tasks)  # error
    TasksScheduler(tg, "config")  # error
    TasksBatch(tg)  # error
    TasksBatch().start(tg)  # error
    Task(is_even, (1,)).__start__(tg)  # error
    tasks.end_route()  # error


async def hosts(app: FastAPI, host: TaskHost) -> None:
    TaskHost(5)  # error
    TaskHost(drain_timeout=None)  # error
    TaskHost(drain_timeout="5")  # error
    TaskHost(max_running=0.5)  # error
    TaskHost(config={"shield": True})  # error
    TaskHost(hold=True)  # error
    add_tasks()  # error
    add_tasks("app")  # error
    add_tasks(app, 5)  # error
    add_tasks(app, hold="yes")  # error
    add_tasks(app, max_task=5)  # error
    add_tasks(app, telemetry=True)  # error
    add_tasks(app, telemetry={"trace": "parent"})  # error
    TraceTasks(trace="parent")  # error
    host.running = 1  # error
    with host:  # error
        pass
    async with host.scope() as tasks:
        tasks.scheduel(is_even, 1)  # error
        with tasks.route():  # error
            pass


async def recorders(app: FastAPI, host: TaskHost) -> None:
    record_tasks(host)  # error
    record_tasks(app, "never")  # error
    record_tasks(app, run="eager")  # error
    with record_tasks(app) as tasks:
        tasks.assert_scheduled(is_even)  # error
        tasks.assert_scheduled(is_even, "one")  # error
        tasks.of(1)  # error
        tasks.expect_failure("text")  # error
        tasks.of(is_even).one().return_value.lower()  # error
