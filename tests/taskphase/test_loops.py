"""G2, G8, G13: several event loops in one thread. One of them runs.

(trio has one run at a time in a thread.)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import anyio
import pytest
from tests.backends import until

from taskphase import Task, TaskHost, TasksClosedError, TaskStatus

S = TaskStatus
T = TypeVar("T")


def uvloop_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop_loop], ids=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Iterator[Callable[[], asyncio.AbstractEventLoop]]:
    """Return a function that makes an event loop."""
    made: list[asyncio.AbstractEventLoop] = []

    def make() -> asyncio.AbstractEventLoop:
        made.append(request.param())
        return made[-1]

    yield make
    for loop in made:
        loop.close()


async def answer() -> int:
    return 42


async def entered() -> TaskHost:
    return await TaskHost().__aenter__()


async def left(host: TaskHost) -> None:
    await host.__aexit__(None, None, None)


async def call(func: Callable[[], T]) -> T:
    return func()


Loops = Callable[[], asyncio.AbstractEventLoop]


def test_schedule_in_another_running_loop_of_the_thread_is_refused_with_a_reason_g13(new_loop: Loops) -> None:
    mine, other = new_loop(), new_loop()
    host = mine.run_until_complete(entered())
    for place in (host, host.scope(), host.scope().after_response):
        with pytest.raises(RuntimeError, match=r"another event loop.*loop in which the host was entered") as raised:
            other.run_until_complete(call(lambda place=place: place.schedule(answer)))  # type: ignore[misc]
        assert not isinstance(raised.value, TasksClosedError)
    assert (host.running, host.waiting, host.deferred) == (0, 0, 0)
    mine.run_until_complete(left(host))


def test_a_task_that_was_refused_there_can_be_scheduled_here_g13_g15(new_loop: Loops) -> None:
    mine, other = new_loop(), new_loop()
    host = mine.run_until_complete(entered())
    task = Task(answer)
    scope = host.scope()
    with pytest.raises(RuntimeError):
        other.run_until_complete(call(lambda: task.__start__(scope)))

    async def start() -> int:
        task.__start__(scope)
        return await task

    assert mine.run_until_complete(start()) == 42
    mine.run_until_complete(left(host))


def test_tasks_taken_between_two_runs_of_the_loop_start_in_the_next_run_g8_g13(new_loop: Loops) -> None:
    mine = new_loop()
    host = mine.run_until_complete(entered())
    tasks = [host.schedule(answer) for _ in range(3)]
    assert [task.status for task in tasks] == [S.NEW] * 3
    mine.run_until_complete(until(lambda: all(task.status is S.SUCCEEDED for task in tasks)))
    mine.run_until_complete(left(host))


def test_a_task_taken_between_two_runs_is_not_lost_if_the_host_closes_next_g2_g13(
    new_loop: Loops,
) -> None:
    mine = new_loop()
    host = mine.run_until_complete(entered())
    task = host.task(shield=True).schedule(answer)
    mine.run_until_complete(left(host))
    assert task.status is S.SUCCEEDED


def test_a_thread_may_schedule_while_another_loop_runs_g8_g13(new_loop: Loops) -> None:
    """No event loop runs in that thread, so the call cannot come from a wrong loop."""
    mine, other = new_loop(), new_loop()
    host = mine.run_until_complete(entered())
    tasks: list[Task[int]] = []

    async def use_thread() -> None:
        await asyncio.to_thread(lambda: tasks.append(host.schedule(answer)))

    other.run_until_complete(use_thread())
    mine.run_until_complete(until(lambda: tasks[0].status is S.SUCCEEDED))
    mine.run_until_complete(left(host))


def test_a_loop_in_another_thread_may_schedule_g8_g13(new_loop: Loops) -> None:
    mine, other = new_loop(), new_loop()
    tasks: list[Task[int]] = []

    async def main() -> None:
        async with TaskHost() as host:
            thread = threading.Thread(
                target=lambda: tasks.append(other.run_until_complete(call(lambda: host.schedule(answer))))
            )
            thread.start()
            await until(lambda: tasks and tasks[0].status is S.SUCCEEDED)
            thread.join()

    mine.run_until_complete(main())


def test_cancel_from_another_loop_is_heard_when_the_loop_of_the_host_runs_g13_g17(new_loop: Loops) -> None:
    mine, other = new_loop(), new_loop()
    host = mine.run_until_complete(entered())

    async def begin() -> Task[Any]:
        task = host.schedule(anyio.sleep_forever)
        await task.started.wait()
        return task

    task = mine.run_until_complete(begin())
    other.run_until_complete(call(task.cancel))
    mine.run_until_complete(until(lambda: task.status is S.CANCELLED))
    mine.run_until_complete(left(host))


def test_each_loop_of_a_thread_may_have_a_host_g13(new_loop: Loops) -> None:
    loops = [new_loop(), new_loop()]
    hosts = [loop.run_until_complete(entered()) for loop in loops]

    async def work(host: TaskHost) -> int:
        return await host.schedule(answer)

    pairs: list[tuple[Any, TaskHost]] = list(zip(loops, hosts, strict=True))
    assert [loop.run_until_complete(work(host)) for loop, host in pairs * 2] == [42] * 4
    for loop, host in pairs:
        loop.run_until_complete(left(host))
