"""G8, G15, G17: `schedule()` and `cancel()` work in finalizers, weakref callbacks and signal handlers.

(`property_tests/test_interruptions.py` interrupts the library at each place; here the interruptions are real.)
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.backends import ASYNCIO, turns, until

from taskphase import Task, TaskCancelled, TaskHost, TasksSaturatedError, TaskStatus
from taskphase._drive.events import Events as _Events

S = TaskStatus


class InCycle:
    """An object that only the garbage collector finds."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.me = self
        self.then = then

    def __del__(self) -> None:
        self.then()


class Gone:
    pass


def by_del(then: Callable[[], object]) -> None:
    InCycle(then)
    gc.collect()


def by_callback(then: Callable[[], object]) -> None:
    gone = Gone()
    ref = weakref.ref(gone, lambda _: then())
    del gone
    assert ref() is None


def by_finalize(then: Callable[[], object]) -> None:
    gone = Gone()
    gone.me = gone  # type: ignore[attr-defined]
    weakref.finalize(gone, then)
    del gone
    gc.collect()


WAYS = [by_del, by_callback, by_finalize]


@pytest.fixture
def collected_in() -> Iterator[Callable[[int], None]]:
    """Return a function that has the garbage collector run when so many containers have been made.

    A deadlock ends the process, with a traceback.
    """
    before = gc.get_threshold()
    gc.collect()
    faulthandler.dump_traceback_later(60, exit=True)
    try:
        yield gc.set_threshold
    finally:
        gc.set_threshold(*before)
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Return a function that lets a signal handler call its argument."""
    then: list[Callable[[], object]] = []
    before = signal.signal(signal.SIGALRM, lambda *_: then[-1]())
    yield then.append
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("way", WAYS)
async def test_a_finalizer_may_schedule_and_cancel_g8(way: Callable[[Callable[[], object]], None]) -> None:
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)

    async with TaskHost() as host:
        victim = host.schedule(anyio.sleep_forever)
        await victim.started.wait()
        way(lambda: host.schedule(note, "in a task"))
        await anyio.to_thread.run_sync(way, lambda: host.schedule(note, "in a thread"))
        await until(lambda: len(ran) == 2)
        way(victim.cancel)
        await victim.wait()
        other = host.schedule(anyio.sleep_forever)
        await anyio.to_thread.run_sync(way, other.cancel)
        await other.wait()
    assert ran == ["in a task", "in a thread"]


async def test_finalizers_in_the_middle_of_schedule_neither_block_nor_exceed_limits_g8_g15(
    collected_in: Callable[[int], None],
) -> None:
    """In the thread of the loop."""
    running = most = most_pending = 0
    accepted: list[Task[Any]] = []
    refused = 0

    async def work() -> None:
        nonlocal running, most, most_pending
        running += 1
        most = max(most, running)
        most_pending = max(most_pending, host.waiting + host.deferred)
        await anyio.lowlevel.checkpoint()
        running -= 1

    def schedule() -> None:
        nonlocal refused
        try:
            accepted.append(host.schedule(work))
        except TasksSaturatedError:
            refused += 1

    async with TaskHost(max_running=3, max_pending=5, drain_timeout=10) as host:
        for n in range(300):
            collected_in(1 + n % 60)
            InCycle(schedule)
            schedule()
            most_pending = max(most_pending, host.waiting + host.deferred)
            if n % 3 == 0:
                await anyio.lowlevel.checkpoint()
        gc.collect()  # collects older objects, too
    assert {task.status for task in accepted} == {S.SUCCEEDED}
    assert len(accepted) + refused == 600
    assert refused > 0
    assert (most, most_pending) == (3, 5)


async def test_finalizers_that_run_in_the_middle_of_schedule_in_a_thread_do_not_block_g8(
    collected_in: Callable[[int], None],
) -> None:
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)

    def work(host: TaskHost) -> None:
        for n in range(300):
            collected_in(1 + n % 60)
            InCycle(lambda: host.schedule(note, "finalizer"))
            host.schedule(note, "thread")

    async with TaskHost(drain_timeout=10) as host:
        await anyio.to_thread.run_sync(work, host)
        gc.collect()
    assert (ran.count("finalizer"), ran.count("thread")) == (300, 300)


async def test_tasks_of_a_thread_and_its_finalizers_start_in_order_g1_g8(backend_name: str) -> None:
    ran: list[int] = []
    scheduled: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    def schedule() -> None:
        number = len(scheduled)
        scheduled.append(number)
        host.schedule(note, number)

    def work() -> None:
        for _ in range(10):
            schedule()
            by_finalize(schedule)

    async with TaskHost(drain_timeout=10) as host:
        work()
        await turns()
        await anyio.to_thread.run_sync(work)
        await until(lambda: len(ran) == 40)
    in_batches = backend_name == "trio"  # trio takes the first steps of one turn in any order
    assert (sorted(ran) if in_batches else ran) == list(range(40))


async def test_a_signal_handler_that_finds_the_loop_asleep_wakes_it_g8(
    alarm: Callable[[Callable[[], object]], None],
) -> None:
    """Without a wake-up a loop sleeps until the next timer: here the test's own."""
    began: list[float] = []

    async def note() -> None:
        began.append(time.monotonic())

    def schedule() -> None:
        rang.append(time.monotonic())
        tasks.append(host.schedule(note))

    rang: list[float] = []
    tasks: list[Task[Any]] = []
    alarm(schedule)
    async with TaskHost() as host:
        ended = anyio.Event()
        with anyio.move_on_after(10):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            watcher = host.schedule(wait_for_the_first, host, tasks, ended)
            await ended.wait()
        watcher.cancel()
    assert tasks[0].status is S.SUCCEEDED
    assert began[0] - rang[0] < 5


