"""G3, G20: observers are told of each task in order, and whatever they do changes no outcome of others.

(Each program of each property is observed, too: see the promises with `g20` in their names.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backends import ASYNCIO, TRIO

from property_tests.programs import Program, gated_programs, programs
from property_tests.promises import (
    ALWAYS,
    check,
    g20_an_attempt_has_ended_when_its_function_and_handler_have,
    g20_observers_are_told_of_each_task_in_order_and_of_one_end,
)
from property_tests.runtime import tell
from property_tests.simulated import nothing
from property_tests.test_interruptions import DRAIN_TIMEOUT, GatedProgram
from property_tests.test_interruptions import Program as SmallProgram
from property_tests.test_runtime import outcome
from property_tests.tracer import Place, Tracer
from taskphase import Scope, Task, TaskHost, TaskObserver, TasksError, TaskStatus, current_host, retry
from taskphase._drive.hooks import HOOKS
from taskphase._machine.life import ENDS
from taskphase.testing import explore

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
OWN = "of the observer"


class Meddler(TaskObserver):
    """Does something in one of its methods, whenever that is called for a task that is not its own.

    :ivar tasks: what it has scheduled
    :ivar is_called: whether it is in its method now
    """

    def __init__(self, then: Callable[[Meddler], object]) -> None:
        self.then = then
        self.host: TaskHost | None = None
        self.tasks: list[Task[Any]] = []
        self.is_called = False

    def act(self, *args: object) -> None:
        assert not self.is_called, "an observer was called inside itself"
        if args and isinstance(args[0], Task) and args[0].name == OWN:
            return
        self.is_called = True
        try:
            self.then(self)
        finally:
            self.is_called = False

    def schedule(self) -> None:
        host = self.host
        if host is None:
            try:
                host = current_host()
            except TasksError:
                return
        try:
            self.tasks.append(host.task(name=OWN, when="always").schedule(nothing))
        except TasksError:
            pass  # the host is full, or closed

    def schedule_and_cancel(self) -> None:
        count = len(self.tasks)
        self.schedule()
        for task in self.tasks[count:]:
            task.cancel()

    def cancel_own(self) -> None:
        self.schedule()
        for task in self.tasks:
            task.cancel()


def meddler(hook: str, then: Callable[[Meddler], object]) -> Meddler:
    return type("Meddler", (Meddler,), {hook: lambda self, *args: self.act(*args)})(then)


def raising(error: type[BaseException]) -> Callable[[Meddler], object]:
    def fail(_: Meddler) -> None:
        raise error

    return fail


hooks = st.sampled_from(HOOKS)
errors = st.sampled_from([ValueError, SystemExit, GeneratorExit, asyncio.CancelledError])
acts = st.sampled_from([Meddler.schedule, Meddler.schedule_and_cancel, Meddler.cancel_own])
PROMISES = (
    g20_observers_are_told_of_each_task_in_order_and_of_one_end,
    g20_an_attempt_has_ended_when_its_function_and_handler_have,
)


@BACKENDS
@given(program=programs, hook=hooks, error=errors)
def test_an_observer_that_raises_changes_no_outcome_g3_g20(
    backend: str, program: Program, hook: str, error: type[BaseException]
) -> None:
    check(tell(program, backend=backend, observers=[meddler(hook, raising(error))]), ALWAYS)
    story = tell(program, backend=backend, jitter=True, observers=[meddler(hook, raising(error))])
    check(story, PROMISES)
    assert len([log for log in story.logs if "it is not called again" in log.text]) <= 1
    assert outcome(story) == outcome(tell(program, backend=backend, jitter=True))


@BACKENDS
@given(program=gated_programs, hook=hooks, error=errors)
def test_an_observer_that_raises_opens_and_closes_no_gate_g3_g18_g19_g20_g24(
    backend: str, program: Program, hook: str, error: type[BaseException]
) -> None:
    story = tell(program, backend=backend, observers=[meddler(hook, raising(error))])
    check(story, ALWAYS)
    assert outcome(story) == outcome(tell(program, backend=backend))


@BACKENDS
@given(program=programs, hook=hooks, act=acts)
def test_an_observer_that_schedules_and_cancels_its_own_changes_no_other_outcome_g20(
    backend: str, program: Program, hook: str, act: Callable[[Meddler], object]
) -> None:
    program = replace(program, max_running=None, max_pending=None)  # what waits for a slot would wait longer
    observer = meddler(hook, act)
    story = tell(program, backend=backend, jitter=True, observers=[observer])
    check(story, PROMISES)
    assert not [log for log in story.logs if "it is not called again" in log.text], "an observer has raised"
    assert outcome(story) == outcome(tell(program, backend=backend, jitter=True))
    assert {task.status for task in observer.tasks} <= ENDS


@BACKENDS
@given(program=programs, hook=hooks, act=acts)
def test_an_observer_that_schedules_into_a_host_with_limits_breaks_no_order_g15_g20(
    backend: str, program: Program, hook: str, act: Callable[[Meddler], object]
) -> None:
    observer = meddler(hook, act)
    story = tell(program, backend=backend, observers=[observer])
    check(story, PROMISES)
    assert {task.status for task in observer.tasks} <= ENDS
    most = program.max_running
    assert most is None or all(event.counts is None or event.counts[0] <= most for event in story.events)


class Diary(TaskObserver):
    """Writes down what it is told of each task."""

    def __init__(self) -> None:
        self.calls: dict[Task[Any], list[str]] = {}

    def _note(self, hook: str, task: Task[Any]) -> None:
        self.calls.setdefault(task, []).append(hook)

    def scheduled(self, task: Task[Any], scope: Scope | None) -> None:
        self._note("scheduled", task)

    def due(self, task: Task[Any]) -> None:
        self._note("due", task)

    def started(self, task: Task[Any]) -> None:
        self._note("started", task)

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
        self._note("attempt_ended", task)

    def ended(self, task: Task[Any]) -> None:
        self._note("ended", task)

    def check(self, where: str = "") -> None:
        for task, calls in self.calls.items():
            attempts = ["started", "attempt_ended"] * task.attempt
            late = [["scheduled", "due", *attempts, "ended"]]
            early = [] if attempts else [["scheduled", "ended"]]
            assert calls in [*late, *early], f"{task}: {calls}, {where}"


def run(
    backend: tuple[str, dict[str, Any]], at: Place | None, *setting: Any, kind: type[SmallProgram] = SmallProgram
) -> tuple[SmallProgram, Tracer, Diary]:
    """Run a program of the interruptions, observed."""
    program, diary = kind(*setting), Diary()
    program.host = TaskHost(
        max_running=program.max_running,
        max_pending=program.max_pending,
        drain_timeout=DRAIN_TIMEOUT,
        observers=[diary],
    )
    tracer = anyio.run(program.run, at, backend=backend[0], backend_options=backend[1])
    return program, tracer, diary


def check_observed(program: SmallProgram, diary: Diary, where: str) -> None:
    program.check(where)
    diary.check(where)
    assert set(diary.calls) == set(program.tasks), where


@pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO], indirect=True)
@pytest.mark.parametrize(
    ("action", "max_running", "max_pending"), [("schedule", 2, 2), ("defer", 2, 4), ("cancel", 1, 4), ("both", 2, 3)]
)
def test_at_any_interruption_observers_are_told_of_each_task_in_order_g8_g20(
    action: str, max_running: int, max_pending: int, anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="taskphase")
    setting = (action, max_running, max_pending)
    for _ in range(2):  # (Python 3.12 traces no opcodes in the first run)
        _, tracer, _ = run(anyio_backend, None, *setting)
    every = 7 if anyio_backend[1].get("use_uvloop") else 1  # the code is that of asyncio
    for at in tracer.places[::every]:
        program, tracer, diary = run(anyio_backend, at, *setting)
        check_observed(program, diary, f"{action} at {tracer.where}")


@pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO], indirect=True)
def test_interrupted_observers_hear_of_delayed_tasks_in_order_g18_g19_g20(
    anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="taskphase")
    setting = ("both", 1, 2)
    for _ in range(2):  # as above
        _, tracer, _ = run(anyio_backend, None, *setting, kind=GatedProgram)
    first = 2 if anyio_backend[1].get("use_uvloop") else int(anyio_backend[0] == "trio")
    for at in tracer.places[first::3]:  # each place on one of the loops
        program, tracer, diary = run(anyio_backend, at, *setting, kind=GatedProgram)
        check_observed(program, diary, f"at {tracer.where}")


@explore(schedules=200)
async def test_in_whichever_order_tasks_step_observers_are_told_in_order_g20() -> None:
    diary = Diary()

    async def work(seconds: float) -> None:
        await anyio.sleep(seconds)

    def in_thread(host: TaskHost) -> None:
        for _ in range(2):
            host.schedule(work, 1)

    async def fail() -> None:
        await anyio.sleep(0)
        raise LookupError

    async def cancel(task: Task[Any]) -> None:
        await anyio.sleep(0)
        task.cancel()

    async with TaskHost(observers=[diary], max_running=2, drain_timeout=1.5) as host, anyio.create_task_group() as tg:
        tg.start_soon(anyio.to_thread.run_sync, in_thread, host)
        async with host.scope() as scope:
            scope.after_route.schedule(work, 0)
            scope.task(when="failure").after_response.schedule(work, 0)
            tg.start_soon(cancel, host.task(retry=retry(attempts=2, backoff=1, jitter=False)).schedule(fail))
            tg.start_soon(cancel, scope.after_response.schedule(work, 1))
        host.schedule(work, 5)
    assert {task.status for task in diary.calls} <= ENDS
    assert len(diary.calls) == 7
    assert any(task.status is TaskStatus.DROPPED for task in diary.calls)
    diary.check()
