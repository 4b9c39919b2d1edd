"""G9, G18: `delay=`, and the pauses of a drain."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import weakref
from contextvars import ContextVar
from datetime import timedelta
from types import FrameType
from typing import Any

import anyio
import pytest
from tests.backends import MOVABLE, native_cancel_only, turns, until
from tests.virtual import now, on_each_loop, run

from taskphase import (
    Limit,
    Task,
    TaskHost,
    TaskObserver,
    TasksClosedError,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
    current_task,
)
from taskphase.testing import JumpClock, record_tasks

S = TaskStatus


async def fail() -> None:
    raise LookupError


@on_each_loop
class TestDelay:
    """In virtual time."""

    @pytest.mark.parametrize("delay", [3, 3.0, timedelta(seconds=3)])
    def test_a_task_starts_when_its_delay_is_over_g18(self, backend: Any, delay: Any) -> None:
        async def main() -> None:
            async with TaskHost() as host:
                task = host.task(delay=delay).schedule(now)
                began = anyio.current_time()
                assert (task.status, task.config.delay, host.delayed, host.running) == (S.DELAYED, 3, 1, 0)
                assert await task == began + 3
                assert (host.delayed, task.age) == (0, 3)

        run(main, backend)

    def test_the_delay_begins_when_the_phase_has_come_g18(self, backend: Any) -> None:
        async def main() -> None:
            began = anyio.current_time()
            async with TaskHost(drain_timeout=60) as host:
                async with host.scope() as tasks:
                    async with tasks.route():
                        later = tasks.task(delay=2)
                        made = [each.schedule(now) for each in (later.after_route, later.after_response)]
                        dropped = later.task(when="failure").after_route.schedule(now)
                        assert [task.status for task in made] == [S.DEFERRED] * 2
                        await anyio.sleep(10)
                    assert [task.status for task in made] == [S.DELAYED, S.DEFERRED]
                    assert dropped.status is S.DROPPED
                    await anyio.sleep(1)
                assert [await task for task in made] == [began + 12, began + 13]

        run(main, backend)

    def test_delayed_tasks_start_in_the_order_of_their_times_g18(self, backend: Any) -> None:
        async def main() -> None:
            async def note() -> None:
                order.append((current_task().config.delay, anyio.current_time() - began))

            began, order = anyio.current_time(), list[tuple[float | None, float]]()
            async with TaskHost(drain_timeout=60) as host:
                for delay in (5, 1, 3, 2, 4, 1):
                    host.task(delay=delay).schedule(note)
                for task in [host.task(delay=0.5).schedule(note) for _ in range(100)]:
                    task.cancel()
            assert order == [(1, 1), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]

        run(main, backend)

    def test_a_delayed_task_holds_no_slot_and_waits_for_one_g15_g18(self, backend: Any) -> None:
        async def main() -> None:
            began = anyio.current_time()
            async with TaskHost(max_running=1) as host:
                delayed = host.task(delay=1).schedule(now)
                running = host.schedule(anyio.sleep, 3)
                assert running.status is S.STARTING
                await anyio.sleep(2)
                assert (delayed.status, host.delayed, host.waiting) == (S.WAITING, 0, 1)
                assert await delayed == began + 3

        run(main, backend)

    def test_a_delayed_task_counts_for_max_pending_g15_g18(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost(max_pending=1) as host:
                task = host.task(delay=1).schedule(anyio.sleep, 0)
                with pytest.raises(TasksSaturatedError, match="1 delayed tasks have reached max_pending=1") as caught:
                    host.task(delay=1).schedule(anyio.sleep, 0)
                assert (caught.value.delayed, caught.value.limited) == (1, 0)
                await host.schedule(anyio.sleep, 0)
                await task
                await host.task(delay=1).schedule(anyio.sleep, 0)

        run(main, backend)

    def test_only_the_first_attempt_is_delayed_g16_g18(self, backend: Any) -> None:
        async def main() -> None:
            async def note() -> None:
                times.append(anyio.current_time() - began)
                raise LookupError

            began, times = anyio.current_time(), list[float]()
            async with TaskHost() as host:
                await host.task(delay=5, retry=lambda task, _: 1 if task.attempt < 3 else None).schedule(note).wait()
            assert times == [5, 6, 7]

        run(main, backend)

    def test_a_delayed_task_can_be_cancelled_g2_g18(self, backend: Any) -> None:
        async def main() -> None:
            began = anyio.current_time()
            async with TaskHost() as host:
                first, second = (host.task(delay=delay).schedule(now) for delay in (1, 2))
                first.cancel()
                assert (first.status, host.delayed) == (S.CANCELLED, 1)
                assert await second == began + 2

        run(main, backend)

    def test_a_delay_that_is_over_keeps_no_host_open_g9_g18(self, backend: Any) -> None:
        """On trio a timer is a native task of the host."""

        async def main() -> None:
            began = anyio.current_time()
            async with TaskHost(drain_timeout=60) as host:
                longer, _shorter = (host.task(delay=delay).schedule(now) for delay in (30, 1))
                longer.cancel()
            assert anyio.current_time() == began + 1

        run(main, backend)

    def test_no_barrier_waits_for_a_delay_g1_g18(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost() as host, host.scope() as tasks:
                began = anyio.current_time()
                async with tasks.route():
                    tasks.task(delay=9).schedule(anyio.sleep, 0)
                    tasks.task(delay=9).after_route.schedule(anyio.sleep, 0)
                await tasks.settle()
                assert (anyio.current_time(), host.delayed) == (began, 2)

        run(main, backend)

    def test_observers_hear_that_a_task_is_due_when_its_delay_begins_g18_g20(self, backend: Any) -> None:
        class Watch(TaskObserver):
            def due(self, task: Task[Any]) -> None:
                heard.append(("due", task.status, task.age))

            def started(self, task: Task[Any]) -> None:
                heard.append(("started", task.status, task.age))

        heard: list[object] = []

        async def main() -> None:
            async with TaskHost(observers=[Watch()]) as host:
                await host.task(delay=4).schedule(anyio.sleep, 0)

        run(main, backend)
        assert heard == [("due", S.DELAYED, 0), ("started", S.RUNNING, 4)]

    def test_an_inherited_delay_is_lifted_by_zero_g18(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost(drain_timeout=9) as host, TasksScheduler(host.tg) as tasks:
                late = tasks.task(delay=5)
                assert late.schedule(anyio.sleep, 0).status is S.DELAYED
                assert late.task(delay=0).schedule(anyio.sleep, 0).status is S.STARTING

        run(main, backend)

    def test_await_task_runs_at_once_without_the_delay_g18(self, backend: Any) -> None:
        async def main() -> None:
            began = anyio.current_time()
            async with TaskHost() as host:
                with record_tasks(host, run="never") as tasks:
                    held = host.task(delay=60).schedule(now)
                    assert await held() == began
                    assert await tasks.one() == began

        run(main, backend)

    def test_a_recorder_that_runs_inline_waits_for_no_delay_g18(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost() as host:
                with record_tasks(host, run="inline"):
                    async with host.scope() as tasks:
                        task = tasks.task(delay=60).schedule(anyio.sleep, 0)
                    assert task.status is S.DELAYED

        run(main, backend)


@on_each_loop
class TestDrain:
    """Of pauses, in virtual time."""

    @pytest.mark.parametrize(("seconds", "status"), [(2, S.CANCELLED), (1, S.SUCCEEDED)])
    def test_a_delay_that_ends_after_stage_1_is_cancelled_at_its_begin_g9_g18(
        self, backend: Any, seconds: float, status: TaskStatus
    ) -> None:
        async def main() -> float:
            async with TaskHost(drain_timeout=1.5) as host:
                task = host.task(delay=seconds, name="late").schedule(anyio.sleep, 0)
                began = anyio.current_time()
            assert task.status is status
            assert host.drain_report is not None
            assert host.drain_report.cancelled == ({"late": 1} if status is S.CANCELLED else {})
            return anyio.current_time() - began

        assert run(main, backend) == (0 if status is S.CANCELLED else 1)

    @pytest.mark.parametrize(("seconds", "attempts", "lasts"), [(2, 1, 0), (1, 2, 1)])
    def test_a_pause_between_attempts_that_ends_after_stage_1_is_cancelled_too_g9_g16(
        self, backend: Any, seconds: float, attempts: int, lasts: float
    ) -> None:
        async def main() -> float:
            async with TaskHost(drain_timeout=1.5) as host:
                task = host.task(retry=lambda task, _: seconds if task.attempt == 1 else None).schedule(fail)
                await until(lambda: task.status is S.RETRYING)
                began = anyio.current_time()
            assert (task.status, task.attempt) == (S.CANCELLED if attempts == 1 else S.FAILED, attempts)
            return anyio.current_time() - began

        assert run(main, backend) == lasts

    @pytest.mark.parametrize("of_a_retry", [False, True])
    def test_a_pause_that_begins_in_stage_1_and_ends_after_it_is_cancelled_g9(
        self, backend: Any, *, of_a_retry: bool
    ) -> None:
        async def work() -> None:
            await anyio.sleep(1)
            if of_a_retry:
                raise LookupError
            made.append(host.task(delay=5).schedule(anyio.sleep, 0))

        made: list[Task[Any]] = []
        host = TaskHost(drain_timeout=4)

        async def main() -> float:
            async with host:
                made.append(host.task(retry=lambda *_: 5).schedule(work))
                began = anyio.current_time()
            assert made[-1].status is S.CANCELLED
            return anyio.current_time() - began

        assert run(main, backend) == 1

    @pytest.mark.parametrize("of_a_retry", [False, True])
    def test_a_pause_without_a_shield_that_begins_in_stage_3_is_cancelled_g9(
        self, backend: Any, *, of_a_retry: bool
    ) -> None:
        """A shielded task may schedule then; the pause ends after stage 1."""

        async def work() -> None:
            await anyio.sleep(1)
            late = host.task(retry=lambda *_: 5) if of_a_retry else host.task(delay=5)
            made.append(late.schedule(fail))

        made: list[Task[Any]] = []
        host = TaskHost()

        async def main() -> float:
            async with host:
                host.task(shield=True).schedule(work)
                began = anyio.current_time()
            assert (made[0].status, made[0].attempt) == (S.CANCELLED, int(of_a_retry))
            return anyio.current_time() - began

        assert run(main, backend) == 1

    def test_a_shielded_delay_is_waited_for_g9_g18(self, backend: Any) -> None:
        async def main() -> float:
            async with TaskHost() as host:
                task = host.task(delay=7, shield=True).schedule(anyio.sleep, 0)
                began = anyio.current_time()
            assert task.status is S.SUCCEEDED
            return anyio.current_time() - began

        assert run(main, backend) == 7

    def test_a_shielded_delay_is_waited_for_no_longer_than_shield_timeout_g9_g18(self, backend: Any) -> None:
        async def main() -> float:
            async with TaskHost(shield_timeout=timedelta(seconds=3), drain_timeout=timedelta(seconds=1)) as host:
                task = host.task(delay=7, shield=True).schedule(anyio.sleep, 0)
                began = anyio.current_time()
            assert task.status is S.CANCELLED
            return anyio.current_time() - began

        assert run(main, backend) == 4

    def test_a_shield_of_some_seconds_ends_in_a_delay_too_g9_g18(self, backend: Any) -> None:
        async def main() -> float:
            async with TaskHost() as host:
                task = host.task(delay=7, shield=timedelta(seconds=2)).schedule(anyio.sleep, 0)
                began = anyio.current_time()
            assert task.status is S.CANCELLED
            return anyio.current_time() - began

        assert run(main, backend) == 2


@on_each_loop
class TestForeignGroup:
    """A scheduler with any task group."""

    def test_a_group_waits_for_its_delayed_and_paused_tasks_g18(self, backend: Any) -> None:
        async def main() -> float:
            began = anyio.current_time()
            async with anyio.create_task_group() as tg:
                tasks = TasksScheduler(tg)
                delayed = tasks.task(delay=3).schedule(now)
                paused = tasks.task(retry=lambda task, _: 5 if task.attempt == 1 else None).schedule(fail)
            assert (delayed.status, paused.status, paused.attempt) == (S.SUCCEEDED, S.FAILED, 2)
            return anyio.current_time() - began

        assert run(main, backend) == 5

    def test_a_cancelled_group_cancels_what_is_not_shielded_g9_g18(self, backend: Any) -> None:
        async def main() -> float:
            began = anyio.current_time()
            async with anyio.create_task_group() as tg:
                tasks = TasksScheduler(tg)
                late = tasks.task(delay=3)
                plain, shielded = late.schedule(anyio.sleep, 0), late.task(shield=True).schedule(anyio.sleep, 0)
                await anyio.sleep(1)
                tg.cancel_scope.cancel()
            assert (plain.status, shielded.status) == (S.CANCELLED, S.SUCCEEDED)
            return anyio.current_time() - began

        assert run(main, backend) == 3

    def test_a_closed_group_refuses_a_delayed_task_g18(self, backend: Any) -> None:
        async def main() -> None:
            async with anyio.create_task_group() as tg:
                tasks = TasksScheduler(tg)
            late = tasks.task(delay=3, key="a", limit=Limit(1))
            for _ in range(2):
                with pytest.raises(TasksClosedError):
                    late.schedule(anyio.sleep, 0)
            gates = tasks._scope._runner.gates
            assert not (gates.pauses.ends or gates.lines or gates._keys)

        run(main, backend)


@pytest.mark.parametrize("backend", MOVABLE)
def test_a_jump_of_the_clock_ends_a_delay_g18(backend: Any) -> None:
    clock = JumpClock()

    async def main() -> None:
        async with TaskHost() as host:
            with record_tasks(host) as tasks:
                task = host.task(delay=timedelta(days=1)).schedule(anyio.sleep, 0)
                clock.jump(86_399)
                await turns()
                assert task.status is S.DELAYED
                clock.jump(1)
                await tasks.await_all()
                assert task.status is S.SUCCEEDED

    anyio.run(main, backend=backend, backend_options=clock.backend_options(backend))


async def test_one_timer_serves_all_delayed_tasks_g18() -> None:
    async with TaskHost() as host:
        pauses = host._runner.gates.pauses
        timers: list[float] = []
        call_at = host._runner.seam.call_at
        host._runner.seam.call_at = lambda when, *args: (timers.append(when), call_at(when, *args))[1]
        for delay in (50, 60, 40, 70):
            host.task(delay=delay).schedule(anyio.sleep, 0)
        assert timers == [pauses.ends[task] for task in host.tasks() if task.config.delay in (50, 40)]


async def test_a_delayed_task_can_be_scheduled_by_a_thread_g8_g18() -> None:
    async with TaskHost() as host:
        made: list[Task[Any]] = []
        thread = threading.Thread(target=lambda: made.append(host.task(delay=0.01).schedule(anyio.sleep, 0)))
        thread.start()
        thread.join()
        await made[0]


@pytest.mark.parametrize("is_alone", [False, True])
async def test_a_task_that_has_left_its_delay_is_garbage_g2_g18(is_alone: bool) -> None:
    """Also if the timer of another task runs on."""

    class Argument: ...

    async def use(_: Argument) -> None: ...

    async with TaskHost() as host:
        if not is_alone:
            host.task(delay=3600).schedule(anyio.sleep, 0)
        kept = []
        for end in (lambda task: task.wait(), lambda task: task.cancel()):
            argument = Argument()
            task = host.task(delay=0.001).schedule(use, argument)
            if (waiting := end(task)) is not None:
                await waiting
            kept.append(weakref.ref(argument))
            del task, argument
        for _ in range(0 if is_alone else 200):
            host.task(delay=3600).schedule(anyio.sleep, 0).cancel()
        await turns()
        gc.collect()
        assert [ref() for ref in kept] == [None, None]
        assert len(host._runner.gates.pauses._heap) < 100


async def test_the_timer_keeps_no_context_of_a_task_g6_g18() -> None:
    variable: ContextVar[object] = ContextVar("variable")

    class Value: ...

    async def schedule() -> None:
        value = Value()
        variable.set(value)
        kept.append(weakref.ref(value))
        host.task(delay=3600).schedule(anyio.sleep, 0).cancel()
        host.task(delay=3600).schedule(anyio.sleep, 0)

    kept: list[weakref.ref[Value]] = []
    async with TaskHost() as host:
        await host.schedule(schedule)
        host.tasks()[0].cancel()
        await turns()
        gc.collect()
        assert kept[0]() is None


@native_cancel_only
async def test_the_end_of_the_loop_spares_a_shielded_delay_g9_g18(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    """asyncio cancels all native tasks natively; a delayed task has none."""
    program = f"""
