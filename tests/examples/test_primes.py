"""examples/primes.py: counts in processes end, are stopped, and outlive the interrupt of the server."""

from __future__ import annotations

import pytest
from examples import primes
from tests import wire
from tests.examples.programs import example


def test_two_counts_end_and_one_is_stopped() -> None:
    assert example("primes.py") == [
        "stopped: {'status': 'cancelled'}",
        "counted: {'status': 'succeeded', 'primes': 25}",
        "counted: {'status': 'succeeded', 'primes': 168}",
    ]


async def test_a_count_that_has_begun_ends_before_the_server_does_g9_g23(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primes, "counts", {})
    async with wire.lifespan(primes.app) as state:
        response = await wire.request(primes.app, "POST", "/counts", query=b"below=1000", state=state)
        assert response.status == 202
    assert primes.counts[response.json()].return_value == 168
