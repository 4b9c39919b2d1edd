"""Profiles of Hypothesis: `HYPOTHESIS_PROFILE=ci` (the default), `deep`, or `mutants`."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from property_tests.forgetting import forget_apps

_FAILURES = DirectoryBasedExampleDatabase(Path(__file__).parents[1] / ".hypothesis" / "examples")

# The same examples in every run, so that only a change of the code breaks the build; so Hypothesis keeps no database.
# No deadline, because a loaded machine is no bug. No suppressed health checks: none was necessary.
settings.register_profile("ci", derandomize=True, max_examples=100, stateful_step_count=40, deadline=None)
# The same examples as for `ci`. A planted bug only needs one failing example.
settings.register_profile("mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
# New examples in every run. Failing examples come first in the next run.
settings.register_profile(
    "deep", max_examples=10_000, stateful_step_count=100, deadline=None, database=_FAILURES, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def as_long_as_it_takes() -> None:
    """Lift the time limit of a single test. To shrink a failure, Hypothesis takes up to five minutes, and far more in a
    deep run. A test that is killed earlier does not report its failure.
    """
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def no_app_is_kept() -> Iterator[None]:
    yield
    forget_apps()
