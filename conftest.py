"""For all tests: a fast garbage collector."""

from __future__ import annotations

import gc

import hypothesis  # noqa: F401  imported before the freeze: Hypothesis looks for referrers, and finds no frozen ones


def pytest_collection_finish() -> None:
    """Freeze the objects of the collected tests. Otherwise each full collection takes a third of a second."""
    gc.collect()
    gc.freeze()
