"""`retry()`: further attempts after growing pauses."""

from __future__ import annotations

import random

from ._machine.config import check_seconds
from ._machine.retrying import RetryPolicy


def retry(
    *,
    attempts: int = 3,
    on: type[Exception] | tuple[type[Exception], ...] = Exception,
    backoff: float = 1.0,
    jitter: bool = True,
    max_delay: float = 60.0,
) -> RetryPolicy:
    """Return a policy for `retry=`: a failed task runs again, after an exponential pause.

    The pause before attempt `n + 1` is `backoff * 2 ** (n - 1)` seconds, at most `max_delay`. With `jitter` the pause
    is random, evenly distributed from 0 to that value, so that tasks that failed together do not run again together.

    `retry(attempts=1)` turns off an inherited policy.

    :param attempts: the most attempts, the first one included; 1 or more
    :param on: the exceptions that lead to another attempt
    :param backoff: seconds before the second attempt, 0 or more, finite
    :param jitter: whether the pause is random
    :param max_delay: the longest pause, in seconds, 0 or more, finite
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if a parameter is out of range
    """
    if isinstance(attempts, bool) or not isinstance(attempts, int):
        raise TypeError(f"attempts must be an int, not {attempts!r}")
    if attempts < 1:
        raise ValueError(f"attempts must be 1 or more, not {attempts!r}")
    kinds = on if isinstance(on, tuple) else (on,)
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        raise TypeError(f"on must be an exception class or a tuple of them, not {on!r}")
    check_seconds("backoff", backoff, finite=True)
    check_seconds("max_delay", max_delay, finite=True)
    return RetryPolicy(attempts, on, backoff, jitter, max_delay, _draw=random.uniform)
