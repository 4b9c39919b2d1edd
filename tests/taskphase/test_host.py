"""G2, G3, G9, G14: ends, isolation, shield and drain, scheduling from anywhere."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from tests.backends import native_cancel_only, turns, until

from taskphase import (
    NoCurrentError,
    Task,
    TaskConfig,
    TaskHost,
    TasksClosedError,
    TaskStatus,
    current_host,
    current_task,
)
from taskphase._drive import enclosing

Logged = Callable[[], list[tuple[str, str]]]

SHORT = 0.05  # seconds that a test waits on purpose


class Journal(list[str]):
    async def forever(self, name: str = "forever") -> None:
        self.append(f"{name} began")
        try:
            await anyio.sleep_forever()
        finally:
            self.append(f"{name} left")

    async def until(self, event: anyio.Event, name: str = "until") -> None:
        await event.wait()
        self.append(name)

    async def add(self, name: str) -> None:
        self.append(name)


@pytest.fixture
def journal() -> Journal:
    return Journal()


class TestEnds:
    async def test_nothing_is_alive_when_the_host_has_closed_g2(self, journal: Journal) -> None:
        async with TaskHost() as host:
            tasks = [host.schedule(journal.forever, str(n)) for n in range(5)]
            tasks += [host.schedule(anyio.sleep, 0), host.task(shield=True).schedule(anyio.sleep, 0.01)]
            await turns()
        assert [task.status for task in tasks] == [TaskStatus.CANCELLED] * 5 + [TaskStatus.SUCCEEDED] * 2
        assert sorted(journal) == sorted(f"{n} {what}" for n in range(5) for what in ("began", "left"))
        assert (host.running, host.waiting, host.deferred) == (0, 0, 0)

    async def test_no_native_task_outlives_the_host_g2(self, backend_name: str) -> None:
        def alive() -> int:
            if backend_name == "asyncio":
                return len(asyncio.all_tasks())
            import trio

            return trio.lowlevel.current_statistics().tasks_living

        before = alive()
        async with TaskHost() as host:
            for _ in range(5):
                host.schedule(anyio.sleep_forever)
            host.schedule(time.sleep, 0)
            await checkpoint()
        assert alive() == before

    async def test_a_task_that_nobody_holds_is_not_collected_g2(self, journal: Journal) -> None:
        async with TaskHost() as host:
            host.schedule(journal.forever)  # only the waiting task refers to its future
            await turns()
            gc.collect()
            await turns()
            assert (journal, host.running) == (["forever began"], 1)

    async def test_ended_tasks_are_not_kept_g2(self) -> None:
        class Argument:
            pass

        import weakref

        argument = Argument()
        gone = weakref.ref(argument)

        async def use(it: Argument) -> None: ...

        async with TaskHost() as host:
            await host.schedule(use, argument)
            await host.schedule(lambda it: None, argument)
            async with host.scope() as tasks:
                deferred = tasks.after_route.schedule(use, argument)
            await deferred
            del argument, deferred
            # The thread of a sync task forgets the task a moment after the task has ended.
            await until(lambda: gc.collect() >= 0 and gone() is None)


class TestIsolation:
    async def test_whatever_becomes_of_a_task_the_others_and_the_body_go_on_g3(self, logged: Logged) -> None:
        async def fail(error: BaseException) -> None:
            raise error

        async def bad_handler(task: Task[Any], error: Exception) -> None:
            raise LookupError("handler")

        async def cancel_me() -> None:
            current_task().cancel()
            await checkpoint()

        done = anyio.Event()
        async with TaskHost() as host:
            other = host.schedule(done.wait)
            failed = [
                host.schedule(fail, ValueError("plain")),
                host.task(on_error=bad_handler).schedule(fail, ValueError("handled badly")),
                host.schedule(fail, SystemExit(1)),
                host.schedule(fail, BaseExceptionGroup("", [SystemExit(), ValueError()])),
                host.task(timeout=0).schedule(anyio.sleep_forever),
            ]
            cancelled = host.schedule(cancel_me)
            for task in (*failed, cancelled):
                await task.wait()
            assert other.status is TaskStatus.RUNNING
            done.set()
            await other
            assert await host.schedule(anyio.sleep, 0) is None
        assert [task.status for task in failed] == [TaskStatus.FAILED] * 5
        assert cancelled.status is TaskStatus.CANCELLED
        assert [level for level, _ in logged()] == ["ERROR"] * 6

    async def test_an_exception_of_the_body_leaves_it_bare_and_the_host_drained_g3(self, journal: Journal) -> None:
        with pytest.raises(ValueError, match="mine"):
            async with TaskHost() as host:
                host.schedule(journal.forever)
                await turns()
                raise ValueError("mine")
        assert journal == ["forever began", "forever left"]

    async def test_an_exception_in_the_plain_group_spares_tasks_and_the_group_works_on_g3(
        self, logged: Logged, journal: Journal
    ) -> None:
        async def fail() -> None:
            raise ValueError

        async with TaskHost() as host:
            own = host.schedule(anyio.sleep_forever)
            group = host.tg
            group.start_soon(journal.forever)
            group.start_soon(fail)
            await turns()
            assert journal == ["forever began", "forever left"]
            group.start_soon(journal.add, "again")
            await turns()
            assert (journal[2:], own.status) == (["again"], TaskStatus.RUNNING)
        assert [level for level, _ in logged()] == ["ERROR", "WARNING"]


class TestDrain:
    async def test_the_unshielded_are_cancelled_and_the_shielded_end_by_themselves_g9(
        self, journal: Journal, logged: Logged
    ) -> None:
        async with TaskHost() as host:
            host.task(name="plain").schedule(journal.forever, "plain")
            host.task(name="plain").schedule(journal.forever, "plain")
            shielded = host.task(name="saved", shield=True).schedule(anyio.sleep, SHORT)
            await turns()
        assert journal == ["plain began", "plain began", "plain left", "plain left"]
        assert shielded.status is TaskStatus.SUCCEEDED
        assert logged() == [
            ("INFO", "closing the task host: waiting for 1: saved"),
            ("WARNING", "closing the task host: 2 cancelled: plain (2)"),
        ]

    async def test_within_drain_timeout_everything_may_end_by_itself_g9(self, logged: Logged) -> None:
        async with TaskHost(drain_timeout=15) as host:
            task = host.schedule(anyio.sleep, SHORT)
            host.tg.start_soon(anyio.sleep, SHORT / 2)  # stage 1 waits for tasks only
        assert task.status is TaskStatus.SUCCEEDED
        assert logged() == []

    async def test_after_drain_timeout_the_rest_is_cancelled_g9(self) -> None:
        start = anyio.current_time()
        async with TaskHost(drain_timeout=SHORT) as host:
            task = host.schedule(anyio.sleep_forever)
        assert task.status is TaskStatus.CANCELLED
        assert anyio.current_time() - start >= SHORT

    async def test_after_shield_timeout_the_shielded_are_cancelled_too_and_named_g9(self, logged: Logged) -> None:
        async with TaskHost(shield_timeout=SHORT) as host:
            task = host.task(shield=True, name="stubborn").schedule(anyio.sleep_forever)
        assert task.status is TaskStatus.CANCELLED
        assert logged() == [
            ("INFO", "closing the task host: waiting for 1: stubborn"),
            ("WARNING", "closing the task host: 1 cancelled: stubborn"),
        ]

    async def test_each_stage_of_the_drain_admits_the_tasks_of_the_contract_g9(self, journal: Journal) -> None:
        async def in_grace() -> None:
            await closing.wait()
            host.schedule(journal.add, "from the unshielded in grace")
            await anyio.sleep_forever()

        async def in_shielded() -> None:
            await unshielded_cancelled.wait()
            host.schedule(journal.add, "from the shielded")
            try:
                await anyio.sleep_forever()
            finally:
                with pytest.raises(TasksClosedError):
                    host.schedule(journal.add, "in forced")
                journal.append("refused in forced")

        async def cancelled_one() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with pytest.raises(TasksClosedError):
                    host.schedule(journal.add, "from the unshielded")
                journal.append("refused to the unshielded")
                unshielded_cancelled.set()

        closing, unshielded_cancelled = anyio.Event(), anyio.Event()
        async with TaskHost(drain_timeout=SHORT, shield_timeout=10 * SHORT) as host:
            host.schedule(in_grace)
            host.schedule(cancelled_one)
            host.task(shield=True).schedule(in_shielded)
            async with anyio.create_task_group() as tg:
                tg.start_soon(host.aclose)
                await turns()
                closing.set()
        assert journal == [
            "from the unshielded in grace",
            "refused to the unshielded",
            "from the shielded",
            "refused in forced",
        ]
        with pytest.raises(TasksClosedError, match="closed"):
            host.schedule(journal.add, "too late")

    async def test_a_shield_of_the_user_s_own_holds_g9(self, journal: Journal) -> None:
        async def careful() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(SHORT)
                journal.append("kept")
            await checkpoint()
            journal.append("never")

        async with TaskHost() as host:
            host.schedule(careful)
            await turns()
        assert journal == ["kept"]

    async def test_cancellation_comes_back_at_each_checkpoint_g9(self, journal: Journal) -> None:
        async def swallow() -> None:
            for number in range(3):
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    journal.append(f"swallowed {number}")

        async with TaskHost() as host:
            task = host.schedule(swallow)
            await turns()
        assert journal == ["swallowed 0", "swallowed 1", "swallowed 2"]
        assert task.status is TaskStatus.SUCCEEDED

    async def test_cancelling_the_body_drains_it_in_the_same_way_g9(self, journal: Journal) -> None:
        with anyio.CancelScope() as cancel_scope:
            async with TaskHost(drain_timeout=SHORT) as host:
                in_time = host.schedule(anyio.sleep, SHORT / 10)
                plain = host.schedule(anyio.sleep_forever)
                shielded = host.task(shield=True).schedule(anyio.sleep, SHORT * 2)
                cancel_scope.cancel()
                await checkpoint()
        assert cancel_scope.cancelled_caught
        assert [task.status for task in (in_time, plain, shielded)] == [
            TaskStatus.SUCCEEDED,
            TaskStatus.CANCELLED,
            TaskStatus.SUCCEEDED,
        ]

    @native_cancel_only
    async def test_asyncio_s_own_cancel_drains_it_in_the_same_way_however_often_g9(self) -> None:
        """A `Task.cancel()` ignores shields. It is delivered once for each call, anywhere in the task."""
        statuses: list[TaskStatus] = []

        async def main() -> None:
            try:
                async with TaskHost(drain_timeout=SHORT) as host:
                    ends = [
                        host.schedule(anyio.sleep, SHORT / 10),
                        host.task(shield=True).schedule(anyio.sleep, SHORT * 2),
                    ]
                    opened.set()
                    await anyio.sleep_forever()
            finally:
                statuses.extend(task.status for task in ends)

        opened = anyio.Event()
        native = asyncio.ensure_future(main())
        await opened.wait()
        for _ in range(3):
            native.cancel()
            await turns()
        with pytest.raises(asyncio.CancelledError):
            await native
        assert statuses == [TaskStatus.SUCCEEDED] * 2

    async def test_handlers_of_the_shielded_are_waited_for_g9(self, journal: Journal) -> None:
        async def fail() -> None:
            await cancelled.wait()
            raise ValueError

        async def handler(task: Task[Any], error: Exception) -> None:
            await anyio.sleep(SHORT)
            journal.append("handled")

        async def tell() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        cancelled = anyio.Event()
        async with TaskHost() as host:
            host.task(shield=True, on_error=handler).schedule(fail)
            host.schedule(tell)
            await turns()
        assert journal == ["handled"]

    async def test_the_drain_cancels_the_handler_of_an_unshielded_failed_task_g4_g9(self, journal: Journal) -> None:
        async def fail() -> None:
            raise ValueError

        async def handler(task: Task[Any], error: Exception) -> None:
            await journal.forever("handler")

        async with TaskHost() as host:
            task = host.task(on_error=handler).schedule(fail)
            await turns()
            assert task.status is TaskStatus.HANDLING
        assert journal == ["handler began", "handler left"]
        assert isinstance(task.exception, ValueError)

    async def test_the_drain_cancels_deferred_tasks_but_the_shielded_get_their_phase_g9(self) -> None:
        async with TaskHost() as host:
            scope = host.scope()
            plain = scope.after_response.schedule(anyio.sleep, 0)
            shielded = scope.task(shield=True).after_response.schedule(anyio.sleep, 0)
            async with anyio.create_task_group() as tg:
                tg.start_soon(host.aclose)
                await turns()
                assert (plain.status, shielded.status) == (TaskStatus.CANCELLED, TaskStatus.DEFERRED)
                scope.end()
        assert shielded.status is TaskStatus.SUCCEEDED

    async def test_the_drain_cancels_waiting_tasks_but_the_shielded_get_their_slot_g9(self) -> None:
        async with TaskHost(max_running=1) as host:
            host.schedule(anyio.sleep_forever)
            plain = host.schedule(anyio.sleep, 0)
            shielded = host.task(shield=True).schedule(anyio.sleep, 0)
            assert host.waiting == 2
        assert (plain.status, shielded.status) == (TaskStatus.CANCELLED, TaskStatus.SUCCEEDED)

    async def test_the_wait_for_another_attempt_is_cancelled_unless_shielded_g9_g16(self) -> None:
        async def fail_once() -> int:
            if current_task().attempt == 1:
                raise ValueError
            return 2

        def again(task: Task[Any], error: Exception) -> float:
            return SHORT

        async with TaskHost() as host:
            plain = host.task(retry=again).schedule(fail_once)
            shielded = host.task(retry=again, shield=True).schedule(fail_once)
            while {plain.status, shielded.status} != {TaskStatus.RETRYING}:
                await checkpoint()
        assert plain.status is TaskStatus.CANCELLED
        assert shielded.return_value == 2

    async def test_a_second_aclose_waits_for_the_first_and_a_later_call_returns_at_once_g9(
        self, journal: Journal
    ) -> None:
        async def close(name: str) -> None:
            await host.aclose()
            journal.append(name)

        async with TaskHost() as host:
            shielded = host.task(shield=True).schedule(anyio.sleep, SHORT)
            async with anyio.create_task_group() as tg:
                tg.start_soon(close, "a")
                tg.start_soon(close, "b")
            assert shielded.status is TaskStatus.SUCCEEDED
            assert sorted(journal) == ["a", "b"]
            await host.aclose()

    async def test_a_task_cannot_close_its_own_host_g9(self) -> None:
        async def close() -> None:
            with pytest.raises(RuntimeError, match="wait for itself"):
                await host.aclose()

        async with TaskHost() as host:
            await host.schedule(close)
            assert await host.schedule(anyio.sleep, 0) is None

    async def test_the_plain_group_is_cancelled_with_the_unshielded_g9(self, journal: Journal) -> None:
        async with TaskHost() as host:
            host.tg.start_soon(journal.forever)
            await turns()
        assert journal == ["forever began", "forever left"]


class TestThreads:
    async def test_a_thread_is_waited_for_and_its_task_ends_with_its_result_g9(self) -> None:
        def work() -> str:
            began.set()
            time.sleep(SHORT)
            return "done"

        began = threading.Event()
        async with TaskHost() as host:
            plain = host.schedule(work)
            await anyio.to_thread.run_sync(began.wait)
        assert plain.return_value == "done"

    async def test_a_thread_that_outlasts_shield_timeout_is_abandoned_and_named_g9(self, logged: Logged) -> None:
        began, release, ended = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            began.set()
            release.wait()
            ended.set()

        try:
            async with TaskHost(shield_timeout=SHORT) as host:
                task = host.task(name="stuck", shield=True).schedule(work)
                await anyio.to_thread.run_sync(began.wait)
            assert task.status is TaskStatus.CANCELLED
            assert not ended.is_set()
            assert logged()[1:] == [
                ("WARNING", "closing the task host: 1 abandoned, with its thread still running: stuck")
            ]
        finally:
            release.set()
        await anyio.to_thread.run_sync(ended.wait)


class TestFromAnywhere:
    async def test_current_host_and_task_are_found_in_bodies_tasks_threads_and_child_tasks_g14(self) -> None:
        async def look() -> tuple[TaskHost, Task[Any]]:
            async with anyio.create_task_group() as tg:
                tg.start_soon(deeper)
            return current_host(), current_task()

        async def deeper() -> None:
            found.append((current_host(), current_task()))

        found: list[tuple[TaskHost, Task[Any]]] = []
        async with TaskHost() as host:
            assert current_host() is host
            with pytest.raises(NoCurrentError):
                current_task()
            task = host.schedule(look)
            assert await task == (host, task)
            assert found == [(host, task)]
            in_thread = host.schedule(lambda: (current_host(), current_task()))
            assert await in_thread == (host, in_thread)

    async def test_there_is_no_current_host_outside_g14(self) -> None:
        with pytest.raises(NoCurrentError):
            current_host()
        async with TaskHost():
            pass
        with pytest.raises(LookupError):
            current_host()

    async def test_where_there_is_none_the_error_says_what_to_do_g14(self) -> None:
        def in_a_thread_of_its_own() -> None:
            for ask in (current_host, current_task):
                with pytest.raises(NoCurrentError) as raised:
                    ask()
                told.append(str(raised.value))

        told: list[str] = []
        async with TaskHost():
            thread = threading.Thread(target=in_a_thread_of_its_own)
            thread.start()
            thread.join()
        of_host, of_task = told
        assert of_host.startswith("this code runs in a thread of your own")
        assert "call current_host() before you start the thread" in of_host
        assert of_task.startswith("this code runs in a thread of your own")
        assert "call current_task() before you start the thread" in of_task

    async def test_the_innermost_host_is_the_current_host_g14(self) -> None:
        async def nested() -> None:
            me = current_task()
            assert current_host() is outer
            async with TaskHost() as inner:
                assert current_host() is inner
                assert current_task() is me
                task = inner.schedule(current_host_later)
                assert await task is inner
                outer_task = outer.schedule(current_host_later)
                assert await outer_task is outer
            assert current_host() is outer

        async def current_host_later() -> TaskHost:
            await checkpoint()
            return current_host()

        async with TaskHost() as outer:
            await outer.schedule(nested)
            async with TaskHost() as second:
                assert current_host() is second
                assert await outer.schedule(current_host_later) is outer
            assert current_host() is outer

    async def test_a_task_may_schedule_tasks_g14(self, journal: Journal) -> None:
        async def parent(depth: int) -> None:
            journal.append(str(depth))
            if depth:
                await current_host().schedule(parent, depth - 1)

        async with TaskHost() as host:
            await host.schedule(parent, 3)
        assert journal == ["3", "2", "1", "0"]

    async def test_a_task_on_its_way_from_a_thread_is_never_lost_g2_g8(self, logged: Logged) -> None:
        """Threads schedule while the host closes: each task that was taken ends, and the rest is refused."""
        taken: list[Task[None]] = []
        refused = 0

        def hammer() -> None:
            nonlocal refused
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    taken.append(host.schedule(checkpoint))
                except TasksClosedError:
                    refused += 1
                    return
                time.sleep(0.0005)  # let the loop have its turn: this is about the end, not about saturation

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        async with TaskHost(drain_timeout=SHORT) as host:
            for thread in threads:
                thread.start()
            await anyio.sleep(SHORT)
        for thread in threads:
            thread.join()
        assert taken
        assert refused == 4
        assert {task.status for task in taken} <= {TaskStatus.SUCCEEDED, TaskStatus.CANCELLED, TaskStatus.DROPPED}


class TestOpening:
    async def test_code_that_is_cancelled_while_entering_a_host_gets_out_g9(self) -> None:
        host = TaskHost()
        with anyio.CancelScope() as cancel_scope:
            cancel_scope.cancel()
            async with host:
                pytest.fail("the body of a host that could not be entered")
        assert cancel_scope.cancelled_caught
        with pytest.raises(TasksClosedError):
            host.schedule(checkpoint)

    @native_cancel_only
    async def test_a_native_cancel_while_entering_gets_out_too_g9(self) -> None:
        async def main() -> None:
            async with TaskHost():
                await anyio.sleep_forever()

        for count in range(6):
            native = asyncio.ensure_future(main())
            await turns(count)
            native.cancel()
            with pytest.raises(asyncio.CancelledError):
                await native

    @native_cancel_only
    async def test_a_supervisor_that_is_cancelled_before_its_first_step_hangs_nobody_g9(self) -> None:
        """As `asyncio.run()` does at its end with a task that is just entering a host."""

        async def enter() -> None:
            async with TaskHost():
                await anyio.sleep_forever()

        before = asyncio.all_tasks()
        native = asyncio.ensure_future(enter())
        await turns(1)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await native
        del native, task
        gc.collect()  # here, where the warning is expected

    @native_cancel_only
    async def test_a_task_cancelled_by_others_before_its_first_step_is_not_waited_for_g2(self) -> None:
        before = asyncio.all_tasks()
        async with TaskHost() as host:
            before |= asyncio.all_tasks()
            task = host.schedule(checkpoint)
            for native in asyncio.all_tasks() - before:
                native.cancel()
        assert task.status is TaskStatus.CANCELLED

    @pytest.mark.parametrize("is_first", [True, False], ids=["first", "another"])
    @pytest.mark.parametrize("by_thread", [False, True], ids=["here", "by-thread"])
    async def test_a_host_refuses_tasks_until_it_is_open_and_then_runs_them_g2(
        self, monkeypatch: pytest.MonkeyPatch, by_thread: bool, is_first: bool
    ) -> None:
        """Each turn of the opening. The first host of a process has more turns: it tests the late scopes."""
        if is_first:
            monkeypatch.setattr(enclosing, "_verdicts", {})
        host, may_leave, refused = TaskHost(), anyio.Event(), 0

        async def use() -> None:
            async with host:
                await may_leave.wait()

        async def schedule() -> Task[Any]:
            if by_thread:
                return await anyio.to_thread.run_sync(host.schedule, checkpoint)
            return host.schedule(checkpoint)

        async with anyio.create_task_group() as group:
            group.start_soon(use)
            while True:
                try:
                    task = await schedule()
                    break
                except TasksClosedError:
                    refused += 1
                    await checkpoint()
            await task.wait()
            may_leave.set()
        assert task.status is TaskStatus.SUCCEEDED
        assert by_thread or refused > 0


class TestMisuse:
    async def test_a_host_that_is_not_open_takes_no_tasks(self) -> None:
        host = TaskHost()
        for use in (partial(host.schedule, checkpoint), host.scope, lambda: host.tg, lambda: host.running):
            with pytest.raises(TasksClosedError, match="enter it with `async with`"):
                use()

    async def test_a_host_is_entered_once(self) -> None:
        host = TaskHost()
        async with host:
            with pytest.raises(RuntimeError, match="entered only once"):
                await host.__aenter__()
        with pytest.raises(RuntimeError, match="entered only once"):
            await host.__aenter__()

    @pytest.mark.parametrize(
        ("settings", "error"),
        [
            ({"drain_timeout": -1}, ValueError),
            ({"drain_timeout": None}, TypeError),
            ({"drain_timeout": "5"}, TypeError),
            ({"shield_timeout": -1}, ValueError),
            ({"shield_timeout": "5"}, TypeError),
            ({"max_running": 0}, ValueError),
            ({"max_running": 1.5}, TypeError),
            ({"max_pending": -1}, ValueError),
            ({"max_pending": True}, TypeError),
            ({"max_threads": 0}, ValueError),
            ({"max_threads": None}, TypeError),
            ({"config": {"name": "x"}}, TypeError),
        ],
    )
    def test_bad_settings_are_refused_by_name(self, settings: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error, match=next(iter(settings))):
            TaskHost(**settings)

    async def test_a_host_in_a_fixture_may_be_left_in_another_context(self) -> None:
        async def enter() -> TaskHost:
            return await TaskHost(config=TaskConfig(name="x")).__aenter__()

        host = await enter()
        token = host.set_current()
        import contextvars

        contextvars.copy_context().run(host.reset_current, token)
        await host.__aexit__(None, None, None)
