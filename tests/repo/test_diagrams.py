"""The pictures agree with the tables, and with real runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import Enum
from html import unescape
from itertools import combinations, pairwise

import pytest
from docs import diagrams, runs, svg

from taskphase._machine.drain import DRAIN
from taskphase._machine.life import LIFE
from taskphase._machine.scope import SCOPE

DRAW = "run: python -m docs.diagrams"
TABLES = {"life.svg": LIFE, "scope.svg": SCOPE, "drain.svg": DRAIN}


def test_the_page_is_drawn_from_the_tables() -> None:
    assert diagrams.PAGE.read_text() == diagrams.page(), DRAW


def test_the_pictures_in_the_docs_are_drawn_from_the_present_tables() -> None:
    pictures = {path.name: path.read_text() for path in diagrams.FOLDER.iterdir()}

    assert pictures == diagrams.pictures(), DRAW


@pytest.mark.parametrize("name", TABLES)
def test_each_row_of_a_table_is_in_its_picture(name: str) -> None:
    table: Mapping[Enum, Mapping[Enum, Enum]] = TABLES[name]  # type: ignore[assignment]
    machine = diagrams.MACHINES[name]
    inside = {
        (state, event, state if to == "stays" else to)
        for state in machine.places
        for events, to in machine.inside(state)
        for event in events.split(", ")
    }
    on_line = {(state, event, to) for state, to in machine.on_line() for event in machine.rows[state][to]}
    arrows = {
        (state, event, to)
        for state, row in machine.rows.items()
        for to, events in row.items()
        for event in events
        if to in machine.places and to not in (state, *machine.stops) and (state, to) not in machine.listed
    }
    labels = [unescape(label) for label in re.findall(r'class="event label"[^>]*>([^<]+)<', machine.draw())]
    stops = {(event, to) for _, event, to in on_line}

    assert inside | on_line | arrows == {
        (state.name, event.name, to.name) for state, row in table.items() for event, to in row.items()
    }
    assert len(stops) == len(machine.stops)
    assert sorted(event for label in labels for event in label.split(", ")) == sorted(
        [event for _, event, _ in arrows] + [event for event, _ in stops]
    )


PICTURES = diagrams.MACHINES
LETTER = 7  # pixels of a letter of a label

Area = tuple[float, float, float, float]


def overlap(one: Area, other: Area) -> bool:
    """Return whether two areas have more than an edge in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def parts(arrow: svg.Arrow) -> Iterator[Area]:
    """Yield the straight parts of an arrow, without their ends."""
    for (x1, y1), (x2, y2) in pairwise(arrow.points):
        left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        yield (left + 1, top - 1, right - 1, bottom + 1) if y1 == y2 else (left - 1, top + 1, right + 1, bottom - 1)


@pytest.mark.parametrize("name", PICTURES)
def test_each_label_of_a_picture_is_legible(name: str) -> None:
    machine = PICTURES[name]
    boxes = [
        (machine.left(state), place.y, machine.left(state) + svg.WIDTH, place.y + machine.height(state))
        for state, place in machine.places.items()
    ]
    arrows = list(machine.arrows())
    labels: dict[svg.Arrow, Area] = {}
    for arrow in arrows:
        if arrow.words:
            (x, y), half = arrow.spot, len(arrow.words) * LETTER / 2
            labels[arrow] = (x - half, y - 10, x + half, y + 2)
    lines = [(arrow, part) for arrow in arrows for part in parts(arrow)]

    assert [pair for pair in combinations([*boxes, *labels.values()], 2) if overlap(*pair)] == []
    assert [arrow for arrow, part in lines for box in boxes if overlap(part, box)] == []
    assert [
        (arrow, other.words)
        for arrow, part in lines
        for other, label in labels.items()
        if arrow is not other and overlap(part, label)
    ] == []
    assert [
        (arrow, other)
        for (arrow, part), (other, another) in combinations(lines, 2)
        if arrow is not other and arrow.words and other.words and overlap(part, another)
    ] == []


def test_a_line_that_differs_from_the_table_is_an_error() -> None:
    machine = diagrams.MACHINES["life.svg"]
    places = {**machine.places, "RETRYING": machine.places["STARTING"]}

    with pytest.raises(AssertionError, match="a line of 'The states of one task' differs from the table"):
        replace(machine, places=places).draw()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("phase", diagrams.PHASES)
def test_a_request_goes_as_it_is_drawn_on_each_backend_g1(phase: str, fails: bool, backend: str) -> None:
    steps = [(step.who, step.what) for step in runs.run(phase, fails=fails, backend=backend)]

    assert steps == [(step.who, step.what) for step in runs.run(phase, fails=fails)]
    begins, head = steps.index((runs.TASK, "first step")), steps.index((runs.SERVER, "head"))
    if phase == "after_response":
        assert begins > max(head, steps.index((runs.REQUEST_SCOPE, "exits")))
    else:
        assert begins < head
    if phase == "after_route":
        assert begins > steps.index((runs.FUNCTION_SCOPE, "exits"))
