"""G2, G3, G8, G9, G17: the cancellation of a running task acts like a scope around all scopes of the task."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, nullcontext
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio
from anyio import CancelScope, get_cancelled_exc_class
from anyio.lowlevel import checkpoint
from tests.backends import native_cancel_only, turns, until
from tests.ways import WAYS, Way, go

from taskphase import TaskHost, TasksScheduler, TaskStatus, current_task
from taskphase._drive import on_asyncio, on_trio


@pytest.fixture(params=["late", "early"], autouse=True)
def entered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """When a task enters its scope. "Early" is the fallback if the private names of anyio or trio have changed."""
    monkeypatch.setenv("TASKPHASE_SCOPES", request.param)
    return request.param  # type: ignore[no-any-return]


class Log(list[str]):
    """The events of a task."""

    async def rest(self, where: str) -> None:
        try:
            await checkpoint()
            self.append(f"{where}: went on")
        except get_cancelled_exc_class():
            self.append(f"{where}: cancelled")
            raise

    async def wait(self, where: str) -> None:
        try:
            await anyio.sleep_forever()
        except get_cancelled_exc_class():
            self.append(f"{where}: cancelled")
            raise


async def test_a_running_task_has_no_scope_before_it_is_cancelled_unless_it_has_to_g17(entered: str) -> None:
    async with TaskHost() as host:
        task = host.schedule(anyio.sleep_forever)
        await task.started.wait()
        assert (task._scope is None) is (entered == "late")
        task.cancel()
        assert task._scope is not None
        await task.wait()
    assert task.status is TaskStatus.CANCELLED


class Around(asyncio.Future[None]):
    """A possible result of a task factory: a future around a task. Cancelling the future cancels nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> None:
        super().__init__(loop=loop)
        self.task = asyncio.Task(coro, loop=loop, **options)

    def set_name(self, name: object) -> None:
        self.task.set_name(name)


@native_cancel_only
async def test_what_a_task_factory_puts_around_a_task_is_not_taken_for_it_g9() -> None:
    log, loop = Log(), asyncio.get_running_loop()
    async with TaskHost() as host:
        loop.set_task_factory(Around)
        try:
            task = host.schedule(log.wait, "task")
        finally:
            loop.set_task_factory(None)
        await task.started.wait()
        task.cancel()
        await task.wait()
    assert (task.status, log) == (TaskStatus.CANCELLED, ["task: cancelled"])


async def test_a_cancelled_task_is_cancelled_at_each_checkpoint_g9() -> None:
    async def run() -> None:
        try:
            await log.wait("first")
        finally:
            for where in ("second", "third"):
                try:
                    await log.rest(where)
                except get_cancelled_exc_class():
                    pass
            await log.rest("last")

    log = Log()
    async with TaskHost() as host:
        task = host.schedule(run)
        await task.started.wait()
        task.cancel()
        await task.wait()
    assert log == ["first: cancelled", "second: cancelled", "third: cancelled", "last: cancelled"]
    assert task.status is TaskStatus.CANCELLED


async def test_scopes_that_a_task_entered_before_its_cancellation_are_inside_g9() -> None:
    async def run() -> None:
        with CancelScope(), CancelScope(deadline=anyio.current_time() + 60):
            try:
                await log.wait("inside")
            finally:
                seen.append(anyio.current_effective_deadline())
        log.append("never: the exception passes scopes that were not cancelled themselves")

    log, seen = Log(), list[float]()
    async with TaskHost() as host:
        task = host.schedule(run)
        await turns(3)
        task.cancel()
        await task.wait()
    assert log == ["inside: cancelled"]
    assert seen == [-math.inf]
    assert task.status is TaskStatus.CANCELLED


async def test_a_cancelled_scope_inside_the_task_catches_no_outer_cancellation_g9() -> None:
    async def run() -> None:
        with CancelScope() as own:
            own.cancel()
            task.cancel()
            await log.wait("inside")
        log.append("after")

    log = Log()
    async with TaskHost() as host:
        task = host.schedule(run)
        await task.wait()
    assert log == ["inside: cancelled"]
    assert task.status is TaskStatus.CANCELLED


