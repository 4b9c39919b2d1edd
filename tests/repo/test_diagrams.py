"""The page of state diagrams says what the tables say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from taskphase._machine.life import LIFE, TaskStatus

ROOT = Path(__file__).parents[2]


@pytest.fixture
def diagrams() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diagrams", ROOT / "docs" / "diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_drawn_from_the_tables(diagrams: ModuleType) -> None:
    assert diagrams.PAGE.read_text() == diagrams.page(), "run: python docs/diagrams.py"


def test_each_row_of_a_table_is_an_arrow(diagrams: ModuleType) -> None:
    drawn = "\n".join(diagrams.diagram(LIFE, TaskStatus.NEW))
    arrows = {
        (state, event, to)
        for state, to, events in re.findall(r"(\w+) --> (\w+): (.+)", drawn)
        for event in events.split(", ")
    }
    assert arrows == {(state.name, event.name, to.name) for state, row in LIFE.items() for event, to in row.items()}
