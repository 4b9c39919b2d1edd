"""G2, G16, G17: the handle of a task, and ends as the user sees them."""

from __future__ import annotations

import copy
import json
import pickle
from collections import ChainMap, OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from tests.backends import turns, until

from taskphase import (
    Phase,
    Task,
    TaskCancelled,
    TaskConfig,
    TaskDropped,
    TaskFailed,
    TaskHost,
    TaskNotFinished,
    TaskStatus,
    current_task,
)

Logged = Callable[[], list[tuple[str, str]]]


async def double(number: int, *, plus: int = 0) -> int:
    await anyio.lowlevel.checkpoint()
    return 2 * number + plus


async def fail() -> None:
    raise ValueError("why")


async def test_a_handle_tells_what_it_calls_and_how_far_it_has_come_g17() -> None:
    async with TaskHost() as host:
        task = host.schedule(double, 2, plus=1)
        later = host.schedule(double, 0)
        assert (task.func, task.args, task.kwargs) == (double, (2,), {"plus": 1})
        assert (task.config, task.phase, task.name) == (TaskConfig(), Phase.IMMEDIATE, f"{__name__}.double")
        assert isinstance(task.id, int)
        assert task.id < later.id
        assert (task.status, task.attempt, task.started.is_set()) == (TaskStatus.STARTING, 0, False)
        await task.started.wait()
        assert (task.attempt, task.started.is_set()) == (1, True)
        await task.started.wait()
        await task.wait()
        await task.wait()
        assert (task.status, task.return_value, task.exception) == (TaskStatus.SUCCEEDED, 5, None)
        assert await task == 5
        assert await task == 5


async def test_the_keyword_arguments_are_a_dict_that_can_be_copied_and_sent_g17() -> None:
    handled: list[Any] = []

    async def failing(*args: int, **kwargs: int) -> None:
        raise ValueError

    async def handler(task: Task[Any], error: Exception) -> None:
        handled.append(json.loads(json.dumps(task.kwargs)))

    async with TaskHost() as host:
        for kwargs in ({}, {"plus": 1}):
            task = host.task(on_error=handler).schedule(failing, 1, **kwargs)
            assert type(task.kwargs) is dict
            assert task.kwargs is task.kwargs
            assert copy.deepcopy(task.kwargs) == pickle.loads(pickle.dumps(task.kwargs)) == kwargs
            await task.wait()
    assert handled == [{}, {"plus": 1}]


async def test_a_change_of_a_task_s_keyword_arguments_changes_no_other_task_g17() -> None:
    tasks = [Task(double, (1,)), Task(double, (1,), {}), Task(double, (1,), MappingProxyType({}))]
    assert all(type(task.kwargs) is dict for task in tasks)
    tasks[0].kwargs["plus"] = 3
    assert [task.kwargs for task in tasks] == [{"plus": 3}, {}, {}]
    assert [await task() for task in tasks] == [5, 2, 2]


async def test_any_mapping_is_taken_for_keyword_arguments_and_shown_as_a_dict_g17() -> None:
    for kwargs in (MappingProxyType({"plus": 1}), OrderedDict(plus=1), ChainMap({"plus": 1})):
        task = Task(double, (1,), kwargs)
        assert type(task.kwargs) is dict
        assert task.kwargs == kwargs
        assert await task() == 3


async def test_before_the_end_there_is_no_result_g17() -> None:
    async with TaskHost() as host:
        task = host.schedule(anyio.sleep_forever)
        for ask in (lambda: task.return_value, lambda: task.exception):
            with pytest.raises(TaskNotFinished, match="is starting"):
                ask()


async def test_a_failure_is_the_cause_of_what_awaiting_raises_g17() -> None:
    async with TaskHost() as host:
        task = host.schedule(fail)
        with pytest.raises(TaskFailed, match=r"test_task\.fail' failed") as caught:
            await task
        assert isinstance(caught.value.__cause__, ValueError)
        assert task.exception is caught.value.__cause__
        assert not isinstance(caught.value, TaskCancelled)


async def test_many_may_wait_for_a_task_and_no_wait_cancels_the_task_g17() -> None:
    async def wait() -> None:
        results.append(await task)

    results: list[None] = []
    release = anyio.Event()
    async with TaskHost() as host:
        task = host.schedule(release.wait)
        async with anyio.create_task_group() as tg:
            tg.start_soon(wait)
            tg.start_soon(wait)
            with anyio.move_on_after(0):
                await task
            await turns()
            assert task.status is TaskStatus.RUNNING
            release.set()
    assert results == [None, None]


async def test_many_may_wait_for_the_start_of_a_task_g17() -> None:
    async with TaskHost(max_running=1) as host, anyio.create_task_group() as tg:
        first = host.schedule(anyio.sleep_forever)
        second = host.schedule(anyio.sleep, 0)
        for _ in range(2):
            tg.start_soon(second.started.wait)
        await turns()
        first.cancel()


async def test_waiting_for_an_ended_task_is_a_checkpoint_g17() -> None:
    async with TaskHost() as host:
        task = host.schedule(double, 1)
        await task
        for wait in (task.wait, task.started.wait):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await wait()
            assert scope.cancelled_caught


