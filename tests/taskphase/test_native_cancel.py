"""G2, G3, G9, G15: asyncio's own `Task.cancel()`, for all tasks at once or for single tasks of the host.

The end of `asyncio.run()` cancels all tasks once, and waits only for them: after a `KeyboardInterrupt`, after the
second SIGINT to uvicorn, or after the return of the main function.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from typing import Any

import anyio
import pytest
from tests.backends import native_cancel_only, turns, until

from taskphase import Limit, Task, TaskHost, TasksClosedError, TasksScheduler, TaskStatus

# A process that hangs fails its test after this many seconds; it takes a hundredth of that.
PATIENCE = 15

ENDS_WITH_THREADS_UNDER_WAY = """
import asyncio, time
from taskphase import TaskHost

async def serve(ready):
    async with TaskHost(max_running=1) as host:
        tasks.extend(host.schedule(time.sleep, 0.05) for _ in range(3))
        while host.statistics().threads == 0:
            await asyncio.sleep(0)
        ready.set()
        await asyncio.sleep(3600)

async def main():
    ready = asyncio.Event()
    main.server = asyncio.create_task(serve(ready))
    await ready.wait()

tasks = []
asyncio.run(main())
print(main.server.cancelled(), {str(task.status) for task in tasks} <= {"cancelled", "succeeded"})
"""


class Program:
    """A host in the body of a new native task."""

    def __init__(self, host: TaskHost) -> None:
        self.spared = asyncio.all_tasks()
        self.host = host
        self.native = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async with self.host:
            await anyio.sleep_forever()

    async def opened(self) -> None:
        while self.host._maybe_runner is None or not self.host._opened.is_set():
            await turns(1)

    def cancel_everything(self) -> set[asyncio.Task[object]]:
        """Cancel each native task that there is now, and return them."""
        swept = asyncio.all_tasks() - self.spared
        for native in swept:
            native.cancel()
        return swept

    def task_of(self, name: str) -> asyncio.Task[object]:
        """Return one of the host's own native tasks."""
        (native,) = (native for native in asyncio.all_tasks() if name in native.get_name())
        return native


@native_cancel_only
async def test_a_task_that_gets_the_slot_of_a_cancelled_task_is_waited_for_g2_g15() -> None:
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turns()
            unwound.append(1)

    unwound: list[int] = []
    program = Program(TaskHost(max_running=1))
    await program.opened()
    tasks = [program.host.schedule(work) for _ in range(3)]
    await turns()
    await asyncio.wait(program.cancel_everything())
    assert program.native.cancelled()
    assert {task.status for task in tasks} == {TaskStatus.CANCELLED}
    assert asyncio.all_tasks() == program.spared
    assert len(unwound) == sum(task.attempt for task in tasks)


@native_cancel_only
async def test_a_thread_is_waited_for_though_its_task_was_cancelled_g2_g9() -> None:
    def work() -> None:
        began.set()
        release.wait()

    began, release = threading.Event(), threading.Event()
    program = Program(TaskHost())
    await program.opened()
    task = program.host.schedule(work)
    try:
        await until(began.is_set)
        program.cancel_everything()
        await turns()
        assert task.status is TaskStatus.CANCELLED
        assert program.host.statistics().threads == 1
        assert not program.native.done()
    finally:
        release.set()
    with pytest.raises(asyncio.CancelledError):
        await program.native
    assert program.host.statistics().threads == 0
    assert program.host.drain_report is not None
    assert not program.host.drain_report.abandoned


@native_cancel_only
async def test_a_thread_past_shield_timeout_is_abandoned_though_its_task_is_cancelled_g9() -> None:
    def work() -> None:
        began.set()
        release.wait()

    began, release = threading.Event(), threading.Event()
    program = Program(TaskHost(shield_timeout=0))
    await program.opened()
    program.host.task(name="hangs").schedule(work)
    try:
        await until(began.is_set)
        await asyncio.wait(program.cancel_everything())
        assert program.host.drain_report is not None
        assert program.host.drain_report.abandoned == {"hangs": 1}
    finally:
        release.set()


