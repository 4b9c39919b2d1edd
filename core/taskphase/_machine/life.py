"""What is one task doing?

A task is NEW until somebody takes it. It is then either held back for its phase (DEFERRED), queued for a
slot (WAITING), or asked to start (STARTING); RUNNING begins with its first step. An attempt ends by
itself, by an exception (HANDLING: the handler decides) or by cancellation. A handler may ask for another attempt:
RETRYING is the pause before it, which holds no slot.

To be cancelled is a request, not an end: CANCELLING lasts until the task's code has unwound, and that code may
still return or raise. ABORTING is HANDLING after such a request: there is no further attempt from it.

SUCCEEDED, FAILED, CANCELLED and DROPPED are ends: no row leads out of them. DROPPED is a task that was never run
because the scope or the host decided so; CANCELLED is one that somebody asked to stop, started or not.
"""

from enum import StrEnum
from types import MappingProxyType

from .table import IllegalEvent


class TaskStatus(StrEnum):
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


class LifeEvent(StrEnum):
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
    """The attempt ended by an exception that a handler gets."""
    FAIL = "fail"
    """The attempt ended by an exception and nobody asks for another one."""
    RETRY = "retry"
    """The handler asks for another attempt."""
    CANCEL = "cancel"
    """Somebody asks the task to stop."""
    UNWIND = "unwind"
    """The attempt ended by cancellation."""
    DROP = "drop"
    """The scope or the host decides that it never runs."""


_S, _E = TaskStatus, LifeEvent

LIFE = MappingProxyType(
    {
        _S.NEW: MappingProxyType(
            {
                _E.DEFER: _S.DEFERRED,
                _E.QUEUE: _S.WAITING,
                _E.START: _S.STARTING,
                _E.CANCEL: _S.CANCELLED,
                _E.DROP: _S.DROPPED,
            }
        ),
        _S.DEFERRED: MappingProxyType(
            {
                _E.QUEUE: _S.WAITING,
                _E.START: _S.STARTING,
                _E.CANCEL: _S.CANCELLED,
                _E.DROP: _S.DROPPED,
            }
        ),
        _S.WAITING: MappingProxyType(
            {
                _E.START: _S.STARTING,
                _E.CANCEL: _S.CANCELLED,
            }
        ),
        _S.STARTING: MappingProxyType(
            {
                _E.STEP: _S.RUNNING,
                _E.CANCEL: _S.CANCELLED,
            }
        ),
        _S.RUNNING: MappingProxyType(
            {
                _E.SUCCEED: _S.SUCCEEDED,
                _E.RAISE: _S.HANDLING,
                _E.FAIL: _S.FAILED,
                _E.CANCEL: _S.CANCELLING,
                _E.UNWIND: _S.CANCELLED,
            }
        ),
        _S.CANCELLING: MappingProxyType(
            {
                _E.SUCCEED: _S.SUCCEEDED,
                _E.RAISE: _S.ABORTING,
                _E.FAIL: _S.FAILED,
                _E.UNWIND: _S.CANCELLED,
            }
        ),
        _S.HANDLING: MappingProxyType(
            {
                _E.FAIL: _S.FAILED,
                _E.RETRY: _S.RETRYING,
                _E.CANCEL: _S.ABORTING,
            }
        ),
        _S.ABORTING: MappingProxyType(
            {
                _E.FAIL: _S.FAILED,
            }
        ),
        _S.RETRYING: MappingProxyType(
            {
                _E.QUEUE: _S.WAITING,
                _E.START: _S.STARTING,
                _E.CANCEL: _S.CANCELLED,
            }
        ),
        _S.SUCCEEDED: MappingProxyType({}),
        _S.FAILED: MappingProxyType({}),
        _S.CANCELLED: MappingProxyType({}),
        _S.DROPPED: MappingProxyType({}),
    }
)

ENDS = frozenset(status for status, row in LIFE.items() if not row)


def next_status(status: TaskStatus, event: LifeEvent) -> TaskStatus:
    """Return the status that `event` leads to.

    :raises IllegalEvent: if `status` has no row for it
    """
    # Three times a task: what `table.follow` does, without the cost of calling it.
    try:
        return LIFE[status][event]
    except KeyError:
        raise IllegalEvent(status, event) from None