async def test_a_scope_of_its_own_that_was_cancelled_before_is_left_first_g9() -> None:
    async def run() -> None:
        with CancelScope() as own:
            own.cancel()
            await log.wait("own")
        log.append(f"caught: {own.cancelled_caught}")
        await log.wait("the task")

    log = Log()
    async with TaskHost() as host:
        task = host.schedule(run)
        await until(lambda: len(log) == 2)
        await turns()
        task.cancel()
        await task.wait()
    assert log == ["own: cancelled", "caught: True", "the task: cancelled"]


async def test_a_shield_of_its_own_holds_until_it_is_left_g9() -> None:
    async def run() -> None:
        with CancelScope(), CancelScope(shield=True):
            await go_on.wait()
            await log.rest("in the shield")
            assert anyio.current_effective_deadline() == math.inf
        await log.rest("behind it")

    log, go_on = Log(), anyio.Event()
    async with TaskHost() as host:
        task = host.schedule(run)
        await turns()
        task.cancel()
        await turns()
        assert log == []
        go_on.set()
        await task.wait()
    assert log == ["in the shield: went on", "behind it: cancelled"]
    assert task.status is TaskStatus.CANCELLED


async def test_a_shield_of_its_own_that_is_taken_down_lets_it_through_g9() -> None:
    async def run() -> None:
        with CancelScope(shield=True) as shield:
            shields.append(shield)
            await log.wait("in the shield")

    log, shields = Log(), list[CancelScope]()
    async with TaskHost() as host:
        task = host.schedule(run)
        await turns()
        task.cancel()
        await turns()
        assert log == []
        shields[0].shield = False
        await task.wait()
    assert log == ["in the shield: cancelled"]


async def test_the_unshielded_children_of_a_task_are_cancelled_with_the_task_g9() -> None:
    async def child(name: str, *, shield: bool) -> None:
        with CancelScope(shield=shield):
            await (log.rest(name) if shield and not await go_on.wait() else log.wait(name))

    async def run() -> None:
        async with anyio.create_task_group() as children:
            children.start_soon(child_of, "one", False)
            async with anyio.create_task_group() as more:
                more.start_soon(child_of, "two", False)
                more.start_soon(child_of, "shielded", True)
                await anyio.sleep_forever()

    async def child_of(name: str, shield: bool) -> None:
        await child(name, shield=shield)

    log, go_on = Log(), anyio.Event()
    async with TaskHost() as host:
        task = host.schedule(run)
        await turns()
        task.cancel()
        await turns()
        assert sorted(log) == ["one: cancelled", "two: cancelled"]
        assert task.status is TaskStatus.CANCELLING
        go_on.set()
        await task.wait()
    assert log[2:] == ["shielded: went on"]
    assert task.status is TaskStatus.CANCELLED


async def test_scopes_that_a_task_enters_after_its_cancellation_are_inside_g9() -> None:
    async def run() -> None:
        try:
            await log.wait("first")
        finally:
            with CancelScope(shield=True):
                await log.rest("cleaning up")
                with anyio.move_on_after(60):
                    await log.rest("still")
            with CancelScope(), CancelScope():
                await log.rest("outside")

    log = Log()
    async with TaskHost() as host:
        task = host.schedule(run)
        await task.started.wait()
        task.cancel()
        await task.wait()
    assert log == ["first: cancelled", "cleaning up: went on", "still: went on", "outside: cancelled"]


async def test_a_task_that_has_left_all_its_scopes_is_cancelled_g9() -> None:
    async def run() -> None:
        with CancelScope():
            await checkpoint()
        await log.wait("outside")

    log = Log()
    async with TaskHost() as host:
        task = host.schedule(run)
        await turns()
        task.cancel()
        await task.wait()
    assert log == ["outside: cancelled"]


async def test_a_task_that_cancels_itself_is_cancelled_at_its_next_checkpoint_g9_g17() -> None:
    async def run(*, in_scope: bool) -> None:
        with ExitStack() as stack:
            if in_scope:
                stack.enter_context(CancelScope())
            current_task().cancel()
            assert anyio.current_effective_deadline() == -math.inf
            await log.rest("next")

    log = Log()
    async with TaskHost() as host:
        for in_scope in (False, True):
            task = host.schedule(run, in_scope=in_scope)
            await task.wait()
            assert task.status is TaskStatus.CANCELLED
    assert log == ["next: cancelled"] * 2