@native_cancel_only
async def test_a_drain_under_way_goes_on_and_keeps_its_deadlines_g9() -> None:
    async def note_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            times.append(anyio.current_time())
            ended.set()

    ended, times = anyio.Event(), list[float]()
    program = Program(TaskHost(drain_timeout=0.05))
    await program.opened()
    task = program.host.schedule(note_the_end)
    await turns()
    began = anyio.current_time()
    program.native.cancel()
    await until(program.host.closing.is_set)
    for _ in range(3):
        program.task_of("_supervise").cancel()
        await turns()
    await ended.wait()  # by the deadline, and by nothing else
    assert times[0] >= began + 0.05
    with pytest.raises(asyncio.CancelledError):
        await program.native
    assert task.status is TaskStatus.CANCELLED


@native_cancel_only
async def test_a_drain_under_way_hears_of_a_task_cancelled_before_its_first_step_g2(
    task_factory: None,
) -> None:
    async def schedule_another() -> None:
        await proceed.wait()
        tasks.append(program.host.schedule(anyio.sleep_forever))
        program.cancel_everything()

    proceed = anyio.Event()
    tasks: list[Task[None]] = []
    program = Program(TaskHost(drain_timeout=PATIENCE))
    await program.opened()
    program.host.schedule(schedule_another)
    await turns()
    program.native.cancel()
    await until(program.host.closing.is_set)
    await turns()
    proceed.set()
    with pytest.raises(asyncio.CancelledError):
        await program.native
    assert tasks[0].status is TaskStatus.CANCELLED
    assert tasks[0].attempt == 0
    assert program.host.drain_report is not None
    assert program.host.drain_report.seconds < PATIENCE / 2


@native_cancel_only
async def test_what_runs_the_tasks_outlives_its_own_cancellation_g3() -> None:
    program = Program(TaskHost())
    await program.opened()
    task = program.host.schedule(anyio.sleep_forever)
    for _ in range(3):
        program.task_of("_supervise").cancel()
        await turns()
    assert task.status is TaskStatus.RUNNING
    assert await program.host.schedule(turns) is None
    program.native.cancel()
    with pytest.raises(asyncio.CancelledError):
        await program.native
    assert task.status is TaskStatus.CANCELLED


@native_cancel_only
@pytest.mark.parametrize("name", ["_supervise", "_hold"])
async def test_a_host_opens_though_its_own_task_is_cancelled_before_its_first_step_g9(name: str) -> None:
    program = Program(TaskHost())
    while not any(name in native.get_name() for native in asyncio.all_tasks()):
        await turns(1)
    program.task_of(name).cancel()
    await program.opened()
    assert await program.host.schedule(turns) is None
    program.native.cancel()
    with pytest.raises(asyncio.CancelledError):
        await program.native


@native_cancel_only
async def test_tasks_run_on_though_the_next_raw_group_is_cancelled_before_it_opens_g2_g3() -> None:
    program = Program(TaskHost())
    await program.opened()
    task = program.host.schedule(anyio.sleep_forever)
    await task.started.wait()
    program.host.tg.start_soon(anyio.sleep_forever)  # which opens another group, at a later turn
    for native in asyncio.all_tasks():
        if "_hold" in native.get_name():
            native.cancel()
    await turns()
    assert task.status is TaskStatus.RUNNING
    program.native.cancel()
    with pytest.raises(asyncio.CancelledError):
        await program.native
    assert (task.status, program.host.tasks()) == (TaskStatus.CANCELLED, ())


@native_cancel_only
async def test_the_plain_task_group_is_replaced_if_it_is_cancelled_g3() -> None:
    program = Program(TaskHost())
    await program.opened()
    for cancel in (
        lambda: [native.cancel() for native in asyncio.all_tasks() if "_hold" in native.get_name()],
        lambda: program.host.tg.cancel_scope.cancel(),
    ):
        ended = anyio.Event()

        async def wait(ended: anyio.Event = ended) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        program.host.tg.start_soon(wait)
        await turns()
        cancel()
        await ended.wait()
        await turns()
        done = anyio.Event()

        async def work(done: anyio.Event = done) -> None:
            done.set()

        program.host.tg.start_soon(work)
        await done.wait()
    await program.host.aclose()
    with pytest.raises(TasksClosedError):
        program.host.schedule(turns)
    program.native.cancel()
    with pytest.raises(asyncio.CancelledError):
        await program.native