class TestCancel:
    async def test_a_running_task_unwinds_g17(self, logged: Logged) -> None:
        left = False

        async def run() -> None:
            nonlocal left
            try:
                await anyio.sleep_forever()
            finally:
                left = True

        async with TaskHost() as host:
            task = host.schedule(run)
            await task.started.wait()
            task.cancel()
            task.cancel()
            assert task.status is TaskStatus.CANCELLING
            with pytest.raises(TaskCancelled, match="was cancelled"):
                await task
            task.cancel()
            assert (task.status, left) == (TaskStatus.CANCELLED, True)
            for ask in (lambda: task.return_value, lambda: task.exception):
                with pytest.raises(TaskCancelled):
                    ask()
        assert logged() == []

    async def test_a_task_that_has_not_begun_never_does_g17(self) -> None:
        async with TaskHost() as host:
            task = host.schedule(anyio.sleep_forever)
            task.cancel()
            assert (task.status, task.attempt) == (TaskStatus.CANCELLED, 0)
            with pytest.raises(TaskCancelled):
                await task.started.wait()
            await until(lambda: host.running == 0)
            assert task.attempt == 0

    async def test_a_wait_for_a_start_that_never_comes_raises_g17(self) -> None:
        async def wait() -> None:
            with pytest.raises(TaskCancelled):
                await task.started.wait()
            heard.set()

        heard = anyio.Event()
        async with TaskHost() as host, host.scope() as tasks, anyio.create_task_group() as tg:
            task = tasks.after_response.schedule(anyio.sleep_forever)
            tg.start_soon(wait)
            await turns()
            task.cancel()
            await heard.wait()

    async def test_a_task_may_cancel_itself_g17(self) -> None:
        async def run() -> None:
            current_task().cancel()
            await anyio.lowlevel.checkpoint()

        async with TaskHost() as host:
            with pytest.raises(TaskCancelled):
                await host.schedule(run)

    async def test_what_swallows_the_request_ends_as_it_ends_g2(self) -> None:
        async def run() -> str:
            with anyio.CancelScope(shield=True):
                await asked.wait()
            return "all the same"

        asked = anyio.Event()
        async with TaskHost() as host:
            task = host.schedule(run)
            await task.started.wait()
            task.cancel()
            asked.set()
            assert await task == "all the same"

    async def test_an_exception_while_unwinding_is_a_failure_and_the_handler_hears_of_it_g2_g4(self) -> None:
        async def run() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("cleaning up")

        async def handler(task: Task[object], error: Exception) -> None:
            heard.append(str(error))
            await anyio.lowlevel.checkpoint()  # a checkpoint inside the task's cancelled scope
            heard.append("never")

        heard: list[str] = []
        async with TaskHost() as host:
            task = host.task(on_error=handler).schedule(run)
            await task.started.wait()
            task.cancel()
            await task.wait()
        assert task.status is TaskStatus.FAILED
        assert heard == ["cleaning up"]

    async def test_a_thread_can_cancel_a_task_g17(self) -> None:
        async with TaskHost() as host:
            task = host.schedule(anyio.sleep_forever)
            await anyio.to_thread.run_sync(task.cancel)
            with pytest.raises(TaskCancelled):
                await task

    async def test_a_waiting_task_gives_its_place_up_g15_g17(self) -> None:
        async with TaskHost(max_running=1) as host:
            first, second, third = (host.schedule(anyio.sleep_forever) for _ in range(3))
            second.cancel()
            assert (second.status, host.waiting) == (TaskStatus.CANCELLED, 1)
            first.cancel()
            await third.started.wait()
            assert host.waiting == 0

    async def test_a_task_made_by_hand_can_be_cancelled_before_anybody_takes_it(self) -> None:
        task = Task(double, (1,))
        task.cancel()
        assert task.status is TaskStatus.CANCELLED
        with pytest.raises(RuntimeError, match="cancelled already"):
            await task()


async def test_a_dropped_task_says_so_g17() -> None:
    async with TaskHost() as host:
        async with host.scope() as tasks:
            task = tasks.after_route.task(when="failure").schedule(double, 1)
        assert task.status is TaskStatus.DROPPED
        with pytest.raises(TaskDropped, match="never ran"):
            await task
        with pytest.raises(TaskDropped):
            await task.started.wait()
        with pytest.raises(TaskDropped):
            task.exception  # noqa: B018


class TestInline:
    async def test_a_call_of_the_task_runs_here_and_returns_the_function_s_result_g17(self) -> None:
        assert await Task(func=double, args=(2,), kwargs={"plus": 1})() == 5
        assert await Task(lambda: 7)() == 7

    async def test_a_call_of_the_task_fails_as_in_a_host_g17(self, logged: Logged) -> None:
        task = Task(fail, config=TaskConfig(name="inline"))
        with pytest.raises(TaskFailed) as caught:
            await task()
        assert isinstance(caught.value.__cause__, ValueError)
        assert logged() == [("ERROR", "task 'inline' failed in attempt 1")]

    async def test_handlers_retries_and_timeouts_work_g16_g17(self) -> None:
        async def flaky() -> int:
            if current_task().attempt < 3:
                await anyio.sleep_forever()
            return current_task().attempt

        config = TaskConfig(timeout=0.01, retry=lambda task, error: 0)
        assert await Task(flaky, config=config)() == 3

    async def test_a_task_runs_once_g1(self) -> None:
        task = Task(double, (1,))
        await task()
        with pytest.raises(RuntimeError, match="succeeded already"):
            await task()
        async with TaskHost() as host:
            scheduled = host.schedule(double, 1)
            with pytest.raises(RuntimeError, match="only a new one"):
                await scheduled()


async def test_a_repr_names_the_task_and_shows_no_arguments_g4() -> None:
    async def log_in(password: str) -> None: ...

    task = Task(log_in, ("s3cret",), {}, TaskConfig(name="log in"))
    assert repr(task) == f"<Task {task.id} log in immediate new>"


def test_a_wrong_call_is_refused_when_the_task_is_made_g7() -> None:
    with pytest.raises(TypeError, match="cannot be called like this"):
        Task(double)
    with pytest.raises(TypeError, match="expected a callable"):
        Task(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="args must be a tuple, not str"):
        Task(print, "ab")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config must be a TaskConfig, not dict"):
        Task(print, config={"timeout": 5})  # type: ignore[arg-type]
