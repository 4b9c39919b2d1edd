"""Does a failed task get another attempt, and after how long?"""

from collections.abc import Callable
from dataclasses import dataclass, field
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
