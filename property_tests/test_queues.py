"""Hand-overs in random programs, in every order and moment of the drain: G2, G4, G9, G15, G18, G21, G24."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from property_tests.queueing import Order, Plan, check, plans, tell
from taskphase.testing import RandomWalk

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

# Programs that have found a bug.
DELAYED_BEYOND_STAGE_1 = Plan((Order(), Order(delay=2)), shield_timeout=1.7)
DELAYED_BEYOND_ALL_STAGES = Plan((Order(delay=2, handler="returns"),), shield_timeout=0)
CANCELLED_WITH_A_TURN = Plan((Order(cancel=0.05), Order(0.25)), ("hang",), most=1, deadline=0.5, at=4)
DOWN_WITHOUT_AN_ANSWER = Plan((Order(), Order(), Order(0.25)), then="hang", attempt_timeout=0.3, at=4)
PROBE_BESIDE_TURNS = Plan((Order(), Order(), Order(0.9), Order(0.9)), ("slow", "fail"), "slow", most=2, at=4)


@BACKENDS
@given(plan=plans)
@example(plan=DELAYED_BEYOND_STAGE_1)
@example(plan=DELAYED_BEYOND_ALL_STAGES)
@example(plan=CANCELLED_WITH_A_TURN)
@example(plan=DOWN_WITHOUT_AN_ANSWER)
@example(plan=PROBE_BESIDE_TURNS)
def test_a_program_with_a_queue_does_as_promised_g21(backend: Any, plan: Plan) -> None:
    check(tell(plan, backend))


@BACKENDS
@given(plan=plans, seed=st.integers(0, 1000))
def test_a_program_with_a_queue_does_as_promised_in_any_order_of_steps_g21(backend: Any, plan: Plan, seed: int) -> None:
    check(tell(plan, backend, RandomWalk(seed)))
