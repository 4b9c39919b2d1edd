"""Every sequence of events up to a depth, in the machine and in the model: `python -m property_tests.exhaustive`.

1. The walk of each table visits every history separately, because the model may depend on the whole history. The walk
   shows that the model depends only on the status.
2. So the walk of the whole program visits a situation only once, although several histories lead to the situation.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from time import monotonic
from typing import Any, get_args

from property_tests import model
from property_tests.agreement import Disagreement, agree
from property_tests.driven import System, foreseen, meet, seen
from property_tests.program_model import Event, Fate, Kind, What, World
from taskphase._machine import dispatch, drain, life, scope
from taskphase._machine.config import DEFAULT_WHEN, When
from taskphase._machine.dispatch import Outcome
from taskphase._machine.drain import DrainEvent, DrainStage
from taskphase._machine.life import LifeEvent, TaskStatus
from taskphase._machine.scope import Phase, ScopeEvent, ScopeState
from taskphase._machine.table import IllegalEvent


@dataclass(frozen=True)
class Table:
    """One table for the walk. `may` and `word` belong to the model."""

    name: str
    start: Enum
    events: type[Enum]
    follow: Callable[[Any, Any], Enum]
    may: Callable[[Any, Any], bool]
    word: Callable[[Any], Enum]
    look: Callable[[Any, Any], None]


def _in(table: Mapping[Any, Mapping[Any, Enum]], state: Any, event: Any) -> Enum:
    return table[state][event]


def _look_at_life(past: Sequence[LifeEvent], status: TaskStatus) -> None:
    agree(("is an end", past), status in life.ENDS, model.end_of(past) is not None)


def _look_at_scope(signals: Sequence[ScopeEvent], state: ScopeState) -> None:
    for phase, when in product(Phase, (*get_args(When), None)):
        expected = model.verdict_of(signals, phase, when or DEFAULT_WHEN)
        agree((signals, phase, when), scope.VERDICTS[state][phase][when], expected)


def _look_at_drain(events: Sequence[DrainEvent], stage: DrainStage) -> None:
    agree(("sweeps", events), drain.SWEEPS[stage], model.sweep_of(events))
    for shielded in (False, True):
        expected = model.takes(events, by_shielded=shielded)
        agree(("takes", events, shielded), drain.accepts(stage, by_shielded=shielded), expected)


# Look the tables up in their modules each time, because tests plant bugs there.
LIFE = Table(
    "life", TaskStatus.NEW, LifeEvent, lambda *at: _in(life.LIFE, *at), model.may_live, model.status_of, _look_at_life
)
SCOPE = Table(
    "scope", ScopeState.ROUTE, ScopeEvent, lambda *at: _in(scope.SCOPE, *at), model.may_signal, model.state_of,
    _look_at_scope,
)  # fmt: skip
DRAIN = Table(
    "drain", DrainStage.OPEN, DrainEvent, lambda *at: _in(drain.DRAIN, *at), model.may_drain, model.stage_of,
    _look_at_drain,
)  # fmt: skip


def follow_both(table: Table, past: tuple[Any, ...], state: Enum, event: Enum) -> Enum | None:
    """Let `event` happen after `past`. Return the next state, or None if both refuse the event."""
    may = table.may(past, event)
    try:
        reached = table.follow(state, event)
    except IllegalEvent as refusal:
        agree((*past, event), "illegal", "legal" if may else "illegal")
        agree("what is illegal", (refusal.state, refusal.event), (state, event))
        return None
    agree((*past, event), reached, table.word((*past, event)) if may else "illegal")
    table.look((*past, event), reached)
    return reached


def walk(table: Table, *, depth: float = math.inf, until: float = math.inf) -> tuple[int, int, bool]:
    """Try every event after every history, level by level, to `depth` or `until` this time.

    :return: the reached depth, the number of tried sequences, and whether there are no longer sequences
    """
    table.look((), table.start)
    agree("the start", table.start, table.word(()))
    level: list[tuple[tuple[Any, ...], Enum]] = [((), table.start)]
    reached = count = 0
    while level and reached < depth:
        after: list[tuple[tuple[Any, ...], Enum]] = []
        for past, state in level:
            if monotonic() > until:
                return reached, count, False
            for event in table.events:
                count += 1
                to = follow_both(table, past, state, event)
                if to is not None:
                    after.append(((*past, event), to))
        level, reached = after, reached + 1
    return reached, count, not level


def check_dispatch() -> int:
    """Try every end of an attempt. Return their number."""
    count = 0
    for outcome, has_handler in product(Outcome, (False, True)):
        # The policy is asked only after an exception.
        for again in (False, True) if outcome is Outcome.RAISED else (False,):
            expected = model.meaning_of_end(outcome, again=again, has_handler=has_handler)
            agree((outcome, again, has_handler), dispatch.DISPATCH[outcome, again, has_handler], expected)
            count += 1
    return count


def check_tables(depth: int) -> None:
    """Try every sequence of `depth` events with each table.

    :raises Disagreement: if a table and the model differ
    """
    try:
        check_dispatch()
        for table in (DRAIN, SCOPE, LIFE):
            walk(table, depth=depth)
    except KeyError as exc:
        raise Disagreement(f"there is no row for {exc}") from exc


KINDS = (
    Kind(Phase.IMMEDIATE),
    Kind(Phase.IMMEDIATE, shielded=True),
    Kind(Phase.IMMEDIATE, has_handler=False),
    Kind(Phase.AFTER_ROUTE, "success"),
    Kind(Phase.AFTER_ROUTE, "failure"),
    Kind(Phase.AFTER_RESPONSE, "success", shielded=True),
    Kind(Phase.AFTER_RESPONSE, "always"),
)


def events(world: World, kinds: Sequence[Kind], most_tasks: int, *, threads: bool) -> Iterator[Event]:
    """Yield every event that could happen."""
    numbers = range(len(world.kinds))
    if len(numbers) < most_tasks:
        for kind in kinds:
            yield from (Event(What.SCHEDULE, by, kind) for by in (None, *numbers))
            if threads:
                yield Event(What.SCHEDULE, None, kind, flag=True)
    for number in numbers:
        yield from (Event(What.FINISH, number, outcome) for outcome in Outcome)
        yield Event(What.FINISH, number, Outcome.RAISED, flag=True)
        yield from (Event(what, number) for what in (What.STEP, What.HANDLER_ENDS, What.PAUSE_ENDS, What.CANCEL))
    # These programs contain no scope that is over while its route still runs.
    yield from (Event(What.SIGNAL, how=signal) for signal in ScopeEvent if signal is not ScopeEvent.GIVEN_UP)
    yield Event(What.SIGNAL, how=ScopeEvent.ENDED, flag=True)
    yield from (Event(What.DRAIN, how=drained) for drained in DrainEvent)
    yield Event(What.ARRIVE)


def situation(world: World) -> tuple[object, ...]:
    """Return the part of `world` that can affect later events."""
    statuses = tuple(model.status_of(past) for past in world.pasts)
    order = tuple(map(tuple, (world.on_their_way, world.arrived, world.limited, world.line)))
    return (tuple(world.kinds), statuses, order, model.state_of(world.signals), model.stage_of(world.drain))


@dataclass(frozen=True)
class Explored:
    """The result: `depth` in events; `tried`: pairs of situation and event; `sequences`: the number of sequences they
    represent.
    """

    depth: int
    situations: int
    tried: int
    sequences: int
    complete: bool


def explore(
    world: World,
    *,
    kinds: Sequence[Kind] = KINDS,
    most_tasks: int = 3,
    threads: bool = False,
    depth: float = math.inf,
    until: float = math.inf,
) -> Explored:
    """Let every event happen in every reachable situation of `world`, level by level, to `depth` or `until` this time.

    :raises Disagreement: if the visible state differs from the model
    """
    start = world
    numbers = {situation(start): 0}
    refused: list[int] = []  # the number of refused events, by situation
    after: list[list[int]] = []  # the next situations of all other events
    level: list[tuple[tuple[Event, ...], World]] = [((), start)]
    reached = 0
    while level and reached < depth:
        following: list[tuple[tuple[Event, ...], World]] = []
        for path, world in level:
            if monotonic() > until:
                return _explored(reached, refused, after, complete=False)
            unchanged = System(start, path)
            refused.append(0)
            after.append([])
            for event in events(world, kinds, most_tasks, threads=threads):
                fate = world.fate(event)
                if fate is Fate.HAPPENS:
                    system, child = System(start, path), world.copy()
                    meet(system, child, event)
                    agree((*path, event), seen(system), foreseen(child))
                    key = situation(child)
                    if key not in numbers:
                        numbers[key] = len(numbers)
                        following.append(((*path, event), child))
                    after[-1].append(numbers[key])
                elif fate is not Fate.IMPOSSIBLE:
                    # A refused event may let mail arrive, so it gets its own system and world.
                    apart = bool(world.on_their_way)
                    meet(System(start, path) if apart else unchanged, world.copy() if apart else world, event)
                    refused[-1] += 1
            agree((path, "and what changes nothing"), seen(unchanged), foreseen(world))
        level, reached = following, reached + 1
    return _explored(reached, refused, after, complete=not level)


def _explored(depth: int, refused: list[int], after: list[list[int]], *, complete: bool) -> Explored:
    ways, sequences = Counter({0: 1}), 0
    for _ in range(depth):
        longer: Counter[int] = Counter()
        for number, count in ways.items():
            sequences += count * (refused[number] + len(after[number]))
            for to in after[number]:
                longer[to] += count
        ways = longer
    tried = sum(refused) + sum(map(len, after))
    return Explored(depth, len(after), tried, sequences, complete)


def main(seconds: float) -> None:
    """Check everything for about `seconds`, and print the result."""
    begin = monotonic()
    print(f"dispatch: {check_dispatch()} cases, which is all")
    for table, share in ((DRAIN, 1), (SCOPE, 0.05), (LIFE, 0.1)):
        depth, count, complete = walk(table, until=begin + share * seconds)
        print(f"{table.name}: {count} sequences to depth {depth}{', which is all' * complete}", flush=True)
    for most_tasks, limit, share in (
        (1, None, 0.2),
        (1, 1, 0.25),
        (2, None, 0.45),
        (2, 1, 0.65),
        (3, None, 0.8),
        (3, 1, 1),
    ):
        found = explore(World(limit), most_tasks=most_tasks, until=begin + share * seconds)
        print(
            f"a scope with up to {most_tasks} tasks, {limit or 'any number'} at a time, and a drain: to depth"
            f" {found.depth} {found.sequences} sequences through {found.situations} situations"
            f" ({found.tried} tries){', which is all' * found.complete}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, metavar="N", help="default: 60")
    main(parser.parse_args().seconds)
