"""Exhaustively: a signal handler or a finalizer may hand over, cancel and schedule in the middle of any code.

G2, G3, G8, G15, G21.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.backends import ASYNCIO, TRIO
from tests.queueing import FakeQueue, Step, archive

from property_tests.test_interruptions import ENDS
from property_tests.tracer import Place, Tracer
from taskphase import HandOverFailed, Task, TaskHost, TasksClosedError, TasksSaturatedError, TaskStatus

S = TaskStatus


class Program:
    """Some hand-overs, of which the first attempts go as `steps`; and the action of the interruption."""

    def __init__(self, action: str, steps: tuple[Step, ...], fallback: str | None) -> None:
        self.action = action
        deadline = 0.003 if "refuse" in steps and fallback else 5
        then: Step = "refuse" if "refuse" in steps and fallback else "confirm"
        self.queue = FakeQueue(archive, steps=steps, then=then, most=2, deadline=deadline, fallback=fallback)
        self.host = TaskHost(queues=[self.queue], max_running=1, max_pending=6, drain_timeout=10)
        self.tasks: list[Task[Any]] = []
        self.heard: list[str] = []
        self.is_open = True
        self.raised: list[object] = []

    def schedule(self, place: Any, number: int) -> None:
        try:
            self.tasks.append(place.task(on_error=self.hear).schedule(archive, number))
        except TasksSaturatedError:
            pass
        except TasksClosedError:
            assert not self.is_open

    async def hear(self, task: Task[Any], error: Exception) -> None:
        assert isinstance(error, HandOverFailed)
        self.heard.append(error.message_id)

    def interrupt(self) -> None:
        if self.action == "schedule":
            self.schedule(self.host, 10)
            self.schedule(self.host, 11)
        if self.action == "cancel":
            for task in list(self.tasks):
                task.cancel()
        if self.action == "both":
            if self.tasks:
                self.tasks[0].cancel()
            self.schedule(self.host, 10)

    async def run(self, at: Place | None) -> Tracer:
        tracer = Tracer(at, self.interrupt)
        before = sys.gettrace()
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.raised.append(context))
        async with self.host as host:
            sys.settrace(tracer)
            try:
                async with host.scope() as scope:
                    async with scope.route():
                        for place in (scope, scope.after_response, scope.after_route):
                            self.schedule(place, len(self.tasks))
                    await checkpoint()
                self.schedule(host, 3)
                for _ in range(4):
                    await checkpoint()
                self.is_open = False
                await host.aclose()
            finally:
                sys.settrace(before)
        return tracer

    def check(self, where: str) -> None:
        assert {task.status for task in self.tasks} <= ENDS, where
        assert self.queue.most <= 2, where
        assert self.raised == [], where
        host, statistics = self.host, self.host.statistics()
        assert (host.running, host.waiting, host.deferred, host.handing_over, host.tasks()) == (0, 0, 0, 0, ()), where
        ended = (
            statistics.succeeded
            + statistics.failed
            + statistics.cancelled
            + statistics.dropped
            + statistics.handed_over
        )
        assert ended == len(self.tasks), where
        outlets = host._runner.outlets
        assert outlets is not None
        [outlet] = outlets._outlets.values()
        assert (outlets.alive, outlet.waiting, outlet._turns.value) == ({}, set(), 2), where
        for task in self.tasks:
            published = task.message_id in self.queue.ids
            assert published >= (task.status is S.HANDED_OVER), where
            if self.action == "schedule":
                assert task.status in (S.HANDED_OVER, S.SUCCEEDED, S.FAILED), where
            assert self.heard.count(str(task.message_id)) == (task.status is S.FAILED), where


@pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO], indirect=True)
@pytest.mark.parametrize("action", ["schedule", "cancel", "both"])
@pytest.mark.parametrize(
    ("steps", "fallback"), [((), None), (("fail",), None), (("refuse",), "here")], ids=["confirm", "fail", "fallback"]
)
def test_at_any_interruption_each_hand_over_ends_once_and_turns_are_kept_g2_g8_g21(
    steps: tuple[Step, ...], fallback: str | None, action: str, anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="taskphase")
    backend, options = anyio_backend

    def run(at: Place | None) -> tuple[Program, Tracer]:
        program = Program(action, steps, fallback)
        return program, anyio.run(program.run, at, backend=backend, backend_options=options)

    for _ in range(2):  # Python 3.12 traces no opcodes in the first run
        _, tracer = run(None)
    assert len(tracer.places) > 300
    first = 2 if options.get("use_uvloop") else int(backend == "trio")
    every = 3 if not steps else 50  # with pauses in real time
    for at in tracer.places[first::every]:
        program, tracer = run(at)
        program.check(f"{action} at {tracer.where}")