async def test_a_task_that_returns_despite_its_cancellation_has_succeeded_g2() -> None:
    async def run() -> str:
        with CancelScope():
            try:
                await anyio.sleep_forever()
            except get_cancelled_exc_class():
                pass
        return "done"

    async with TaskHost() as host:
        task = host.schedule(run)
        await task.started.wait()
        task.cancel()
        await task.wait()
        assert (task.status, task.return_value) == (TaskStatus.SUCCEEDED, "done")
        await turns()  # the cancellation hits no later code


async def test_a_task_cancelled_in_its_thread_is_cancelled_when_the_thread_ends_g8_g9() -> None:
    def in_thread() -> None:
        begun.set()
        go_on.wait(10)
        log.append("in the thread")

    async def run() -> None:
        with CancelScope():
            await anyio.to_thread.run_sync(in_thread)
            await log.rest("after the thread")

    log, begun, go_on = Log(), threading.Event(), threading.Event()
    async with TaskHost() as host:
        task = host.schedule(run)
        await until(begun.is_set)
        task.cancel()
        await turns()
        assert task.status is TaskStatus.CANCELLING
        go_on.set()
        await task.wait()
    assert log == ["in the thread", "after the thread: cancelled"]
    assert task.status is TaskStatus.CANCELLED


class Asked:
    """A call in a thread that checks for the cancellation of its task, after the cancellation."""

    def __init__(self) -> None:
        self.log = Log()
        self._begun, self._asked = threading.Event(), threading.Event()

    async def in_thread(self) -> None:
        cancelled = get_cancelled_exc_class()

        def look() -> None:
            self._begun.set()
            self._asked.wait(10)
            try:
                anyio.from_thread.check_cancelled()
            except cancelled:
                self.log.append("in the thread: cancelled")
                raise
            self.log.append("in the thread: went on")

        await anyio.to_thread.run_sync(look)

    async def cancelled_in(self, func: Callable[[], Awaitable[object]]) -> list[str]:
        """Let a task await `func()`, which has to await `in_thread()`, and cancel the task there."""

        async def run() -> None:
            await func()
            await self.log.rest("after it")

        async with TaskHost() as host:
            task = host.schedule(run)
            await until(self._begun.is_set)
            await turns(3)
            task.cancel()
            await turns(3)
            self._asked.set()
            await task.wait()
            await until(lambda: self.log)  # a native cancellation leaves the thread behind
            await turns()
        assert task.status is TaskStatus.CANCELLED
        return self.log


@pytest.mark.parametrize("around", ["nothing", "a scope", "a shield"])
async def test_a_thread_that_it_waits_for_can_see_that_it_is_cancelled_g9(around: str) -> None:
    async def run() -> None:
        with ExitStack() as stack:
            if around != "nothing":
                stack.enter_context(CancelScope(shield=around == "a shield"))
            await asked.in_thread()

    asked = Asked()
    expected = ["in the thread: cancelled"]
    if around == "a shield":
        expected = ["in the thread: went on", "after it: cancelled"]
    assert await asked.cancelled_in(run) == expected


