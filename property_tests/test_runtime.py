"""Whole programs on the real runtime, in virtual time, against all promises: G1 to G19, G24, on asyncio and trio."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from property_tests.order import FIRST_IN_FIRST_OUT, IN_ORDER
from property_tests.programs import (
    Cling,
    Fail,
    Handler,
    Hold,
    Policy,
    Program,
    Schedule,
    Scope,
    Sleep,
    Spec,
    Wait,
    gated_programs,
    programs,
    specs_in,
)
from property_tests.promises import ALWAYS, check
from property_tests.reading import spared_until, the
from property_tests.recorder import Boom
from property_tests.runtime import Meddle, tell
from property_tests.story import Story
from taskphase import Phase
from taskphase.testing import Cancel, Deviate, Throw
from taskphase.testing._simulation.faults import Fault

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


# The decisions that deviate from first in, first out, and the choice at each.
deviations = st.dictionaries(st.integers(0, 60), st.integers(1, 4), max_size=6)


@given(programs)
def test_what_asyncio_makes_of_a_program_is_what_was_promised_g1_to_g17(program: Program) -> None:
    check(tell(program, backend="asyncio"), (*ALWAYS, *FIRST_IN_FIRST_OUT))


@given(programs, deviations)
def test_what_trio_makes_of_a_program_is_what_was_promised_g1_to_g17(program: Program, other: dict[int, int]) -> None:
    check(tell(program, backend="trio", policy=Deviate(other), turns=True), (*ALWAYS, *IN_ORDER))


@BACKENDS
@given(program=programs, other=deviations)
def test_under_any_first_steps_all_but_the_order_is_as_promised_g2_to_g17(
    backend: str, program: Program, other: dict[int, int]
) -> None:
    check(tell(program, backend=backend, policy=Deviate(other)), ALWAYS)


@given(gated_programs)
def test_delays_limits_and_keys_do_on_asyncio_as_was_promised_g18_g19_g24(program: Program) -> None:
    check(tell(program, backend="asyncio"), (*ALWAYS, *FIRST_IN_FIRST_OUT))


@given(gated_programs, deviations)
def test_delays_limits_and_keys_do_on_trio_as_was_promised_g18_g19_g24(program: Program, other: dict[int, int]) -> None:
    check(tell(program, backend="trio", policy=Deviate(other), turns=True), (*ALWAYS, *IN_ORDER))


class Drawn:
    """A policy whose choices Hypothesis draws while the program runs."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def choose(self, count: int) -> int:
        return self._data.draw(st.integers(0, count - 1))


@BACKENDS
@given(program=programs, data=st.data())
def test_whatever_is_chosen_at_each_step_all_but_the_order_is_as_promised_g2_to_g17(
    backend: str, program: Program, data: st.DataObject
) -> None:
    check(tell(program, backend=backend, policy=Drawn(data)), ALWAYS)


STEPS = st.integers(1, 60)


def faults(backend: str) -> st.SearchStrategy[Fault | Meddle]:
    """Return faults for some step."""
    meddling = st.builds(Meddle, STEPS, st.sampled_from(["close", "cancel body", "cancel task"]))
    throwing = st.builds(Throw, STEPS, st.just(Boom), st.just("task"))
    # trio has no cancellation without a scope.
    native = [st.builds(Cancel, STEPS, st.just(True), st.just("task"))] if backend == "asyncio" else []
    return st.one_of(meddling, throwing, *native)


def _without_threads(program: Program) -> bool:
    """A fault in the wait for a thread leaves the thread behind; no real event does that."""
    return not any(spec.sync or (spec.handler and spec.handler.sync) for spec in specs_in(program))


@BACKENDS
@given(program=programs.filter(_without_threads), data=st.data())
def test_whatever_goes_wrong_in_a_task_touches_no_other_g2_g3_g9(
    backend: str, program: Program, data: st.DataObject
) -> None:
    plan = data.draw(st.lists(faults(backend), max_size=3))
    check(tell(program, backend=backend, faults=plan), ALWAYS)


@BACKENDS
@given(program=gated_programs.filter(_without_threads), data=st.data())
def test_whatever_goes_wrong_no_gate_loses_or_keeps_a_task_g2_g18_g19_g24(
    backend: str, program: Program, data: st.DataObject
) -> None:
    plan = data.draw(st.lists(faults(backend), max_size=2))
    check(tell(program, backend=backend, faults=plan, policy=Deviate(data.draw(deviations))), ALWAYS)


@BACKENDS
@given(program=programs)
def test_a_log_that_cannot_be_written_decides_nothing_g3_g4(backend: str, program: Program) -> None:
    check(tell(program, backend=backend, closed_log=True), ALWAYS)


