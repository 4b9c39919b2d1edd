"""Who is cancelled when, while the host closes?

An OPEN host takes every task. Closing leads to GRACE, in which everything may end by itself and new tasks are still
taken; then to SHIELDED, on whose entry all that is not shielded is cancelled, and in which only shielded tasks may
schedule; then to FORCED, on whose entry the shielded are cancelled too and threads are abandoned. When nothing is
left alive, in whichever stage, the host is CLOSED. So a deadline takes it one stage on, and being idle takes it to
the end.
"""

from types import MappingProxyType

from .table import Symbol, table


class DrainStage(Symbol):
    OPEN = "open"
    GRACE = "grace"
    SHIELDED = "shielded"
    FORCED = "forced"
    CLOSED = "closed"


class DrainEvent(Symbol):
    CLOSE = "close"
    """Somebody wants the host closed."""
    DEADLINE = "deadline"
    """The stage's time is up."""
    IDLE = "idle"
    """Nothing of the host is alive, and nothing waits for its phase."""
    ABORT = "abort"
    """What runs the host is itself being taken down, as by `KeyboardInterrupt`."""


class Sweep(Symbol):
    """Whom the entry into a stage cancels."""

    NOBODY = "nobody"
    UNSHIELDED = "unshielded"
    EVERYBODY = "everybody"


_S, _E = DrainStage, DrainEvent

DRAIN = table(
    {
        _S.OPEN: {_E.CLOSE: _S.GRACE, _E.ABORT: _S.CLOSED},
        _S.GRACE: {_E.DEADLINE: _S.SHIELDED, _E.IDLE: _S.CLOSED, _E.ABORT: _S.CLOSED},
        _S.SHIELDED: {_E.DEADLINE: _S.FORCED, _E.IDLE: _S.CLOSED, _E.ABORT: _S.CLOSED},
        _S.FORCED: {_E.IDLE: _S.CLOSED, _E.ABORT: _S.CLOSED},
        _S.CLOSED: {},
    }
)
"""The stage that an event leads to, by the stage before."""

SWEEPS = MappingProxyType(
    {
        _S.OPEN: Sweep.NOBODY,
        _S.GRACE: Sweep.NOBODY,
        _S.SHIELDED: Sweep.UNSHIELDED,
        _S.FORCED: Sweep.EVERYBODY,
        _S.CLOSED: Sweep.NOBODY,
    }
)

_TAKES_ANY = frozenset({_S.OPEN, _S.GRACE})
_TAKES_SHIELDED = _TAKES_ANY | {_S.SHIELDED}


def accepts(stage: DrainStage, *, by_shielded: bool) -> bool:
    """Return whether a new task is taken; `by_shielded`: it is a shielded task that schedules it."""
    return stage in (_TAKES_SHIELDED if by_shielded else _TAKES_ANY)