def test_a_process_ends_when_its_main_function_has_returned_g2_g15() -> None:
    """A task that got a slot at that time, and so a thread, would keep the process alive for ever."""
    process = subprocess.run(
        [sys.executable, "-c", ENDS_WITH_THREADS_UNDER_WAY],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (process.stdout, process.returncode) == ("True True\n", 0), process.stderr


class OtherTask(asyncio.Task[Any]):
    """A task of a class that this library does not know."""


def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **options)


def make_other(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return OtherTask(coro, loop=loop, **options)


@native_cancel_only
@pytest.mark.parametrize("makes", [None, make, make_other])
async def test_what_is_cancelled_before_its_first_step_gives_all_back_g2_g15_g19_g24(
    makes: Any,
) -> None:
    """Here foreign code cancels each native task of the loop, and the host goes on."""
    loop, others = asyncio.get_running_loop(), asyncio.all_tasks()
    few = Limit(1)
    async with TaskHost(max_running=1) as host:
        mine = asyncio.all_tasks() - others
        try:
            loop.set_task_factory(make)
            await host.schedule(turns)  # from now on also Python 3.12 takes the first step in a later turn
            loop.set_task_factory(makes)
            task = host.task(limit=few, key="one").schedule(anyio.sleep_forever)
            for native in asyncio.all_tasks() - others - mine:
                native.cancel()
            following = host.schedule(turns)
            await task.wait()
            await following
            assert await host.task(limit=few, key="one").schedule(anyio.sleep, 0) is None
        finally:
            loop.set_task_factory(None)
    assert (task.status, task.attempt) == (TaskStatus.CANCELLED, 0)


@native_cancel_only
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # anyio wraps each coroutine
async def test_in_a_foreign_group_what_is_cancelled_before_its_first_step_ends_g2_g15_g18() -> None:
    """anyio then cancels the group, too. Only a shielded task goes on."""
    others = asyncio.all_tasks()
    async with anyio.create_task_group() as tg:
        tasks = TasksScheduler(tg)
        late = tasks.task(delay=0.01)
        doomed = [tasks.schedule(anyio.sleep_forever), late.schedule(anyio.sleep_forever)]
        shielded = late.task(shield=True).schedule(anyio.sleep, 0)
        for native in asyncio.all_tasks() - others:
            native.cancel()
    assert [task.status for task in doomed] == [TaskStatus.CANCELLED] * 2
    assert shielded.status is TaskStatus.SUCCEEDED
    del native
    gc.collect()


@native_cancel_only
async def test_a_cancellation_that_is_taken_back_before_the_first_step_g2_g17() -> None:
    """From Python 3.13 on the task then runs."""
    loop, others = asyncio.get_running_loop(), asyncio.all_tasks()
    async with TaskHost() as host:
        mine = asyncio.all_tasks() - others
        try:
            loop.set_task_factory(make)
            await host.schedule(turns)
        finally:
            loop.set_task_factory(None)
        task = host.schedule(turns)
        (native,) = asyncio.all_tasks() - others - mine
        native.cancel()
        native.uncancel()
        await task.wait()
        await turns()
        assert host.statistics().running == 0
    assert task.status is (TaskStatus.SUCCEEDED if sys.version_info >= (3, 13) else TaskStatus.CANCELLED)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="anyio cannot run in a task that asyncio.current_task() misses")
@native_cancel_only
async def test_another_class_of_tasks_in_the_place_of_asyncio_s_own_is_used_g17(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`nest_asyncio` puts one there, because tasks in C cannot run inside each other."""

    async def kind() -> type[object]:
        return type(asyncio.current_task())

    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]
    for module in (asyncio, asyncio.tasks):
        monkeypatch.setattr(module, "Task", python_task)
    async with TaskHost() as host:
        native = asyncio.get_running_loop().create_task(turns())
        assert await host.schedule(kind) is type(native)
        await native
