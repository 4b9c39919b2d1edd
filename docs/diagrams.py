"""Draws the tables of `taskphase._machine` as diagrams: `python docs/diagrams.py` writes `docs/states.md`.

A test compares that page with what the tables say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import get_args

from taskphase._machine.config import When
from taskphase._machine.dispatch import ANSWERS, DISPATCH
from taskphase._machine.drain import DRAIN, SWEEPS, DrainStage, accepts
from taskphase._machine.life import LIFE, TaskStatus
from taskphase._machine.scope import SCOPE, VERDICTS, Phase, ScopeState

PAGE = Path(__file__).with_name("states.md")

INTRODUCTION = """\
# States

Whatever a task, a scope or a host may do next is a row of a table in `core/taskphase/_machine/`; an event that has no
row raises `IllegalEvent`, and changes nothing. This page is drawn from the tables, by `python docs/diagrams.py`.
"""

Table = Mapping[Enum, Mapping[Enum, Enum]]


def diagram(table: Table, start: Enum) -> Iterator[str]:
    """Yield the lines of a Mermaid diagram: a line a row, several events that lead the same way in one."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {start.name}"
    for state, row in table.items():
        events: dict[Enum, list[str]] = {}
        for event, to in row.items():
            events.setdefault(to, []).append(event.name)
        for to, names in events.items():
            yield f"    {state.name} --> {to.name}: {', '.join(names)}"
        if not row:
            yield f"    {state.name} --> [*]"
    yield "```"


def rows(*header: str) -> Iterator[str]:
    """Yield the head of a Markdown table."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"


def life() -> Iterator[str]:
    yield "## One task\n\n`_machine/life.py`: what is one task doing? Its four ends lead nowhere.\n"
    yield from diagram(LIFE, TaskStatus.NEW)  # type: ignore[arg-type]


def scope() -> Iterator[str]:
    yield "\n## One unit of work\n\n`_machine/scope.py`: may a deferred task of it start?\n"
    yield from diagram(SCOPE, ScopeState.ROUTE)  # type: ignore[arg-type]
    yield "\nWhat becomes of a task, by its phase and its `when`:\n"
    whens = get_args(When)
    yield from rows("state", *(f"{phase}, {when!r}" for phase in list(Phase)[1:] for when in whens))
    for state in ScopeState:
        verdicts = [VERDICTS[state, phase, when].value for phase in list(Phase)[1:] for when in whens]
        yield f"| {state.name} | {' | '.join(verdicts)} |"
    yield "\nAn immediate task starts in each state."


def drain() -> Iterator[str]:
    yield "\n## The closing of a host\n\n`_machine/drain.py`: who is cancelled when?\n"
    yield from diagram(DRAIN, DrainStage.OPEN)  # type: ignore[arg-type]
    yield ""
    yield from rows("stage", "on its entry cancels", "takes new tasks from")
    for stage in DrainStage:
        takes = [
            who
            for who, shielded in (("anybody", False), ("shielded tasks", True))
            if accepts(stage, by_shielded=shielded)
        ]
        yield f"| {stage.name} | {SWEEPS[stage].value} | {takes[0] if takes else 'nobody'} |"


def dispatch() -> Iterator[str]:
    yield "\n## Who gets an exception\n\n`_machine/dispatch.py`: how an attempt ended, and what that is to its task.\n"
    yield from rows("the attempt", "without a handler", "with one")
    for outcome in dict.fromkeys(outcome for outcome, _ in DISPATCH):
        yield f"| {outcome.value} | {DISPATCH[outcome, False].name} | {DISPATCH[outcome, True].name} |"
    yield "\nAnd how the handler ended:\n"
    statuses = list(dict.fromkeys(status for _, status in ANSWERS))
    yield from rows("the handler", *(status.name for status in statuses))
    for answer in dict.fromkeys(answer for answer, _ in ANSWERS):
        yield f"| {answer.value} | {' | '.join(ANSWERS[answer, status].name for status in statuses)} |"


def page() -> str:
    """Return the page."""
    return "\n".join([INTRODUCTION, *life(), *scope(), *drain(), *dispatch(), ""])


if __name__ == "__main__":
    PAGE.write_text(page())
