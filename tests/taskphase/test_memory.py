"""G2, G9, G15: nothing is kept for longer than needed, and nothing needs the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import anyio
import pytest
from tests.backends import native_cancel_only, turns, until

from taskphase import Limit, Task, TaskHost, TasksBatch, TasksScheduler, TaskStatus, current_host, retry

S = TaskStatus


class Data:
    """An argument."""


async def use(data: Data) -> None: ...


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_a_cancelled_deferred_task_is_gone_at_once_g2(without_collector: None) -> None:
    async with TaskHost() as host, host.scope() as scope:
        for place in (scope.after_route, scope.after_response, TasksScheduler(host.tg).after_response):
            refs = []
            for _ in range(20):
                data = Data()
                refs.append(weakref.ref(data))
                place.schedule(use, data).cancel()
                del data
            await turns(3)
            assert host.deferred == 0
            assert [ref() for ref in refs] == [None] * 20


async def test_a_cancelled_task_of_a_scheduler_made_by_hand_is_gone_at_once_g2(without_collector: None) -> None:
    async with TaskHost() as host, anyio.create_task_group() as group:
        for tg in (host.tg, group):
            scheduler = TasksScheduler(tg)
            data = Data()
            ref = weakref.ref(data)
            scheduler.after_response.schedule(use, data).cancel()
            del data
            await turns(3)
            assert ref() is None
            assert host.deferred == 0


async def fails(data: Data) -> NoReturn:
    raise ValueError


async def fails_later(data: Data) -> NoReturn:
    await anyio.lowlevel.checkpoint()
    raise ValueError


def fails_in_thread(data: Data) -> NoReturn:
    raise ValueError


async def fails_with_a_group(data: Data) -> NoReturn:
    raise ExceptionGroup("", [ValueError(), ExceptionGroup("", [OSError()])])


async def exits(data: Data) -> NoReturn:
    raise SystemExit


async def hangs(data: Data) -> None:
    await anyio.Event().wait()


async def sleeps(data: Data) -> None:
    # The frame of `asyncio.sleep()` has a timer, whose context has the task. (asyncio keeps later timers for long.)
    await anyio.sleep(5)


async def handle_badly(task: Task[Any], error: Exception) -> NoReturn:
    raise LookupError


async def handle(task: Task[Any], error: Exception) -> None: ...


def handle_in_thread(task: Task[Any], error: Exception) -> NoReturn:
    raise LookupError


KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "at once": (fails, {}),
    "later": (fails_later, {}),
    "in time": (fails_later, {"timeout": 10}),
    "in a thread": (fails_in_thread, {}),
    "a group": (fails_with_a_group, {}),
    "an exit": (exits, {}),
    "a timeout": (hangs, {"timeout": 0.001}),
    "a timeout in a sleep": (sleeps, {"timeout": 0.001}),
    "handled": (fails, {"on_error": handle}),
    "handled badly": (fails, {"on_error": handle_badly}),
    "handled badly in a thread": (fails, {"on_error": handle_in_thread}),
    "three attempts": (fails, {"retry": retry(attempts=3, backoff=0)}),
    "three timeouts": (hangs, {"timeout": 0.001, "retry": retry(attempts=3, backoff=0)}),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_task_leaves_no_cycle_g2(kind: str, backend_name: str, without_collector: None) -> None:
    func, options = KINDS[kind]
    if backend_name == "trio" and (func in (hangs, sleeps) or "in a thread" in kind):
        pytest.skip("trio's own frames, to which those of the function refer, have the native task or its result")
    await check_no_cycle(func, options)


@native_cancel_only
@pytest.mark.parametrize("timeout", [None, 10])
async def test_a_stray_cancellation_leaves_no_cycle_g2(timeout: float | None, without_collector: None) -> None:
    async def stray(data: Data) -> None:
        raise asyncio.CancelledError

    await check_no_cycle(stray, {"timeout": timeout})


async def check_no_cycle(func: Callable[..., Any], options: dict[str, Any]) -> None:
    """Check that Python deletes the argument of an ended task together with the last reference to the task."""
    async with TaskHost() as host:
        data = Data()
        ref = weakref.ref(data)
        task = host.task(**options).schedule(func, data)
        await task.wait()
        assert task.status is S.FAILED
        del data, task
        await until(lambda: ref() is None)


@pytest.fixture(autouse=True)
def records_are_not_kept() -> Iterator[None]:
    """Keep no log record, as pytest does: a record has the exception, and that has the frames."""
    logger = logging.getLogger("taskphase")
    logger.disabled = True
    yield
    logger.disabled = False


async def test_a_closed_host_keeps_nothing_of_what_was_cancelled_or_abandoned_g9(without_collector: None) -> None:
    refs: list[weakref.ref[Data]] = []

    def argument() -> Data:
        data = Data()
        refs.append(weakref.ref(data))
        return data

    async with TaskHost(max_running=3) as host:
        scope = host.scope()
        for _ in range(3):
            host.schedule(hangs, argument())
            host.schedule(hangs, argument())
            scope.after_response.schedule(use, argument())
        await turns()
    assert host.drain_report is not None
    assert sum(host.drain_report.cancelled.values()) == 9
    await until(lambda: not any(ref() for ref in refs))
    assert len(refs) == 9


async def wait_for_the_drain(data: Data) -> None:
    await current_host().closing.wait()
    await turns()


@pytest.mark.parametrize("kind", ["shielded", "abandoned"])
async def test_a_closed_host_keeps_nothing_of_what_outlasted_the_others_g9(kind: str, without_collector: None) -> None:
    def hang_in_thread(data: Data) -> None:
        assert go_on.wait(10)

    go_on = threading.Event()
    data = Data()
    ref = weakref.ref(data)
    async with TaskHost(shield_timeout=0.01) as host:
        if kind == "shielded":
            task = host.task(shield=60).schedule(wait_for_the_drain, data)
        else:
            task = host.schedule(hang_in_thread, data)
        await task.started.wait()
        del data, task
    assert host.drain_report is not None
    assert len(host.drain_report.abandoned) == (kind == "abandoned")
    go_on.set()
    await until(lambda: ref() is None)


async def test_starting_a_batch_takes_each_task_from_its_begin_at_no_cost_for_the_rest_g15() -> None:
    """A list would move all the others, which no count of calls shows."""
    calls = {count: await calls_of_starting(count) for count in (100, 1000)}
    assert calls[1000] <= 10.5 * calls[100]
    assert isinstance(TasksBatch()._tasks, deque)


async def calls_of_starting(count: int) -> int:
    calls = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    async with TaskHost() as host, host.scope() as scope:
        batch = TasksBatch()
        for _ in range(count):
            batch.schedule(turns, 0)
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            batch.start(scope)
        finally:
            sys.setprofile(before)
    return calls


async def test_a_scheduler_of_a_task_group_leaves_no_cycle_g2(without_collector: None) -> None:
    """A program may make one for each message."""

    async def fail() -> None:
        raise LookupError

    async with anyio.create_task_group() as tg:
        tasks = TasksScheduler(tg)
        runner = weakref.ref(tasks._scope._runner)
        tasks.schedule(anyio.sleep, 0)
        thread = threading.Thread(target=tasks.schedule, args=(anyio.sleep, 0))
        thread.start()
        thread.join()
        for settings in ({"delay": 0.001}, {"limit": Limit(1)}, {"key": "a"}, {"retry": lambda *_: None}):
            tasks.task(**settings).schedule(anyio.sleep, 0)
        again = tasks.task(retry=lambda task, _: 0.001 if task.attempt == 1 else None).schedule(fail)
        tasks.task(delay=60).schedule(anyio.sleep, 0).cancel()
        await again.wait()
        del tasks, again
    await turns()
    assert runner() is None
