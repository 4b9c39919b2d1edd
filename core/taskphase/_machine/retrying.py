"""Does a failed task get another attempt, and after how long?"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

# A float overflows at 2 ** 1024; long before that, any `max_delay` has been reached.
_MOST_DOUBLINGS = 1000


class Attempted(Protocol):
    """What a policy asks of a task."""

    @property
    def attempt(self) -> int:
        """The number of the present attempt, from 1."""
        ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What `retry()` returns: pauses that grow exponentially, and a number of attempts.

    :ivar attempts: the most attempts, the first one included
    :ivar on: the exceptions that are worth another attempt
    :ivar backoff: seconds before the second attempt; each further pause is twice as long
    :ivar jitter: whether a pause is drawn evenly from 0 to its length
    :ivar max_delay: seconds of the longest pause
    """

    attempts: int
    on: type[Exception] | tuple[type[Exception], ...]
    backoff: float
    jitter: bool
    max_delay: float
    _draw: Callable[[float, float], float] = field(repr=False, compare=False)

    def __call__(self, task: Attempted, exception: Exception, /) -> float | None:
        """Return the seconds before the next attempt; None if there is none."""
        if task.attempt >= self.attempts or not isinstance(exception, self.on):
            return None
        pause = min(self.max_delay, self.backoff * 2.0 ** min(task.attempt - 1, _MOST_DOUBLINGS))
        return self._draw(0, pause) if self.jitter else pause


def seconds_of(answer: object) -> float | None:
    """Return the pause that a retry policy has answered, in seconds; None if there is no other attempt.

    :raises TypeError: if the answer is not None, a number or a timedelta
    :raises ValueError: if it is negative, infinite or not a number
    """
    if answer is None:
        return None
    if isinstance(answer, timedelta):
        answer = answer.total_seconds()
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise TypeError(f"a retry policy returns None, seconds or a timedelta, not {type(answer).__name__}")
    if not math.isfinite(answer) or answer < 0:
        raise ValueError(f"a retry policy returned {answer!r}: a pause is finite, and 0 seconds or more")
    return float(answer)
