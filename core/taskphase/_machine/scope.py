"""May a deferred task of this unit of work start?

A scope begins in ROUTE. Its route answers (RESPONDING) or fails (EXCUSING: an error response may follow). Then the
scope ends (OVER, OVER_FAILED). The verdict for a task:

- START, if its phase has come and its `when` fits the outcome of the route. An immediate task always starts.
- DROP, if its phase has come and its `when` does not fit.
- HOLD, if its phase has not come.

A scope may end while its route still runs (a middleware has answered by itself). The scope is then LATE: deferred tasks
stay held until the route ends, or until the host gives the route up. When a scope is over, an event changes nothing.
"""

from collections.abc import Mapping
from types import MappingProxyType

from .config import DEFAULT_WHEN, When
from .table import Symbol, table


class Phase(Symbol):
    """When a task may start."""

    IMMEDIATE = "immediate"
    AFTER_ROUTE = "after_route"
    AFTER_RESPONSE = "after_response"


class ScopeState(Symbol):
    ROUTE = "route"
    """The route runs."""
    RESPONDING = "responding"
    """The route has answered; the server delivers the answer."""
    EXCUSING = "excusing"
    """The route has failed; the server may deliver an error."""
    LATE = "late"
    """The scope is over, but the route still runs."""
    OVER = "over"
    """The scope is over, and the route had answered."""
    OVER_FAILED = "over_failed"
    """The scope is over, and the route had failed."""


class ScopeEvent(Symbol):
    ROUTE_SUCCEEDED = "route_succeeded"
    ROUTE_FAILED = "route_failed"
    ENDED = "ended"
    GIVEN_UP = "given_up"
    """The host closes, and no longer waits for the route."""


class Verdict(Symbol):
    """The decision about a task."""

    START = "start"
    HOLD = "hold"
    DROP = "drop"


_S, _E = ScopeState, ScopeEvent

SCOPE = table(
    {
        _S.ROUTE: {_E.ROUTE_SUCCEEDED: _S.RESPONDING, _E.ROUTE_FAILED: _S.EXCUSING, _E.ENDED: _S.LATE},
        _S.RESPONDING: {_E.ENDED: _S.OVER},
        _S.EXCUSING: {_E.ENDED: _S.OVER_FAILED},
        _S.LATE: {
            _E.ROUTE_SUCCEEDED: _S.RESPONDING,
            _E.ROUTE_FAILED: _S.EXCUSING,
            _E.ENDED: _S.LATE,
            _E.GIVEN_UP: _S.OVER_FAILED,
        },
        _S.OVER: dict.fromkeys(_E, _S.OVER),
        _S.OVER_FAILED: dict.fromkeys(_E, _S.OVER_FAILED),
    }
)
"""The state that an event leads to, by the state before."""

OVER = frozenset({_S.OVER, _S.OVER_FAILED})
UNDECIDED = frozenset({_S.ROUTE, _S.LATE})
"""The route runs."""
ANSWERED = frozenset({_S.RESPONDING, _S.OVER})

_REACHED = MappingProxyType(
    {
        Phase.IMMEDIATE: frozenset(_S),
        Phase.AFTER_ROUTE: frozenset(_S) - UNDECIDED,
        Phase.AFTER_RESPONSE: OVER,
    }
)


def _judge(state: ScopeState, phase: Phase, when: When | None) -> Verdict:
    if state not in _REACHED[phase]:
        return Verdict.HOLD
    if phase is Phase.IMMEDIATE or when == "always":
        return Verdict.START
    return Verdict.START if (state in ANSWERED) is ((when or DEFAULT_WHEN) == "success") else Verdict.DROP


_WHENS: tuple[When | None, ...] = ("success", "failure", "always", None)

# Plain dicts, because read-only views of three dicts would cost each task time.
VERDICTS: Mapping[ScopeState, Mapping[Phase, Mapping[When | None, Verdict]]] = {
    state: {phase: {when: _judge(state, phase, when) for when in _WHENS} for phase in Phase} for state in _S
}
"""The decision about a task, by the state of its scope, its phase and its `when`. `when` counts only for deferred
tasks; None is the default.
"""


def mismatch(when: When | None) -> str:
    """Return the reason why a task with this `when` is dropped, for the log."""
    if when == "failure":
        return 'its route succeeded; with when="failure" it runs only after a failure'
    return (
        'its route failed; with when="success" (the default) it runs only after a success: .task(when="always") runs '
        "it in both cases"
    )
