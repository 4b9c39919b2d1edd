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
from docs.svg import Machine, Place, Way

from taskphase._machine.config import When
from taskphase._machine.dispatch import DISPATCH
from taskphase._machine.drain import DRAIN, SWEEPS, DrainStage, accepts
from taskphase._machine.life import LIFE
from taskphase._machine.scope import SCOPE, VERDICTS, Phase, ScopeState

PAGE = Path(__file__).with_name("states.md")
FOLDER = Path(__file__).with_name("diagrams")

INTRODUCTION = """\
# States

Every change of state is a row of a table in `core/taskphase/_machine/`. An event without a row raises `IllegalEvent`,
and changes nothing. `python -m docs.diagrams` draws this page from the tables.

An arrow is an event. Events that end a task are inside the box of its state. In the first picture some states share a
line, which leads from each of these states to each one further down.
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


LEFT, RIGHT, FAR = 96.0, 408.0, 660.0  # the columns of boxes: their middles, in pixels


def life_machine(table: Table) -> Machine:
    """Return the picture of the life of a task.

    The states up to STARTING are one column, in the order of the table, beside a line that leads from each of them to
    each later one. A new state among them needs no other change.
    """
    rows = by_next(table)
    before = list(rows)[: list(rows).index("STARTING") + 1]
    listed = frozenset({("STARTING", "RECORDING"), ("RECORDING", "HANDLING")})
    heights = Machine("", rows, "", dict.fromkeys(before, Place(0, 0)), listed=listed).height
    places, y = {}, 8.0
    for state in before:
        places[state] = Place(LEFT, y)
        y += heights(state) + 28
    y += 30
    again = next(number for number, state in enumerate(before) if state in rows["RETRYING"])
    places |= {
        "RETRYING": Place(RIGHT, places[before[again - 1]].y),
        "RUNNING": Place(LEFT, y),
        "HANDING_OVER": Place(FAR, y + 30),
        "HANDLING": Place(RIGHT, y + 64),
        "CANCELLING": Place(LEFT, y + 164),
        "ABORTING": Place(RIGHT, y + 164),
        "WITHDRAWING": Place(FAR, y + 164),
    }
    ways = {
        ("RUNNING", "RETRYING"): Way("right", svg.ENTRY, "bottom", svg.WIDTH / 2),
        ("CANCELLING", "WITHDRAWING"): Way("right", 70, "left", 70),
        ("HANDING_OVER", "RETRYING"): Way("top", svg.WIDTH / 2, "right", svg.ENTRY),
    }
    line = (LEFT + RIGHT) / 2 + 16
    return Machine("The states of one task", rows, "NEW", places, ways, before[1:], line, listed)


def scope_machine(table: Table) -> Machine:
    """Return the picture of a unit of work: on the left the route has answered, on the right it has failed."""
    middle = (LEFT + RIGHT) / 2
    places = {
        "ROUTE": Place(middle, 8),
        "RESPONDING": Place(LEFT, 104),
        "EXCUSING": Place(RIGHT, 104),
        "LATE": Place(middle, 204),
        "OVER": Place(LEFT, 296),
        "OVER_FAILED": Place(RIGHT, 296),
    }
    half, near, far = svg.WIDTH / 2, svg.WIDTH / 8, svg.WIDTH * 7 / 8
    ways = {
        ("ROUTE", "RESPONDING"): Way("left", svg.ENTRY, "top", half),
        ("ROUTE", "EXCUSING"): Way("right", svg.ENTRY, "top", half),
        ("LATE", "RESPONDING"): Way("left", svg.ENTRY, "bottom", half),
        ("LATE", "EXCUSING"): Way("right", svg.ENTRY, "bottom", half),
        ("LATE", "OVER_FAILED"): Way("bottom", half, "left", 88),
        ("RESPONDING", "OVER"): Way("bottom", near, "top", near),
        ("EXCUSING", "OVER_FAILED"): Way("bottom", far, "top", far),
    }
    return Machine("The states of one unit of work", by_next(table), "ROUTE", places, ways)


def drain_machine(table: Table) -> Machine:
    """Return the picture of the closing of a host."""
    states = [state.name for state, row in table.items() if row]
    places = {state: Place(LEFT, 8 + number * 112) for number, state in enumerate(states)}
    return Machine("The stages of the closing of a host", by_next(table), states[0], places)


MACHINES = {
    "life.svg": life_machine(LIFE),  # type: ignore[arg-type]
    "scope.svg": scope_machine(SCOPE),  # type: ignore[arg-type]
    "drain.svg": drain_machine(DRAIN),  # type: ignore[arg-type]
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


LIFE_IN_WORDS = """
A new task waits for its phase (DEFERRED), for its journal (RECORDING), for its delay (DELAYED), for a place of its
limit (LIMITED) and for a slot (WAITING), in this order. Each of these may be left out. A task that waits has no thread,
and no slot.

If the journal cannot write a RECORDING task, the task fails before its first step. A task that a journal has recovered
is RECORDING once more, with a slot, just before its first step, while the journal counts the run.

The delay comes once, before the first attempt. Each attempt takes a place of the limit and then a slot, so RETRYING
leads to LIMITED or WAITING.

A task of a queue takes no place and no slot. From its first step on it is HANDING_OVER. WITHDRAWING is CANCELLING for a
hand-over: the queue may confirm it all the same. After a refused hand-over with `fallback="here"`, RETRY leads to a run
in this program.
"""


def life() -> Iterator[str]:
    yield "## One task\n\n`_machine/life.py`: the states of one task. The last five are ends.\n"
    yield picture("life.svg")
    yield LIFE_IN_WORDS
    yield from transitions(LIFE)  # type: ignore[arg-type]


def scope() -> Iterator[str]:
    yield "\n## One unit of work\n\n`_machine/scope.py`: when a deferred task of a request may start.\n"
    yield picture("scope.svg")
    yield ""
    yield from transitions(SCOPE)  # type: ignore[arg-type]
    deferred = list(Phase)[1:]
    yield f"\nThe deferred tasks, by their phase. Three verdicts are for a `when` of {', '.join(get_args(When))}:\n"
    yield from rows("state", *map(str, deferred))
    for state in ScopeState:
        yield f"| {state.name} | {' | '.join(verdicts(state, phase) for phase in deferred)} |"
    yield "\nAn immediate task always starts."


def verdicts(state: ScopeState, phase: Phase) -> str:
    """Return the verdict for each task of a phase, or the verdicts by `when`."""
    found = [VERDICTS[state][phase][when].value for when in get_args(When)]
    return found[0] if len(set(found)) == 1 else ", ".join(found)


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
