"""G4, G6, G7, G16: one attempt of a task: errors, context, kinds of functions, timeouts."""

from __future__ import annotations

import gc
import logging
import traceback
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.backends import turns

from taskphase import Task, TaskHost, TaskStatus, current_task

Logged = Callable[[], list[tuple[str, str]]]

SHORT = 0.02

VAR: ContextVar[str] = ContextVar("VAR", default="unset")


async def fail(message: str = "task") -> None:
    raise ValueError(message)


class TestFunctions:
    async def test_any_callable_runs_as_what_it_is_g7(self) -> None:
        class Sync:
            def __call__(self, number: int) -> int:
                return number + 1

        class Async:
            async def __call__(self, number: int) -> int:
                return number + 1

            async def method(self, number: int) -> int:
                return number + 1

        async def plain(number: int, *, plus: int = 1) -> int:
            return number + plus

        def returns_coroutine(number: int) -> Any:
            return plain(number)

        async with TaskHost() as host:
            for func in (
                Sync(),
                Async(),
                Async().method,
                plain,
                partial(plain, plus=1),
                partial(Async()),
                lambda number: number + 1,
                lambda number: plain(number),
                returns_coroutine,
            ):
                assert await host.schedule(func, 1) == 2

    async def test_an_argument_may_be_called_func_or_self_g7(self) -> None:
        async def takes(func: int, self: int, name: int) -> tuple[int, int, int]:
            return func, self, name

        async with TaskHost() as host:
            assert await host.schedule(takes, func=1, self=2, name=3) == (1, 2, 3)  # type: ignore[misc]


