"""G1, G5, G11, G14: phases and outcome policy, for scopes without a framework."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.backends import native_cancel_only, turns

from taskphase import (
    Phase,
    Scope,
    Task,
    TaskConfig,
    TaskDropped,
    TaskHost,
    TasksBatch,
    TasksClosedError,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
)
from taskphase.testing import simulate

Logged = Callable[[], list[tuple[str, str]]]

REASONS = {
    True: (
        'its route failed; with when="success" (the default) it runs only after a success: .task(when="always") runs '
        "it in both cases"
    ),
    False: 'its route succeeded; with when="failure" it runs only after a failure',
}
"""Why a task was dropped, by whether its route has failed."""


class Log(list[str]):
    async def add(self, entry: str) -> None:
        self.append(entry)


async def forever() -> None:
    await anyio.Event().wait()


async def test_a_task_never_starts_inside_schedule_g1() -> None:
    log = Log()
    async with TaskHost() as host, host.scope() as tasks:
        tasks.schedule(log.add, "immediate")
        assert log == []
        await tasks.settle()
        assert log == ["immediate"]


if sys.version_info >= (3, 12):

    @pytest.mark.parametrize("after_another", [False, True])
    async def test_a_task_never_starts_inside_schedule_under_an_eager_task_factory_g1(
        backend_name: str, task_factory: None, after_another: bool
    ) -> None:
        log = Log()
        async with TaskHost() as host, host.scope() as tasks:
            if after_another:
                tasks.schedule(log.add, "by another factory")
            if backend_name == "asyncio":
                loop = asyncio.get_running_loop()
                another = loop.get_task_factory()
                loop.set_task_factory(asyncio.eager_task_factory)
            before = list(log)
            task = tasks.schedule(log.add, "immediate")
            assert (log, task.status) == (before, TaskStatus.STARTING)
            if backend_name == "asyncio":
                loop.set_task_factory(another)
            await tasks.settle()
            assert "immediate" in log

    def test_a_task_never_starts_inside_schedule_in_a_loop_that_makes_its_own_tasks_g1() -> None:
        async def main() -> None:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            async with TaskHost() as host:
                task = host.schedule(log.add, "immediate")
                assert (log, task.status) == ([], TaskStatus.STARTING)
                await task

        log = Log()
        simulate(main).result()
        assert log == ["immediate"]


async def test_the_route_s_end_starts_after_route_and_the_scope_s_end_after_response_g1() -> None:
    log = Log()
    async with TaskHost() as host:
        async with host.scope() as tasks:
            async with tasks.route():
                tasks.after_response.schedule(log.add, "after_response")
                tasks.after_route.schedule(log.add, "after_route")
                tasks.schedule(log.add, "immediate")
                log.append("route")
            log.append("response")
            await turns()
            log.append("end")
        await turns()
    assert log == ["route", "immediate", "after_route", "response", "end", "after_response"]


async def test_without_a_route_both_later_phases_come_at_the_end_of_the_scope_in_order_g1() -> None:
    """Repeated, because trio runs ready tasks in random order."""
    async with TaskHost() as host:
        for _ in range(30):
            log = Log()
            async with host.scope() as tasks:
                last = tasks.after_response.schedule(log.add, "after_response")
                tasks.after_route.schedule(log.add, "after_route")
                tasks.schedule(log.add, "immediate")
            await last.wait()
            assert log == ["immediate", "after_route", "after_response"]


async def test_an_earlier_phase_starts_first_even_without_a_checkpoint_between_g1() -> None:
    async with TaskHost() as host:
        for _ in range(30):
            log = Log()
            async with host.scope() as tasks:
                async with tasks.route():
                    tasks.after_route.schedule(log.add, "after_route")
                    tasks.schedule(log.add, "immediate")
                assert log == ["immediate", "after_route"]


async def test_starts_within_a_phase_are_requested_in_the_order_of_schedule_g1(backend_name: str) -> None:
    """On trio the first steps of one batch come in random order; one slot makes the order of the requests visible."""
    log = Log()
    async with TaskHost(max_running=1 if backend_name == "trio" else None) as host:
        async with host.scope() as tasks:
            for number in range(20):
                tasks.after_response.schedule(log.add, f"after_response {number}")
                tasks.after_route.schedule(log.add, f"after_route {number}")
                tasks.schedule(log.add, f"immediate {number}")
        while host.running:
            await anyio.lowlevel.checkpoint()
    assert log == [
        f"{phase} {number}" for phase in ("immediate", "after_route", "after_response") for number in range(20)
    ]


async def test_a_task_for_a_phase_that_has_passed_starts_at_once_g1() -> None:
    log = Log()
    async with TaskHost() as host:
        async with host.scope() as tasks:
            async with tasks.route():
                pass
            tasks.after_route.schedule(log.add, "late after_route")
            assert log == []
            await tasks.settle()
            assert log == ["late after_route"]
        tasks.after_response.schedule(log.add, "late after_response")
        tasks.after_route.schedule(log.add, "later after_route")
        await tasks.settle()
        assert sorted(log[1:]) == ["late after_response", "later after_route"]


async def test_a_scope_that_scheduled_nothing_pays_no_checkpoint_g1() -> None:
    stepped = Log()
    async with anyio.create_task_group() as tg, TaskHost() as host:
        await turns()
        tg.start_soon(stepped.add, "other")
        async with host.scope() as tasks, tasks.route():
            pass
        assert stepped == []


OUTCOMES = [
    ("success", False, True),
    ("success", True, False),
    ("failure", False, False),
    ("failure", True, True),
    ("always", False, True),
    ("always", True, True),
    (None, False, True),
    (None, True, False),
]


@pytest.mark.parametrize(("when", "failed", "runs"), OUTCOMES)
@pytest.mark.parametrize("with_route", [True, False])
async def test_a_deferred_task_runs_or_is_dropped_by_the_outcome_of_its_route_g5(
    when: Any, failed: bool, runs: bool, with_route: bool, logged: Logged
) -> None:
    async def body(tasks: TasksScheduler) -> None:
        definition = tasks.task(name="deferred", when=when)
        ends.extend([definition.after_route.schedule(log.add, "r"), definition.after_response.schedule(log.add, "s")])
        if failed:
            raise LookupError

    log, ends = Log(), list[Task[None]]()
    async with TaskHost() as host:
        try:
            async with host.scope() as tasks:
                if with_route:
                    async with tasks.route():
                        await body(tasks)
                else:
                    await body(tasks)
        except LookupError:
            assert failed
        for task in ends:
            await task.wait()
    assert [task.status for task in ends] == [TaskStatus.SUCCEEDED if runs else TaskStatus.DROPPED] * 2
    assert log == (["r", "s"] if runs else [])
    level = "WARNING" if when is None else "DEBUG"
    assert logged() == ([] if runs else [(level, f"task 'deferred' was dropped: {REASONS[failed]}")] * 2)


async def test_an_exception_after_the_route_is_no_failure_of_the_route_g1_g5() -> None:
    """As when the client has left, or the stream broke off: the request is over all the same."""
    log = Log()
    async with TaskHost() as host:
        with pytest.raises(ConnectionError):
            async with host.scope() as tasks:
                async with tasks.route():
                    task = tasks.after_response.schedule(log.add, "after_response")
                raise ConnectionError
        await task.wait()
    assert log == ["after_response"]


async def test_a_cancelled_scope_cancels_none_of_its_tasks_and_starts_what_it_held_g11() -> None:
    async with TaskHost() as host:
        with anyio.CancelScope() as cancel_scope:
            async with host.scope() as tasks:
                running = tasks.schedule(anyio.sleep, 0.01)
                kept = tasks.after_response.task(when="always").schedule(anyio.sleep, 0)
                await tasks.settle()
                cancel_scope.cancel()
                await anyio.sleep_forever()
        await running
        await kept


async def test_late_tasks_follow_the_outcome_too_g5() -> None:
    async with TaskHost() as host:
        with pytest.raises(LookupError):
            async with host.scope() as tasks:
                raise LookupError
        late = tasks.after_route.schedule(forever)
        assert late.status is TaskStatus.DROPPED
        with pytest.raises(TaskDropped):
            await late
        assert await tasks.after_route.task(when="failure").schedule(anyio.sleep, 0) is None


async def test_a_deferred_task_that_was_cancelled_does_not_start_g2(logged: Logged) -> None:
    async with TaskHost() as host, host.scope() as tasks:
        task = tasks.after_response.schedule(forever)
        assert (task.status, host.deferred) == (TaskStatus.DEFERRED, 1)
        task.cancel()
        assert (task.status, host.deferred) == (TaskStatus.CANCELLED, 0)
    assert logged() == []


async def test_a_deferred_task_that_was_cancelled_is_not_dropped_too_g2_g5(logged: Logged) -> None:
    async with TaskHost() as host:
        with pytest.raises(LookupError):
            async with host.scope() as tasks:
                cancelled = [tasks.after_route.schedule(forever), tasks.after_response.schedule(forever)]
                for task in cancelled:
                    task.cancel()
                raise LookupError
    assert {task.status for task in cancelled} == {TaskStatus.CANCELLED}
    assert logged() == []


async def test_scopes_do_not_know_each_other_g3() -> None:
    log = Log()
    async with TaskHost() as host, host.scope() as outer:
        outer.after_response.schedule(log.add, "outer")
        async with host.scope() as inner:
            inner.after_response.schedule(log.add, "inner")
        await inner.settle()
        assert log == ["inner"]


async def test_the_route_can_be_left_once() -> None:
    async with TaskHost() as host, host.scope() as tasks:
        async with tasks.route():
            pass
        with pytest.raises(RuntimeError, match="the route of this scope has ended"):
            async with tasks.route():
                pass


async def test_a_task_knows_its_phase_and_settings() -> None:
    async with TaskHost(config=TaskConfig(timeout=5, name="all")) as host, host.scope() as tasks:
        named = tasks.task(name="mine").task(shield=True)
        every = [
            named.schedule(anyio.sleep, 0),
            named.after_route.schedule(anyio.sleep, 0),
            named.after_response.task(when="always").schedule(anyio.sleep, 0),
            tasks.after_route.task(name="batch").schedule(anyio.sleep, 0),
            host.task(name="host").schedule(anyio.sleep, 0),
            tasks.schedule(anyio.sleep, 0),
        ]
        assert [task.phase for task in every] == [
            Phase.IMMEDIATE,
            Phase.AFTER_ROUTE,
            Phase.AFTER_RESPONSE,
            Phase.AFTER_ROUTE,
            Phase.IMMEDIATE,
            Phase.IMMEDIATE,
        ]
        assert [task.name for task in every] == ["mine", "mine", "mine", "batch", "host", "all"]
        assert every[2].config == TaskConfig(name="mine", shield=True, when="always", timeout=5)


async def test_the_setting_that_is_nearest_to_schedule_wins_wherever_it_is_made() -> None:
    settings = TaskConfig(name="host", timeout=1)
    async with TaskHost(config=settings) as host, host.scope() as tasks, anyio.create_task_group() as tg:
        own = TasksScheduler(tg, TaskConfig(name="scheduler", timeout=1))
        for definition in (
            host.task(name="outer"),
            tasks.task(name="outer"),
            tasks.task(name="outer").after_route,
            tasks.after_response.task(name="outer"),
            own.task(name="outer"),
            own.after_route.task(name="outer"),
        ):
            task = definition.task(name="inner").task(shield=True).schedule(anyio.sleep, 0)
            assert task.config == TaskConfig(name="inner", shield=True, timeout=1)
            assert definition.schedule(anyio.sleep, 0).config == TaskConfig(name="outer", timeout=1)
        own.after_response.start(own)


async def test_bad_calls_are_refused_at_once_and_leave_nothing_g7() -> None:
    async def takes_one(a: int) -> None: ...

    async with TaskHost() as host, host.scope() as tasks:
        for schedule in (tasks.schedule, tasks.after_route.schedule, tasks.after_response.schedule, host.schedule):
            with pytest.raises(TypeError, match="cannot be called like this"):
                schedule(takes_one)  # type: ignore[arg-type, call-arg]
            with pytest.raises(TypeError, match="expected a callable"):
                schedule(takes_one(1))  # type: ignore[call-overload]
        assert (host.running, host.deferred, host.waiting) == (0, 0, 0)


async def test_a_batch_made_by_hand_is_held_until_its_start() -> None:
    log = Log()
    batch = TasksBatch()
    task = batch.task(name="b").schedule(log.add, "b")
    batch.schedule(log.add, "never").cancel()
    batch.schedule(log.add, "c")
    assert task.status is TaskStatus.NEW
    async with TaskHost() as host, host.scope() as tasks:
        batch.start(tasks)
        batch.__start__(tasks)
        await tasks.settle()
        assert sorted(log) == ["b", "c"]


async def test_dunder_start_on_a_scheduler_s_batches_says_that_its_phase_has_come() -> None:
    log = Log()
    async with TaskHost() as host, anyio.create_task_group() as tg:
        schedulers: list[Scope | TasksScheduler] = [host.scope(), TasksScheduler(tg)]
        for scheduler in schedulers:
            log.clear()
            scheduler.after_route.schedule(log.add, "after_route")
            scheduler.after_response.schedule(log.add, "after_response")
            scheduler.after_route.__start__(scheduler)
            await turns()
            assert log == ["after_route"]
            scheduler.after_response.__start__(scheduler)
            await turns()
            assert log == ["after_route", "after_response"]


async def test_dunder_start_starts_a_task_that_was_made_by_hand_once() -> None:
    log = Log()
    async with TaskHost(config=TaskConfig(name="host")) as host:
        scheduler = host.scope()
        task = Task(func=log.add, args=("by hand",), kwargs={})
        task.__start__(scheduler)
        await task
        assert (log, task.name) == (["by hand"], "host")
        with pytest.raises(RuntimeError, match="a task starts once"):
            task.__start__(scheduler)


async def test_a_task_that_was_made_by_hand_keeps_the_settings_that_it_has() -> None:
    async with TaskHost(config=TaskConfig(name="host", timeout=5)) as host:
        task = Task(anyio.sleep, (0,), config=TaskConfig(name="own", shield=True))
        task.__start__(host.scope())
        assert task.config == TaskConfig(name="own", shield=True, timeout=5)


class TestAnyTaskGroup:
    async def test_a_group_within_a_host_is_not_the_host_s_g14(self) -> None:
        done = False

        async def run() -> None:
            nonlocal done
            await turns()
            done = True

        async with TaskHost() as host:
            async with anyio.create_task_group() as tg:
                tasks = TasksScheduler(tg)
                tasks.schedule(run)
                tasks.after_response.schedule(run).cancel()
                assert (host.running, host.deferred) == (0, 0)
            assert done

    async def test_the_tasks_of_a_scheduler_by_hand_run_in_its_group_g1(self) -> None:
        log = Log()
        async with anyio.create_task_group() as tg, TasksScheduler(tg, TaskConfig(name="mine")) as tasks:
            assert tasks.tg is tg
            task = tasks.after_route.schedule(log.add, "after_route")
            tasks.after_response.schedule(log.add, "after_response")
            tasks.schedule(log.add, "immediate")
        assert log == ["immediate", "after_route", "after_response"]
        assert task.name == "mine"

    async def test_a_failing_task_touches_nothing_in_the_group_g3(self, logged: Logged) -> None:
        def fail() -> None:
            raise ValueError

        async def exit_() -> None:
            raise SystemExit

        async with anyio.create_task_group() as tg:
            tasks = TasksScheduler(tg)
            other = tasks.schedule(anyio.sleep, 0.02)
            failing = [tasks.schedule(fail), tasks.schedule(exit_)]
            await other
        assert [task.status for task in failing] == [TaskStatus.FAILED] * 2
        assert [level for level, _ in logged()] == ["ERROR"] * 2

    async def test_cancelling_the_group_spares_the_shielded_g9(self) -> None:
        async with anyio.create_task_group() as tg:
            tasks = TasksScheduler(tg)
            plain = tasks.schedule(forever)
            shielded = tasks.task(shield=True).schedule(anyio.sleep, 0.02)
            await turns()
            tg.cancel_scope.cancel()
        assert (plain.status, shielded.status) == (TaskStatus.CANCELLED, TaskStatus.SUCCEEDED)

    async def test_a_closed_group_takes_no_tasks_and_loses_none_g2(self, logged: Logged) -> None:
        async with anyio.create_task_group() as tg:
            tasks = TasksScheduler(tg)
            held = tasks.after_response.schedule(forever)
        with pytest.raises(TasksClosedError):
            tasks.schedule(forever)
        tasks.after_response.start(tasks)
        assert held.status is TaskStatus.DROPPED
        assert [level for level, _ in logged()] == ["WARNING"]

    async def test_the_group_of_the_host_makes_it_a_scheduler_of_the_host_g14(self) -> None:
        async with TaskHost() as host:
            tasks = TasksScheduler(host.tg)
            tasks.after_response.schedule(forever)
            tasks.schedule(forever)
            assert (host.running, host.deferred) == (1, 1)

    @native_cancel_only
    async def test_a_cancel_that_is_not_the_group_s_stays_in_the_task_g3(self) -> None:
        """Awaiting a cancelled future raises CancelledError, which anyio would take for the group's end."""

        async def await_cancelled() -> None:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        async with anyio.create_task_group() as tg:
            tasks = TasksScheduler(tg)
            task = tasks.schedule(await_cancelled)
            other = tasks.schedule(anyio.sleep, 0.02)
            await other
        assert (task.status, other.status) == (TaskStatus.FAILED, TaskStatus.SUCCEEDED)


