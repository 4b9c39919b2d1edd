"""Exhaustively: a signal handler or a finalizer may schedule and cancel in the middle of any code.

G2, G3, G8, G9, G15, G18, G19, G24.

One small program runs again and again, each time with the interruption one step later (see `tracer.py`).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint
from tests.backends import ASYNCIO, TRIO, turns

from property_tests.tracer import Place, Tracer
from taskphase import Limit, Task, TaskHost, TasksClosedError, TasksSaturatedError, TasksScheduler, TaskStatus

ENDS = {
    TaskStatus.SUCCEEDED,
    TaskStatus.FAILED,
    TaskStatus.CANCELLED,
    TaskStatus.DROPPED,
    TaskStatus.HANDED_OVER,
}
DRAIN_TIMEOUT = 10
PENDING = {TaskStatus.WAITING, TaskStatus.DEFERRED}


class Program:
    """Some tasks of each kind in a host with limits, and the action of the interruption."""

    def __init__(self, action: str, max_running: int, max_pending: int) -> None:
        self.action = action
        self.max_running, self.max_pending = max_running, max_pending
        self.host = TaskHost(max_running=max_running, max_pending=max_pending, drain_timeout=DRAIN_TIMEOUT)
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
        # The retry takes a slot that was free when another task was admitted. That task then has to wait.
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

    async def run(self, at: Place | None) -> Tracer:
        tracer = Tracer(at, self.interrupt)
        before = sys.gettrace()
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.raised.append(context))
        async with self.host as host:
            sys.settrace(tracer)
            try:
                await self.run_body()
                self.is_open = False
                await host.aclose()
            finally:
                sys.settrace(before)
        return tracer

    async def run_body(self) -> None:
        host = self.host
        async with host.scope() as self.scope:
            async with self.scope.route():
                self.schedule(self.scope, self.work, "immediate")
                self.schedule(self.scope.after_response, self.work, "after_response")
                self.schedule(self.scope.after_route, self.work, "after_route")
                with host._runner.busy():  # as if this were an interruption, too
                    self.schedule(host, self.work, "by the inbox")
                self.schedule(self.scope.task(retry=self.again), self.fail, "failing")
            self.look()
            await checkpoint()
            self.tasks[1].cancel()
        self.look()
        for _ in range(4):
            await checkpoint()

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
        assert host.drain_report is not None, where
        assert host.drain_report.seconds < DRAIN_TIMEOUT / 2, where  # it has ended early, with its last task
        for task in self.tasks:
            assert self.began.count(task.args[0]) in ((0, 1) if task.attempt < 2 else (1, 2)), where
            assert (task.args[0] in self.began) <= (task.attempt > 0), where
            assert (task.args[0] in self.began) >= (task.status is TaskStatus.SUCCEEDED), where
        assert self.raised == [], where
        if self.scope.in_order and {"interruption, first", "interruption, second"} <= set(self.began):
            assert self.began.index("interruption, first") < self.began.index("interruption, second"), where


class GatedProgram(Program):
    """Some tasks with one limit, one key, a delay, a retry. `max_pending` is the limit's."""

    def __init__(self, action: str, most: int, max_pending: int) -> None:
        super().__init__(action, max_running=2, max_pending=20)
        self.limit = Limit(most, max_pending=max_pending)
        self.within = {"limited": 0, "keyed": 0}
        self.most_within = dict(self.within)

    async def work(self, name: str) -> None:
        kind = name.partition(",")[0]
        if kind in self.within:
            self.within[kind] += 1
            self.most_within[kind] = max(self.most_within[kind], self.within[kind])
        try:
            await super().work(name)
        finally:
            if kind in self.within:
                self.within[kind] -= 1

    def look(self) -> None:
        waits = PENDING | {TaskStatus.DELAYED, TaskStatus.LIMITED}
        pending = sum(task.config.limit is not None and task.status in waits for task in self.tasks)
        waits_for_slot = sum(task.status is TaskStatus.WAITING for task in self.tasks if task.config.limit is not None)
        self.most_pending = max(self.most_pending, pending - waits_for_slot)

    def interrupt(self) -> None:
        host = self.host
        if self.action in ("schedule", "both"):
            self.schedule(host.task(limit=self.limit), self.work, "limited, interruption")
            self.schedule(host.task(key="key"), self.work, "keyed, interruption")
        if self.action in ("cancel", "both"):
            for task in list(self.tasks):
                task.cancel()
        if self.action == "cancel one" and self.tasks:
            self.tasks[-1].cancel()
        if self.action == "both":
            self.schedule(host.task(limit=self.limit, delay=1e-6), self.work, "limited, delayed")

    async def run_body(self) -> None:
        host, limit = self.host, self.limit
        self.schedule(host.task(limit=limit), self.work, "limited, first")
        with host._runner.busy():  # as if this were an interruption, too
            self.schedule(host.task(limit=limit), self.work, "limited, by the inbox")
        self.schedule(host.task(key="key"), self.work, "keyed, first")
        self.schedule(host.task(key="key"), self.work, "keyed, second")
        self.look()
        async with host.scope() as self.scope:
            self.schedule(self.scope.task(limit=limit).after_response, self.work, "limited, after_response")
            self.schedule(host.task(limit=limit, delay=1e-6, retry=self.again), self.fail, "limited, delayed, failing")
            self.look()
            await checkpoint()
        for _ in range(4):
            self.look()
            await checkpoint()

    def check(self, where: str) -> None:
        assert self.most_within["limited"] <= self.limit.most, where
        assert self.most_within["keyed"] <= 1, where
        assert self.limit.max_pending is not None
        self.max_pending = self.limit.max_pending
        gates = self.host._runner.gates
        assert not (gates.pauses.ends or gates.pauses._heap or gates.pauses.retrying or gates.lines or gates._keys)
        super().check(where)


