"""Does a failed task get another attempt, and after how long?"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

# A float overflows at 2 ** 1024. Any `max_delay` is reached long before.
_MOST_DOUBLINGS = 1000


class Attempted(Protocol):
    """The part of a task that a policy reads."""

    @property
    def attempt(self) -> int:
        """The number of the current attempt, from 1."""
        ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The policy that `retry()` returns: exponential pauses, and a limit of attempts.

    :ivar attempts: the most attempts, the first one included
    :ivar on: the exceptions that lead to another attempt
    :ivar backoff: seconds before the second attempt; each further pause is twice as long
    :ivar jitter: whether a pause is random, evenly distributed from 0 to its full length
    :ivar max_delay: the longest pause, in seconds
    """

    attempts: int
    on: type[Exception] | tuple[type[Exception], ...]
    backoff: float
    jitter: bool
    max_delay: float
    _draw: Callable[[float, float], float] = field(repr=False, compare=False)

    def __call__(self, task: Attempted, exception: Exception | None = None, /) -> float | None:
        """Return the seconds before the next attempt, or None for no further attempt.

        :raises TypeError: if there is no exception: the policy is used as a decorator
        """
        if exception is None:
            raise TypeError("retry() is no decorator: write tasks.task(retry=retry(attempts=3)).schedule(f, ...)")
        if task.attempt >= self.attempts or not isinstance(exception, self.on):
            return None
        pause = min(self.max_delay, self.backoff * 2.0 ** min(task.attempt - 1, _MOST_DOUBLINGS))
        return self._draw(0, pause) if self.jitter else pause


def seconds_of(answer: object) -> float | None:
    """Return the pause, in seconds, from the answer of a retry policy; None for no further attempt.

    :raises TypeError: if the answer is not None, a number or a timedelta
    :raises ValueError: if the answer is negative, infinite or not a number
    """
    if answer is None:
        return None
    if isinstance(answer, timedelta):
        answer = answer.total_seconds()
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise TypeError(f"a retry policy must return None, seconds or a timedelta, not {type(answer).__name__}")
    if not math.isfinite(answer) or answer < 0:
        raise ValueError(f"a retry policy returned {answer!r}: a pause must be finite and 0 seconds or more")
    return float(answer)
