"""Where does an exception go, and what does it mean for the task?

First the retry policy decides, unless the task was told to stop. If no attempt follows, the handler gets the exception.
A `BaseException` that is no `Exception` (`SystemExit`, `KeyboardInterrupt`) goes to neither: its target is the program.
"""

from types import MappingProxyType

from .life import LifeEvent
from .table import Symbol


class Outcome(Symbol):
    """The end of an attempt."""

    RETURNED = "returned"
    RAISED = "raised"
    """It raised an `Exception`; the `TimeoutError` of its own timeout is one."""
    EXITED = "exited"
    """It raised another `BaseException`."""
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
"""The event for the task, by the outcome of the attempt, whether the policy wants another attempt, and whether there is
a handler.
"""
