"""G1, G5, G22: the hooks of `before_route_ends()` run when a route ends, and may make the route a failed one."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import pytest
from tests.backends import native_cancel_only, turns

from taskphase import Scope, Task, TaskHost, TasksScheduler, TaskStatus

S = TaskStatus


class Full(Exception):
    """A disk is full."""


class Events(list[str]):
    """What happened, in order."""

    async def note(self, event: str) -> None:
        self.append(event)

    @property
    def steps(self) -> list[object]:
        """The events; from the third one on as a set, because trio mixes the tasks of one turn."""
        return [*self[:2], set(self[2:])]

    async def hook(self, outcome: str) -> None:
        await turns(3)
        self.append(f"hook: {outcome}")

    async def broken(self, outcome: str) -> None:
        await self.hook(outcome)
        raise Full

    def each(self, scope: Scope) -> dict[str, Task[None]]:
        """Schedule a task for each `when` after the route, and one at once."""
        tasks = {
            when: scope.task(when=when).after_route.schedule(self.note, when)  # type: ignore[arg-type]
            for when in ("success", "failure", "always")
        }
        return {**tasks, "immediate": scope.schedule(self.note, "immediate")}


async def test_a_hook_ends_before_any_after_route_task_starts_g1_g22() -> None:
    events = Events()
    async with TaskHost() as host, host.scope() as scope:
        async with scope.route():
            scope.before_route_ends(events.hook)
            events.each(scope)
        assert events.steps == ["immediate", "hook: success", {"success", "always"}]
        assert scope.outcome == "success"


async def test_a_route_is_undecided_while_its_hook_waits_g1_g22() -> None:
    async def hook(_outcome: str) -> None:
        states.append((scope.outcome, scope.in_route))
        held.append(scope.after_route.schedule(events.note, "from the hook"))
        await turns()
        states.append(held[0].status)

    events, states, held = Events(), list[Any](), list[Task[None]]()
    async with TaskHost() as host, host.scope() as scope:
        async with scope.route():
            scope.before_route_ends(hook)
        assert states == [(None, True), S.DEFERRED]
        assert events == ["from the hook"]


async def test_a_hook_of_a_failing_route_learns_of_the_failure_g5_g22() -> None:
    events = Events()
    async with TaskHost() as host, host.scope() as scope:
        with pytest.raises(LookupError):
            async with scope.route():
                scope.before_route_ends(events.hook)
                tasks = events.each(scope)
                raise LookupError
        assert events.steps == ["immediate", "hook: failure", {"failure", "always"}]
        assert tasks["success"].status == S.DROPPED


async def test_a_hook_that_raises_fails_the_route_with_its_exception_g5_g22() -> None:
    events = Events()
    async with TaskHost() as host, host.scope() as scope:
        with pytest.raises(Full):
            async with scope.route():
                scope.before_route_ends(events.broken)
                tasks = events.each(scope)
        assert events.steps == ["immediate", "hook: success", {"failure", "always"}]  # the barrier is there, too
        assert (tasks["success"].status, scope.outcome) == (S.DROPPED, "failure")


async def test_an_exception_of_a_hook_has_that_of_the_route_as_its_context_g22() -> None:
    events = Events()
    async with TaskHost() as host, host.scope() as scope:
        with pytest.raises(Full) as raised:
            async with scope.route():
                scope.before_route_ends(events.broken)
                scope.before_route_ends(events.broken)
                raise LookupError
    assert events == ["hook: failure"] * 2
    first = raised.value.__context__
    assert isinstance(first, Full)
    assert isinstance(first.__context__, LookupError)


async def test_hooks_run_in_order_and_those_behind_a_broken_one_see_the_failure_g22() -> None:
    async def last(outcome: str) -> None:
        events.append(f"last: {outcome}")
        scope.before_route_ends(events.hook)

    events = Events()
    async with TaskHost() as host, host.scope() as scope:
        with pytest.raises(Full):
            async with scope.route():
                for hook in (events.hook, events.broken, last):
                    scope.before_route_ends(hook)
    assert events == ["hook: success", "hook: success", "last: failure", "hook: failure"]


async def test_a_scope_without_a_route_block_awaits_hooks_at_its_end_g22() -> None:
    events = Events()
    async with TaskHost() as host:
        async with host.scope() as scope:
            scope.before_route_ends(events.hook)
            events.each(scope)
        await turns()
        assert events.steps == ["immediate", "hook: success", {"success", "always"}]
        with pytest.raises(Full):
            async with host.scope() as scope:
                scope.before_route_ends(events.broken)
                late = scope.task(when="failure").after_response.schedule(events.note, "late")
        await late.wait()
        assert (scope.outcome, late.status) == ("failure", S.SUCCEEDED)


async def test_a_scope_of_a_foreign_task_group_has_hooks_g22() -> None:
    events = Events()
    async with anyio.create_task_group() as tg, TasksScheduler(tg) as scope:
        scope.before_route_ends(events.hook)
        scope.after_route.schedule(events.note, "after_route")
    assert events == ["hook: success", "after_route"]


async def test_a_late_scope_waits_for_the_hook_of_its_route_g1_g22() -> None:
    events = Events()
    async with TaskHost() as host:
        scope = host.scope()
        async with scope.route():
            scope.before_route_ends(events.hook)
            scope.after_response.schedule(events.note, "after_response")
            events.each(scope)
            scope.end()
            await turns()
            assert events == ["immediate"]
        await turns()
        assert (events[:2], events[-1]) == (["immediate", "hook: success"], "after_response")


async def test_a_scope_that_ends_while_a_hook_waits_ends_with_its_route_g1_g22() -> None:
    async def hook(outcome: str) -> None:
        scope.end()
        await events.hook(outcome)

    events = Events()
    async with TaskHost() as host:
        scope = host.scope()
        async with scope.route():
            scope.before_route_ends(hook)
            task = scope.after_response.schedule(events.note, "after_response")
        await task.wait()
        assert events == ["hook: success", "after_response"]


async def test_a_route_that_the_host_has_given_up_calls_no_hook_g9_g22() -> None:
    events = Events()
    async with TaskHost() as host:
        scope = host.scope()
        route = scope.route()
        await route.__aenter__()
        scope.before_route_ends(events.hook)
        task = scope.task(when="always").after_route.schedule(events.note, "after_route")
        scope.end()
        await host.aclose()
    assert task.status == S.DROPPED
    await route.__aexit__(None, None, None)
    assert events == []


async def test_a_route_that_is_cancelled_while_its_hook_waits_has_failed_g5_g11_g22() -> None:
    async def hook(_outcome: str) -> None:
        cancel.cancel()
        await anyio.sleep_forever()

    events = Events()
    async with TaskHost() as host:
        with anyio.CancelScope() as cancel:
            async with host.scope() as scope, scope.route():
                scope.before_route_ends(hook)
                scope.before_route_ends(events.hook)
                tasks = events.each(scope)
        await tasks["failure"].wait()
        await tasks["always"].wait()
        assert cancel.cancelled_caught
        assert (scope.outcome, tasks["success"].status) == ("failure", S.DROPPED)
        assert sorted(events) == ["always", "failure", "immediate"]  # the second hook has no shield


async def test_a_hook_with_a_shield_outlasts_the_cancellation_of_its_route_g11_g22() -> None:
    async def hook(outcome: str) -> None:
        with anyio.CancelScope(shield=True):
            await events.hook(outcome)

    events = Events()
    async with TaskHost() as host:
        with anyio.CancelScope() as cancel:
            async with host.scope() as scope, scope.route():
                scope.before_route_ends(hook)
                cancel.cancel()
                await anyio.sleep_forever()
    assert events == ["hook: failure"]


@native_cancel_only
async def test_a_native_cancellation_of_a_waiting_hook_fails_its_route_g5_g22() -> None:
    async def hook(_outcome: str) -> None:
        waits.set()
        await anyio.sleep_forever()

    async def body() -> None:
        async with scope.route():
            scope.before_route_ends(hook)
            scope.before_route_ends(events.hook)

    waits, events = anyio.Event(), Events()
    async with TaskHost() as host:
        scope = host.scope()
        native = asyncio.ensure_future(body())
        await waits.wait()
        native.cancel()
        with pytest.raises(asyncio.CancelledError):
            await native
        assert (scope.outcome, events) == ("failure", ["hook: failure"])
        scope.end()


async def test_a_call_that_cannot_await_a_hook_is_refused_and_changes_nothing_g22() -> None:
    events = Events()
    async with TaskHost() as host:
        async with host.scope() as scope:
            scope.before_route_ends(events.hook)
            assert scope._hooks
            for call in (scope.end_route, scope.end, lambda: scope.after_route.start(scope)):
                with pytest.raises(RuntimeError, match="async with"):
                    call()
            assert (scope.outcome, events) == (None, [])
        assert events == ["hook: success"]
        assert not scope._hooks
        scope.end_route()
        scope.end()


async def test_a_hook_that_comes_too_late_or_takes_no_outcome_is_refused_g22() -> None:
    async def without_outcome() -> None: ...

    async with TaskHost() as host, host.scope() as scope:
        async with scope.route():
            for wrong in (without_outcome, None):
                with pytest.raises(TypeError):
                    scope.before_route_ends(wrong)  # type: ignore[arg-type]
            assert not scope._hooks
        with pytest.raises(RuntimeError, match="ended already"):
            scope.before_route_ends(Events().hook)


async def test_a_coroutine_that_is_closed_in_a_route_calls_no_hook_g22() -> None:
    async def body() -> None:
        async with scope.route():
            scope.before_route_ends(events.hook)
            await anyio.sleep_forever()

    events = Events()
    async with TaskHost() as host:
        scope = host.scope()
        coro = body()
        coro.send(None)
        coro.close()
        scope.end()
    assert (scope.outcome, events) == ("failure", [])


async def test_a_coroutine_that_is_closed_in_a_hook_calls_no_further_hook_g22() -> None:
    async def hang(_outcome: str) -> None:
        await anyio.sleep_forever()

    async def body() -> None:
        async with scope.route():
            scope.before_route_ends(hang)
            scope.before_route_ends(events.hook)

    events = Events()
    async with TaskHost() as host:
        scope = host.scope()
        coro = body()
        coro.send(None)
        coro.close()
        scope.end()
    assert (scope.outcome, events) == ("failure", [])


async def test_an_exception_of_a_hook_leaves_no_cycle_g2_g22() -> None:
    async def body() -> None:
        try:
            async with host.scope() as scope, scope.route():
                scope.before_route_ends(events.broken)
                raise LookupError
        except Full:
            pass

    events = Events()
    async with TaskHost() as host:
        await body()
        gc.collect()
        before = [each for each in gc.get_objects() if type(each) is Full]  # of other tests
        gc.disable()
        try:
            await body()
            assert [each for each in gc.get_objects() if type(each) is Full] == before
        finally:
            gc.enable()
