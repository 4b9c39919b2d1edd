"""What is one task doing?

1. NEW: no host has placed the task.
2. The task waits: for its phase (DEFERRED), for its journal (RECORDING), for its delay (DELAYED), for a place of its
   limit (LIMITED), for a slot (WAITING). Each of these may be left out.
3. STARTING: the task was asked to start. RUNNING begins with the first step of the attempt.
4. The attempt ends: it returns, raises or unwinds a cancellation. After an exception another attempt may follow:
   RETRYING is the pause before, without a slot and a place. If no attempt follows, the handler runs: HANDLING.

A task of a queue is HANDING_OVER from the first step on: it waits for its turn, or the queue publishes its call. After
a hand-over that was refused, the task may run here all the same (RETRYING, and then as every other task).

A task of a journal is RECORDING until the journal has written the task. If the write fails, the task fails before its
first step. A run that a journal has recovered is RECORDING once more, with a slot, just before its first step: until
the journal has counted the run.

A cancellation is a request, not an end. CANCELLING lasts until the code of the task has ended, and this code may still
return or raise. No attempt follows. ABORTING is HANDLING after such a request.

SUCCEEDED, FAILED, CANCELLED, DROPPED and HANDED_OVER are ends: no row leads out of them. A DROPPED task never ran,
because the scope or the host decided so. A CANCELLED task was asked to stop, before its start or later.
"""

from collections.abc import Mapping
from types import MappingProxyType

from .table import Symbol, table


class TaskStatus(Symbol):
    """The state of a task. The last five are ends: each task reaches exactly one of them."""

    NEW = "new"
    DEFERRED = "deferred"
    RECORDING = "recording"
    DELAYED = "delayed"
    LIMITED = "limited"
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    HANDING_OVER = "handing_over"
    CANCELLING = "cancelling"
    WITHDRAWING = "withdrawing"
    HANDLING = "handling"
    ABORTING = "aborting"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DROPPED = "dropped"
    HANDED_OVER = "handed_over"


class LifeEvent(Symbol):
    DEFER = "defer"
    """The phase of the task has not come."""
    RECORD = "record"
    """The phase has come, and the task waits for its journal."""
    DELAY = "delay"
    """The phase has come, and the delay begins."""
    LIMIT = "limit"
    """The task may run, but its limit has no free place."""
    QUEUE = "queue"
    """The task may run, but no slot is free."""
    START = "start"
    """The task is asked to start: the event loop will run its first step."""
    STEP = "step"
    """An attempt takes its first step."""
    HAND_OVER = "hand_over"
    """The first step of a task of a queue: from here on it may be published. A signal handler may have cancelled the
    task right before.
    """
    SUCCEED = "succeed"
    """The function has returned, or the queue has confirmed the hand-over."""
    RAISE = "raise"
    """The last attempt ended by an exception, and there is a handler for it."""
    FAIL = "fail"
    """The last attempt ended by an exception, and the handler has ended, if there is one."""
    RETRY = "retry"
    """An attempt ended by an exception, and another attempt follows; or a hand-over was refused, and the task runs
    here.
    """
    CANCEL = "cancel"
    """The task is asked to stop."""
    UNWIND = "unwind"
    """The attempt ended by cancellation."""
    DROP = "drop"
    """The scope or the host decides that the task never runs."""


_S, _E = TaskStatus, LifeEvent

# Each of the places where a task waits may be left out, so a task goes on to any later one.
_FROM_LIMIT = {_E.QUEUE: _S.WAITING, _E.START: _S.STARTING, _E.CANCEL: _S.CANCELLED}
_FROM_DELAY = {_E.LIMIT: _S.LIMITED, **_FROM_LIMIT}
_FROM_JOURNAL = {_E.DELAY: _S.DELAYED, **_FROM_DELAY, _E.DROP: _S.DROPPED}
_FROM_PHASE = {_E.RECORD: _S.RECORDING, **_FROM_JOURNAL}