class TestErrors:
    async def test_a_final_failure_is_logged_once_with_its_traceback_and_without_arguments_g4(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def log_in(password: str) -> None:
            raise LookupError("no such user")

        async with TaskHost() as host:
            task = host.schedule(log_in, "s3cret")
            await task.wait()
        (record,) = [record for record in caplog.records if record.name == "taskphase"]
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert record.exc_info[1] is task.exception
        assert "log_in" in record.getMessage()
        assert "s3cret" not in caplog.text
        assert "in log_in" in caplog.text  # the traceback

    @pytest.mark.parametrize("kind", ["sync", "async"])
    async def test_the_handler_is_called_with_the_task_and_its_exception_g4(self, kind: str, logged: Logged) -> None:
        def handle(task: Task[Any], error: Exception) -> None:
            calls.append((task, error, current_task(), task.status))

        async def handle_async(task: Task[Any], error: Exception) -> None:
            handle(task, error)

        calls: list[tuple[Any, ...]] = []
        async with TaskHost() as host:
            task = host.task(name="t", on_error=handle if kind == "sync" else handle_async).schedule(fail)
            await task.wait()
        assert calls == [(task, task.exception, task, TaskStatus.HANDLING)]
        assert task.status is TaskStatus.FAILED
        assert logged() == [("ERROR", "task 't' failed in attempt 1")]

    async def test_a_raising_handler_leaves_both_exceptions_in_the_log_and_the_task_failed_g4(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def handle(task: Task[Any], error: Exception) -> None:
            raise LookupError("handler")

        async with TaskHost() as host:
            task = host.task(on_error=handle).schedule(fail)
            await task.wait()
        logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
        assert [type(error) for error in logged] == [LookupError, ValueError]
        assert task.exception is logged[1]

    async def test_the_handler_sees_the_context_of_its_task_g4_g6(self) -> None:
        async def set_and_fail() -> None:
            VAR.set("set by the task")
            raise ValueError

        def handle(task: Task[Any], error: Exception) -> None:
            seen.append(VAR.get())

        seen: list[str] = []
        async with TaskHost() as host:
            await host.task(on_error=handle).schedule(set_and_fail).wait()
        assert seen == ["set by the task"]

    async def test_failures_are_logged_inside_the_context_of_the_task_g4(self) -> None:
        class Recorder(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append((record.levelname, VAR.get()))

        seen: list[tuple[str, str]] = []
        recorder = Recorder()
        logging.getLogger("taskphase").addHandler(recorder)
        try:
            async with TaskHost() as host:
                with pytest.raises(LookupError):
                    async with host.scope() as tasks:
                        VAR.set("request 1")
                        failing = tasks.schedule(fail)
                        tasks.after_route.schedule(fail)
                        VAR.set("unset")
                        raise LookupError
                await failing.wait()
        finally:
            logging.getLogger("taskphase").removeHandler(recorder)
        assert sorted(seen) == [("ERROR", "request 1"), ("WARNING", "request 1")]

    async def test_a_log_handler_that_raises_decides_nothing_g3(self, capsys: pytest.CaptureFixture[str]) -> None:
        def refuse(record: logging.LogRecord) -> bool:
            raise RuntimeError("filter")

        logging.getLogger("taskphase").addFilter(refuse)
        try:
            async with TaskHost() as host:
                task = host.schedule(fail)
                await task.wait()
        finally:
            logging.getLogger("taskphase").removeFilter(refuse)
        assert task.status is TaskStatus.FAILED
        assert "RuntimeError: filter" in capsys.readouterr().err

    async def test_what_is_no_exception_goes_to_no_handler_and_is_contained_g3_g4(self, logged: Logged) -> None:
        def handle(task: Task[Any], error: Exception) -> None:
            called.append(error)

        async def leave() -> None:
            raise SystemExit(3)

        called: list[Exception] = []
        async with TaskHost() as host:
            task = host.task(name="t", on_error=handle).schedule(leave)
            await task.wait()
        assert isinstance(task.exception, SystemExit)
        assert called == []
        assert logged() == [("ERROR", "task 't' failed in attempt 1")]

    async def test_a_group_of_exceptions_is_a_failure_like_any_other_g4(self) -> None:
        async def many() -> None:
            async with anyio.create_task_group() as tg:
                tg.start_soon(fail)
                tg.start_soon(fail)

        def handle(task: Task[Any], error: Exception) -> None:
            called.append(type(error))

        called: list[type[Exception]] = []
        async with TaskHost() as host:
            await host.task(on_error=handle).schedule(many).wait()
        assert called == [ExceptionGroup]

    async def test_errors_of_child_tasks_during_a_cancellation_are_a_failure_g2(self) -> None:
        async def stubborn() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError

        async def parent() -> None:
            async with anyio.create_task_group() as tg:
                tg.start_soon(stubborn)

        async with TaskHost() as host:
            task = host.schedule(parent)
            await task.started.wait()
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            task.cancel()
            await task.wait()
        assert task.status is TaskStatus.FAILED


class TestContext:
    async def test_a_task_sees_the_variables_as_they_were_at_schedule_in_every_phase_g6(self) -> None:
        async def look() -> str:
            return VAR.get()

        async with TaskHost(max_running=1) as host:
            async with host.scope() as tasks:
                VAR.set("early")
                seen = [
                    tasks.schedule(look),
                    tasks.schedule(VAR.get),
                    tasks.after_route.schedule(look),
                    tasks.after_response.schedule(VAR.get),
                    host.schedule(look),
                ]
                VAR.set("late")
            assert [await task for task in seen] == ["early"] * 5

    async def test_what_a_task_sets_nobody_else_sees_g6(self) -> None:
        async def set_it(value: str) -> str:
            before = VAR.get()
            VAR.set(value)
            await anyio.lowlevel.checkpoint()
            assert VAR.get() == value
            return before

        def set_in_thread(value: str) -> str:
            before = VAR.get()
            VAR.set(value)
            return before

        VAR.set("body")
        async with TaskHost() as host:
            tasks = [host.schedule(set_it, str(n)) for n in range(3)]
            tasks += [host.schedule(set_in_thread, str(n)) for n in range(3)]
            assert [await task for task in tasks] == ["body"] * 6
        assert VAR.get() == "body"

    async def test_every_attempt_sees_the_variables_as_they_were_at_schedule_g6_g16(self) -> None:
        async def look_and_fail() -> None:
            seen.append(VAR.get())
            VAR.set("set by an attempt")
            if current_task().attempt < 3:
                raise ValueError

        seen: list[str] = []
        VAR.set("body")
        async with TaskHost() as host:
            task = host.task(retry=lambda task, error: 0).schedule(look_and_fail)
            VAR.set("later")
            await task
        assert seen == ["body"] * 3

    async def test_a_task_from_a_thread_sees_the_variables_of_the_thread_s_call_g6_g8(self) -> None:
        def in_thread() -> Task[str]:
            VAR.set("thread")
            task = host.schedule(VAR.get)
            VAR.set("later")
            return task

        async with TaskHost() as host:
            task = await anyio.to_thread.run_sync(in_thread)
            assert await task == "thread"


class TestTimeout:
    async def test_after_timeout_the_handler_gets_a_timeout_error_g16(self) -> None:
        def handle(task: Task[Any], error: Exception) -> None:
            heard.append(error)

        heard: list[Exception] = []
        async with TaskHost() as host:
            task = host.task(timeout=SHORT, on_error=handle).schedule(anyio.sleep_forever)
            await task.wait()
        assert isinstance(task.exception, TimeoutError)
        assert heard == [task.exception]
        assert str(task.exception) == "timed out after 0.02 seconds"

    async def test_the_traceback_of_a_timeout_shows_where_the_time_has_gone_g16(self) -> None:
        async def query() -> None:
            await anyio.sleep_forever()

        async def report() -> None:
            await query()

        async with TaskHost() as host:
            task = host.task(timeout=SHORT).schedule(report)
            await task.wait()
        assert task.exception is not None
        assert task.exception.__cause__ is not None
        frames = traceback.extract_tb(task.exception.__cause__.__traceback__)
        assert [frame.name for frame in frames if frame.filename == __file__] == ["report", "query"]

    async def test_a_timeout_in_a_group_has_a_cause_too_g16(self) -> None:
        async def query() -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as exc:
                raise BaseExceptionGroup("as a nursery of trio does", [exc]) from None

        async with TaskHost() as host:
            task = host.task(timeout=SHORT).schedule(query)
            await task.wait()
        assert isinstance(task.exception, TimeoutError)
        assert isinstance(task.exception.__cause__, BaseExceptionGroup)

    async def test_a_cancelled_task_that_had_a_timeout_leaves_no_cycle_g2(self) -> None:
        class Local:
            pass

        async def work() -> None:
            local = Local()
            locals_of_tasks.append(weakref.ref(local))
            await anyio.sleep_forever()

        locals_of_tasks: list[weakref.ref[Local]] = []
        gc.disable()
        try:
            async with TaskHost() as host:
                host.task(timeout=60).schedule(work)
                while not locals_of_tasks:
                    await anyio.lowlevel.checkpoint()
            await turns()
            assert locals_of_tasks[0]() is None
        finally:
            gc.enable()

    async def test_in_time_nothing_happens_g16(self) -> None:
        async def work() -> str:
            await anyio.lowlevel.checkpoint()
            return "done"

        async with TaskHost() as host:
            assert await host.task(timeout=60).schedule(work) == "done"
            assert await host.task(timeout=60).schedule(lambda: "done") == "done"
            assert await host.task(timeout=60).schedule(lambda: work()) == "done"

    async def test_a_timeout_error_of_the_task_s_own_is_its_own_g16(self) -> None:
        async def work() -> None:
            raise TimeoutError("mine")

        async with TaskHost() as host:
            task = host.task(timeout=60).schedule(work)
            await task.wait()
        assert str(task.exception) == "mine"

    async def test_each_attempt_has_its_own_g16(self) -> None:
        async def work() -> int:
            if current_task().attempt < 3:
                await anyio.sleep_forever()
            return current_task().attempt

        async with TaskHost() as host:
            task = host.task(timeout=SHORT, retry=lambda task, error: 0).schedule(work)
            assert await task == 3

    async def test_a_cancelled_task_has_not_timed_out_g16(self) -> None:
        async with TaskHost() as host:
            task = host.task(timeout=60).schedule(anyio.sleep_forever)
        assert task.status is TaskStatus.CANCELLED
