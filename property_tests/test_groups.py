"""Task groups: the program's own, which other code may cancel or close, and the host's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import pytest
from anyio import create_task_group, current_time
from hypothesis import given
from hypothesis import strategies as st

from property_tests.compact import Compact
from property_tests.simulated import nothing, place_of, run
from taskphase import Limit, Phase, Task, TaskHost, TasksClosedError, TasksScheduler, TaskStatus, current_task
from taskphase.testing import pause

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
S = TaskStatus


@dataclass(frozen=True, repr=False)
class Member(Compact):
    """A task that is at `at` from the start on, for two seconds unless it is interrupted."""

    at: Literal["function", "thread", "handler", "handler in a thread", "pause", "delay"] = "function"
    shield: bool = False

    @property
    def end(self) -> tuple[float, TaskStatus, int]:
        """The end if the group is cancelled after one second: the time, the status, and the number of attempts."""
        cut = not self.shield and not self.at.endswith("thread")
        if self.at.startswith("handler"):
            return (1 if cut else 2), S.FAILED, 1
        status = S.CANCELLED if cut else S.SUCCEEDED
        attempts = {"pause": 1 if cut else 2, "delay": 0 if cut else 1}
        return (1 if cut else 2), status, attempts.get(self.at, 1)


async def fail_once() -> None:
    if current_task().attempt == 1:
        raise OSError


async def handle(task: Task[Any], exc: Exception) -> None:
    await anyio.sleep(2)


def handle_in_thread(task: Task[Any], exc: Exception) -> None:
    pause(2)


def ask_for_another(task: Task[Any], exc: Exception) -> float:
    return 2


def schedule_member(tasks: TasksScheduler, member: Member) -> Task[Any]:
    handlers = {"handler": handle, "handler in a thread": handle_in_thread}
    policy = ask_for_another if member.at == "pause" else None
    define = tasks.task(shield=member.shield, on_error=handlers.get(member.at), retry=policy)
    if member.at == "delay":
        return tasks.task(shield=member.shield, delay=2).schedule(nothing)
    if member.at == "function":
        return define.schedule(anyio.sleep, 2)
    return define.schedule(pause, 2) if member.at == "thread" else define.schedule(fail_once)


@BACKENDS
@given(
    members=st.lists(
        st.builds(
            Member,
            at=st.sampled_from(["function", "thread", "handler", "handler in a thread", "pause", "delay"]),
            shield=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
    in_thread=st.booleans(),
)
def test_a_cancelled_task_group_cancels_all_but_shielded_tasks_g4_g8_g9_g16(
    backend: str, members: list[Member], in_thread: bool
) -> None:
    tasks: list[Task[Any]] = []
    ends: dict[int, tuple[float, TaskStatus, int]] = {}

    def schedule(scheduler: TasksScheduler) -> None:
        tasks.extend(schedule_member(scheduler, member) for member in members)

    async def watch(number: int, task: Task[Any]) -> None:
        await task.wait()
        ends[number] = current_time(), task.status, task.attempt

    async def main() -> float:
        async with create_task_group() as watchers:
            async with create_task_group() as tg:
                scheduler = TasksScheduler(tg)
                if in_thread:
                    await anyio.to_thread.run_sync(schedule, scheduler)
                else:
                    schedule(scheduler)
                for number, task in enumerate(tasks):
                    watchers.start_soon(watch, number, task)
                await anyio.sleep(1)
                tg.cancel_scope.cancel()
            return current_time()

    closed = run(main, backend)
    assert ends == {number: member.end for number, member in enumerate(members)}
    assert closed == max(time for time, _, _ in ends.values())


@BACKENDS
@given(delays=st.lists(st.sampled_from([0.5, 1, 3]), min_size=1, max_size=4), most=st.sampled_from([None, 1, 2]))
def test_delayed_limited_and_paused_tasks_keep_a_task_group_open_g2_g16_g18_g19(
    backend: str, delays: list[float], most: int | None
) -> None:
    began: list[float] = []

    async def fail_in_the_first_attempt() -> None:
        if current_task().attempt == 1:
            began.append(current_time())
        await fail_once()

    async def main() -> float:
        async with create_task_group() as tg:
            tasks = TasksScheduler(tg).task(limit=most and Limit(most), retry=ask_for_another)
            held = [tasks.task(delay=seconds).schedule(fail_in_the_first_attempt) for seconds in delays]
        assert {task.status for task in held} == {S.SUCCEEDED}
        return current_time()

    assert run(main, backend) == max(delays) + 2
    assert began == sorted(delays)


@BACKENDS
@given(phases=st.lists(st.sampled_from(list(Phase)[1:]), max_size=3))
def test_a_closed_task_group_refuses_what_comes_and_drops_what_waited_g2(backend: str, phases: list[Phase]) -> None:
    async def main() -> None:
        async with create_task_group() as tg:
            tasks = TasksScheduler(tg)
            held = [place_of(tasks, phase).schedule(nothing) for phase in phases]
        by_hand = Task(nothing)
        for refuse in (lambda: tasks.schedule(nothing), lambda: by_hand.__start__(tasks)):
            with pytest.raises(TasksClosedError):
                refuse()
        tasks.after_response.start(tasks)
        assert [task.status for task in held] == [S.DROPPED] * len(held)
        by_hand.cancel()
        assert by_hand.status is S.CANCELLED

    run(main, backend)


@BACKENDS
@given(phases=st.lists(st.sampled_from(Phase), max_size=4))
def test_a_scheduler_of_the_group_of_a_host_belongs_to_the_host_g15(backend: str, phases: list[Phase]) -> None:
    async def main() -> tuple[list[Task[Any]], float]:
        async with TaskHost(max_running=1, drain_timeout=9) as host, TasksScheduler(host.tg) as tasks:
            held = [place_of(tasks, phase).schedule(anyio.sleep, 1) for phase in phases]
            immediate = phases.count(Phase.IMMEDIATE)
            now = (min(immediate, 1), max(immediate - 1, 0), len(phases) - immediate)
            assert (host.running, host.waiting, host.deferred) == now
        return held, anyio.current_time()

    held, closed = run(main, backend)
    assert [task.status for task in held] == [S.SUCCEEDED] * len(phases)
    assert closed == len(phases)


@BACKENDS
@given(failures=st.integers(1, 3))
def test_the_plain_group_takes_the_next_after_an_exception_and_touches_no_task_g3(backend: str, failures: int) -> None:
    ended: list[bool] = []

    async def neighbour() -> None:
        try:
            await anyio.sleep(5)
        finally:
            ended.append(anyio.current_time() < 5)

    async def boom() -> None:
        raise OSError

    async def main() -> None:
        async with TaskHost(drain_timeout=math.inf) as host:
            task = host.schedule(anyio.sleep, 9)
            for _ in range(failures):
                host.tg.start_soon(neighbour)
                await anyio.sleep(1)
                host.tg.start_soon(boom)
                await anyio.sleep(0.1)
            host.tg.start_soon(neighbour)
        assert task.status is S.SUCCEEDED

    run(main, backend)
    assert ended == [True] * failures + [False]
