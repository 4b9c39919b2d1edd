"""G4, G5, G6, G8, G15, G16: `record_tasks` and `JumpClock`: tests see, await and run their tasks."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any
from unittest.mock import ANY

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from tests.backends import ASYNCIO, MOVABLE, TRIO, native_cancel_only, turns

from taskphase import (
    Limit,
    Task,
    TaskFailed,
    TaskHost,
    TaskNotFinished,
    TasksBatch,
    TasksClosedError,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
    current_host,
    current_task,
    retry,
)
from taskphase._drive import watching
from taskphase.testing import JumpClock, TaskRecorder, UnexpectedFailures, explore, record_tasks
from taskphase.testing._recording.changes import CHANGES

SHORT = 0.02  # seconds that a test waits on purpose
DRAIN = 5  # seconds for the tasks that a test has left; no test needs them

TIMEOUTS = pytest.mark.parametrize("timeout", [0.01, timedelta(milliseconds=10)], ids=["seconds", "timedelta"])
each_backend = pytest.mark.parametrize("backend", [*ASYNCIO, *TRIO])
setting: ContextVar[str] = ContextVar("setting", default="unset")


async def send(to: str, subject: str = "hello") -> int:
    return len(to)


async def post(to: str, subject: str = "hello") -> None: ...


async def fail(text: str = "no answer") -> None:
    raise ConnectionError(text)


def in_thread(number: int) -> int:
    return number + 1


@asynccontextmanager
async def recording(**options: Any) -> AsyncIterator[tuple[TaskHost, TaskRecorder]]:
    """Record the tasks of a new host, which closes before the recorder exits."""
    with record_tasks(**options) as tasks:
        async with TaskHost(drain_timeout=DRAIN) as host:
            yield host, tasks


@contextmanager
def host_in_thread(
    backend: tuple[str, dict[str, Any]], **options: Any
) -> Iterator[tuple[TaskHost, Callable[..., Any]]]:
    """Run a host in an event loop of another thread; yield the host, and a function that makes calls in that thread."""
    with start_blocking_portal(backend[0], backend[1]) as portal:
        host = TaskHost(drain_timeout=DRAIN, **options)
        with portal.wrap_async_context_manager(host):
            yield host, portal.call


@pytest.fixture(autouse=True)
def no_recorder_is_left() -> Iterator[None]:
    yield
    assert watching._everywhere == []


class TestSeen:
    async def test_a_task_is_seen_with_all_that_a_test_asks_for_g17(self) -> None:
        async with recording() as (host, tasks):
            async with host.scope() as scope:
                scope.schedule(send, "ada")
                scope.after_response.task(name="thread").schedule(in_thread, 1)
            await tasks.await_all()
            first, second = tasks
            assert (first.func, first.args, first.phase, first.status, first.return_value) == (
                *(send, ("ada",), "immediate", "succeeded"),
                3,
            )
            assert (second.name, second.phase, second.return_value) == ("thread", "after_response", 2)
            assert isinstance(first, Task)
            assert tasks[0] is first
            assert tasks[1:] == [second]

    async def test_tasks_are_selected_by_function_name_phase_and_end(self) -> None:
        class Mailer:
            async def post(self) -> None: ...

        mailer = Mailer()
        async with recording() as (host, tasks):
            tasks.expect_failure()
            async with host.scope() as scope:
                scope.schedule(send, "ada")
                scope.schedule(partial(send, subject="x"), "bob")
                scope.after_route.task(name="mail of ada").schedule(mailer.post)
                scope.after_response.schedule(fail)
                scope.after_response.task(when="failure").schedule(fail, "dropped")
                scope.task(name="cancelled").schedule(anyio.sleep_forever).cancel()
            await tasks.await_all()
            assert [task.args[0] for task in tasks.of(send)] == ["ada", "bob"]
            assert tasks.of("mail of ada").one().func == mailer.post
            assert tasks.of(mailer.post).one() is tasks.after_route.one()
            assert not tasks.of(Mailer().post)
            assert tasks.of("send")[:] == tasks.of(f"{__name__}.send")[:] == tasks.of(send)[:]
            assert not tasks.of("end")
            assert len(tasks.immediate) == 3
            assert len(tasks.after_response) == 2
            assert tasks.of(fail).failed.one().args == ()
            assert tasks.dropped.one().args == ("dropped",)
            assert tasks.cancelled.one().name == "cancelled"
            assert len(tasks.succeeded) == 3
            assert not tasks.of("ada")

    async def test_a_selection_goes_with_the_tasks(self) -> None:
        async with recording() as (host, tasks):
            mails, done = tasks.of(send), tasks.of(send).succeeded
            host.schedule(send, "ada")
            assert (len(mails), len(done)) == (1, 0)
            await tasks.await_all()
            assert (len(mails), len(done)) == (1, 1)

    async def test_a_repr_and_a_text_tell_calls_states_and_results(self) -> None:
        async with recording() as (host, tasks):
            tasks.expect_failure()
            assert repr(tasks) == "<recorded tasks: none>"
            assert str(tasks) == "recorded tasks: nothing"
            host.task(name="to ada").schedule(send, "ada", subject="x" * 100)
            host.task(retry=retry(attempts=2, backoff=0)).schedule(fail)
            await tasks.await_all()
            short = "x" * 27 + "..." + "x" * 28
            assert repr(tasks.of(send)) == (
                f"<recorded tasks of send: 'to ada' send('ada', subject='{short}') immediate succeeded -> 3>"
            )
            assert str(tasks).splitlines()[2] == (
                "  fail() immediate failed in attempt 2: ConnectionError('no answer')"
            )

    async def test_arguments_stay_out_of_the_handle_s_own_repr(self) -> None:
        async with recording() as (host, tasks):
            host.schedule(send, "secret")
            assert "secret" not in repr(tasks.one())
            assert repr(tasks.one()).startswith("<Task ")

    async def test_tasks_of_tasks_batches_and_task_groups_are_seen_too(self) -> None:
        async def parent() -> None:
            current_host().schedule(send, "child")
            tasks_of_group.append(current_task())

        tasks_of_group: list[Task[Any]] = []
        batch = TasksBatch()
        batch.schedule(send, "batch")
        with record_tasks() as tasks:
            async with TaskHost(drain_timeout=DRAIN) as host, anyio.create_task_group() as tg:
                host.schedule(parent)
                async with TasksScheduler(tg) as scheduler:
                    scheduler.schedule(send, "group")
                    batch.start(scheduler)
                await tasks.await_all()
        assert sorted(task.args[0] for task in tasks.of(send)) == ["batch", "child", "group"]

    async def test_what_is_refused_is_not_recorded_g15(self) -> None:
        closed = anyio.create_task_group()
        async with closed:
            scheduler = TasksScheduler(closed)
        with record_tasks() as tasks:
            with pytest.raises(TasksClosedError):
                scheduler.schedule(send, "late")
            async with TaskHost(max_running=1, max_pending=0, drain_timeout=DRAIN) as host:
                host.schedule(send, "taken")
                with pytest.raises(TasksSaturatedError):
                    host.schedule(send, "refused")
            with pytest.raises(TasksClosedError):
                host.schedule(send, "closed")
        assert [task.args for task in tasks] == [("late",), ("taken",)]
        assert tasks.dropped.one().args == ("late",)  # the group has refused it, after the scheduler had taken it

    async def test_only_tasks_of_the_host_that_is_asked_for_are_seen(self) -> None:
        async def from_mine() -> None:
            other.schedule(send, "scheduled by mine")

        mine, other = TaskHost(drain_timeout=DRAIN), TaskHost(drain_timeout=DRAIN)
        with record_tasks(mine) as tasks, record_tasks() as all_tasks:
            async with other, mine:
                mine.schedule(send, "mine")
                other.schedule(send, "other")
                mine.schedule(from_mine)
                await tasks.await_all()
        assert [task.args for task in tasks] == [("mine",), (), ("scheduled by mine",)]
        assert len(all_tasks) == 4

    async def test_several_recorders_see_their_own_part_and_can_be_left_in_any_order(self) -> None:
        outer, inner = record_tasks(), record_tasks()
        async with TaskHost(drain_timeout=DRAIN) as host:
            with outer:
                host.schedule(send, "before")
                inner.__enter__()
                host.schedule(send, "both")
            host.schedule(send, "after")
            inner.__exit__(None, None, None)
            await inner.await_all()
        assert [task.args[0] for task in outer] == ["before", "both"]
        assert [task.args[0] for task in inner] == ["both", "after"]

    @pytest.mark.parametrize("run", ["normal", "never", "inline"])
    async def test_a_task_that_is_only_run_by_hand_is_none_that_was_scheduled(self, run: Any) -> None:
        with record_tasks(run=run) as tasks:
            assert await Task(send, ("ada",))() == 3
        assert len(tasks) == 0

    async def test_nothing_is_recorded_before_and_after(self) -> None:
        async with TaskHost(drain_timeout=DRAIN) as host:
            before = host.schedule(send, "before")
            with record_tasks(host) as tasks:
                pass
            after = host.schedule(send, "after")
        assert len(tasks) == 0
        assert type(before) is type(after) is Task

    @pytest.mark.parametrize(
        ("options", "error"),
        [({"run": "eager"}, ValueError), ({"timeout": -1}, ValueError), ({"timeout": "1"}, TypeError)],
    )
    def test_bad_options_are_refused(self, options: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error, match=next(iter(options))):
            record_tasks(**options)
        with pytest.raises(TypeError, match=r"TaskHost, not 'host'; for an app: fastapi_tasks.testing.record_tasks"):
            record_tasks("host")  # type: ignore[arg-type]

    def test_a_recorder_is_entered_once_at_a_time(self) -> None:
        with record_tasks() as tasks, pytest.raises(RuntimeError, match="records already: enter it once"):
            tasks.__enter__()

    async def test_a_recorder_that_was_never_entered_answers_nothing(self) -> None:
        async with TaskHost(drain_timeout=DRAIN) as host:
            tasks = record_tasks(host)
            tasks.expect_failure()
            host.schedule(fail)
            reads: list[Callable[[], object]] = [
                lambda: len(tasks),
                lambda: tasks[:],
                lambda: list(tasks.of(fail)),
                lambda: bool(tasks.failed),
                tasks.one,
                lambda: tasks.assert_scheduled(fail),
                lambda: str(tasks),
            ]
            for read in reads:
                with pytest.raises(RuntimeError, match=r"records inside `with record_tasks\(host\) as tasks:`"):
                    read()
            for wait in (tasks.await_all, tasks.arun_all, lambda: tasks.await_until("running")):
                with pytest.raises(RuntimeError, match="records inside"):
                    await wait()
            for blocked in (tasks.wait_all, tasks.run_all, lambda: tasks.wait_until("running")):
                with pytest.raises(RuntimeError, match="records inside"):
                    await anyio.to_thread.run_sync(blocked)

    async def test_tasks_of_an_earlier_scope_are_ignored_unless_its_own_code_schedules_g14(self) -> None:
        async def chain(name: str) -> None:
            await go_on.wait()
            host.schedule(send, f"{name} next")

        go_on = anyio.Event()
        async with TaskHost(drain_timeout=DRAIN) as host:
            host.schedule(chain, "host")  # of no scope: for example a loop of the startup
            async with host.scope() as scope:
                scope.schedule(chain, "scope")
                await turns()
                with record_tasks(host) as tasks:
                    scope.schedule(chain, "new")
                    go_on.set()
                    await turns(10)
        assert [task.args[0] for task in tasks] == ["new", "host next", "new next"]

    async def test_a_wrong_expectation_or_wait_is_refused_where_it_is_written(self) -> None:
        async with recording() as (_, tasks):
            for kind in ("ValueError", ValueError(), (ValueError, "KeyError"), int):
                with pytest.raises(TypeError, match="takes an exception class, or a tuple of them, not "):
                    tasks.expect_failure(kind)  # type: ignore[arg-type]
            with pytest.raises(re.error):
                tasks.expect_failure(match="(")
            with pytest.raises(ValueError, match=r"'done' is no status; wait for one of new, .*running"):
                await tasks.await_until("done")

    async def test_an_expectation_used_as_a_block_says_that_it_needs_none_g4(self) -> None:
        async with recording() as (host, tasks):
            host.schedule(fail)
            expected: Any = tasks.of(fail).expect_failure(ConnectionError)  # type: ignore[func-returns-value]
            with pytest.raises(TypeError, match=r"expect_failure\(\) takes no `with`"), expected:
                raise AssertionError
            await tasks.await_all()


class TestAsserted:
    async def test_a_call_is_asserted_by_what_it_says_not_by_how(self) -> None:
        async with recording() as (host, tasks):
            host.schedule(post, "ada")
            one = host.schedule(send, "ada")
            two = host.schedule(partial(send, subject="x"), to="bob")
            assert tasks.assert_scheduled(send, "ada") is one
            assert tasks.assert_scheduled(send, to="ada", subject="hello") is one
            assert tasks.assert_scheduled(send, "bob", "x") is two
            assert tasks.assert_scheduled(send, ANY, subject="x") is two
            assert tasks.immediate.assert_scheduled(send, "ada") is one

    async def test_asserting_an_impossible_call_is_refused_as_scheduling_it_is_g7(self) -> None:
        async with recording() as (host, tasks):
            for _ in range(2):  # before a task of the function is recorded, and after
                for func, args, kwargs in (
                    (send, (), {}),
                    (send, ("ada",), {"body": "x"}),
                    (partial(send, "ada"), (1, 2), {}),
                    (send("ada"), (), {}),
                ):
                    with pytest.raises(TypeError) as refused:
                        host.schedule(func, *args, **kwargs)  # type: ignore[arg-type]
                    with pytest.raises(TypeError, match=r"send\(.*cannot be called|not coroutine") as asserted:
                        tasks.assert_scheduled(func, *args, **kwargs)  # type: ignore[arg-type]
                    assert str(asserted.value) == str(refused.value)
                host.schedule(send, "ada")

    async def test_messages_show_what_was_scheduled_instead(self) -> None:
        async with recording() as (host, tasks):
            with pytest.raises(AssertionError, match=r"send\('ada'\) is not among recorded tasks; recorded: nothing$"):
                tasks.assert_scheduled(send, "ada")
            host.schedule(send, "ada")
            await tasks.await_all()
            seen = r"\n  send\('ada'\) immediate succeeded -> 3$"
            with pytest.raises(AssertionError, match=rf"send\('bob'\) is not among .*; recorded:{seen}"):
                tasks.assert_scheduled(send, "bob")
            with pytest.raises(AssertionError, match=rf"is not among recorded tasks for after_route; recorded:{seen}"):
                tasks.after_route.assert_scheduled(send, "ada")
            with pytest.raises(AssertionError, match=rf"expected one of .* of .*fail, found 0; recorded:{seen}"):
                tasks.of(fail).one()
            host.schedule(send, "bob")
            with pytest.raises(AssertionError, match="found 2"):
                tasks.one()

    async def test_built_ins_without_a_signature_are_compared_as_they_are_called(self) -> None:
        async with recording() as (host, tasks):
            host.schedule(max, 1, 2)
            tasks.assert_scheduled(max, 1, 2)
            with pytest.raises(AssertionError):
                tasks.assert_scheduled(max, 2, 1)


class TestWaiting:
    async def test_waiting_includes_what_the_tasks_schedule_in_turn_g14(self) -> None:
        async def chain(length: int) -> None:
            await turns(3)
            if length:
                current_host().schedule(chain, length - 1)

        async with recording() as (host, tasks):
            host.schedule(chain, 3)
            await tasks.await_all()
            assert [task.status for task in tasks] == [TaskStatus.SUCCEEDED] * 4

    async def test_a_selection_waits_for_its_own_only(self) -> None:
        async with recording() as (host, tasks):
            go_on = anyio.Event()
            host.schedule(go_on.wait)
            host.schedule(in_thread, 1)
            await tasks.of(in_thread).await_all()
            assert tasks.of(in_thread).one().return_value == 2
            assert tasks.of(go_on.wait).one().status == "running"
            go_on.set()

    @each_backend
    def test_a_thread_waits_for_tasks_of_an_event_loop_g8(self, backend: Any) -> None:
        async def work() -> None:
            await turns()
            current_host().schedule(in_thread, 1)

        with record_tasks() as tasks, host_in_thread(backend) as (host, _):
            for _ in range(20):
                host.schedule(work)  # from this thread, so the task is on its way when the wait begins
                tasks.wait_all()
                assert all(task.status == "succeeded" for task in tasks)
            assert len(tasks) == 40

    @each_backend
    def test_an_event_loop_waits_for_tasks_of_another_g8(self, backend: Any, anyio_backend: Any) -> None:
        with record_tasks() as tasks, host_in_thread(backend) as (host, _):
            host.schedule(in_thread, 1)
            host.schedule(turns)
            anyio.run(tasks.await_all, backend=anyio_backend[0], backend_options=anyio_backend[1])
            assert [task.status for task in tasks] == [TaskStatus.SUCCEEDED] * 2

    @TIMEOUTS
    @each_backend
    def test_a_thread_that_waits_too_long_hears_what_the_tasks_do(self, backend: Any, timeout: Any) -> None:
        with record_tasks(timeout=timeout) as tasks, host_in_thread(backend) as (host, _):
            go_on = threading.Event()
            host.schedule(go_on.wait)
            with pytest.raises(
                TimeoutError, match=r"^after 0.01 s not all of recorded tasks have ended; recorded:\n  "
            ):
                tasks.wait_all()
            go_on.set()

    @each_backend
    def test_a_thread_may_wait_for_ever(self, backend: Any) -> None:
        with record_tasks(timeout=inf) as tasks, host_in_thread(backend) as (host, _):
            host.schedule(in_thread, 1)
            tasks.wait_all()
            assert tasks.one().status == "succeeded"

    @TIMEOUTS
    async def test_an_event_loop_that_waits_too_long_hears_it_too(self, timeout: Any) -> None:
        async with recording(timeout=timeout) as (host, tasks):
            task = host.schedule(anyio.sleep_forever)
            with pytest.raises(TimeoutError, match=r"not all of .* of .*forever have ended; .*\n .*sleep_forever\(\)"):
                await tasks.of(anyio.sleep_forever).await_all()
            task.cancel()

    async def test_the_forms_for_threads_refuse_to_block_an_event_loop(self) -> None:
        with record_tasks() as tasks:
            for wait in (tasks.wait_all, tasks.run_all, lambda: tasks.wait_until("running")):
                host = TaskHost(drain_timeout=DRAIN)
                async with host:
                    host.schedule(send, "ada")
                    with record_tasks(run="never") as held:
                        host.schedule(send, "held")
                        with pytest.raises(RuntimeError, match="would block the event loop"):
                            (held.run_all if wait == tasks.run_all else wait)()

    async def test_a_status_is_waited_for_until_it_cannot_come(self) -> None:
        with record_tasks(timeout=0.01) as hasty:
            async with recording() as (host, tasks):
                go_on = anyio.Event()
                task = host.schedule(go_on.wait)
                assert task.status == "starting"
                await tasks.await_until("running")
                assert task.status == "running"
                with pytest.raises(TimeoutError, match="are not all retrying"):
                    await hasty.await_until("retrying")
                go_on.set()
                await task
                with pytest.raises(AssertionError, match=r"have ended, and none will be running:\n  .*wait\(\)"):
                    await tasks.await_until(TaskStatus.RUNNING)
                with pytest.raises(ValueError, match="'failed' is an end"):
                    await tasks.await_until("failed")
                with pytest.raises(TimeoutError):
                    await hasty.of(send).await_until("running")


class TestFailures:
    async def test_leaving_raises_the_exceptions_of_tasks_that_nobody_expected_to_fail_g4(self) -> None:
        with pytest.raises(UnexpectedFailures) as caught:
            async with recording() as (host, _):
                host.schedule(fail)
                host.task(name="second").schedule(fail, "again")
                host.schedule(send, "ada")
        assert [str(error) for error in caught.value.exceptions] == ["no answer", "again"]
        assert {type(error) for error in caught.value.exceptions} == {ConnectionError}
        assert caught.value.exceptions[0].__traceback__ is not None
        assert "\n  'second' " in caught.value.message
        assert isinstance(caught.value, AssertionError)
        assert isinstance(caught.value.split(OSError)[0], UnexpectedFailures)

    async def test_only_what_was_expected_is_let_pass(self) -> None:
        async with recording() as (host, tasks):
            tasks.of(fail).expect_failure(OSError, match="answer$")
            host.schedule(fail)
        with pytest.raises(UnexpectedFailures):
            async with recording() as (host, tasks):
                tasks.of(fail).expect_failure((LookupError, OSError), match="^answer")
                host.schedule(fail)
        with pytest.raises(UnexpectedFailures):
            async with recording() as (host, tasks):
                tasks.expect_failure(LookupError)
                host.schedule(fail)
        with pytest.raises(UnexpectedFailures):
            async with recording() as (host, tasks):
                tasks.of("another").expect_failure()
                host.schedule(fail)
        async with recording() as (host, tasks):
            host.schedule(fail)
            await tasks.await_all()
            tasks.failed.expect_failure()  # afterwards, too

    async def test_a_failure_that_was_expected_has_to_come(self) -> None:
        with pytest.raises(AssertionError, match=r"none of .*fail failed with OSError whose message matches 'x'; rec"):
            async with recording() as (host, tasks):
                host.schedule(send, "ada")
                tasks.of(fail).expect_failure(OSError, match="x")

    async def test_a_failed_test_keeps_its_own_exception_with_the_tasks_failures_as_notes(self) -> None:
        with pytest.raises(LookupError) as caught, record_tasks() as tasks:
            async with TaskHost(drain_timeout=DRAIN) as host:
                host.schedule(fail)
                await tasks.await_all()
            raise LookupError
        [note] = caught.value.__notes__
        assert note.startswith("a recorded task had failed: ")
        assert "ConnectionError('no answer')" in note

    async def test_an_exit_of_a_task_is_a_failure_that_a_group_can_carry(self) -> None:
        def leave() -> None:
            raise SystemExit(3)

        with pytest.raises(UnexpectedFailures) as caught:
            async with recording() as (host, _):
                host.schedule(leave)
        [error] = caught.value.exceptions
        assert isinstance(error, TaskFailed)
        assert isinstance(error.__cause__, SystemExit)

    async def test_a_task_that_succeeds_in_a_later_attempt_has_not_failed_g16(self) -> None:
        async def second_time() -> int:
            if current_task().attempt == 1:
                raise LookupError
            return 2

        async with recording() as (host, tasks):
            host.task(retry=retry(backoff=0)).schedule(second_time)
            await tasks.await_all()
            assert tasks.succeeded.one().return_value == 2


class TestNever:
    async def test_nothing_runs_and_the_host_knows_nothing_of_it(self) -> None:
        async with recording(run="never") as (host, tasks):
            async with host.scope() as scope:
                async with scope.route():
                    for define in (scope, scope.after_route, scope.after_response):
                        define.schedule(fail)
                    host.schedule(in_thread, 1)
                await turns()
            await turns()
            await tasks.await_all()
            assert (host.running, host.waiting, host.deferred) == (0, 0, 0)
            assert [str(task.phase) for task in tasks] == ["immediate", "after_route", "after_response", "immediate"]
            assert {task.attempt for task in tasks} == {0}
            assert str(tasks).count(" held") == 4
        assert host.statistics().cancelled == 0  # by its drain

    async def test_phases_outcomes_and_limits_are_real_g5_g15(self) -> None:
        with record_tasks(run="never") as tasks:
            async with TaskHost(max_pending=2, drain_timeout=DRAIN) as host:
                with pytest.raises(LookupError):
                    async with host.scope() as scope:
                        scope.task(name="kept", when="failure").after_response.schedule(send, "ada")
                        scope.task(name="lost").after_response.schedule(send, "bob")
                        with pytest.raises(TypeError):
                            scope.schedule(send)  # type: ignore[call-arg]
                        raise LookupError
                assert tasks.of("lost").one().status == "dropped"
                await tasks.arun_all()
            assert tasks.of("kept").one().status == "succeeded"
            with pytest.raises(TasksClosedError):
                host.schedule(send, "ada")

    async def test_a_held_task_waits_for_no_place_of_its_limit_g19(self) -> None:
        limit = Limit(1, max_pending=1)
        async with recording(run="never") as (host, tasks):
            for _ in range(2):
                async with host.scope() as scope:
                    scope.task(limit=limit).after_response.schedule(send, "ada")
            assert str(tasks).count(" held") == 2

    async def test_a_task_is_run_by_hand_in_its_context_and_with_its_settings_g6_g16(self) -> None:
        async def look(text: str) -> str:
            if current_task().attempt == 1:
                raise LookupError
            return f"{setting.get()} {text}"

        async with recording(run="never") as (host, tasks):
            token = setting.set("of schedule()")
            async with host.scope() as scope:
                scope.after_response.task(retry=lambda task, error: 0).schedule(look, "x")
            setting.reset(token)
            [task] = tasks
            assert await task() == "of schedule() x"
            assert (task.attempt, task.status) == (2, "succeeded")
            with pytest.raises(RuntimeError, match="is succeeded already"):
                await task()

    async def test_all_are_run_by_hand_until_none_is_left_in_their_host_g14(self) -> None:
        async def parent() -> None:
            hosts.append(current_host())
            current_host().schedule(send, "child")

        hosts: list[TaskHost] = []
        async with recording(run="never") as (host, tasks):
            host.schedule(parent)
            host.schedule(in_thread, 1)
            await tasks.of(in_thread).arun_all()
            assert (len(tasks.succeeded), len(tasks)) == (1, 2)
            await tasks.arun_all()
            assert hosts == [host]
            assert len(tasks.succeeded) == len(tasks) == 3

    async def test_after_the_host_has_closed_tasks_run_in_a_host_of_their_own(self) -> None:
        async def parent() -> None:
            assert current_host() is not host
            current_host().schedule(send, "child")

        async with recording(run="never") as (host, tasks):
            host.schedule(parent)
        await tasks.arun_all()
        assert len(tasks.succeeded) == len(tasks) == 1  # the other host's are recorded no more

    @each_backend
    def test_a_thread_runs_tasks_in_their_loop_or_in_its_own_loop_g8(self, backend: Any) -> None:
        async def where() -> int:
            return threading.get_ident()

        with record_tasks(run="never") as tasks:
            with host_in_thread(backend) as (host, call):
                call(lambda: [host.schedule(where)])  # the portal would await a task
                host.schedule(where)  # from this thread
                tasks.run_all()
                there = call(threading.get_ident)
                assert [task.return_value for task in tasks] == [there, there]
                call(lambda: [host.schedule(where)])  # the portal would await a task
            tasks.run_all()
            assert tasks[2].return_value == threading.get_ident()

    @each_backend
    def test_what_takes_too_long_by_hand_is_cancelled_and_named(self, backend: Any) -> None:
        with record_tasks(run="never", timeout=0.01) as tasks:
            with host_in_thread(backend) as (host, _):
                host.task(name="for ever", shield=True).schedule(anyio.sleep_forever)
            with pytest.raises(TimeoutError, match=r"after 0.01 s these were cancelled, run by hand: for ever"):
                tasks.run_all()
            assert tasks.one().status == "cancelled"

    async def test_code_that_waits_for_a_held_task_is_told_so_at_once_g17(self) -> None:
        async with recording(run="never") as (host, tasks):
            task = host.schedule(send, "ada")
            for wait in (task.wait, task.started.wait):
                with pytest.raises(TaskNotFinished, match=r'is held back by a test.*run="inline"'):
                    await wait()
            await tasks.arun_all()
            await task

    async def test_what_is_not_due_is_not_run(self) -> None:
        async with recording(run="never") as (host, tasks):
            async with host.scope() as scope:
                scope.after_response.schedule(send, "ada")
                await tasks.arun_all()
                assert tasks.one().status == "deferred"
            await tasks.arun_all()
            assert tasks.one().status == "succeeded"

    async def test_a_held_task_can_be_cancelled_or_scheduled_by_hand_g17(self) -> None:
        async with recording(run="never") as (host, tasks):
            async with host.scope() as scope:
                cancelled = scope.after_response.schedule(send, "ada")
                cancelled.cancel()
            again = host.schedule(send, "bob")
            assert cancelled.status == "cancelled"
            async with host.scope() as scope:
                again.__start__(scope)
            await again
            assert len(tasks) == 2

    async def test_two_recorders_hold_a_task_once(self) -> None:
        async with recording(run="never") as (host, tasks):
            with record_tasks(run="never") as others:
                async with host.scope() as scope:
                    scope.schedule(send, "ada")
                    scope.after_route.schedule(send, "ada")
            await others.arun_all()
            assert len(tasks.succeeded) == len(others.succeeded) == 2


class TestInline:
    async def test_tasks_have_ended_before_the_next_phase_goes_on_g1(self) -> None:
        async def work(name: str, *later: str) -> None:
            await turns()
            journal.append(name)
            for each in later:
                current_host().schedule(work, each)

        journal: list[str] = []
        async with recording(run="inline") as (host, _):
            async with host.scope() as scope:
                async with scope.route():
                    scope.schedule(work, "immediate", "its child")
                    scope.after_route.schedule(work, "after_route")
                    scope.after_response.schedule(work, "after_response", "its own")
                    journal.append("route")
                assert sorted(journal[1:]) == sorted(["immediate", "its child", "after_route"])
                journal.append("response")
            assert journal[-3:] == ["response", "after_response", "its own"]
            assert journal[0] == "route"

    async def test_retries_handlers_context_and_failures_are_real_g4_g6_g16(
        self, logged: Callable[[], list[tuple[str, str]]]
    ) -> None:
        async def look() -> None:
            seen.append(f"{setting.get()} {current_task().attempt}")
            setting.set("spoilt")
            raise LookupError("twice")

        seen: list[str] = []
        async with recording(run="inline") as (host, tasks):
            tasks.expect_failure(LookupError, match="twice")
            token = setting.set("of schedule()")
            async with host.scope() as scope:
                scope.task(retry=retry(attempts=2, backoff=0)).schedule(look)
                setting.reset(token)
            assert seen == ["of schedule() 1", "of schedule() 2"]
            assert [level for level, _ in logged()] == ["INFO", "ERROR"]

    async def test_what_belongs_to_no_scope_runs_as_always(self) -> None:
        async with recording(run="inline") as (host, tasks):
            go_on = anyio.Event()
            host.schedule(go_on.wait)
            async with host.scope() as scope:
                scope.schedule(send, "ada")
            assert tasks.of(send).one().status == "succeeded"
            go_on.set()

    async def test_a_task_does_not_wait_for_itself(self) -> None:
        async def parent() -> None:
            async with current_host().scope() as inner:
                child = inner.after_response.schedule(send, "child")
            assert child.status == "succeeded"
            await outer.settle()

        async with recording(run="inline") as (host, tasks):
            async with host.scope() as outer:
                outer.schedule(parent)
            assert len(tasks.succeeded) == 2

    async def test_waiting_inline_is_bounded_and_ends_with_cancellation(self) -> None:
        async with recording(run="inline", timeout=0.01) as (host, tasks):
            with pytest.raises(TimeoutError, match="not all tasks that run inline have ended"):
                async with host.scope() as scope:
                    scope.schedule(anyio.sleep_forever)
            tasks[0].cancel()
        async with recording(run="inline", timeout=None) as (host, tasks):
            with anyio.CancelScope() as cancelled:
                async with host.scope() as scope:
                    scope.task(when="always").after_response.schedule(anyio.sleep_forever)
                    cancelled.cancel()
            assert cancelled.cancelled_caught
            tasks[0].cancel()

    @native_cancel_only
    async def test_nobody_who_is_cancelled_natively_waits(self) -> None:
        async def unit() -> None:
            async with host.scope() as scope:
                scope.task(when="always").after_response.schedule(anyio.sleep_forever)
                entered.set()
                await anyio.sleep_forever()

        entered = anyio.Event()
        async with recording(run="inline", timeout=None) as (host, tasks):
            native = asyncio.create_task(unit())
            await entered.wait()
            native.cancel()
            with pytest.raises(asyncio.CancelledError):
                await native
            await tasks.await_until("running")
            tasks[0].cancel()

    async def test_settling_waits_for_the_ends_too(self) -> None:
        async with recording(run="inline") as (host, tasks), host.scope() as scope:
            scope.schedule(turns)
            await scope.settle()
            assert tasks.one().status == "succeeded"

    async def test_without_a_recorder_of_this_kind_nobody_waits(self) -> None:
        async with recording() as (host, tasks):
            go_on = anyio.Event()
            async with host.scope() as scope, scope.route():
                scope.schedule(go_on.wait)
            assert tasks.one().status == "running"
            go_on.set()


CLOCK_BACKENDS = pytest.mark.parametrize("backend", MOVABLE)
HOUR = 3600.0


class TestJumpClock:
    @CLOCK_BACKENDS
    def test_a_jump_ends_a_pause_and_a_timeout_from_within_the_loop_g16(self, backend: str) -> None:
        async def main() -> None:
            async with recording() as (host, tasks):
                tasks.expect_failure()
                host.task(name="retried", retry=retry(attempts=2, backoff=HOUR, jitter=False)).schedule(fail)
                host.task(name="timed", timeout=HOUR).schedule(anyio.sleep_forever)
                await tasks.of("retried").await_until("retrying")
                await tasks.of("timed").await_until("running")
                clock.jump(HOUR)
                await tasks.await_all()
                assert tasks.of("retried").one().attempt == 2
                assert isinstance(tasks.of("timed").one().exception, TimeoutError)

        clock = JumpClock()
        anyio.run(main, backend=backend, backend_options=clock.backend_options(backend))
        assert clock.offset == HOUR
        assert repr(clock) == "<JumpClock, 3600 s ahead>"

    @CLOCK_BACKENDS
    def test_a_jump_from_a_thread_over_a_pause_always_ends_it_g16(self, backend: str) -> None:
        """Often: the pause has to have begun when the status says so."""
        clock = JumpClock()
        with record_tasks() as tasks, host_in_thread((backend, clock.backend_options(backend))) as (host, _):
            tasks.expect_failure()
            for _ in range(50):
                task = host.task(retry=retry(attempts=2, backoff=HOUR, jitter=False)).schedule(fail)
                tasks.wait_until("retrying")
                clock.jump(HOUR)
                tasks.wait_all()
                assert task.attempt == 2

    @CLOCK_BACKENDS
    def test_pauses_that_follow_each_other_are_told_apart_by_the_attempt_g16(self, backend: str) -> None:
        """Often: after a jump the status says "retrying" until the task has been woken."""
        clock = JumpClock()
        with record_tasks() as tasks, host_in_thread((backend, clock.backend_options(backend))) as (host, _):
            tasks.expect_failure()
            for _ in range(20):
                task = host.task(retry=retry(attempts=4, backoff=HOUR, max_delay=HOUR, jitter=False)).schedule(fail)
                for attempt in (1, 2, 3):
                    tasks.wait_until("retrying", attempt=attempt)
                    clock.jump(HOUR)
                tasks.wait_all()
                assert task.attempt == 4

    async def test_an_attempt_that_is_over_is_not_waited_for(self) -> None:
        async with TaskHost() as host:
            with record_tasks(host) as tasks:
                host.task(retry=lambda *_: 0 if current_task().attempt < 2 else HOUR).schedule(fail)
                await tasks.await_until("retrying", attempt=2)
                with pytest.raises(AssertionError, match="will be retrying in attempt 1"):
                    await tasks.await_until("retrying", attempt=1)
                tasks.one().cancel()

    @CLOCK_BACKENDS
    def test_jumps_leave_nothing_behind(self, backend: str) -> None:
        clock = JumpClock()
        with host_in_thread((backend, clock.backend_options(backend))) as (_, call):
            for _ in range(10):
                clock.jump(1)
            call(turns)
            assert [loop._pending for loop in clock._loops] == [set()]

    @CLOCK_BACKENDS
    def test_a_jump_that_is_too_short_ends_nothing_and_time_passes_by_itself(self, backend: str) -> None:
        async def main() -> None:
            clock.jump(0)
            began = anyio.current_time()
            with anyio.move_on_after(HOUR) as scope:
                clock.jump(timedelta(hours=1) - timedelta(seconds=1))
                await turns()
            assert not scope.cancelled_caught
            assert HOUR - 1 <= anyio.current_time() - began < HOUR
            await anyio.sleep(0.001)
            assert anyio.current_time() - began >= HOUR - 1 + 0.001

        clock = JumpClock()
        anyio.run(main, backend=backend, backend_options=clock.backend_options(backend))

    @CLOCK_BACKENDS
    def test_a_clock_moves_several_loops_and_forgets_the_ended_loops(self, backend: str) -> None:
        async def sleep() -> None:
            began = anyio.current_time()
            sleeping.release()
            await anyio.sleep(HOUR)
            assert anyio.current_time() - began >= HOUR

        clock = JumpClock()
        options = clock.backend_options(backend)
        sleeping = threading.Semaphore(0)
        with start_blocking_portal(backend, options) as one, start_blocking_portal(backend, options) as other:
            futures = [portal.start_task_soon(sleep) for portal in (one, other)]
            for _ in futures:
                sleeping.acquire()
            clock.jump(HOUR)
            for future in futures:
                future.result(10)
        assert clock._loops == []
        clock.jump(HOUR)
        anyio.run(turns, backend=backend, backend_options=options)

    @CLOCK_BACKENDS
    def test_a_loop_that_is_blocked_refuses_the_jump(self, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def block() -> None:
            blocked.set()
            assert go_on.wait(10)

        monkeypatch.setattr("taskphase.testing._clock.jumping._PATIENCE", 0.01)
        clock = JumpClock()
        blocked, go_on = threading.Event(), threading.Event()
        with start_blocking_portal(backend, clock.backend_options(backend)) as portal:
            future = portal.start_task_soon(block)
            blocked.wait(10)
            with pytest.raises(TimeoutError, match="has been blocked"):
                clock.jump(1)
            assert clock.offset == 0
            go_on.set()
            future.result(10)

    def test_a_loop_may_run_in_another_thread_than_the_thread_that_has_made_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def jump() -> None:
            clock.jump(1)

        async def block() -> None:
            blocked.set()
            assert go_on.wait(10)

        monkeypatch.setattr("taskphase.testing._clock.jumping._PATIENCE", 0.01)
        clock = JumpClock()
        blocked, go_on = threading.Event(), threading.Event()
        loop = clock.backend_options("asyncio")["loop_factory"]()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        asyncio.run_coroutine_threadsafe(jump(), loop).result(10)
        future = asyncio.run_coroutine_threadsafe(block(), loop)
        blocked.wait(10)
        with pytest.raises(TimeoutError, match="has been blocked"):
            clock.jump(1)
        go_on.set()
        future.result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        clock.jump(1)  # waits for no loop that has stopped
        loop.close()
        assert (clock.offset, clock._loops) == (2, [])

    def test_bad_jumps_and_backends_are_refused(self) -> None:
        clock = JumpClock()
        for seconds, error in ((-1, ValueError), (float("inf"), ValueError), ("1", TypeError)):
            with pytest.raises(error, match="seconds must be"):
                clock.jump(seconds)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="must be 'asyncio' or 'trio', not 'uvloop'"):
            clock.backend_options("uvloop")


def test_the_simulation_can_record_too() -> None:
    @explore(schedules=20)
    async def program() -> None:
        async with recording(timeout=None) as (host, tasks):
            host.task(retry=retry(attempts=2, backoff=HOUR, jitter=False)).schedule(fail)
            host.schedule(anyio.sleep, HOUR)
            tasks.expect_failure()
            await tasks.await_all()
            assert tasks.failed.one().attempt == 2

    program()


class TestWhatARecorderMustNotDo:
    async def test_a_held_task_is_not_cancelled_when_its_shield_would_have_ended_g9(self) -> None:
        async def schedule_another() -> None:
            await host.closing.wait()
            with record_tasks(host, run="never") as tasks:
                host.task(shield=SHORT).schedule(send, "late")
                await anyio.sleep(SHORT * 3)
            recorded.extend(tasks)

        recorded: list[Task[Any]] = []
        host = TaskHost()
        async with host:
            host.task(shield=5).schedule(schedule_another)
            await turns()
        assert host.drain_report is not None
        assert host.drain_report.cancelled == {}
        assert [task.status for task in recorded] == [TaskStatus.NEW]

    async def test_a_task_whose_phase_has_not_come_is_not_run_by_hand_g1(self) -> None:
        async with TaskHost() as host:
            with record_tasks(host, run="never") as tasks:
                async with host.scope() as scope:
                    task = scope.after_response.schedule(send, "ada")
                    with pytest.raises(RuntimeError, match="deferred already"):
                        await task()
                assert str(tasks).endswith("held")
                assert await task() == 3

    async def test_a_task_of_a_subclass_is_waited_for_and_keeps_its_class(self) -> None:
        class Mine(Task[None]):
            pass

        async with TaskHost() as host, host.scope() as tasks:
            with record_tasks(host) as recorded:
                mine = Mine(anyio.sleep, (SHORT,))
                mine.__start__(tasks)
                await recorded.await_all()
        assert mine.status is TaskStatus.SUCCEEDED
        assert isinstance(mine, Mine)
        assert type(mine).__name__ == "Mine"

    @native_cancel_only
    async def test_a_thread_with_the_context_of_an_event_loop_may_wait(self) -> None:
        async with TaskHost() as host:
            with record_tasks(host) as tasks:
                host.schedule(anyio.sleep, SHORT)
                await asyncio.to_thread(tasks.wait_all)
                assert tasks.one().status is TaskStatus.SUCCEEDED

    async def test_a_waiting_test_hears_of_a_task_that_its_group_refuses(self) -> None:
        """The recorder writes the task down and takes it back. Here other code begins to wait in between."""

        class Slow(TaskRecorder):
            def claim(self, host: TaskHost | None) -> object:
                waiter.start()
                while not CHANGES._condition._waiters:  # type: ignore[attr-defined]
                    assert waiter.is_alive()
                return None

        waiter = threading.Thread(target=lambda: tasks.wait_all())
        async with anyio.create_task_group() as closed:
            pass
        with record_tasks(timeout=60) as tasks, Slow():
            with pytest.raises(TasksClosedError):
                TasksScheduler(closed).schedule(send, "late")
            waiter.join(5)
            assert not waiter.is_alive()
            assert tasks.one().status == "dropped"

    async def test_what_is_run_by_hand_without_a_host_can_be_cancelled_g2(self) -> None:
        with record_tasks(run="never") as tasks:
            async with TaskHost() as host:
                task = host.schedule(anyio.sleep_forever)
        with anyio.move_on_after(SHORT) as scope:
            await tasks.arun_all()
        assert scope.cancelled_caught
        assert task.status is TaskStatus.CANCELLED

    def test_an_argument_that_takes_a_lock_to_be_shown_blocks_nobody(self) -> None:
        """A wait that takes too long shows the tasks, while other threads schedule."""

        class Guarded:
            def __repr__(self) -> str:
                shown.set()
                with lock:
                    return "guarded"

        def schedule_with_the_lock(host: TaskHost) -> None:
            with lock:
                waiting.set()
                assert shown.wait(5)
                host.schedule(send, "meanwhile")

        lock, shown, waiting = threading.Lock(), threading.Event(), threading.Event()
        with record_tasks(timeout=SHORT) as tasks, host_in_thread(("asyncio", {})) as (host, _):
            task = host.schedule(lambda _: anyio.sleep_forever(), Guarded())
            other = threading.Thread(target=schedule_with_the_lock, args=(host,))
            other.start()
            assert waiting.wait(5)
            with pytest.raises(TimeoutError, match="guarded"):
                tasks.wait_all()
            other.join(5)
            assert not other.is_alive()
            task.cancel()
