"""What is one task doing?

A task is NEW until somebody takes it. It is then either held back for its phase (DEFERRED), queued for a
slot (WAITING), or asked to start (STARTING); RUNNING begins with its first step. An attempt ends by
itself, by an exception or by cancellation. After an exception there may be another attempt: RETRYING is the pause
before it, which holds no slot. If there is none, the handler is called (HANDLING).

To be cancelled is a request, not an end: CANCELLING lasts until the task's code has unwound, and that code may
still return or raise; there is no further attempt after it. ABORTING is HANDLING after such a request.

SUCCEEDED, FAILED, CANCELLED and DROPPED are ends: no row leads out of them. DROPPED is a task that was never run
because the scope or the host decided so; CANCELLED is one that somebody asked to stop, started or not.
"""

from .table import Symbol, table


class TaskStatus(Symbol):
    """What a task is doing. The last four are ends: each task reaches exactly one of them."""

    NEW = "new"
    DEFERRED = "deferred"
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    HANDLING = "handling"
    ABORTING = "aborting"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DROPPED = "dropped"


class LifeEvent(Symbol):
    DEFER = "defer"
    """Its phase has not come."""
    QUEUE = "queue"
    """Its phase has come, but no slot is free."""
    START = "start"
    """A start is requested of the event loop."""
    STEP = "step"
    """The first step of an attempt is taken."""
    SUCCEED = "succeed"
    RAISE = "raise"
    """The last attempt ended by an exception that a handler gets."""
    FAIL = "fail"
    """The last attempt ended by an exception, and its handler has ended, if it has one."""
    RETRY = "retry"
    """An attempt ended by an exception, and another attempt follows."""
    CANCEL = "cancel"
    """Somebody asks the task to stop."""
    UNWIND = "unwind"
    """The attempt ended by cancellation."""
    DROP = "drop"
    """The scope or the host decides that it never runs."""


_S, _E = TaskStatus, LifeEvent

LIFE = table(
    {
        _S.NEW: {
            _E.DEFER: _S.DEFERRED,
            _E.QUEUE: _S.WAITING,
            _E.START: _S.STARTING,
            _E.CANCEL: _S.CANCELLED,
            _E.DROP: _S.DROPPED,
        },
        _S.DEFERRED: {
            _E.QUEUE: _S.WAITING,
            _E.START: _S.STARTING,
            _E.CANCEL: _S.CANCELLED,
            _E.DROP: _S.DROPPED,
        },
        _S.WAITING: {
            _E.START: _S.STARTING,
            _E.CANCEL: _S.CANCELLED,
        },
        _S.STARTING: {
            _E.STEP: _S.RUNNING,
            _E.CANCEL: _S.CANCELLED,
        },
        _S.RUNNING: {
            _E.SUCCEED: _S.SUCCEEDED,
            _E.RETRY: _S.RETRYING,
            _E.RAISE: _S.HANDLING,
            _E.FAIL: _S.FAILED,
            _E.CANCEL: _S.CANCELLING,
            _E.UNWIND: _S.CANCELLED,
        },
        _S.CANCELLING: {
            _E.SUCCEED: _S.SUCCEEDED,
            _E.RAISE: _S.ABORTING,
            _E.FAIL: _S.FAILED,
            _E.UNWIND: _S.CANCELLED,
        },
        _S.HANDLING: {
            _E.FAIL: _S.FAILED,
            _E.CANCEL: _S.ABORTING,
        },
        _S.ABORTING: {
            _E.FAIL: _S.FAILED,
        },
        _S.RETRYING: {
            _E.QUEUE: _S.WAITING,
            _E.START: _S.STARTING,
            _E.CANCEL: _S.CANCELLED,
        },
        _S.SUCCEEDED: {},
        _S.FAILED: {},
        _S.CANCELLED: {},
        _S.DROPPED: {},
    }
)
"""The status that an event leads to, by the status before."""

ENDS = frozenset(status for status, row in LIFE.items() if not row)
