"""G1, G2, G5, G8, G9: schedulers made by hand, and scopes that end before their routes."""

from __future__ import annotations

import gc
from collections.abc import Callable

import anyio
import anyio.to_thread
import pytest
from tests.backends import turns, until

from taskphase import Task, TaskHost, TasksBatch, TasksScheduler, TaskStatus

S = TaskStatus
Logged = Callable[[], list[tuple[str, str]]]


async def nothing() -> None: ...


def warnings_in(logged: Logged) -> list[str]:
    return [message for level, message in logged() if level == "WARNING"]


class TestInsideAScope:
    async def test_the_phases_of_the_scope_start_the_batches_of_a_scheduler_by_hand_g1(self) -> None:
        async with TaskHost() as host:
            async with host.scope() as scope:
                async with scope.route():
                    tasks = TasksScheduler(host.tg)
                    route, response = tasks.after_route.schedule(nothing), tasks.after_response.schedule(nothing)
                    dropped = tasks.task(when="failure").after_route.schedule(nothing)
                    del tasks
                    gc.collect()
                    await turns()
                    assert [task.status for task in (route, response, dropped)] == [S.DEFERRED] * 3
                await route.wait()
                assert (response.status, dropped.status) == (S.DEFERRED, S.DROPPED)
            await response.wait()
            assert (route.status, response.status) == (S.SUCCEEDED, S.SUCCEEDED)

    async def test_the_start_of_a_batch_by_hand_starts_the_held_tasks_and_ends_no_route_g1(self) -> None:
        async with TaskHost() as host:
            async with host.scope() as scope, scope.route():
                mine, other = TasksScheduler(host.tg), TasksScheduler(host.tg)
                now = mine.after_route.schedule(nothing)
                later = mine.after_response.schedule(nothing)
                of_other = other.after_route.schedule(nothing)
                of_scope = scope.after_route.schedule(nothing)
                mine.after_route.start(mine)
                next_one = mine.after_route.schedule(nothing)
                await now.wait()
                held = [later, of_other, of_scope, next_one]
                assert [task.status for task in held] == [S.DEFERRED] * 4
                assert scope.outcome is None
                mine.after_response.start(mine)
                await later.wait()
                await next_one.wait()
                assert (of_other.status, of_scope.status) == (S.DEFERRED, S.DEFERRED)
            for task in held:
                await task.wait()
            assert {task.status for task in held} == {S.SUCCEEDED}

    async def test_a_scheduler_by_hand_as_a_context_manager_has_its_own_scope_g1(self) -> None:
        async with TaskHost() as host, host.scope() as scope:
            outer = scope.after_response.schedule(nothing)
            async with TasksScheduler(host.tg) as inner:
                task = inner.after_response.schedule(nothing)
            await task.wait()
            assert (task.status, outer.status) == (S.SUCCEEDED, S.DEFERRED)

    async def test_a_scheduler_by_hand_in_a_task_or_its_thread_belongs_to_no_scope_g1_g2(self, logged: Logged) -> None:
        held: list[Task[None]] = []

        def schedule() -> None:
            held.append(TasksScheduler(host.tg).after_response.schedule(nothing))

        async def work() -> None:
            schedule()

        async with TaskHost() as host, host.scope() as scope:
            for func in (work, schedule):
                await scope.schedule(func)
            await until(lambda: host.deferred == 0)
            assert [task.status for task in held] == [S.DROPPED] * 2
        assert len(warnings_in(logged)) == 2

    async def test_a_scheduler_by_hand_in_a_thread_of_the_route_belongs_to_the_scope_g1_g8(self) -> None:
        async with TaskHost() as host:
            async with host.scope():
                task = await anyio.to_thread.run_sync(lambda: TasksScheduler(host.tg).after_response.schedule(nothing))
                gc.collect()
                await turns()
                assert task.status is S.DEFERRED
            await task.wait()
            assert task.status is S.SUCCEEDED