import asyncio
from taskphase import TaskHost

async def main():
    host = await TaskHost().__aenter__()
    host.task(delay=0.1, shield=True).schedule(print, "shielded")
    host.task(delay=60).schedule(print, "plain")

if {anyio_backend[1]["use_uvloop"]!r}:
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""
    done = await anyio.run_process([sys.executable, "-c", program], check=False)
    assert (done.stdout.split(), done.returncode) == ([b"shielded"], 0), done.stderr.decode()


async def test_a_signal_handler_may_schedule_a_delayed_task_g8_g18() -> None:
    made: list[Task[Any]] = []
    async with TaskHost() as host:
        before = signal.signal(signal.SIGUSR1, lambda *_: made.append(host.task(delay=0.001).schedule(anyio.sleep, 0)))
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
        await made[0]


async def test_a_cancellation_on_its_way_at_the_end_of_a_delay_counts_g2_g8_g19(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The thread that cancels has not woken the loop yet."""
    is_about_to_wake, go_on = threading.Event(), threading.Event()

    def trace(frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code.co_name == "call_from_thread":
            is_about_to_wake.set()
            go_on.wait(10)

    def cancel() -> None:
        sys.settrace(trace)
        task.cancel()

    async with TaskHost() as host:
        limited = host.task(limit=Limit(1))
        task = limited.task(delay=0.01).schedule(anyio.sleep, 0)
        thread = threading.Thread(target=cancel)
        thread.start()
        assert is_about_to_wake.wait(10)
        await task.wait()
        go_on.set()
        thread.join()
        assert (task.status, caplog.records) == (S.CANCELLED, [])
        await limited.schedule(anyio.sleep, 0)


@on_each_loop
@pytest.mark.parametrize("of_a_retry", [False, True])
def test_an_interrupt_in_a_task_cancels_pauses_without_a_shield_g2_g9_g18(backend: str, *, of_a_retry: bool) -> None:
    made: list[Task[Any]] = []

    async def interrupt() -> None:
        await until(lambda: made[0].status in (S.DELAYED, S.RETRYING))
        raise KeyboardInterrupt

    async def main() -> None:
        async with TaskHost() as host:
            for shield in (False, True):
                delay = 0 if of_a_retry else _seconds(shield)
                late = host.task(shield=shield, delay=delay, retry=lambda task, _: _pause(task))
                made.append(late.schedule(fail))
            host.schedule(interrupt)
            await anyio.sleep_forever()

    def _pause(task: Task[Any]) -> float | None:
        return _seconds(task.config.shielded) if task.attempt == 1 and of_a_retry else None

    def _seconds(shield: bool) -> float:
        return 0.01 if shield else 60  # the interrupt comes before the end of the longer one

    with pytest.raises(KeyboardInterrupt):
        anyio.run(main, backend=backend)
    assert [task.status for task in made] == [S.CANCELLED, S.FAILED]
    assert [task.attempt for task in made] == [int(of_a_retry), 1 + of_a_retry]


@on_each_loop
def test_an_observer_that_interrupts_each_end_leaves_no_task_behind_g2_g18_g20(backend: str) -> None:
    class Interrupt(TaskObserver):
        def ended(self, task: Task[Any]) -> None:
            heard.append(task)
            raise KeyboardInterrupt

    heard: list[Task[Any]] = []
    made: list[Task[Any]] = []

    async def main() -> None:
        async with TaskHost(observers=[Interrupt()]) as host:
            made.extend(host.task(delay=60).schedule(anyio.sleep, 0) for _ in range(3))
            made.append(host.schedule(anyio.sleep, 0))
            await anyio.sleep_forever()

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        anyio.run(main, backend=backend)
    assert [task.status for task in made] == [*[S.CANCELLED] * 3, S.SUCCEEDED]
    assert sorted(heard, key=lambda task: task.id) == made


@pytest.mark.parametrize("settings", [{"delay": 0.01}, {"limit": Limit(1)}, {"key": "a"}, {"delay": 0.01, "key": "a"}])
async def test_an_observer_that_interrupts_schedule_takes_no_task_from_its_gate_g2_g20(
    settings: dict[str, Any],
) -> None:
    class Interrupt(TaskObserver):
        def due(self, task: Task[Any]) -> None:
            if task.name == "interrupted":
                raise KeyboardInterrupt

    async with TaskHost(observers=[Interrupt()]) as host:
        definition = host.task(**settings)
        before = definition.task(key="b").schedule(anyio.sleep, 0)
        with pytest.raises(KeyboardInterrupt):
            definition.task(name="interrupted").schedule(anyio.sleep, 0)
        task = host.tasks()[-1]
        assert task.name == "interrupted"
        if "key" in settings:
            assert definition.schedule(anyio.sleep, 0).status is S.DROPPED
        for each in (before, task):
            await each
