"""A pytest plugin for a trial's process: makes sure that the copy is tested, and limits the CPU time."""

from __future__ import annotations

import os
import resource
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGES = ("taskphase", "fastapi_tasks", "property_tests")

LIMIT = "MUTANTS_CPU_SECONDS"
"""The environment variable with the limit."""


def pytest_configure() -> None:
    here = Path.cwd().resolve()
    for package in PACKAGES:
        spec = find_spec(package)
        origin = None if spec is None else spec.origin
        if origin is None or not Path(origin).resolve().is_relative_to(here):
            raise pytest.UsageError(f"{package} would be imported from {origin}, which is not below {here}")
    seconds = int(os.environ[LIMIT])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
