"""G1, G2, G4, G5, G9: every state of every table with every event."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from itertools import product
from typing import Any

import pytest

from taskphase._machine import dispatch, drain, life, scope
from taskphase._machine.dispatch import Outcome
from taskphase._machine.drain import DrainEvent, DrainStage, Sweep
from taskphase._machine.life import LifeEvent, TaskStatus
from taskphase._machine.scope import Phase, ScopeEvent, ScopeState, Verdict
from taskphase._machine.table import IllegalEvent

Table = Mapping[Any, Mapping[Any, Any]]

TABLES: dict[str, tuple[Table, type[Enum], type[Enum], Enum, set[Enum]]] = {
    "life": (
        life.LIFE,
        TaskStatus,
        LifeEvent,
        TaskStatus.NEW,
        {
            TaskStatus.SUCCEEDED,
            TaskStatus.FAILED,
            TaskStatus.CANCELLED,
            TaskStatus.DROPPED,
            TaskStatus.HANDED_OVER,
        },
    ),
    "scope": (scope.SCOPE, ScopeState, ScopeEvent, ScopeState.ROUTE, set()),
    "drain": (drain.DRAIN, DrainStage, DrainEvent, DrainStage.OPEN, {DrainStage.CLOSED}),
}

tables = pytest.mark.parametrize(("table", "states", "events", "start", "ends"), TABLES.values(), ids=TABLES)


def reachable(table: Table, start: Enum) -> set[Enum]:
    seen, todo = {start}, [start]
    while todo:
        for state in table[todo.pop()].values():
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return seen


@tables
def test_every_state_has_a_row(table: Table, states: Any, events: Any, start: Enum, ends: set[Enum]) -> None:
    assert set(table) == set(states)


@tables
def test_every_state_can_be_reached(table: Table, states: Any, events: Any, start: Enum, ends: set[Enum]) -> None:
    assert reachable(table, start) == set(states)


@tables
def test_every_event_leads_somewhere(table: Table, states: Any, events: Any, start: Enum, ends: set[Enum]) -> None:
    assert {event for row in table.values() for event in row} == set(events)


@tables
def test_no_end_has_a_way_out_and_all_else_has_g2(
    table: Table, states: Any, events: Any, start: Enum, ends: set[Enum]
) -> None:
    assert {state for state, row in table.items() if not row} == ends


@tables
def test_an_end_can_be_reached_from_everywhere_g2(
    table: Table, states: Any, events: Any, start: Enum, ends: set[Enum]
) -> None:
    final = ends or {ScopeState.OVER, ScopeState.OVER_FAILED}
    assert [state for state in states if not reachable(table, state) & final] == []


@tables
def test_an_illegal_event_raises_and_says_so(
    table: Table, states: Any, events: Any, start: Enum, ends: set[Enum]
) -> None:
    before = {state: dict(row) for state, row in table.items()}
    for state, event in product(states, events):
        if event in table[state]:
            continue
        with pytest.raises(IllegalEvent, match=f"{state.name} has no row for {event.name}") as caught:
            table[state][event]
        assert (caught.value.state, caught.value.event) == (state, event)
    assert {state: dict(row) for state, row in table.items()} == before


@tables
def test_a_table_cannot_be_changed(table: Any, states: Any, events: Any, start: Enum, ends: set[Enum]) -> None:
    with pytest.raises(TypeError):
        table[start] = {}
    with pytest.raises(TypeError):
        table[start][next(iter(events))] = start


def test_a_task_takes_its_first_step_only_from_a_requested_start_g1() -> None:
    assert [status for status, row in life.LIFE.items() if LifeEvent.STEP in row] == [TaskStatus.STARTING]


def test_a_task_runs_again_only_after_its_policy_asked_for_another_attempt_g1() -> None:
    """Without RETRY nothing leads from RUNNING back to a start, so it starts at most once."""
    without_retry = {
        status: {event: to for event, to in row.items() if event is not LifeEvent.RETRY}
        for status, row in life.LIFE.items()
    }
    assert TaskStatus.STARTING not in reachable(without_retry, TaskStatus.RUNNING)


def test_a_task_that_was_told_to_stop_never_gets_another_attempt_g9() -> None:
    for status in life.TOLD_TO_STOP:
        assert not {TaskStatus.STARTING, TaskStatus.RETRYING, TaskStatus.WAITING} & reachable(life.LIFE, status)


def test_only_what_never_ran_is_dropped_g5() -> None:
    droppable = {status for status, row in life.LIFE.items() if LifeEvent.DROP in row}
    assert droppable == {TaskStatus.NEW, TaskStatus.DEFERRED, TaskStatus.RECORDING}


@pytest.mark.parametrize("state", ScopeState)
def test_an_immediate_task_starts_in_every_state_g1(state: ScopeState) -> None:
    for when in ("success", "failure", "always"):
        assert scope.VERDICTS[state][Phase.IMMEDIATE][when] is Verdict.START


# By hand, not by the rule that the module uses: state -> (after_route, after_response), each for success, failure,
# always.
H, S, D = Verdict.HOLD, Verdict.START, Verdict.DROP
DEFERRED = {
    ScopeState.ROUTE: ((H, H, H), (H, H, H)),
    ScopeState.RESPONDING: ((S, D, S), (H, H, H)),
    ScopeState.EXCUSING: ((D, S, S), (H, H, H)),
    ScopeState.LATE: ((H, H, H), (H, H, H)),
    ScopeState.OVER: ((S, D, S), (S, D, S)),
    ScopeState.OVER_FAILED: ((D, S, S), (D, S, S)),
}


@pytest.mark.parametrize("state", ScopeState)
def test_a_deferred_task_is_held_started_or_dropped_by_phase_and_outcome_g1_g5(state: ScopeState) -> None:
    for phase, expected in zip((Phase.AFTER_ROUTE, Phase.AFTER_RESPONSE), DEFERRED[state], strict=True):
        assert tuple(scope.VERDICTS[state][phase][when] for when in ("success", "failure", "always")) == expected


def test_a_phase_is_reached_no_later_than_the_phases_behind_g1() -> None:
    for state in ScopeState:
        if scope.VERDICTS[state][Phase.AFTER_RESPONSE]["always"] is Verdict.START:
            assert scope.VERDICTS[state][Phase.AFTER_ROUTE]["always"] is Verdict.START


def test_the_outcome_of_a_scope_never_changes_g5() -> None:
    answered, failed = {ScopeState.RESPONDING, ScopeState.OVER}, {ScopeState.EXCUSING, ScopeState.OVER_FAILED}
    for group in (answered, failed):
        assert all(set(scope.SCOPE[state].values()) <= group for state in group)


def test_each_stage_admits_all_tasks_or_tasks_of_the_shielded_or_none_g9() -> None:
    takes = {
        stage: (drain.accepts(stage, by_shielded=False), drain.accepts(stage, by_shielded=True)) for stage in DrainStage
    }
    assert takes == {
        DrainStage.OPEN: (True, True),
        DrainStage.GRACE: (True, True),
        DrainStage.SHIELDED: (False, True),
        DrainStage.FORCED: (False, False),
        DrainStage.CLOSED: (False, False),
    }


def test_whom_each_stage_cancels_g9() -> None:
    assert dict(drain.SWEEPS) == {
        DrainStage.OPEN: Sweep.NOBODY,
        DrainStage.GRACE: Sweep.NOBODY,
        DrainStage.SHIELDED: Sweep.UNSHIELDED,
        DrainStage.FORCED: Sweep.EVERYBODY,
        DrainStage.CLOSED: Sweep.NOBODY,
    }


def test_a_drain_goes_through_every_stage_in_order_unless_idle_g9() -> None:
    stage, stages = DrainStage.OPEN, []
    for event in (DrainEvent.CLOSE, DrainEvent.DEADLINE, DrainEvent.DEADLINE, DrainEvent.IDLE):
        stage = drain.DRAIN[stage][event]
        stages.append(stage)
    assert stages == [DrainStage.GRACE, DrainStage.SHIELDED, DrainStage.FORCED, DrainStage.CLOSED]
    for stage in stages[:-1]:
        assert drain.DRAIN[stage][DrainEvent.IDLE] is DrainStage.CLOSED


def test_dispatch_knows_every_case_and_answers_with_a_legal_event() -> None:
    ends = set(product(Outcome, (False,), (False, True))) | {(Outcome.RAISED, True, has) for has in (False, True)}
    assert set(dispatch.DISPATCH) == ends
    for (_, again, _), event in dispatch.DISPATCH.items():
        assert event in life.LIFE[TaskStatus.RUNNING]
        assert (event in life.LIFE[TaskStatus.CANCELLING]) is not again


def test_only_an_exception_with_a_handler_goes_to_the_handler_g4() -> None:
    to_handler = [case for case, event in dispatch.DISPATCH.items() if event is LifeEvent.RAISE]
    assert to_handler == [(Outcome.RAISED, False, True)]


def test_the_retry_policy_is_asked_before_the_handler_and_instead_of_it_g4_g16() -> None:
    again = {case for case, event in dispatch.DISPATCH.items() if event is LifeEvent.RETRY}
    assert again == {(Outcome.RAISED, True, False), (Outcome.RAISED, True, True)}
