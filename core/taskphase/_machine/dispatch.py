"""Who gets an exception?

An exception that a task raises goes to its retry policy first, and to its handler when there is no further attempt.
Nobody asks the policy of a task that was told to stop. An exception that is no `Exception` (`SystemExit`,
`KeyboardInterrupt`) goes to neither: it does not speak to the task.
"""

from types import MappingProxyType

from .life import LifeEvent
from .table import Symbol


class Outcome(Symbol):
    """How an attempt ended."""

    RETURNED = "returned"
    RAISED = "raised"
    """With an `Exception`, `TimeoutError` of its own timeout included."""
    EXITED = "exited"
    """With another `BaseException`."""
    CANCELLED = "cancelled"


_E = LifeEvent

DISPATCH = MappingProxyType(
    {
        (Outcome.RETURNED, False, False): _E.SUCCEED,
        (Outcome.RETURNED, False, True): _E.SUCCEED,
        (Outcome.RAISED, True, False): _E.RETRY,
        (Outcome.RAISED, True, True): _E.RETRY,
        (Outcome.RAISED, False, False): _E.FAIL,
        (Outcome.RAISED, False, True): _E.RAISE,
        (Outcome.EXITED, False, False): _E.FAIL,
        (Outcome.EXITED, False, True): _E.FAIL,
        (Outcome.CANCELLED, False, False): _E.UNWIND,
        (Outcome.CANCELLED, False, True): _E.UNWIND,
    }
)
"""The event that an attempt's end is for its task: by how the attempt ended, whether the retry policy wants another
one, and whether there is a handler.
"""
