"""How hard the properties are tried: `HYPOTHESIS_PROFILE=ci` (the default), `deep`, or `mutants`."""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase

_FAILURES = DirectoryBasedExampleDatabase(Path(__file__).parents[1] / ".hypothesis" / "examples")

# The same examples in every run, so that a red build is the fault of what was changed; Hypothesis then keeps no
# database. No deadline: a loaded machine is no bug. No health check is suppressed: none has had a reason.
settings.register_profile("ci", derandomize=True, max_examples=100, stateful_step_count=40, deadline=None)
# The same examples as those. That one fails is all that is asked of a planted bug.
settings.register_profile("mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
# Other examples in every run, and the failing ones first in the next.
settings.register_profile(
    "deep", max_examples=10_000, stateful_step_count=100, deadline=None, database=_FAILURES, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def as_long_as_it_takes() -> None:
    """Lift the time limit of a single test: to shrink a failure takes Hypothesis up to five minutes, and a deep run
    far more. Killed before, it would not say what it has found.
    """
    faulthandler.cancel_dump_traceback_later()