@pytest.mark.parametrize("way", WAYS)
async def test_a_thread_can_see_it_from_behind_all_that_can_be_awaited_g9(way: Way) -> None:
    asked = Asked()
    assert await asked.cancelled_in(lambda: go(way, asked.in_thread)) == ["in the thread: cancelled"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("around", ["a scope", "a group", "another thread"])
async def test_a_thread_nested_in_scopes_groups_or_threads_can_see_the_cancellation_g9(way: Way, around: str) -> None:
    async def run() -> None:
        match around:
            case "a scope":
                with anyio.move_on_after(60):
                    await go(way, asked.in_thread)
            case "a group":
                async with anyio.create_task_group() as group:
                    group.start_soon(go, way, asked.in_thread)
            case _:
                await go(way, lambda: anyio.to_thread.run_sync(anyio.from_thread.run, asked.in_thread))

    asked = Asked()
    assert await asked.cancelled_in(lambda: go(way, run)) == ["in the thread: cancelled"]


@pytest.mark.parametrize("in_scope", [False, True])
async def test_behind_an_opaque_awaitable_a_thread_can_see_it_if_a_scope_is_around_g9(
    entered: str, backend_name: str, in_scope: bool
) -> None:
    """The limit that docs/guarantees.md names, and the way around it."""

    def opaque(coro: Coroutine[Any, Any, None]) -> Any:
        class Opaque:
            """Shows no references to the garbage collector: `coro` is in the closures of its methods."""

            def __await__(self) -> Opaque:
                return self

            def __next__(self) -> Any:
                return coro.send(None)

            def send(self, value: Any) -> Any:
                return coro.send(value)

            def throw(self, *exc: Any) -> Any:
                return coro.throw(*exc)

        return Opaque()

    async def run() -> None:
        with CancelScope() if in_scope else nullcontext():
            await opaque(asked.in_thread())

    asked = Asked()
    seen = await asked.cancelled_in(run)
    if in_scope or entered == "early" or backend_name == "trio":
        assert seen == ["in the thread: cancelled"]
    else:
        assert seen == ["in the thread: went on", "after it: cancelled"]


@native_cancel_only
@pytest.mark.parametrize("around", ["timeout", "wait_for", "gather", "shield"])
async def test_a_thread_sees_it_in_a_timeout_of_asyncio_but_not_in_another_task_g9(around: str) -> None:
    """As anyio's scopes do not reach into tasks that asyncio makes."""

    async def run() -> None:
        match around:
            case "timeout":
                async with asyncio.timeout(60):
                    await go("context", asked.in_thread)
            case "wait_for":
                await asyncio.wait_for(go("context", asked.in_thread), 60)
            case "gather":
                await asyncio.gather(go("context", asked.in_thread))
            case _:
                await asyncio.shield(go("context", asked.in_thread))

    same_task = around == "timeout" or (around == "wait_for" and sys.version_info >= (3, 12))
    asked = Asked()
    expected = "in the thread: cancelled" if same_task else "in the thread: went on"
    assert await asked.cancelled_in(run) == [expected]


@pytest.mark.parametrize("way", WAYS)
async def test_code_that_a_thread_runs_in_the_loop_is_cancelled_with_its_task_g9(way: Way) -> None:
    async def wait() -> None:
        begun.set()
        try:
            await anyio.sleep(5)  # bounded, so that a failure does not hang
            log.append("in the loop: went on")
        except get_cancelled_exc_class():
            log.append("in the loop: cancelled")
            raise

    async def run() -> None:
        await go(way, lambda: anyio.to_thread.run_sync(anyio.from_thread.run, wait))

    log, begun = Log(), anyio.Event()
    async with TaskHost() as host:
        task = host.schedule(run)
        await begun.wait()
    assert log == ["in the loop: cancelled"]
    assert task.status is TaskStatus.CANCELLED


async def test_after_its_thread_a_cancelled_task_is_cancelled_at_the_next_checkpoint_g9() -> None:
    async def run() -> None:
        await anyio.to_thread.run_sync(go_on.wait, 10)
        log.append("the thread has ended")
        await log.rest("after it")

    log, go_on = Log(), threading.Event()
    async with TaskHost() as host:
        task = host.schedule(run)
        await until(lambda: anyio.to_thread.current_default_thread_limiter().borrowed_tokens)
        await turns(3)
        task.cancel()
        await turns(3)
        go_on.set()
        await task.wait()
    assert log == ["the thread has ended", "after it: cancelled"]
    assert task.status is TaskStatus.CANCELLED


async def test_a_failed_task_that_a_log_handler_cancels_leaves_no_scope_behind_g2_g4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Canceller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            current_task().cancel()

    async def fail() -> None:
        raise ValueError

    enclosed: list[object] = []
    for seam in (on_asyncio.AsyncioSeam, on_trio.TrioSeam):
        monkeypatch.setattr(seam, "enclose", lambda _, native: enclosed.append(native))
    canceller = Canceller()
    logging.getLogger("taskphase").addHandler(canceller)
    try:
        async with TaskHost() as host:
            task = host.schedule(fail)
            await task.wait()
            await turns()
    finally:
        logging.getLogger("taskphase").removeHandler(canceller)
    assert isinstance(task.exception, ValueError)
    assert enclosed == []


@pytest.mark.parametrize("where", ["the body", "another task", "a callback", "a thread", "the drain"])
async def test_the_code_that_cancels_a_task_is_not_touched_g3(where: str, backend_name: str) -> None:
    def cancel_in_callback() -> None:
        if backend_name == "asyncio":
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            trio.lowlevel.current_trio_token().run_sync_soon(task.cancel)

    async def cancel_in_task() -> None:
        task.cancel()
        await turns(3)

    async with TaskHost() as host:
        task = host.schedule(anyio.sleep_forever)
        await task.started.wait()
        with CancelScope() as own:
            match where:
                case "the body":
                    task.cancel()
                case "another task":
                    await host.schedule(cancel_in_task)
                case "a callback":
                    cancel_in_callback()
                case "a thread":
                    await anyio.to_thread.run_sync(task.cancel)
                case _:
                    await host.aclose()
            assert anyio.current_effective_deadline() > -math.inf
            await checkpoint()
        assert not own.cancel_called
        await task.wait()
    assert task.status is TaskStatus.CANCELLED


async def test_many_tasks_cancelled_at_the_same_time_touch_no_other_task_g3() -> None:
    async def run(number: int) -> None:
        with ExitStack() as stack:
            for _ in range(number % 3):
                stack.enter_context(CancelScope())
            await anyio.sleep_forever()

    async with TaskHost() as host:
        tasks = [host.schedule(run, number) for number in range(30)]
        await turns()
        for task in tasks[::2]:
            task.cancel()
        for task in tasks[::2]:
            await task.wait()
        await turns()
        assert [task.status for task in tasks] == [TaskStatus.CANCELLED, TaskStatus.RUNNING] * 15
    assert {task.status for task in tasks} == {TaskStatus.CANCELLED}


async def test_the_next_attempt_is_in_no_old_scope_g16() -> None:
    async def run() -> None:
        if current_task().attempt == 1:
            raise ValueError
        await anyio.sleep_forever()

    async with TaskHost() as host:
        task = host.task(retry=lambda task, error: 0).schedule(run)
        await until(lambda: task.attempt == 2)
        task.cancel()
        await task.wait()
    assert task.status is TaskStatus.CANCELLED


async def test_a_task_in_a_foreign_task_group_is_cancelled_alone_g3() -> None:
    async def run() -> None:
        with CancelScope():
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tg:
        tasks = TasksScheduler(tg)
        one, other = tasks.schedule(run), tasks.schedule(run)
        await turns()
        one.cancel()
        await one.wait()
        assert other.status is TaskStatus.RUNNING
        tg.cancel_scope.cancel()
    assert other.status is TaskStatus.CANCELLED


@native_cancel_only
async def test_asyncio_counts_no_cancellation_that_is_over_g9() -> None:
    """As `asyncio.timeout()` has to rely on."""

    async def run() -> None:
        native = asyncio.current_task()
        assert native is not None
        natives.append(native)
        try:
            with CancelScope():
                await anyio.sleep_forever()
        finally:
            counts.append(native.cancelling())

    natives, counts = list[asyncio.Task[Any]](), list[int]()
    async with TaskHost() as host:
        task = host.schedule(run)
        await turns()
        task.cancel()
        await task.wait()
        await turns()
    assert counts == [1]
    assert [native.cancelling() for native in natives] == [0]


@pytest.mark.parametrize("anyio_backend", [pytest.param(("trio", {}), id="trio")], indirect=True)
async def test_trio_s_scopes_that_were_left_crosswise_still_end_g2() -> None:
    async def run() -> None:
        outer, inner = trio.CancelScope(), trio.CancelScope()
        outer.__enter__()
        inner.__enter__()
        with pytest.raises(RuntimeError, match="Cancel scope stack corrupted"):
            outer.__exit__(None, None, None)
        task.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            inner.__exit__(None, None, None)

    async with TaskHost() as host:
        task = host.schedule(run)
        await task.wait()
    assert task.status in (TaskStatus.CANCELLED, TaskStatus.FAILED)


async def test_a_cancelled_task_that_leaves_a_scope_open_fails_alone_g2_g3(caplog: pytest.LogCaptureFixture) -> None:
    async def leave_open() -> None:
        CancelScope().__enter__()
        current_task().cancel()

    async with TaskHost() as host:
        other = host.schedule(turns)
        task = host.schedule(leave_open)
        await task.wait()
        await other
        await turns()
        assert (task.status, host.running) == (TaskStatus.FAILED, 0)
    assert isinstance(task.exception, RuntimeError)
    assert len(caplog.records) == 1
