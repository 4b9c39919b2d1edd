"""Draws the pictures of the documentation: `python -m docs.diagrams` writes `docs/states.md` and `docs/diagrams/`.

The states come from the tables of `taskphase._machine`, the sequences from runs of a small app (`docs/runs.py`). A test
compares the pictures with the tables and with new runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import get_args

from docs import runs, svg
from docs.svg import Bend, Machine, Place

from taskphase._machine.config import When
from taskphase._machine.dispatch import DISPATCH
from taskphase._machine.drain import DRAIN, SWEEPS, DrainStage, accepts
from taskphase._machine.life import LIFE, TaskStatus
from taskphase._machine.scope import SCOPE, VERDICTS, Phase, ScopeState

PAGE = Path(__file__).with_name("states.md")
FOLDER = Path(__file__).with_name("diagrams")

INTRODUCTION = """\
# States

Every change of state is a row of a table in `core/taskphase/_machine/`. An event without a row raises `IllegalEvent`,
and changes nothing. `python -m docs.diagrams` draws this page from the tables.

An arrow is an event. Events that end a task are inside the box of its state.
"""

Table = Mapping[Enum, Mapping[Enum, Enum]]

CANCELS = {"NOBODY": "none", "UNSHIELDED": "unshielded tasks", "EVERYBODY": "all tasks"}


def by_next(table: Table) -> svg.Rows:
    """Return the names of the events by state and next state."""
    rows: dict[str, dict[str, list[str]]] = {}
    for state, row in table.items():
        events = rows.setdefault(state.name, {})
        for event, to in row.items():
            events.setdefault(to.name, []).append(event.name)
    return rows


# Columns and rows of boxes, in pixels.
_C = [96, 326, 556, 786]
_R = [84, 250, 400]

MACHINES = {
    "life.svg": Machine(
        "The states of one task",
        by_next(LIFE),  # type: ignore[arg-type]
        TaskStatus.NEW.name,
        {
            "NEW": Place(_C[0], _R[0]),
            "DEFERRED": Place(_C[1], _R[0]),
            "WAITING": Place(_C[2], _R[0]),
            "STARTING": Place(_C[3], _R[0]),
            "RETRYING": Place(_C[1], _R[1]),
            "HANDLING": Place(_C[2], _R[1]),
            "RUNNING": Place(_C[3], _R[1]),
            "ABORTING": Place(_C[2], _R[2]),
            "CANCELLING": Place(_C[3], _R[2]),
        },
        {
            ("NEW", "WAITING"): Bend(0.75, 0.25, above=True, lift=52),
            ("NEW", "STARTING"): Bend(0.4, 0.75, above=True, lift=96),
            ("DEFERRED", "STARTING"): Bend(0.75, 0.3, above=True, lift=52),
            ("RETRYING", "WAITING"): Bend(0.3, 0.3, label=0.28),
            ("RETRYING", "STARTING"): Bend(0.75, 0.25, label=0.6),
            ("STARTING", "RUNNING"): Bend(0.7, 0.7),
        },
    ),
    "scope.svg": Machine(
        "The states of one unit of work",
        by_next(SCOPE),  # type: ignore[arg-type]
        ScopeState.ROUTE.name,
        {
            "ROUTE": Place(_C[0], 68),
            "RESPONDING": Place(_C[1] + 80, 8),
            "EXCUSING": Place(_C[1] + 80, 130),
            "LATE": Place(_C[0], 280),
            "OVER": Place(_C[2] + 160, 8),
            "OVER_FAILED": Place(_C[2] + 160, 130),
        },
        {
            ("ROUTE", "RESPONDING"): Bend(side=True),
            ("ROUTE", "EXCUSING"): Bend(side=True),
            ("LATE", "RESPONDING"): Bend(0.25, 0.1, label=0.85),
            ("LATE", "EXCUSING"): Bend(side=True),
            ("LATE", "OVER_FAILED"): Bend(side=True),
        },
    ),
    "drain.svg": Machine(
        "The stages of the closing of a host",
        by_next(DRAIN),  # type: ignore[arg-type]
        DrainStage.OPEN.name,
        {
            "OPEN": Place(96, 8),
            "GRACE": Place(356, 8),
            "SHIELDED": Place(626, 8),
            "FORCED": Place(896, 8),
        },
        {},
    ),
}

PHASES = ["immediate", "after_route", "after_response"]


def sequences() -> Iterator[tuple[str, str]]:
    """Yield the name of each picture of a request, and the picture."""
    for phase in PHASES:
        yield f"{phase}.svg", svg.sequence(f"A request with one {phase} task", runs.LANES, runs.TASK, runs.run(phase))
        yield f"{phase}-short.svg", short(phase)
    failed = runs.run("after_response", fails=True)
    yield "failure.svg", svg.sequence("A request whose endpoint raises", runs.LANES, runs.TASK, failed)


# For the tutorial, narrow enough for a phone: the dependency is a session, and some lanes are left out.
SHORT = {
    runs.CLIENT: "client",
    runs.SERVER: "server",
    runs.MIDDLEWARE: "server",
    runs.REQUEST_SCOPE: "session",
    runs.FUNCTION_SCOPE: "session",
    runs.ENDPOINT: "endpoint",
    runs.TASK: "task",
}


def short(phase: str) -> str:
    """Return the picture of a request with five lanes."""
    inside = {(runs.FUNCTION_SCOPE, "exits"), (runs.ENDPOINT, "background runs")}
    steps = [step for step in runs.run(phase) if (step.who, step.what) not in inside]
    title = f"A request with one {phase} task, in short"
    return svg.sequence(title, list(dict.fromkeys(SHORT.values())), "task", svg.only(SHORT, steps), svg.NARROW_LANE)


def pictures() -> dict[str, str]:
    """Return all pictures, by name."""
    return {**{name: machine.draw() for name, machine in MACHINES.items()}, **dict(sequences())}


def picture(name: str) -> str:
    """Return the Markdown of a picture of states, with its table for readers who cannot see the picture."""
    return f"![{MACHINES[name].title}](diagrams/{name})"


def transitions(table: Table) -> Iterator[str]:
    """Yield the lines of a table, one for each state."""
    yield from rows("state", "event: next state")
    for state, row in table.items():
        cells = [f"{event.name}: {to.name}" for event, to in row.items()]
        yield f"| {state.name} | {', '.join(cells) or 'an end'} |"


def rows(*header: str) -> Iterator[str]:
    """Yield the head of a Markdown table."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"