async def wait_for_the_first(host: TaskHost, tasks: list[Task[Any]], ended: anyio.Event) -> None:
    """Sleep until the task has been scheduled and has ended. Only the end of a task wakes this code."""
    before = host.statistics().succeeded
    stopped = threading.Event()

    def look() -> None:
        # In a thread, because a check in the loop would wake the loop.
        while not (tasks and tasks[0].status is S.SUCCEEDED) and not stopped.wait(0.01):
            pass

    try:
        await anyio.to_thread.run_sync(look)
    finally:
        stopped.set()
    assert host.statistics().succeeded == before + 1
    ended.set()


async def test_a_signal_handler_that_cancels_wakes_the_loop_g8_g17(
    alarm: Callable[[Callable[[], object]], None],
) -> None:
    async with TaskHost() as host:
        task = host.schedule(anyio.sleep, 10)
        await task.started.wait()
        alarm(task.cancel)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with anyio.fail_after(5) as scope:
            await task.wait()
        assert not scope.cancel_called  # at the end of the time each loop wakes up, and then the task ends, too
    assert task.status is S.CANCELLED


async def test_a_signal_in_the_middle_of_schedule_neither_blocks_nor_exceeds_limits_g8_g15(
    alarm: Callable[[Callable[[], object]], None],
) -> None:
    running = most = 0
    tasks: list[Task[Any]] = []
    calls = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1

    def schedule() -> None:
        nonlocal calls
        calls += 1
        tasks.append(host.schedule(work))

    async with TaskHost(max_running=2, drain_timeout=10) as host:
        alarm(schedule)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
        while calls < 200:
            tasks.append(host.schedule(work))
            await anyio.lowlevel.checkpoint()
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert {task.status for task in tasks} == {S.SUCCEEDED}
    assert most == 2


class Interrupts(float):
    """A time. A signal arrives when it is compared."""

    def __lt__(self, other: float) -> bool:
        signal.raise_signal(signal.SIGALRM)
        return float(self) < other


@pytest.mark.parametrize("anyio_backend", ASYNCIO[:1], indirect=True)  # other loops compare times in C
async def test_a_signal_in_the_middle_of_a_timer_of_asyncio_delays_a_task_g3_g8_g18(
    alarm: Callable[[Callable[[], object]], None],
) -> None:
    """asyncio puts a timer into a heap, which must not change meanwhile."""
    made: list[Task[Any]] = []
    loop = asyncio.get_running_loop()
    async with TaskHost() as host:
        alarm(lambda: made or made.append(host.task(delay=0.001).schedule(anyio.sleep, 0)))
        timers = [loop.call_later(60, loop.stop), loop.call_at(Interrupts(loop.time() + 30), loop.stop)]
        for timer in timers:
            timer.cancel()
        assert len(made) == 1
        await made[0]


async def test_a_signal_handler_may_schedule_while_a_thread_does_g8(
    alarm: Callable[[Callable[[], object]], None],
) -> None:
    tasks: list[Task[Any]] = []
    host = TaskHost(drain_timeout=10)

    async def nothing() -> None: ...

    def work() -> None:
        for n in range(300):
            tasks.append(host.schedule(nothing))
            if n % 3 == 0:
                os.kill(os.getpid(), signal.SIGALRM)

    alarm(lambda: tasks.append(host.schedule(nothing)))
    async with host:
        await anyio.to_thread.run_sync(work)
    assert len(tasks) > 300
    assert {task.status for task in tasks} == {S.SUCCEEDED}


@pytest.mark.parametrize("wait", [lambda task: task.wait(), lambda task: task.started.wait()], ids=["end", "start"])
async def test_a_wait_ends_if_a_signal_cancels_the_task_as_the_wait_begins_g2_g8_g17(
    wait: Callable[[Task[Any]], Awaitable[None]],
) -> None:
    """A tracer takes the place of the signal handler: it comes as the events of the task are made."""

    def interrupt(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code is _Events.__init__.__code__:
            sys.settrace(before)
            task.cancel()

    before = sys.gettrace()
    async with TaskHost() as host:
        task = host.task(delay=60).schedule(anyio.sleep, 0)
        sys.settrace(interrupt)
        try:
            with suppress(TaskCancelled):
                await wait(task)
        finally:
            sys.settrace(before)
        assert task.status is S.CANCELLED


async def test_a_finalizer_may_look_at_the_task_that_ends_g8_g17() -> None:
    """The values of its context variables go when the task ends."""

    class Looks:
        def __del__(self) -> None:
            seen.append((task.status, task.age >= 0, task.running_for))

    async with TaskHost() as host, host.scope() as tasks:
        seen: list[tuple[TaskStatus, bool, float | None]] = []
        context = copy_context()
        context.run(LOOKS.set, Looks())
        task = context.run(tasks.after_response.schedule, anyio.sleep, 0)
        del context
        task.cancel()
        assert seen == [(S.CANCELLED, True, None)]


LOOKS: ContextVar[object] = ContextVar("looks", default=None)
