"""The four tables, and the runner that uses them, against the model: G1, G2, G4, G5, G9, G15, G16, G18, G19, G24."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any, get_args

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from property_tests import exhaustive, model
from property_tests.agreement import Disagreement
from property_tests.driven import System, foreseen, meet, seen
from property_tests.exhaustive import DRAIN, LIFE, SCOPE, Table, explore, walk
from property_tests.program_model import Event, Fate, Kind, What, World
from taskphase._machine import dispatch, drain, life, scope
from taskphase._machine.config import When
from taskphase._machine.dispatch import Outcome
from taskphase._machine.drain import DrainStage, Sweep
from taskphase._machine.life import LifeEvent, TaskStatus
from taskphase._machine.scope import Phase, ScopeState, Verdict
from taskphase._machine.table import table

# Long enough to meet each row of each table.
DEEP_ENOUGH = 5


class AgainstModel(RuleBasedStateMachine):
    """One table, and the list of past events. An illegal event changes nothing: the next event meets the same state."""

    table: Table

    def __init__(self) -> None:
        super().__init__()
        self.past: tuple[Any, ...] = ()
        self.state = self.table.start

    def meet(self, event: Any) -> None:
        reached = exhaustive.follow_both(self.table, self.past, self.state, event)
        if reached is not None:
            self.past, self.state = (*self.past, event), reached

    def legal(self) -> list[Any]:
        return [event for event in self.table.events if self.table.may(self.past, event)]

    @rule(data=st.data())
    def anything_is_tried(self, data: st.DataObject) -> None:
        self.meet(data.draw(st.sampled_from(list(self.table.events))))

    @precondition(lambda self: self.legal())
    @rule(data=st.data())
    def something_legal_happens(self, data: st.DataObject) -> None:
        self.meet(data.draw(st.sampled_from(self.legal())))


class LifeAgainstModel(AgainstModel):
    table = LIFE

    @invariant()
    def the_guarantees_hold_in_so_many_words(self) -> None:
        past: tuple[LifeEvent, ...] = self.past
        count = Counter(past)
        asked_to_stop = past[past.index(LifeEvent.CANCEL) :] if LifeEvent.CANCEL in past else ()
        assert count[LifeEvent.STEP] <= 1 + count[LifeEvent.RETRY], "G1: once, and once for each retry"
        assert count[LifeEvent.STEP] <= count[LifeEvent.START], "G1: never before it was asked to start"
        assert count[LifeEvent.RETRY] <= count[LifeEvent.STEP], "G16: an attempt is asked for after an attempt"
        assert count[LifeEvent.RAISE] <= 1, "G4: the handler is called once"
        assert not {LifeEvent.START, LifeEvent.STEP, LifeEvent.RETRY} & set(asked_to_stop), "G9: a stop is a stop"
        # A recovered run is RECORDING once more after START: its journal may then decide that the task never runs.
        asked = max((at for at, event in enumerate(past) if event is LifeEvent.START), default=-1)
        recorded = max((at for at, event in enumerate(past) if event is LifeEvent.RECORD), default=-1)
        assert LifeEvent.DROP not in past or asked <= recorded, "G5: a task that was asked to start is not dropped"
        ends = {LifeEvent.SUCCEED, LifeEvent.FAIL, LifeEvent.UNWIND, LifeEvent.DROP}
        assert sum(count[end] for end in ends) <= 1, "G2: one end"


class ScopeAgainstModel(AgainstModel):
    table = SCOPE


class DrainAgainstModel(AgainstModel):
    table = DRAIN


class DispatchAgainstModel(LifeAgainstModel):
    """A task whose attempts and handlers end in every way that is legal."""

    @initialize(has_handler=st.booleans())
    def begin(self, has_handler: bool) -> None:
        self.has_handler = has_handler
        self.meet(LifeEvent.START)
        self.meet(LifeEvent.STEP)

    @precondition(lambda self: model.runs_code(self.past) and not model.in_handler(self.past))
    @rule(outcome=st.sampled_from(Outcome), wanted=st.booleans())
    def the_attempt_ends(self, outcome: Outcome, wanted: bool) -> None:
        again = wanted and outcome is Outcome.RAISED and LifeEvent.CANCEL not in self.past
        event = dispatch.DISPATCH[outcome, again, self.has_handler]
        assert event is model.meaning_of_end(outcome, again=again, has_handler=self.has_handler)
        assert event in self.legal()
        self.meet(event)

    @precondition(lambda self: model.in_handler(self.past) and model.end_of(self.past) is None)
    @rule()
    def the_handler_ends(self) -> None:
        self.meet(LifeEvent.FAIL)


WHENS: tuple[When, ...] = get_args(When)
KINDS = [Kind(*settings) for settings in product(Phase, WHENS, (False, True), (True, False))]
IMMEDIATE, LATER = Phase.IMMEDIATE, Phase.AFTER_ROUTE
LIMITED = [Kind(IMMEDIATE, limited=True), Kind(IMMEDIATE, limited=True, shielded=True)]
GATED = [
    *LIMITED,
    Kind(LATER, limited=True),
    Kind(LATER, "success", delayed=True),
    Kind(IMMEDIATE, delayed=True, limited=True),
    Kind(IMMEDIATE, keyed=True),
    Kind(LATER, "failure", keyed=True),
    Kind(IMMEDIATE, delayed=True, limited=True, keyed=True, shielded=True),
]


class ProgramAgainstModel(RuleBasedStateMachine):
    """A scope, its tasks and a drain, moved by the real runner and scheduler."""

    # No limit here: the model does not predict how many tasks from threads will wait.
    max_pending: st.SearchStrategy[int | None] = st.none()

    kinds: Sequence[Kind] = KINDS

    @initialize(max_running=st.sampled_from([None, 1, 2]), open_for=st.integers(0, 35), data=st.data())
    def begin(self, max_running: int | None, open_for: int, data: st.DataObject) -> None:
        self.world = World(max_running, data.draw(self.max_pending), data.draw(st.sampled_from([1, 2])))
        self.system = System(self.world)
        self.open_for = open_for  # the number of steps; otherwise most programs would be closed before they do anything

    def try_one(self, data: st.DataObject, fates: set[Fate]) -> None:
        self.open_for -= 1
        choices: dict[str, list[Event]] = defaultdict(list)
        for event in exhaustive.events(self.world, self.kinds, most_tasks=8, threads=True):
            if self.world.fate(event) in fates and (self.open_for < 0 or event.what is not What.DRAIN):
                choices[event.what.name].append(event)
        if choices:
            what = data.draw(st.sampled_from(sorted(choices)))
            meet(self.system, self.world, data.draw(st.sampled_from(choices[what])))

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        self.try_one(data, {Fate.HAPPENS})

    @rule(data=st.data())
    def something_is_refused(self, data: st.DataObject) -> None:
        self.try_one(data, set(Fate) - {Fate.HAPPENS, Fate.IMPOSSIBLE})

    @invariant()
    def what_can_be_seen_was_foreseen(self) -> None:
        assert seen(self.system) == foreseen(self.world)

    def teardown(self) -> None:
        """Close the host: at any point of the program, everything ends (G2)."""
        if not hasattr(self, "world"):
            return
        for _ in range(100):
            tried = exhaustive.events(self.world, (), most_tasks=0, threads=True)
            choices = [event for event in tried if self.world.fate(event) is Fate.HAPPENS]
            if not choices:
                break
            # The last events first: the drain, then the events that end tasks.
            meet(self.system, self.world, choices[-1])
            self.what_can_be_seen_was_foreseen()
        assert all(task.status in life.ENDS for task in self.system.tasks)
        assert self.system.runner.stage is DrainStage.CLOSED


class GatedProgramAgainstModel(ProgramAgainstModel):
    """Tasks with delays, keys and one limit (G18, G19, G24)."""

    kinds = (Kind(IMMEDIATE), Kind(LATER), *GATED)


TestLifeAgainstModel = LifeAgainstModel.TestCase
TestScopeAgainstModel = ScopeAgainstModel.TestCase
TestDrainAgainstModel = DrainAgainstModel.TestCase
TestDispatchAgainstModel = DispatchAgainstModel.TestCase
TestProgramAgainstModel = ProgramAgainstModel.TestCase
TestGatedProgramAgainstModel = GatedProgramAgainstModel.TestCase


@pytest.mark.parametrize(("table", "depth"), [(LIFE, 12), (SCOPE, 8), (DRAIN, 99)], ids=lambda value: str(value)[:5])
def test_each_history_leads_where_the_model_says_g1_g2_g5_g9(table: Table, depth: int) -> None:
    _, count, complete = walk(table, depth=depth)
    assert count > 0
    assert complete is (table is DRAIN)


def test_each_end_of_an_attempt_means_what_the_model_says_g4_g16() -> None:
    assert exhaustive.check_dispatch() == len(dispatch.DISPATCH) == (len(Outcome) + 1) * 2


@pytest.mark.parametrize("max_running", [None, 1])
def test_a_program_of_a_single_task_does_as_the_model_says_g1_g2_g5_g9(max_running: int | None) -> None:
    assert explore(World(max_running), most_tasks=1).complete


def test_a_program_of_two_tasks_does_as_the_model_says_in_any_drain_g9_g15_g16() -> None:
    kinds = [Kind(Phase.IMMEDIATE), Kind(Phase.IMMEDIATE, shielded=True)]
    assert explore(World(max_running=1), kinds=kinds, most_tasks=2).complete


@pytest.mark.parametrize("max_running", [None, 1])
def test_a_program_of_three_tasks_of_any_kind_does_so_g1_g2_g5(max_running: int | None) -> None:
    assert explore(World(max_running), most_tasks=3, depth=3).depth == 3


def test_a_program_of_three_tasks_that_wait_for_a_slot_does_so_g15() -> None:
    assert explore(World(max_running=1), kinds=[Kind(Phase.IMMEDIATE)], most_tasks=3, depth=6).depth == 6


def test_a_task_on_its_way_from_a_thread_is_swept_like_any_other_task_g8_g9() -> None:
    assert explore(World(), most_tasks=1, threads=True).complete


def test_a_task_that_would_be_dropped_is_not_refused_for_want_of_room_g15() -> None:
    kinds = [Kind(Phase.IMMEDIATE), Kind(Phase.AFTER_ROUTE, "success")]
    explore(World(max_running=1, max_pending=0), kinds=kinds, most_tasks=2, depth=4)


@pytest.mark.parametrize("max_running", [None, 1])
@pytest.mark.parametrize("kind", GATED, ids=str)
def test_a_program_of_a_task_with_a_gate_does_as_the_model_says_g18_g19_g24(
    kind: Kind, max_running: int | None
) -> None:
    assert explore(World(max_running), kinds=[kind], most_tasks=1).complete


@pytest.mark.parametrize("max_running", [None, 1])
def test_a_program_of_two_tasks_with_a_limit_does_so_in_any_drain_g9_g19(max_running: int | None) -> None:
    assert explore(World(max_running), kinds=LIMITED, most_tasks=2).complete


def test_a_program_of_two_tasks_of_any_gate_does_so_g18_g19_g24() -> None:
    assert explore(World(max_running=1), kinds=GATED, most_tasks=2, depth=5).depth == 5


@pytest.mark.parametrize("most", [1, 2])
def test_a_program_of_tasks_that_wait_for_places_and_slots_does_so_g15_g19(most: int) -> None:
    kinds = [Kind(IMMEDIATE), LIMITED[0]]
    assert explore(World(max_running=1, most=most), kinds=kinds, most_tasks=4, depth=6).depth == 6


@pytest.mark.parametrize(("max_pending", "limit_pending"), [(None, 0), (None, 1), (1, None), (1, 1)])
def test_a_limit_refuses_a_task_in_schedule_exactly_when_it_is_full_g15_g19(
    max_pending: int | None, limit_pending: int | None
) -> None:
    kinds = [LIMITED[0], Kind(LATER, limited=True), Kind(IMMEDIATE, delayed=True, limited=True)]
    explore(World(1, max_pending, 1, limit_pending), kinds=kinds, most_tasks=3, depth=5)


Row = tuple[Any, ...]


def changed(table: Mapping[Row, Any], keys: Iterator[Row], values: Any) -> Iterator[tuple[Row, dict[Row, Any]]]:
    """Yield `table` with one row deleted, changed or added, in each way, and the new row."""
    for key in keys:
        if key in table:
            yield (*key, None), {other: value for other, value in table.items() if other != key}
        for value in values:
            if table.get(key) is not value:
                yield (*key, value), {**table, key: value}


def mutants() -> Iterator[tuple[str, Any, str, object]]:
    """Yield every table with every change of a single row: a description, the module, the name, and the table."""
    nested = ((life, "LIFE", TaskStatus, LifeEvent), (scope, "SCOPE", ScopeState, scope.ScopeEvent))
    for module, name, states, events in (*nested, (drain, "DRAIN", DrainStage, drain.DrainEvent)):
        flat = {(state, event): to for state, row in getattr(module, name).items() for event, to in row.items()}
        for what, rows in changed(flat, product(states, events), states):
            mutant = table({state: {e: to for (s, e), to in rows.items() if s is state} for state in states})
            yield f"{name} {what}", module, name, mutant
    for what, rows in changed(dispatch.DISPATCH, iter(dispatch.DISPATCH), LifeEvent):
        yield f"DISPATCH {what}", dispatch, "DISPATCH", MappingProxyType(rows)
    keys = list(product(ScopeState, Phase, (*WHENS, None)))
    verdicts = {(state, phase, when): scope.VERDICTS[state][phase][when] for state, phase, when in keys}
    for what, rows in changed(verdicts, iter(keys), Verdict):
        mutant = {
            s: {p: {w: to for (a, b, w), to in rows.items() if (a, b) == (s, p)} for p in Phase} for s in ScopeState
        }
        yield f"VERDICTS {what}", scope, "VERDICTS", mutant
    for what, rows in changed({(key,): to for key, to in drain.SWEEPS.items()}, product(DrainStage), Sweep):
        yield f"SWEEPS {what}", drain, "SWEEPS", MappingProxyType({key: to for (key,), to in rows.items()})
    for module, name, members in (
        (drain, "_TAKES_ANY", DrainStage),
        (drain, "_TAKES_SHIELDED", DrainStage),
        (life, "ENDS", TaskStatus),
    ):
        yield from ((f"{name} ^ {one}", module, name, getattr(module, name) ^ {one}) for one in members)


def test_every_change_of_a_single_row_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exhaustive.check_tables(DEEP_ENOUGH)  # unchanged, the tables pass
    noticed: Counter[str] = Counter()
    unnoticed: list[str] = []
    for what, module, name, mutant in mutants():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, mutant)
            try:
                exhaustive.check_tables(DEEP_ENOUGH)
            except Disagreement:
                noticed[name] += 1
            else:
                unnoticed.append(what)
    print(f"{noticed.total()} changes noticed: {dict(noticed)}")
    assert unnoticed == []  # no change is equivalent: the model predicts each status by name
