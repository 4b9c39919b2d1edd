"""Who gets an exception, and what does the answer mean?

Two tables: how an attempt ended, with or without a handler; and how the handler ended, with the task still wanted
(HANDLING) or already told to stop (ABORTING). The answers to both are events of the task's life.

An exception that is no `Exception` (`SystemExit`, `KeyboardInterrupt`) goes to no handler: it does not speak to the
task.
"""

from dataclasses import dataclass
from types import MappingProxyType

from .config import check_seconds
from .life import LifeEvent, TaskStatus
from .table import IllegalEvent, Symbol


@dataclass(frozen=True, slots=True)
class Retry:
    """What an error handler returns to have its task run again.

    :param after: seconds to wait before the next attempt, 0 or more; the wait holds no slot
    :raises TypeError: if `after` is not a number
    :raises ValueError: if `after` is negative, infinite or not a number
    """

    after: float = 0.0

    def __post_init__(self) -> None:
        check_seconds("after", self.after, finite=True)


class Outcome(Symbol):
    """How an attempt ended."""

    RETURNED = "returned"
    RAISED = "raised"
    """With an `Exception`, `TimeoutError` of its own timeout included."""
    EXITED = "exited"
    """With another `BaseException`."""
    CANCELLED = "cancelled"


class Answer(Symbol):
    """How the handler ended."""

    ACCEPTED = "accepted"
    """It returned something other than a `Retry`."""
    RETRY = "retry"
    RAISED = "raised"
    CANCELLED = "cancelled"


_E, _S = LifeEvent, TaskStatus

DISPATCH = MappingProxyType(
    {
        (Outcome.RETURNED, False): _E.SUCCEED,
        (Outcome.RETURNED, True): _E.SUCCEED,
        (Outcome.RAISED, False): _E.FAIL,
        (Outcome.RAISED, True): _E.RAISE,
        (Outcome.EXITED, False): _E.FAIL,
        (Outcome.EXITED, True): _E.FAIL,
        (Outcome.CANCELLED, False): _E.UNWIND,
        (Outcome.CANCELLED, True): _E.UNWIND,
    }
)
"""The event that an attempt's end is for its task, by how it ended and whether there is a handler."""

ANSWERS = MappingProxyType(
    {
        (Answer.ACCEPTED, _S.HANDLING): _E.FAIL,
        (Answer.ACCEPTED, _S.ABORTING): _E.FAIL,
        (Answer.RETRY, _S.HANDLING): _E.RETRY,
        (Answer.RETRY, _S.ABORTING): _E.FAIL,
        (Answer.RAISED, _S.HANDLING): _E.FAIL,
        (Answer.RAISED, _S.ABORTING): _E.FAIL,
        (Answer.CANCELLED, _S.HANDLING): _E.FAIL,
        (Answer.CANCELLED, _S.ABORTING): _E.FAIL,
    }
)


def after_handler(answer: Answer, status: TaskStatus) -> LifeEvent:
    """Return the event that the handler's end is for a task in `status`.

    :raises IllegalEvent: if that is neither HANDLING nor ABORTING
    """
    try:
        return ANSWERS[answer, status]
    except KeyError:
        raise IllegalEvent(status, answer) from None
