"""G17: the tasks that are alive: their age, where they wait, `host.tasks()` and `host.get()`."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.backends import turns, until

from taskphase import (
    Task,
    TaskHost,
    TaskObserver,
    TasksClosedError,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
    current_task,
    retry,
)
from taskphase.testing import pause, simulate

S = TaskStatus
PATIENCE = 10  # seconds; a thread that waits for longer fails its test

on_each_loop = pytest.mark.parametrize("backend", ["asyncio", "trio"])


async def fail() -> None:
    raise LookupError


@on_each_loop
class TestTimes:
    """In virtual time."""

    def test_age_and_running_for_stand_still_at_the_end_g17(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost(max_running=1) as host:
                first = host.schedule(anyio.sleep, 2)
                second = host.schedule(anyio.sleep, 3)
                assert (first.age, first.running_for) == (0, None)
                await anyio.sleep(1)
                assert (first.age, first.running_for) == (1, 1)
                assert (second.age, second.running_for) == (1, None)
                await second.wait()
                for _ in range(2):
                    assert (first.age, first.running_for) == (2, 2)
                    assert (second.age, second.running_for) == (5, 3)
                    await anyio.sleep(10)

        simulate(main, backend=backend).result()

    def test_age_counts_from_schedule_through_phases_and_pauses_g17(self, backend: Any) -> None:
        async def fail_after_1() -> None:
            await anyio.sleep(1)
            raise LookupError

        async def main() -> None:
            async with TaskHost() as host:
                async with host.scope() as scope:
                    policy = retry(attempts=2, backoff=5, jitter=False)
                    task = scope.task(retry=policy).after_response.schedule(fail_after_1)
                    await anyio.sleep(2)
                    assert (task.age, task.running_for) == (2, None)
                await anyio.sleep(0.5)
                assert (task.age, task.running_for) == (2.5, 0.5)
                await anyio.sleep(1)
                assert task.status is S.RETRYING
                assert (task.age, task.running_for) == (3.5, None)
                await anyio.sleep(5)
                assert (task.age, task.running_for) == (8.5, 0.5)
                await task.wait()
                assert (task.age, task.running_for, task.attempt) == (9, 1, 2)

        simulate(main, backend=backend).result()

    def test_a_task_that_ends_without_an_attempt_has_run_for_no_time_g17(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost(max_running=1) as host:
                host.schedule(anyio.sleep, 3)
                waiting = host.schedule(anyio.sleep, 1)
                paused = host.scope().task(retry=lambda task, error: 100).schedule(fail)
                deferred = host.scope().after_route.schedule(anyio.sleep, 1)
                await anyio.sleep(2)
                deferred.cancel()
                waiting.cancel()
                await anyio.sleep(5)
                assert paused.status is S.RETRYING
                paused.cancel()
                await anyio.sleep(5)
                assert (deferred.age, deferred.running_for) == (2, None)
                assert (waiting.age, waiting.running_for) == (2, None)
                assert (paused.age, paused.running_for) == (7, None)

        simulate(main, backend=backend).result()

    def test_the_handler_and_the_thread_are_in_running_for_g17(self, backend: Any) -> None:
        async def on_error(task: Task[Any], error: Exception) -> None:
            await anyio.sleep(2)

        async def main() -> None:
            async with TaskHost() as host:
                failing = host.task(on_error=on_error).schedule(fail)
                in_thread = host.schedule(pause, 3)
                await failing.wait()
                await in_thread.wait()
                assert (failing.running_for, in_thread.running_for) == (2, 3)

        simulate(main, backend=backend).result()

    def test_a_task_that_nobody_has_taken_has_no_age_g17(self, backend: Any) -> None:
        async def main() -> None:
            made = Task(fail)
            async with TaskHost(max_running=1, max_pending=0) as host:
                host.schedule(anyio.sleep, 2)
                await anyio.sleep(1)
                with pytest.raises(TasksSaturatedError):
                    made.__start__(host.scope())
                assert (made.age, made.running_for, made.status) == (0, None, S.NEW)
                made.cancel()
                await anyio.sleep(1)
                assert (made.age, made.running_for) == (0, None)

        simulate(main, backend=backend).result()


def names(task: Task[Any]) -> list[str] | None:
    """Return the names of the functions in which `task` waits, down to the last one of this file."""
    frames = task.frames()
    if frames is None:
        return None
    found = [(frame.f_globals["__name__"], frame.f_code.co_name) for frame in frames]
    last = max(place for place, (module, _) in enumerate(found) if module == __name__)
    return [name for _, name in found[: last + 1]]


class Waits:
    """Ways to wait for `event`."""

    def __init__(self) -> None:
        self.event = anyio.Event()

    async def plain(self) -> None:
        await self.event.wait()

    async def outer(self) -> None:
        await self.plain()

    async def generate(self) -> AsyncGenerator[int]:
        yield 1
        await self.event.wait()
        yield 2

    async def by_for(self) -> None:
        async with aclosing(self.generate()) as numbers:
            async for _ in numbers:
                pass

    async def by_anext(self) -> None:
        async with aclosing(self.generate()) as numbers:
            await anext(numbers)
            await anext(numbers, None)

    @asynccontextmanager
    async def context(self) -> AsyncGenerator[None]:
        yield
        await self.event.wait()

    async def by_context(self) -> None:
        async with self.context():
            pass

    async def handler(self, task: Task[Any], error: Exception) -> None:
        await self.plain()


CASES: list[tuple[str, list[str]]] = [
    ("plain", ["plain"]),
    ("outer", ["outer", "plain"]),
    ("by_for", ["by_for", "generate"]),
    ("by_anext", ["by_anext", "generate"]),
    ("by_context", ["by_context", "__aexit__", "context"]),
]
SETTINGS: list[dict[str, Any]] = [{}, {"shield": True}, {"timeout": 1000}, {"retry": retry(attempts=2, backoff=0)}]


class TestFrames:
    @pytest.mark.parametrize("settings", SETTINGS)
    @pytest.mark.parametrize(("case", "expected"), CASES)
    async def test_frames_lead_to_where_a_task_waits_g17(
        self, case: str, expected: list[str], settings: dict[str, Any]
    ) -> None:
        waits = Waits()
        async with TaskHost() as host:
            task = host.task(**settings).schedule(getattr(waits, case))
            assert task.frames() is None
            await task.started.wait()
            await turns()
            found = names(task)
            waits.event.set()
            await task
            assert found == expected
            assert task.frames() is None

    @pytest.mark.parametrize("settings", SETTINGS)
    async def test_frames_of_a_scheduler_made_by_hand_lead_there_too_g17(self, settings: dict[str, Any]) -> None:
        waits = Waits()
        async with anyio.create_task_group() as tg:
            task = TasksScheduler(tg).task(**settings).schedule(waits.outer)
            await task.started.wait()
            await turns()
            found = names(task)
            waits.event.set()
        assert found == ["outer", "plain"]

    @pytest.mark.parametrize("settings", [{}, {"shield": True}])
    async def test_frames_lead_into_the_handler_g17(self, settings: dict[str, Any]) -> None:
        waits = Waits()
        async with TaskHost() as host:
            task = host.task(on_error=waits.handler, **settings).schedule(fail)
            await until(lambda: task.status is S.HANDLING)
            await turns()
            found = names(task)
            waits.event.set()
            await task.wait()
            assert found == ["handler", "plain"]

    async def test_frames_show_where_a_cancelled_task_cleans_up_g17(self) -> None:
        waits = Waits()

        async def clean_up() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await waits.plain()

        async with TaskHost() as host:
            task = host.schedule(clean_up)
            await task.started.wait()
            task.cancel()
            await turns()
            found = (task.status, names(task))
            waits.event.set()
        assert found == (S.CANCELLING, ["clean_up", "plain"])

    async def test_frames_of_the_running_task_itself_can_be_asked_for_g17(self) -> None:
        async def look() -> bool:
            await anyio.lowlevel.checkpoint()
            return isinstance(current_task().frames(), tuple)

        async with TaskHost() as host:
            assert await host.schedule(look)

    async def test_there_are_no_frames_where_no_code_runs_in_the_loop_g17(self) -> None:
        go_on = threading.Event()
        async with TaskHost(max_running=2, max_threads=1) as host:
            thread = host.schedule(partial(go_on.wait, PATIENCE))
            await thread.started.wait()
            in_line = host.schedule(partial(go_on.wait, PATIENCE))
            await in_line.started.wait()
            waiting = host.schedule(anyio.sleep_forever)
            deferred = host.scope().after_route.schedule(anyio.sleep_forever)
            await turns()
            assert [task.frames() for task in (thread, in_line, waiting, deferred)] == [None] * 4
            assert waiting.status is S.WAITING
            go_on.set()
            await in_line.wait()
            pausing = host.task(retry=lambda task, error: 1000).schedule(fail)
            await until(lambda: pausing.status is S.RETRYING)
            assert pausing.frames() is None
            assert Task(fail).frames() is None

    async def test_frames_lead_to_a_thread_that_the_task_itself_uses_g17(self) -> None:
        go_on = threading.Event()

        async def use_thread() -> None:
            await anyio.to_thread.run_sync(go_on.wait, PATIENCE)

        async with TaskHost() as host:
            task = host.schedule(use_thread)
            await task.started.wait()
            await turns()
            found = names(task)
            go_on.set()
            await task
            assert found == ["use_thread"]


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Have the interpreter switch between threads all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class TestTasksOfAHost:
    async def test_tasks_are_those_that_have_not_ended_the_oldest_first_g17(self) -> None:
        async with TaskHost(max_running=2) as host:
            ended = host.schedule(anyio.lowlevel.checkpoint)
            running = host.schedule(anyio.sleep_forever)
            deferred = host.scope().after_route.schedule(anyio.sleep_forever)
            await ended
            pausing = host.task(retry=lambda task, error: 1000).schedule(fail)
            await until(lambda: pausing.status is S.RETRYING)
            starting = host.schedule(anyio.sleep_forever)
            waiting = host.schedule(anyio.sleep_forever)
            arriving: list[Task[Any]] = []
            thread = threading.Thread(target=lambda: arriving.append(host.schedule(anyio.sleep_forever)))
            thread.start()
            thread.join(PATIENCE)
            alive = (running, deferred, pausing, starting, waiting, arriving[0])
            assert [task.status for task in alive] == [
                S.RUNNING,
                S.DEFERRED,
                S.RETRYING,
                S.STARTING,
                S.WAITING,
                S.NEW,
            ]
            assert host.tasks() == alive
            assert [host.get(task.id) for task in alive] == list(alive)
            assert host.get(ended.id) is None
            assert host.get(-1) is None
        assert host.tasks() == ()
        assert host.get(running.id) is None

    async def test_a_deferred_task_is_alive_when_another_one_of_its_scope_has_left_g2_g9_g17(self) -> None:
        async with TaskHost() as host:
            scope = host.scope()
            first, second = (scope.after_response.schedule(anyio.sleep, 0) for _ in range(2))
            first.cancel()
            assert host.tasks() == (second,)
        assert second.status is S.CANCELLED

    async def test_a_host_that_is_not_open_has_no_tasks_to_tell_of_g17(self) -> None:
        host = TaskHost()
        for ask in (host.tasks, partial(host.get, 1)):
            with pytest.raises(TasksClosedError):
                ask()

    async def test_other_hosts_have_other_tasks_g17(self) -> None:
        async with TaskHost() as one, TaskHost() as two:
            task = one.schedule(anyio.sleep_forever)
            assert two.get(task.id) is None
            assert (one.tasks(), two.tasks()) == ((task,), ())

    async def test_a_task_cancelled_before_its_first_step_is_not_told_of_g17(self) -> None:
        async with TaskHost() as host:
            task = host.schedule(anyio.sleep, 0)
            assert host.tasks() == (task,)
            task.cancel()
            assert host.tasks() == ()  # its native task goes on until the next turn

    async def test_an_observer_finds_the_scheduled_task_before_it_has_a_place_g17_g20(self) -> None:
        found: list[bool] = []

        class Looking(TaskObserver):
            def scheduled(self, task: Task[Any], scope: object, /) -> None:
                found.append(task in host.tasks())

        async with TaskHost(observers=[Looking()]) as host:
            host.schedule(anyio.sleep, 0)
        assert found == [True]

    async def test_a_task_in_its_end_is_not_told_of_g17(self) -> None:
        """A handler runs, and the task has not ended; `await task` returns, and it has."""
        seen: list[bool] = []

        async def on_error(task: Task[Any], error: Exception) -> None:
            seen.append(host.get(task.id) is task)

        async with TaskHost() as host:
            task = host.task(on_error=on_error).schedule(fail)
            await task.wait()
            assert host.tasks() == ()
        assert seen == [True]

    @pytest.mark.usefixtures("restless_threads")
    @pytest.mark.parametrize("max_running", [None, 3])
    async def test_any_thread_sees_each_task_that_moves_g17(self, max_running: int | None) -> None:
        """A task that is alive all the time, wherever it moves, is in each answer."""
        done = threading.Event()
        missing: list[object] = []
        looks = 0

        def look(find: Callable[[], bool]) -> None:
            nonlocal looks
            while not done.is_set():
                if not find():
                    missing.append(find)
                looks += 1

        async def restless() -> None:
            await anyio.lowlevel.checkpoint()
            raise LookupError

        async with TaskHost(max_running=max_running) as host:
            movers = [host.task(retry=lambda task, error: 0).schedule(restless) for _ in range(4)]
            ids = {task.id for task in movers}

            def all_are_there() -> bool:
                answer = host.tasks()
                order = [task.id for task in answer]
                return ids <= set(order) and order == sorted(order)

            def each_is_there() -> bool:
                return all(host.get(task.id) is task for task in movers)

            async with anyio.create_task_group() as tg:
                tg.start_soon(anyio.to_thread.run_sync, look, all_are_there)
                tg.start_soon(anyio.to_thread.run_sync, look, each_is_there)
                while looks < 5000:
                    async with host.scope() as scope:
                        scope.after_response.schedule(anyio.lowlevel.checkpoint)
                        await anyio.lowlevel.checkpoint()
                done.set()
        assert missing == []