LIFE = table(
    {
        _S.NEW: {_E.DEFER: _S.DEFERRED, **_FROM_PHASE},
        _S.DEFERRED: _FROM_PHASE,
        _S.RECORDING: {**_FROM_JOURNAL, _E.RAISE: _S.HANDLING, _E.FAIL: _S.FAILED},
        _S.DELAYED: _FROM_DELAY,
        _S.LIMITED: _FROM_LIMIT,
        _S.WAITING: {_E.START: _S.STARTING, _E.CANCEL: _S.CANCELLED},
        _S.STARTING: {_E.STEP: _S.RUNNING, _E.RECORD: _S.RECORDING, _E.CANCEL: _S.CANCELLED},
        _S.RUNNING: {
            _E.HAND_OVER: _S.HANDING_OVER,
            _E.SUCCEED: _S.SUCCEEDED,
            _E.RETRY: _S.RETRYING,
            _E.RAISE: _S.HANDLING,
            _E.FAIL: _S.FAILED,
            _E.CANCEL: _S.CANCELLING,
            _E.UNWIND: _S.CANCELLED,
        },
        _S.HANDING_OVER: {
            _E.SUCCEED: _S.HANDED_OVER,
            _E.RETRY: _S.RETRYING,
            _E.RAISE: _S.HANDLING,
            _E.FAIL: _S.FAILED,
            _E.CANCEL: _S.WITHDRAWING,
            _E.UNWIND: _S.CANCELLED,
        },
        _S.CANCELLING: {
            _E.HAND_OVER: _S.WITHDRAWING,
            _E.SUCCEED: _S.SUCCEEDED,
            _E.RAISE: _S.ABORTING,
            _E.FAIL: _S.FAILED,
            _E.UNWIND: _S.CANCELLED,
        },
        _S.WITHDRAWING: {
            _E.SUCCEED: _S.HANDED_OVER,
            _E.RAISE: _S.ABORTING,
            _E.FAIL: _S.FAILED,
            _E.UNWIND: _S.CANCELLED,
        },
        _S.HANDLING: {_E.FAIL: _S.FAILED, _E.CANCEL: _S.ABORTING},
        _S.ABORTING: {_E.FAIL: _S.FAILED},
        _S.RETRYING: _FROM_DELAY,
        _S.SUCCEEDED: {},
        _S.FAILED: {},
        _S.CANCELLED: {},
        _S.DROPPED: {},
        _S.HANDED_OVER: {},
    }
)
"""The status that an event leads to, by the status before."""

ENDS = frozenset(status for status, row in LIFE.items() if not row)

NOT_DUE = frozenset({_S.NEW, _S.DEFERRED})
"""Before the phase of the task has come."""

MAY_DROP = NOT_DUE | {_S.RECORDING}
"""The scope, the host or the journal may still decide that the task never runs."""

IN_ATTEMPT = frozenset({_S.RUNNING, _S.CANCELLING, _S.HANDING_OVER, _S.WITHDRAWING, _S.HANDLING, _S.ABORTING})
"""From the first step of an attempt to its end, the handler included."""

WAITS: Mapping[TaskStatus, str] = MappingProxyType(
    {
        _S.DEFERRED: "deferred",
        _S.RECORDING: "recording",
        _S.DELAYED: "delayed",
        _S.LIMITED: "limited",
        _S.WAITING: "waiting",
        _S.STARTING: "waiting",
        _S.RETRYING: "retrying",
        _S.HANDING_OVER: "handing_over",
    }
)
"""The names under which observers count a task that waits. A STARTING task waits for the event loop, and a task that is
HANDING_OVER for its queue. A task of another status has the name from before.
"""

TOLD_TO_STOP = frozenset({_S.CANCELLING, _S.WITHDRAWING, _S.ABORTING})
"""A cancellation was requested, and the code of the task still runs."""