class TestOutsideOfAnyScope:
    @pytest.mark.parametrize("foreign", [False, True])
    async def test_tasks_of_a_garbage_scheduler_are_dropped_with_a_warning_g2(
        self, foreign: bool, logged: Logged
    ) -> None:
        async with TaskHost() as host, anyio.create_task_group() as group:
            tasks = TasksScheduler(group if foreign else host.tg)
            held = [tasks.after_route.schedule(nothing), tasks.after_response.schedule(nothing)]
            del tasks
            gc.collect()
            await until(lambda: {task.status for task in held} == {S.DROPPED})
            assert host.deferred == 0
        assert len(warnings_in(logged)) == 2
        assert all("its scheduler is gone" in message for message in warnings_in(logged))

    async def test_a_scheduler_may_become_garbage_in_another_thread_g2_g8(self, logged: Logged) -> None:
        def forget() -> None:
            holder.clear()
            gc.collect()

        async with TaskHost() as host:
            holder = [TasksScheduler(host.tg)]
            task = holder[0].after_response.schedule(nothing)
            await anyio.to_thread.run_sync(forget)
            await until(lambda: task.status is S.DROPPED)
        assert len(warnings_in(logged)) == 1

    async def test_a_scheduler_may_become_garbage_after_its_host_has_closed_g2_g9(self) -> None:
        async with TaskHost() as host:
            tasks = TasksScheduler(host.tg)
            task = tasks.after_response.schedule(nothing)
        assert task.status is S.CANCELLED
        del tasks
        gc.collect()
        await turns()
        assert task.status is S.CANCELLED

    def test_a_scheduler_may_become_garbage_after_its_loop_has_ended_g2(
        self, anyio_backend: tuple[str, dict[str, bool]]
    ) -> None:
        kept: list[TasksScheduler] = []

        async def main() -> None:
            async with anyio.create_task_group() as group:
                kept.append(TasksScheduler(group))
                kept[0].after_response.schedule(nothing)

        anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
        kept.clear()
        gc.collect()

    async def test_batches_of_a_scheduler_outside_of_scopes_are_started_by_hand_g1(self) -> None:
        async with TaskHost() as host:
            tasks = TasksScheduler(host.tg)
            task = tasks.after_response.schedule(nothing)
            tasks.after_response.start(tasks)
            await task.wait()
            assert task.status is S.SUCCEEDED
            batch = TasksBatch()
            other = batch.schedule(nothing)
            batch.start(tasks)
            await other.wait()
            assert other.status is S.SUCCEEDED


class TestARouteThatOutlivesItsScope:
    @pytest.mark.parametrize("failed", [False, True])
    async def test_tasks_of_a_late_route_wait_for_its_outcome_g1_g5(self, failed: bool) -> None:
        go, entered = anyio.Event(), anyio.Event()
        tasks: dict[str, Task[None]] = {}

        async def run_route() -> None:
            try:
                async with scope.route():
                    for when in ("success", "failure", "always"):
                        tasks[when] = scope.task(when=when).after_response.schedule(nothing)
                    entered.set()
                    await go.wait()
                    if failed:
                        raise LookupError
            except LookupError:
                pass

        async with TaskHost() as host, anyio.create_task_group() as group:
            async with host.scope() as scope:
                group.start_soon(run_route)
                await entered.wait()
            await turns()
            assert {task.status for task in tasks.values()} == {S.DEFERRED}
            assert scope.outcome is None
            go.set()
            for task in tasks.values():
                await task.wait()
            assert tasks["success"].status is (S.DROPPED if failed else S.SUCCEEDED)
            assert tasks["failure"].status is (S.SUCCEEDED if failed else S.DROPPED)
            assert tasks["always"].status is S.SUCCEEDED

    @pytest.mark.parametrize("ends", ["before the drain", "in the drain"])
    async def test_stage_2_drops_the_tasks_of_a_late_route_shielded_tasks_too_g2_g9(
        self, ends: str, logged: Logged
    ) -> None:
        entered, leave = anyio.Event(), anyio.Event()
        tasks: list[Task[None]] = []

        async def run_route() -> None:
            async with scope.route():
                tasks.append(scope.after_response.schedule(nothing))
                tasks.append(scope.task(shield=True).after_response.schedule(nothing))
                entered.set()
                await anyio.sleep_forever()

        async def run_scope() -> None:
            async with scope:
                await leave.wait()

        host = TaskHost()
        async with anyio.create_task_group() as group:
            async with host:
                scope = host.scope()
                group.start_soon(run_scope)
                await turns()
                group.start_soon(run_route)
                await entered.wait()
                blocker = host.task(shield=True).schedule(turns, 50)
                await blocker.started.wait()
                if ends == "before the drain":
                    leave.set()
                    await turns()
                else:
                    group.start_soon(set_when_closing, host, leave)
            assert tasks[1].status is S.DROPPED
            assert tasks[0].status in (S.DROPPED, S.CANCELLED)
            assert host.deferred == 0
            group.cancel_scope.cancel()
        assert any("its route was still running" in message for message in warnings_in(logged))


async def set_when_closing(host: TaskHost, event: anyio.Event) -> None:
    await host.closing.wait()
    await turns(5)
    event.set()


async def test_a_scheduler_that_many_threads_make_and_forget_leaves_nothing_g2_g8(logged: Logged) -> None:
    async with TaskHost() as host:

        def work() -> None:
            for _ in range(20):
                TasksScheduler(host.tg).after_response.schedule(nothing)

        async with anyio.create_task_group() as threads:
            for _ in range(3):
                threads.start_soon(anyio.to_thread.run_sync, work)
        gc.collect()
        await until(lambda: host._runner.idle)
        assert host.deferred == 0
