"""The pictures agree with the tables, and with real runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from html import unescape

import pytest
from docs import diagrams, runs

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
    arrows = {
        (state, event, to)
        for state, row in machine.rows.items()
        for to, events in row.items()
        for event in events
        if to in machine.places and to != state
    }
    labels = [unescape(label) for label in re.findall(r'class="event label"[^>]*>([^<]+)<', machine.draw())]

    assert inside | arrows == {
        (state.name, event.name, to.name) for state, row in table.items() for event, to in row.items()
    }
    assert sorted(event for label in labels for event in label.split(", ")) == sorted(event for _, event, _ in arrows)


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
