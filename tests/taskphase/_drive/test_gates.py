"""G8, G19: a signal handler may schedule tasks between any two lines of the gates. A trace function takes its place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import anyio
import pytest

from taskphase import Limit, Task, TaskHost, TasksSaturatedError, TaskStatus
from taskphase._drive.gates import Gates
from taskphase._drive.phases import Phases

CODES = {func.__code__ for func in (Phases._place, Gates.stop, Gates.note_waits, Gates.forget, Gates.give_back)}


@contextmanager
def interrupted(at: int, interrupt: Callable[[], object]) -> Generator[None]:
    """Call `interrupt()` before the line number `at`, of all lines that run here in the gates."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if frame.f_code not in CODES:
            return None
        if event == "line":
            count += 1
            if count == at:
                sys.settrace(None)
                interrupt()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("max_pending", [0, 1, 2])
async def test_a_limit_is_exact_though_a_signal_handler_schedules_at_any_line_g8_g19(max_pending: int) -> None:
    limit = Limit(1, max_pending=max_pending)
    tasks: list[Task[Any]] = []
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1

    def schedule(place: Any) -> None:
        with suppress(TasksSaturatedError):
            tasks.append(place.schedule(work))
        waiting = [task.status in (TaskStatus.DEFERRED, TaskStatus.DELAYED, TaskStatus.LIMITED) for task in tasks]
        assert sum(waiting) <= max_pending

    for at in range(1, 60):
        tasks.clear()
        async with TaskHost(drain_timeout=10) as host:
            limited = host.task(limit=limit)
            async with host.scope() as scope:
                if max_pending:
                    schedule(limited)
                with interrupted(at, lambda: schedule(limited)):  # noqa: B023 - called in this round
                    schedule(scope.after_response.task(limit=limit))
                    schedule(host.task(limit=limit, delay=1e-6))
                    schedule(limited)
                    schedule(limited)
            schedule(limited)
        assert {task.status for task in tasks} <= {TaskStatus.SUCCEEDED}
        assert most == 1
        gates = host._runner.gates
        assert not (gates.lines or gates.pauses.ends)