def life() -> Iterator[str]:
    yield "## One task\n\n`_machine/life.py`: the states of one task. The last four are ends.\n"
    yield picture("life.svg")
    yield ""
    yield from transitions(LIFE)  # type: ignore[arg-type]


def scope() -> Iterator[str]:
    yield "\n## One unit of work\n\n`_machine/scope.py`: when a deferred task of a request may start.\n"
    yield picture("scope.svg")
    yield ""
    yield from transitions(SCOPE)  # type: ignore[arg-type]
    yield "\nThe deferred tasks, by their phase and their `when`:\n"
    whens = get_args(When)
    yield from rows("state", *(f"{phase}, {when!r}" for phase in list(Phase)[1:] for when in whens))
    for state in ScopeState:
        verdicts = [VERDICTS[state, phase, when].value for phase in list(Phase)[1:] for when in whens]
        yield f"| {state.name} | {' | '.join(verdicts)} |"
    yield "\nAn immediate task always starts."


def drain() -> Iterator[str]:
    yield "\n## The closing of a host\n\n`_machine/drain.py`: which tasks are cancelled in which stage.\n"
    yield picture("drain.svg")
    yield ""
    yield from transitions(DRAIN)  # type: ignore[arg-type]
    yield ""
    yield from rows("stage", "cancels at its begin", "takes new tasks from")
    for stage in DrainStage:
        takes = [
            who
            for who, shielded in (("all code", False), ("shielded tasks", True))
            if accepts(stage, by_shielded=shielded)
        ]
        yield f"| {stage.name} | {CANCELS[SWEEPS[stage].name]} | {takes[0] if takes else 'none'} |"


def dispatch() -> Iterator[str]:
    yield "\n## Who gets an exception\n\n`_machine/dispatch.py`: the end of an attempt, and the event of its task.\n"
    yield from rows("the attempt", "without a handler", "with a handler")
    for outcome, again in dict.fromkeys((outcome, again) for outcome, again, _ in DISPATCH):
        how = f"{outcome.value}, and another attempt follows" if again else outcome.value
        yield f"| {how} | {DISPATCH[outcome, again, False].name} | {DISPATCH[outcome, again, True].name} |"


def page() -> str:
    """Return the page."""
    return "\n".join([INTRODUCTION, *life(), *scope(), *drain(), *dispatch(), ""])


if __name__ == "__main__":
    PAGE.write_text(page())
    FOLDER.mkdir(exist_ok=True)
    for name, content in pictures().items():
        (FOLDER / name).write_text(content)