def run(
    backend: tuple[str, dict[str, Any]], at: Place | None, *setting: Any, kind: type[Program] = Program
) -> tuple[Program, Tracer]:
    program = kind(*setting)
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
    for _ in range(2):  # Python 3.12 traces no opcodes in the first run
        _, tracer = run(anyio_backend, None, *setting)
    assert len(tracer.places) > 300
    every = 5 if anyio_backend[1].get("use_uvloop") else 1  # uvloop runs the same code of this library as asyncio
    for at in tracer.places[::every]:
        program, tracer = run(anyio_backend, at, *setting)
        program.check(f"{action} at {tracer.where}")


@pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO], indirect=True)
@pytest.mark.parametrize(
    ("action", "most", "max_pending"),
    [("schedule", 1, 0), ("schedule", 1, 2), ("schedule", 2, 1), ("cancel", 1, 4), ("both", 1, 2)],
)
def test_at_any_interruption_limits_and_keys_hold_g2_g8_g18_g19_g24(
    action: str, most: int, max_pending: int, anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="taskphase")
    setting = (action, most, max_pending)
    for _ in range(2):  # as above
        _, tracer = run(anyio_backend, None, *setting, kind=GatedProgram)
    assert len(tracer.places) > 300
    first = 2 if anyio_backend[1].get("use_uvloop") else int(anyio_backend[0] == "trio")
    for at in tracer.places[first::3]:  # each place on one of the loops
        program, tracer = run(anyio_backend, at, *setting, kind=GatedProgram)
        program.check(f"{action} at {tracer.where}")


async def _start_a_batch(at: Place | None, limit: Limit | None) -> tuple[Tracer, list[TaskStatus]]:
    """Start the batches of a scheduler made by hand in a route; the interruption cancels all of their tasks. Then all
    places of the limit are free.
    """
    tasks: list[Task[Any]] = []
    tracer = Tracer(at, lambda: [task.cancel() for task in tasks])
    before = sys.gettrace()
    raised: list[object] = []
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.append(context))
    async with TaskHost(drain_timeout=10) as host:
        async with host.scope() as scope, scope.route():
            by_hand = TasksScheduler(host.tg)
            batches = (by_hand.after_route, by_hand.after_response, by_hand.after_response)
            tasks.extend(batch.task(limit=limit).schedule(checkpoint) for batch in batches)
            sys.settrace(tracer)
            try:
                by_hand.after_response.start(by_hand)
            finally:
                sys.settrace(before)
        await turns()
        for _ in tasks:
            host.task(limit=limit).schedule(checkpoint)
        assert host.limited == 0, tracer.where
    assert raised == [], tracer.where
    return tracer, [task.status for task in tasks]


@pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO], indirect=True)
@pytest.mark.parametrize("limit", [None, Limit(3)], ids=["no limit", "a limit"])
def test_a_batch_whose_tasks_an_interruption_cancels_starts_the_others_g2_g8(
    limit: Limit | None, anyio_backend: Any
) -> None:
    backend, options = anyio_backend
    for _ in range(2):  # Python 3.12 traces no opcodes in the first run
        tracer, ends = anyio.run(_start_a_batch, None, limit, backend=backend, backend_options=options)
    assert ends == [TaskStatus.SUCCEEDED] * 3
    assert len(tracer.places) > 30
    for at in tracer.places:
        tracer, ends = anyio.run(_start_a_batch, at, limit, backend=backend, backend_options=options)
        assert set(ends) == {TaskStatus.CANCELLED}, tracer.where


# Where anyio and trio change their records of cancel scopes.
LIBRARIES = {
    str(Path(anyio.__file__).parent / "_backends/_asyncio.py"),
    str(Path(trio.__file__).parent / "_core/_run.py"),
}


async def _enter_scopes(at: Place | None) -> tuple[Tracer, TaskStatus]:
    """Run a task that enters scopes; the interruption cancels the task, in the middle of anyio or trio."""

    async def work() -> None:
        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            with anyio.CancelScope(), anyio.fail_after(10), anyio.CancelScope(shield=True):
                pass
            async with anyio.create_task_group() as tg:
                tg.start_soon(checkpoint)
        finally:
            sys.settrace(before)
        await turns()

    async with TaskHost(drain_timeout=10) as host:
        tracer = Tracer(at, lambda: task.cancel(), LIBRARIES)
        task = host.schedule(work)
        await task.wait()
    return tracer, task.status


@pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO], indirect=True)
def test_a_task_may_be_cancelled_in_the_middle_of_anyio_or_trio_g2_g3_g8(anyio_backend: Any) -> None:
    backend, options = anyio_backend
    for _ in range(2):  # as above
        tracer, status = anyio.run(_enter_scopes, None, backend=backend, backend_options=options)
    assert (len(tracer.places) > 100, status) == (True, TaskStatus.SUCCEEDED)
    for at in tracer.places:
        tracer, status = anyio.run(_enter_scopes, at, backend=backend, backend_options=options)
        # trio's order is random: the place may be missing.
        assert status is TaskStatus.CANCELLED or tracer.where == "nowhere", tracer.where