def outcome(story: Story) -> list[tuple[object, ...]]:
    """Return the end and the time of each `schedule()` call."""
    rows: list[tuple[object, ...]] = []
    for number, call in enumerate(story.calls):
        times = [
            (event.what, round(event.time, 6), event.detail if event.what != "handler" else None)
            for event in story.events
            if event.number == number and event.what in ("begin", "finish", "handler", "handled")
        ]
        rows.append((call.phase, type(call.refusal), call.task and (call.task.status, call.task.attempt), times))
    return rows


@given(programs)
def test_asyncio_and_trio_agree_on_what_becomes_of_each_task_and_when_g1_to_g16(program: Program) -> None:
    on_asyncio, on_trio = (tell(program, backend=backend, jitter=True) for backend in ("asyncio", "trio"))
    assert outcome(on_asyncio) == outcome(on_trio), f"{on_asyncio.run.timeline()}\n\n{on_trio.run.timeline()}"


@given(gated_programs)
def test_asyncio_and_trio_agree_on_delays_limits_and_keys_g18_g19_g24(program: Program) -> None:
    on_asyncio, on_trio = (tell(program, backend=backend, jitter=True) for backend in ("asyncio", "trio"))
    # A task whose shield was over before `schedule()` may take its first step, or not: both happen at the same time.
    taken = {number: the(on_trio, "taken", number)[1].time for number, _, _ in on_trio.tasks()}
    assume(all(time < spared_until(on_trio, on_trio.calls[number].spec) for number, time in taken.items()))
    assert outcome(on_asyncio) == outcome(on_trio), f"{on_asyncio.run.timeline()}\n\n{on_trio.run.timeline()}"


@BACKENDS
@given(program=st.one_of(programs, gated_programs))
def test_a_host_that_has_closed_keeps_nothing_g2(backend: str, program: Program) -> None:
    story = tell(program, backend=backend)
    runner = story.host._runner
    assert not any((runner.alive, runner.deferred, runner._waiting, runner.inbox.mails))
    tasks = [weakref.ref(call.task) for call in story.calls if call.task is not None]
    del story, runner  # also the loop, whose timers keep the contexts of tasks
    gc.collect()
    assert [task() for task in tasks if task() is not None] == []


TYPICAL = [
    # Each phase, one task shielded, and one that has to be dropped.
    Program(
        scopes=(
            Scope(
                route=(
                    Schedule(Spec((Sleep(1),))),
                    Schedule(Spec((Sleep(), Schedule(Spec())), shield=True), Phase.AFTER_ROUTE),
                    Schedule(Spec((Sleep(1),), when="failure"), Phase.AFTER_ROUTE),
                ),
                rest=(Sleep(0.5), Schedule(Spec((Sleep(2),)), Phase.AFTER_RESPONSE)),
            ),
        ),
    ),
    # Retries, one slot, and a task that waits for another task.
    Program(
        tasks=(
            Spec((Sleep(0.5), Fail(1)), retry=Policy(after=1), shield=True),
            Spec((Wait(1), Fail()), handler=Handler("raise")),
            Spec((Sleep(1),), timeout=0.75),
        ),
        max_running=1,
        drain_timeout=5,
    ),
    # Tasks that are slow to stop, and a host that stops waiting.
    Program(
        tasks=(
            Spec((Cling(1), Sleep(1)), shield=True),
            Spec((Hold(1), Sleep(1))),
            Spec((Fail(),), handler=Handler(seconds=1), shield=True),
        ),
        scopes=(Scope(rest=(Sleep(0.5), Schedule(Spec((Sleep(5),), shield=True), Phase.AFTER_RESPONSE))),),
        ending="close",
        at=1,
        drain_timeout=0.6,
        shield_timeout=0.4,
    ),
    # A scope that fails, and a scope that is cancelled.
    Program(
        scopes=(
            Scope(route=(Schedule(Spec((Sleep(1),)), Phase.AFTER_RESPONSE), Schedule(Spec((Sleep(1),))), Fail())),
            Scope(rest=(Schedule(Spec((Sleep(1),), when="always"), Phase.AFTER_ROUTE), Sleep(1)), ending="cancel"),
        ),
        ending="cancel",
        at=1,
        drain_timeout=1,
    ),
]


def one_fault(backend: str, step: int) -> Iterator[Fault | Meddle]:
    """Yield the possible faults at this step."""
    yield from (Meddle(step, how) for how in ("close", "cancel body", "cancel task"))
    yield Throw(step, Boom, "task")
    if backend == "asyncio":
        yield Cancel(step, native=True, task="task")
        if step > 3:  # the first step of the body is the third
            yield Cancel(step, native=True, task="body")


@BACKENDS
@pytest.mark.parametrize("program", TYPICAL)
def test_a_single_fault_at_any_step_breaks_no_promise_g2_g3_g9(backend: str, program: Program) -> None:
    steps = tell(program, backend=backend).run.steps
    for step in range(1, steps + 1):
        for fault in one_fault(backend, step):
            check(tell(program, backend=backend, faults=[fault]), ALWAYS)
