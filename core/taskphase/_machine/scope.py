"""May a deferred task of this unit of work start?

A scope is in its ROUTE until that has answered (RESPONDING) or failed (EXCUSING: an error response is on its way),
and is then over. A task of a phase that the scope has reached starts at once; one whose phase is still to come is
held; and a deferred task whose `when` does not fit the outcome of the route is dropped when its phase comes.

A scope that ends inside its route has no outcome of its own: whoever ends it says first how the route went.
What arrives when the scope is over already (the route ran on behind it) changes nothing.
"""

from enum import StrEnum
from types import MappingProxyType

from .config import When
from .table import follow


class Phase(StrEnum):
    """When a task may start."""

    IMMEDIATE = "immediate"
    AFTER_ROUTE = "after_route"
    AFTER_RESPONSE = "after_response"


class ScopeState(StrEnum):
    ROUTE = "route"
    """The route runs."""
    RESPONDING = "responding"
    """The route has answered; its answer is being delivered."""
    EXCUSING = "excusing"
    """The route has failed; an error may be being delivered."""
    OVER = "over"
    """It is over, and the route had answered."""
    OVER_FAILED = "over_failed"
    """It is over, and the route had failed."""


class ScopeEvent(StrEnum):
    ROUTE_SUCCEEDED = "route_succeeded"
    ROUTE_FAILED = "route_failed"
    ENDED = "ended"


class Verdict(StrEnum):
    """What becomes of a task."""

    START = "start"
    HOLD = "hold"
    DROP = "drop"


_S, _E = ScopeState, ScopeEvent

SCOPE = MappingProxyType(
    {
        _S.ROUTE: MappingProxyType({_E.ROUTE_SUCCEEDED: _S.RESPONDING, _E.ROUTE_FAILED: _S.EXCUSING}),
        _S.RESPONDING: MappingProxyType({_E.ENDED: _S.OVER}),
        _S.EXCUSING: MappingProxyType({_E.ENDED: _S.OVER_FAILED}),
        _S.OVER: MappingProxyType(dict.fromkeys(_E, _S.OVER)),
        _S.OVER_FAILED: MappingProxyType(dict.fromkeys(_E, _S.OVER_FAILED)),
    }
)

_ANSWERED = frozenset({_S.RESPONDING, _S.OVER})

_REACHED = MappingProxyType(
    {
        Phase.IMMEDIATE: frozenset(_S),
        Phase.AFTER_ROUTE: frozenset(_S) - {_S.ROUTE},
        Phase.AFTER_RESPONSE: frozenset({_S.OVER, _S.OVER_FAILED}),
    }
)


def _judge(state: ScopeState, phase: Phase, when: When) -> Verdict:
    if state not in _REACHED[phase]:
        return Verdict.HOLD
    if phase is Phase.IMMEDIATE or when == "always":
        return Verdict.START
    return Verdict.START if (state in _ANSWERED) is (when == "success") else Verdict.DROP


_WHENS: tuple[When, ...] = ("success", "failure", "always")

VERDICTS = MappingProxyType(
    {(state, phase, when): _judge(state, phase, when) for state in _S for phase in Phase for when in _WHENS}
)


def next_state(state: ScopeState, event: ScopeEvent) -> ScopeState:
    """Return the state that `event` leads to.

    :raises IllegalEvent: if `state` has no row for it
    """
    return follow(SCOPE, state, event)


def verdict(state: ScopeState, phase: Phase, when: When) -> Verdict:
    """Return what becomes of a task of `phase` while its scope is in `state`. `when` counts for deferred phases
    only.
    """
    return VERDICTS[state, phase, when]
