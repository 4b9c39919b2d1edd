"""Exhaustively: a signal handler or a finalizer may schedule and cancel in the middle of anything (G2, G3, G8, G15).

Here a tracer stands for it. One small program is run again and again, and interrupted each time one step later: at
each place of this library where Python runs signal handlers or the garbage collector. These places are behind calls, at
the begin of functions and of rounds of loops, and where a container is built.
"""

from __future__ import annotations

import asyncio
import dis
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.backends import ASYNCIO, TRIO

import taskphase
from taskphase import Task, TaskHost, TasksClosedError, TasksSaturatedError, TaskStatus

HOME = Path(taskphase.__file__).parent
FILES = {str(path) for path in (*HOME.glob("*.py"), *(HOME / "_drive").glob("*.py"))}
ENDS = {TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.DROPPED}
PENDING = {TaskStatus.WAITING, TaskStatus.DEFERRED}

PLACES = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "BUILD_TUPLE", "BUILD_LIST", "BUILD_MAP"}


class Tracer:
    """Calls `interrupt()` at the place with the number `at`, and counts the places."""

    def __init__(self, at: int, interrupt: Callable[[], None]) -> None:
        self.count = 0
        self.where = "nowhere"
        self._at = at
        self._interrupt = interrupt
        self._previous: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            previous = self._previous.get(frame)
            self._previous[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if previous is None or previous in PLACES:
                if self.count == self._at:
                    self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                    sys.settrace(None)
                    self._interrupt()
                self.count += 1
        elif event == "return":
            self._previous.pop(frame, None)
        return self._step


class Program:
    """Some tasks of each kind in a host with limits, and what the interruption asks for."""

    def __init__(self, action: str, max_running: int, max_pending: int) -> None:
        self.action = action
        self.max_running, self.max_pending = max_running, max_pending
        self.host = TaskHost(max_running=max_running, max_pending=max_pending, drain_timeout=10)
        self.scope: Any = None
        self.tasks: list[Task[Any]] = []
        self.began: list[str] = []
        self.functions = self.most_functions = self.most_pending = 0
        self.is_open = True
        self.raised: list[object] = []

    async def work(self, name: str) -> None:
        self.functions += 1
        self.most_functions = max(self.most_functions, self.functions)
        self.look()
        self.began.append(name)
        try:
            await checkpoint()
        finally:
            self.look()
            self.functions -= 1

    def look(self) -> None:
        pending = sum(task.status in PENDING and not task.attempt for task in self.tasks)
        self.most_pending = max(self.most_pending, pending)

    async def fail(self, name: str) -> None:
        await self.work(name)
        raise ValueError(name)

    def again(self, task: Task[Any], error: Exception) -> float | None:
        # Another attempt takes a slot that was free when another task was taken, which then has to wait.
        return 0 if task.attempt == 1 and self.action != "schedule" else None

    def schedule(self, place: Any, func: Callable[..., Any], name: str) -> None:
        try:
            self.tasks.append(place.schedule(func, name))
        except TasksSaturatedError:
            pass
        except TasksClosedError:
            assert not self.is_open

    def interrupt(self) -> None:
        if self.action in ("schedule", "both"):
            self.schedule(self.host, self.work, "interruption, first")
        if self.action == "defer" and self.scope is not None:
            self.schedule(self.scope.after_route, self.work, "interruption, after_route")
            self.schedule(self.scope.after_response, self.work, "interruption, after_response")
        if self.action in ("cancel", "both"):
            for task in list(self.tasks):
                task.cancel()
        if self.action == "cancel one" and self.tasks:
            self.tasks[-1].cancel()
        if self.action in ("schedule", "both"):
            self.schedule(self.host, self.work, "interruption, second")

    async def run(self, at: int) -> Tracer:
        tracer = Tracer(at, self.interrupt)
        before = sys.gettrace()
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.raised.append(context))
        async with self.host as host:
            sys.settrace(tracer)
            try:
                async with host.scope() as self.scope:
                    async with self.scope.route():
                        self.schedule(self.scope, self.work, "immediate")
                        self.schedule(self.scope.after_response, self.work, "after_response")
                        self.schedule(self.scope.after_route, self.work, "after_route")
                        with host._runner.busy():  # as if this were an interruption too
                            self.schedule(host, self.work, "by the inbox")
                        self.schedule(self.scope.task(retry=self.again), self.fail, "failing")
                    self.look()
                    await checkpoint()
                    self.tasks[1].cancel()
                self.look()
                for _ in range(4):
                    await checkpoint()
                self.is_open = False
                await host.aclose()
            finally:
                sys.settrace(before)
        return tracer

    def check(self, where: str) -> None:
        assert {task.status for task in self.tasks} <= ENDS, where
        assert self.most_functions <= self.max_running, where
        if self.action == "schedule":
            assert self.most_pending <= self.max_pending, where
        statistics = self.host.statistics()
        ended = statistics.succeeded + statistics.failed + statistics.cancelled + statistics.dropped
        assert ended == len(self.tasks), where
        host = self.host
        assert (host.running, host.waiting, host.deferred, self.functions) == (0, 0, 0, 0), where
        for task in self.tasks:
            assert self.began.count(task.args[0]) in ((0, 1) if task.attempt < 2 else (1, 2)), where
            assert (task.args[0] in self.began) <= (task.attempt > 0), where
            assert (task.args[0] in self.began) >= (task.status is TaskStatus.SUCCEEDED), where
        assert self.raised == [], where
        if self.scope.in_order and {"interruption, first", "interruption, second"} <= set(self.began):
            assert self.began.index("interruption, first") < self.began.index("interruption, second"), where


def run(backend: tuple[str, dict[str, Any]], at: int, *setting: Any) -> tuple[Program, Tracer]:
    program = Program(*setting)
    tracer = anyio.run(program.run, at, backend=backend[0], backend_options=backend[1])
    return program, tracer


@pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO], indirect=True)
@pytest.mark.parametrize(
    ("action", "max_running", "max_pending"),
    [("schedule", 2, 2), ("schedule", 1, 3), ("defer", 2, 4), ("cancel", 1, 4), ("cancel one", 2, 4), ("both", 2, 3)],
)
def test_at_any_interruption_each_task_ends_once_and_limits_hold_g2_g3_g8_g15(
    action: str, max_running: int, max_pending: int, anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="taskphase")
    setting = (action, max_running, max_pending)
    for _ in range(2):  # (Python 3.12 traces no opcodes in the first run)
        _, tracer = run(anyio_backend, -1, *setting)
    assert tracer.count > 300
    every = 5 if anyio_backend[1].get("use_uvloop") else 1  # the code is that of asyncio
    for at in range(0, tracer.count, every):
        program, tracer = run(anyio_backend, at, *setting)
        program.check(f"{action} at {tracer.where}")
