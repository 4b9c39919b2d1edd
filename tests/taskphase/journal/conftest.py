"""Fixtures of the tests of journals."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.taskphase.journal.hosts import MOMENT, Program

from taskphase.journal import _recovery, _statements


@pytest.fixture
async def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "tasks.db")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts look for tasks of dead hosts often."""
    monkeypatch.setattr(_recovery, "_PAUSE", MOMENT)


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts give tasks up as soon as no living host can run them."""
    monkeypatch.setattr(_statements, "_GRACE", 0.0)
