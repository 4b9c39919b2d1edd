"""The closing of a host, second by second: the end of each task, wake-ups, and waits that nothing can shorten."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any

import anyio
import pytest
from anyio import create_task_group, current_time
from anyio.abc import TaskGroup
from hypothesis import given
from hypothesis import strategies as st

from property_tests.closing import BEGIN, Closing, Work, works
from taskphase import Task, TaskHost, TasksClosedError, TasksScheduler, TaskStatus, current_task
from taskphase._drive.runner import Runner
from taskphase.testing import Call, RandomWalk, pause, simulate

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

S = TaskStatus


async def nothing() -> None:
    pass


@BACKENDS
@given(
    works=st.lists(works, min_size=1, max_size=4),
    grace=st.sampled_from([0, 1, 2]),
    patience=st.sampled_from([None, 0, 1.5]),
    is_cancelled=st.booleans(),
)
def test_each_ends_when_its_kind_has_to_and_the_host_closes_with_the_last_g9(
    backend: Any, works: list[Work], grace: float, patience: float | None, is_cancelled: bool
) -> None:
    closing = Closing(works, grace, patience, is_cancelled=is_cancelled)
    closed = simulate(closing.main, backend=backend).result()
    patience = math.inf if patience is None else patience
    # Raw work gets no time of its own: it is cancelled when the tasks have ended.
    last = max([BEGIN, *(work.holds_until(grace, patience) for work in works if work.kind != "plain")])
    expected = [
        work.end(min(grace, last - BEGIN), patience) if work.kind == "plain" else work.end(grace, patience)
        for work in works
    ]
    for number, (time, status) in enumerate(expected):
        ended, how = closing.ends[number]
        assert ended == pytest.approx(time), works[number]
        assert status in (None, how), works[number]
    assert closed == pytest.approx(last)
    report = closing.host.drain_report
    assert report is not None
    assert report.seconds == pytest.approx(closed - BEGIN)
    said = {str(n) for n, work in enumerate(works) if work.kind != "raises for a thread"}
    cut = {str(n) for n, work in enumerate(works) if not work.in_thread and expected[n][1] is S.CANCELLED}
    left = {str(n) for n, work in enumerate(works) if work.in_thread and work.seconds > BEGIN + grace + patience}
    assert set(report.cancelled) & said == cut
    assert set(report.abandoned) & said == left


@BACKENDS
@given(protection=st.sampled_from([0.5, 1, 2, 3]), scheduled=st.sampled_from([0.25, 1.5]))
def test_a_shield_of_some_seconds_ends_in_time_for_tasks_of_the_drain_too_g9(
    backend: Any, protection: float, scheduled: float
) -> None:
    latest: list[Task[Any]] = []

    async def shielded(host: TaskHost) -> None:
        await anyio.sleep(scheduled)
        latest.append(host.task(shield=protection).schedule(anyio.sleep, 50))

    async def main() -> float:
        async with TaskHost() as host:
            await host.task(shield=True).schedule(shielded, host).started.wait()
        return current_time()

    assert simulate(main, backend=backend).result() == max(protection, scheduled)
    assert latest[0].status is S.CANCELLED


@BACKENDS
@given(
    waits=st.lists(st.tuples(st.sampled_from(["delay", "retry"]), st.sampled_from([0.5, 1.5, 9]), st.booleans())),
    grace=st.sampled_from([0, 1, 5]),
    begins=st.sampled_from([0, 0.25]),
)
def test_a_pause_that_would_outlast_stage_1_is_cancelled_g9_g16_g18(
    backend: Any, waits: list[tuple[str, float, bool]], grace: float, begins: float
) -> None:
    """The host closes at the time 0.125. Some of the pauses begin later."""
    ends: dict[int, tuple[float, TaskStatus]] = {}

    async def fail_once() -> None:
        if current_task().attempt == 1:
            raise OSError

    async def watch(number: int, task: Task[Any]) -> None:
        await task.wait()
        ends[number] = current_time(), task.status

    async def schedule(host: TaskHost, watchers: TaskGroup) -> None:
        await anyio.sleep(begins)
        for number, (kind, seconds, shield) in enumerate(waits):
            if kind == "delay":
                task = host.task(shield=shield, delay=seconds).schedule(nothing)
            else:
                task = host.task(shield=shield, retry=lambda *_, seconds=seconds: seconds).schedule(fail_once)
            watchers.start_soon(watch, number, task)

    async def main() -> float:
        async with create_task_group() as watchers:
            async with TaskHost(drain_timeout=grace) as host:
                await host.task(shield=True).schedule(schedule, host, watchers).started.wait()
                await anyio.sleep(0.125)
            return current_time()

    closed = simulate(main, backend=backend).result()
    at = max(begins, 0.125)
    for number, (_, seconds, shield) in enumerate(waits):
        is_cut = not shield and 0.125 + grace < begins + seconds
        assert ends[number] == ((at, S.CANCELLED) if is_cut else (begins + seconds, S.SUCCEEDED)), waits[number]
    assert closed == max([at, *(time for time, _ in ends.values())])


def cancel(task: Task[Any], tasks: TasksScheduler) -> None:
    task.cancel()


def succeed(task: Task[Any], tasks: TasksScheduler) -> None:
    tasks.end()


def fail(task: Task[Any], tasks: TasksScheduler) -> None:
    tasks.end(failed=True)


@BACKENDS
@pytest.mark.parametrize(("go", "how"), [(cancel, S.CANCELLED), (succeed, S.SUCCEEDED), (fail, S.DROPPED)])
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_host_closes_when_the_last_of_its_tasks_has_gone_whichever_way_g9(
    backend: Any, go: Callable[..., None], how: TaskStatus, in_thread: bool
) -> None:
    async def main() -> float:
        async with create_task_group() as tg:
            async with TaskHost(drain_timeout=5) as host:
                tasks = host.scope()
                task = tasks.after_response.schedule(nothing)
                tg.start_soon(later, task, tasks)
            assert task.status is how
            return current_time()

    async def later(task: Task[Any], tasks: TasksScheduler) -> None:
        await anyio.sleep(1)
        if in_thread and go is cancel:
            await anyio.to_thread.run_sync(task.cancel)
        else:
            go(task, tasks)

    assert simulate(main, backend=backend).result() == 1


@BACKENDS
@given(grace=st.sampled_from([1, 5]), seed=st.integers(0, 1000))
def test_what_is_cancelled_on_its_way_from_a_thread_holds_no_closing_up_g2_g8_g9(
    backend: Any, grace: float, seed: int
) -> None:
    tasks: list[Task[Any]] = []

    async def main() -> float:
        async with create_task_group() as tg:
            async with TaskHost(drain_timeout=grace) as host:
                tasks.append(host.scope().after_response.schedule(nothing))  # lives until it is cancelled
                tg.start_soon(anyio.to_thread.run_sync, from_thread, host)
                tg.start_soon(cancel_all)
            return current_time()

    def from_thread(host: TaskHost) -> None:
        pause(1)
        with suppress(TasksClosedError):
            tasks.append(host.schedule(nothing))

    async def cancel_all() -> None:
        await anyio.sleep(1)
        for task in tasks:
            task.cancel()

    assert simulate(main, backend=backend, policy=RandomWalk(seed)).result() == 1
    assert all(task.status in (S.CANCELLED, S.SUCCEEDED) for task in tasks)


@BACKENDS
def test_tasks_of_a_thread_at_the_last_moment_have_ended_when_the_host_closes_g2_g8(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[Task[Any]] = []

    async def turns() -> None:
        for _ in range(9):
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        async with TaskHost(drain_timeout=9) as host:
            close = Runner.close

            def overtaken(runner: Runner) -> bool:
                # The loop has just found nothing left; now there is a new task.
                if not tasks:
                    thread = Thread(target=lambda: tasks.append(host.schedule(turns)))
                    thread.start()
                    thread.join()
                return close(runner)

            monkeypatch.setattr(Runner, "close", overtaken)
        assert tasks[0].status is S.SUCCEEDED

    anyio.run(main, backend=backend)  # in a simulation no thread could interrupt here


@BACKENDS
def test_a_host_waiting_for_shielded_tasks_takes_no_tasks_of_another_host_g9(backend: Any) -> None:
    async def schedule_elsewhere(host: TaskHost) -> None:
        await anyio.sleep(1)
        host.schedule(nothing)

    async def main() -> None:
        async with TaskHost() as outer:
            async with TaskHost() as inner:
                inner.task(shield=True).schedule(anyio.sleep, 2)
                of_its_own = inner.task(shield=True).schedule(schedule_elsewhere, inner)
                of_another = outer.task(shield=True).schedule(schedule_elsewhere, inner)
                await of_another.started.wait()
                await of_its_own.started.wait()
            assert of_its_own.status is S.SUCCEEDED
            assert isinstance(of_another.exception, TasksClosedError)

    simulate(main, backend=backend).result()


@BACKENDS
def test_a_task_that_closes_its_own_host_is_told_not_to_g9(backend: Any) -> None:
    async def main() -> Task[Any]:
        async with TaskHost() as host:
            task = host.schedule(host.aclose)
            await task.wait()
            return task

    assert isinstance(simulate(main, backend=backend).result().exception, RuntimeError)


@given(st.lists(st.sampled_from([0.5, 0.75, 1]), max_size=3))
def test_a_natively_cancelled_waiter_still_waits_for_the_close_g9(pauses: list[float]) -> None:
    async def main() -> tuple[bool, float]:
        async with TaskHost() as host:
            await host.task(shield=True).schedule(anyio.sleep, 4).started.wait()
            waiting = asyncio.create_task(host.aclose())
            for seconds in pauses:
                await asyncio.sleep(seconds)
                waiting.cancel()
            await asyncio.wait([waiting])
            return waiting.cancelled(), current_time()

    assert simulate(main, backend="asyncio").result() == (bool(pauses), 4)


@pytest.mark.parametrize("step", range(2, 13))
def test_a_host_ends_though_everything_is_cancelled_natively_at_any_step_g2_g9(step: int) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    tasks: list[Task[Any]] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        async with TaskHost(drain_timeout=1) as host:
            tasks.append(host.schedule(anyio.sleep, 0.5))
            await tasks[0].wait()

    def cancel_all() -> None:
        # asyncio itself does the same, for example at Ctrl-C.
        for task in sorted(asyncio.all_tasks(loops[0]), key=lambda task: task.get_name()):
            task.cancel()

    run = simulate(main, backend="asyncio", faults=[Call(step, cancel_all)])
    ended_by = run.exception
    assert isinstance(ended_by, asyncio.CancelledError), run.timeline()
    assert all(task.status in (S.CANCELLED, S.SUCCEEDED) for task in tasks)
