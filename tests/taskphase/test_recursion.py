"""G2, G9, G17: calls a few frames below the recursion limit, as in the `finally` of a function that calls itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import pytest
from tests.backends import turns

from taskphase import Limit, Task, TaskHost, TaskObserver, TaskStatus

T = TypeVar("T")

# No call of this library needs as many frames.
MANY = 60


class Watch(TaskObserver):
    def ended(self, task: Task[object], /) -> None:
        ENDS.append(task.id)


ENDS: list[int] = []


def below_the_limit(frames: int, call: Callable[[], T]) -> T | None:
    """Return the result of `call()`, which has room for `frames` frames; None if it raises RecursionError."""

    def go_down(levels: int) -> T:
        return go_down(levels - 1) if levels else call()

    depth, frame = 0, sys._getframe()
    while (outer := frame.f_back) is not None:
        depth, frame = depth + 1, outer
    try:
        return go_down(sys.getrecursionlimit() - depth - frames)
    except RecursionError:
        return None


async def fail() -> None:
    raise ValueError


async def handle(_task: Task[object], _error: BaseException) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize("is_watched", [False, True], ids=["unwatched", "watched"])
@pytest.mark.parametrize("where", ["running", "handling", "deferred", "delayed", "limited", "retrying"])
async def test_a_cancel_without_room_on_the_stack_works_or_changes_nothing_g2_g17(where: str, is_watched: bool) -> None:
    ENDS.clear()
    async with TaskHost(observers=[Watch()] if is_watched else []) as host, host.scope() as scope:
        limit = Limit(1)
        first = host.task(limit=limit).schedule(anyio.sleep_forever)
        for frames in range(MANY):
            task: Task[object]
            match where:
                case "running":
                    task = host.schedule(anyio.sleep_forever)
                case "handling":
                    task = host.task(on_error=handle).schedule(fail)
                case "deferred":
                    task = scope.after_response.schedule(anyio.sleep_forever)
                case "delayed":
                    task = host.task(delay=1000).schedule(anyio.sleep_forever)
                case "limited":
                    task = host.task(limit=limit).schedule(anyio.sleep_forever)
                case _:
                    task = host.task(retry=lambda _task, _error: 1000).schedule(fail)
            await turns(3)
            before = task.status
            below_the_limit(frames, task.cancel)
            if task.status is before:
                task.cancel()
            await task.wait()
            assert task.status in (TaskStatus.CANCELLED, TaskStatus.FAILED)
            assert not is_watched or [task.id] == ENDS
            ENDS.clear()
        first.cancel()


@pytest.mark.filterwarnings("ignore:coroutine 'attempt' was never awaited:RuntimeWarning")  # where trio itself raises
@pytest.mark.parametrize("where", ["here", "in a thread", "deferred", "limited", "with a key"])
async def test_a_schedule_without_room_on_the_stack_schedules_or_raises_g2(
    where: str, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    if os.environ.get("TASKPHASE_SCOPES") == "early" and where == "here" and anyio_backend[1].get("use_uvloop"):
        pytest.skip("uvloop logs the closed coroutine of a native task that it has half made")
    ran: list[int] = []

    async def note() -> None:
        ran.append(0)

    def schedule() -> Task[None]:
        match where:
            case "here":
                return host.schedule(note)
            case "in a thread":
                return host.schedule(ran.append, 0)
            case "deferred":
                return scope.after_response.schedule(note)
            case "limited":
                return host.task(limit=limit).schedule(note)
            case _:
                return host.task(key="a").schedule(note)

    limit = Limit(1)
    for frames in range(MANY):
        ran.clear()
        async with TaskHost(drain_timeout=20) as host:
            async with host.scope() as scope:
                first = below_the_limit(frames, schedule)
                if first is not None and where == "with a key":
                    await first.wait()
                second = schedule()
            for task in (first, second):
                assert task is None or await task.wait() is None
            assert len(ran) == 1 + (first is not None)