async def test_a_scope_is_gone_when_it_is_over_without_the_garbage_collector_g2() -> None:
    gc.collect()
    gc.disable()
    try:
        async with TaskHost() as host:
            async with host.scope() as tasks:
                tasks.after_route.schedule(anyio.sleep, 0)
                tasks.after_response.schedule(anyio.sleep, 0)
            gone = weakref.ref(tasks)
            del tasks
            await turns()
            assert gone() is None
    finally:
        gc.enable()


async def test_a_scheduler_is_entered_once_at_a_time_g1() -> None:
    async with TaskHost() as host:
        scheduler = TasksScheduler(host.tg)
        async with scheduler as first:
            task = first.after_response.schedule(anyio.sleep, 0)
            with pytest.raises(RuntimeError, match="entered already"):
                await scheduler.__aenter__()
        await task
        async with scheduler as second:
            later = second.after_response.schedule(anyio.sleep, 0)
        await later


async def test_a_task_made_by_hand_that_is_refused_is_as_it_was_g15() -> None:
    task: Task[None] = Task(anyio.sleep, (0,))
    async with TaskHost(config=TaskConfig(timeout=1, name="one"), max_running=1, max_pending=0) as host:
        host.schedule(forever)
        for refusing in (host.scope(), TasksScheduler(host.tg, TaskConfig(delay=3))):
            with pytest.raises(TasksSaturatedError):
                task.__start__(refusing)
            assert (task.config, task.status) == (TaskConfig(), TaskStatus.NEW)
    async with TaskHost(config=TaskConfig(timeout=5)) as host:
        task.__start__(host.scope())
        assert (task.config.timeout, task.config.name) == (5, None)
        await task


async def test_a_batch_leaves_out_what_was_started_by_hand() -> None:
    batch = TasksBatch()
    tasks = [batch.schedule(anyio.sleep, 0) for _ in range(3)]
    async with TaskHost() as host, host.scope() as scope:
        tasks[1].__start__(scope)
        batch.start(scope)
        for task in tasks:
            await task


@pytest.mark.parametrize("wrong", [None, 3, TaskHost()])
def test_a_scheduler_of_something_else_than_a_group_or_scope_is_refused_g7(wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"not {type(wrong).__name__}: write `TasksScheduler\(host.tg\)`"):
        TasksScheduler(wrong)


async def test_a_scheduler_with_something_else_than_a_config_is_refused_g7() -> None:
    wrong: Any = TasksBatch()
    async with anyio.create_task_group() as tg:
        with pytest.raises(TypeError, match="config must be a TaskConfig, not TasksBatch"):
            TasksScheduler(tg, wrong)
