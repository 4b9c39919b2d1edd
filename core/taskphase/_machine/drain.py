"""Which tasks are cancelled, and when, while the host closes?

1. OPEN and GRACE: the host takes every task. In GRACE it waits for tasks to end by themselves.
2. SHIELDED: the drain cancels unshielded tasks on entry. Only shielded tasks may schedule.
3. FORCED: the drain cancels shielded tasks on entry, and abandons their threads.

A deadline leads to the next stage. As soon as nothing is alive, any closing stage leads to CLOSED.
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
    """The host is asked to close."""
    DEADLINE = "deadline"
    """The time of the stage is over."""
    IDLE = "idle"
    """No task of the host is alive, and none waits for its phase."""
    ABORT = "abort"
    """The code that runs the host is being stopped itself, for example by `KeyboardInterrupt`."""


class Sweep(Symbol):
    """The tasks that the entry into a stage cancels."""

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
"""The next stage, by stage and event."""

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
    """Return whether the host takes a new task. `by_shielded`: a shielded task schedules the new task."""
    return stage in (_TAKES_SHIELDED if by_shielded else _TAKES_ANY)


_CLOSING = "the task host is closing (stage 3 of the shutdown)"


def refusal(stage: DrainStage, function: str) -> str:
    """Return the message for a task that the host does not take in this stage. `function`: the name of its function."""
    if stage is _S.SHIELDED:
        return (
            f"{_CLOSING}, so {function} was not scheduled: now only shielded tasks may schedule. Shield the task that "
            "schedules, .task(shield=True), or give the host a drain_timeout"
        )
    if stage is _S.FORCED:
        return f"{_CLOSING} and its shield_timeout is over, so {function} was not scheduled: no task may schedule now"
    return (
        f"the task host is closed, so {function} was not scheduled: schedule before the end of the host, or of the "
        "lifespan of the app, and not in a child of fork()"
    )
