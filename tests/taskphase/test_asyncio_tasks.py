"""G1, G2, G4: asyncio only: names of native tasks, task factories and eager tasks."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from tests.backends import native_cancel_only, turns, until

from taskphase import Task, TaskHost, TaskStatus, retry

S = TaskStatus
pytestmark = native_cancel_only


async def send_mail() -> None:
    await checkpoint()


class Mailer:
    async def send(self) -> None:
        await checkpoint()

    async def __call__(self) -> None:
        await checkpoint()


CALLABLES: list[tuple[Callable[..., Any], str]] = [
    (send_mail, "send_mail"),
    (partial(send_mail), "send_mail"),
    (Mailer().send, "Mailer.send"),
    (Mailer(), "Mailer"),
]


class TestNames:
    @pytest.mark.parametrize(("function", "name"), CALLABLES)
    async def test_a_task_factory_sees_the_name_of_the_function_g4(
        self, function: Callable[..., Any], name: str
    ) -> None:
        names: list[str] = []

        def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            names.append(coro.__qualname__)
            return asyncio.Task(coro, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(make)  # type: ignore[arg-type]
        try:
            async with TaskHost() as host:
                names.clear()
                await host.schedule(function)
                assert names == [name]
                await host.task(retry=retry(attempts=2)).schedule(function)
                assert names == [name, name]
        finally:
            asyncio.get_running_loop().set_task_factory(None)

    @pytest.mark.parametrize(("function", "name"), CALLABLES)
    async def test_all_tasks_shows_the_name_of_the_function_g4(self, function: Callable[..., Any], name: str) -> None:
        async with TaskHost() as host:
            task = host.schedule(function)
            await task.started.wait()
            natives = [each for each in asyncio.all_tasks() if each.get_name() == task.name]
            assert [getattr(each.get_coro(), "__qualname__", "") for each in natives] == [name]

    async def test_the_debug_mode_tells_of_a_slow_task_by_its_function_g4(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def block() -> None:
            time.sleep(0.02)  # slow code for asyncio to report

        async def slow() -> None:
            await checkpoint()  # since Python 3.12 one callback without their names takes several first steps
            block()

        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.01
        caplog.set_level(logging.WARNING, logger="asyncio")
        try:
            async with TaskHost() as host:
                await host.schedule(slow)
                await turns()
        finally:
            loop.set_debug(False)
        told = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
        if told:  # uvloop reports nothing
            assert any("slow" in message for message in told)
            assert not any("attempt(" in message for message in told)


EAGER: Any = getattr(asyncio, "eager_task_factory", None)
needs_eager_tasks = pytest.mark.skipif(EAGER is None, reason="no eager tasks before Python 3.12")


def wrapped(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """A task factory around the eager one, as some tools install it."""
    options.pop("eager_start", None)  # an argument of uvloop that the eager factory of Python 3.13 does not accept
    task: asyncio.Task[Any] = EAGER(loop, coro, **options)
    return task


@needs_eager_tasks
class TestEagerFactories:
    """anyio's own task groups do not work with a wrapped factory, so the host is opened before."""

    @pytest.mark.parametrize("max_running", [None, 1])
    async def test_under_a_wrapped_eager_factory_no_task_runs_inside_schedule_g1_g2(
        self, max_running: int | None
    ) -> None:
        ran: list[int] = []

        async def work(number: int) -> int:
            ran.append(number)
            await asyncio.sleep(0)
            return number

        async def fail() -> None:
            raise ValueError

        loop = asyncio.get_running_loop()
        async with TaskHost(max_running=max_running) as host:
            loop.set_task_factory(wrapped)  # type: ignore[arg-type]
            try:
                tasks = [host.schedule(work, number) for number in range(3)]
                assert ran == []
                cancelled = host.schedule(work, 99)
                cancelled.cancel()
                again = host.task(retry=retry(attempts=2, backoff=0)).schedule(fail)
                await until(lambda: again.status is S.FAILED)
                assert [task.return_value for task in tasks] == ran == [0, 1, 2]
                assert (cancelled.status, again.attempt, host.running) == (S.CANCELLED, 2, 0)
            finally:
                loop.set_task_factory(None)

    async def test_an_eager_factory_of_another_class_makes_tasks_of_that_class_g3(self) -> None:
        class Mine(asyncio.Task[Any]):
            pass

        async def work() -> type:
            return type(asyncio.current_task())

        def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            options.pop("eager_start", None)  # as in `wrapped()`
            task: asyncio.Task[Any] = factory(loop, coro, **options)
            return task

        factory: Any = getattr(asyncio, "create_eager_task_factory")(Mine)  # noqa: B009 - Python 3.11 has none
        loop = asyncio.get_running_loop()
        async with TaskHost() as host:
            loop.set_task_factory(factory if isinstance(loop, asyncio.BaseEventLoop) else make)  # type: ignore[arg-type]
            try:
                assert await host.schedule(work) is Mine
            finally:
                loop.set_task_factory(None)

    async def test_a_task_that_is_cancelled_inside_schedule_of_an_eager_factory_ends_g2(self) -> None:

        def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            task = wrapped(loop, coro, **options)
            task.cancel()
            return task

        loop = asyncio.get_running_loop()
        async with TaskHost() as host:
            loop.set_task_factory(make)  # type: ignore[arg-type]
            task = host.schedule(send_mail)
            loop.set_task_factory(None)
            await until(lambda: host.running == 0)
        assert task.status is S.CANCELLED


class TestALoopThatIsReentered:
    async def test_a_first_step_may_run_the_steps_behind_it_g1_g2(self) -> None:
        """Some libraries let a running loop run again. Here a first step does the same."""
        ran: list[str] = []
        tasks: list[Task[Any]] = []

        async def reenter() -> None:
            ran.append("first")
            seam = host._runner.seam
            if sys.version_info >= (3, 12) and getattr(seam, "_can_step", False):
                this = asyncio.current_task()
                loop = asyncio.get_running_loop()
                asyncio.tasks._leave_task(loop, this)  # type: ignore[attr-defined]
                seam._step_in_turn()  # type: ignore[attr-defined]
                asyncio.tasks._enter_task(loop, this)  # type: ignore[attr-defined]
            ran.append("first again")

        async def note(name: str) -> None:
            ran.append(name)

        async with TaskHost() as host:
            tasks.append(host.schedule(reenter))
            tasks += [host.schedule(note, str(number)) for number in range(3)]
            await host._runner.seam.first_steps()
            await until(lambda: host.running == 0)
        assert {task.status for task in tasks} == {S.SUCCEEDED}
        assert sorted(ran) == sorted(["first", "first again", "0", "1", "2"])
        assert [name for name in ran if name.isdigit()] == ["0", "1", "2"]
