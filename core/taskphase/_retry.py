"""`retry()`: further attempts after growing pauses."""

from __future__ import annotations

import random
from datetime import timedelta

from ._machine.config import check_seconds
from ._machine.hints import keywords_of
from ._machine.limit import check_count
from ._machine.retrying import RetryPolicy


@keywords_of("retry()", "retry(attempts=3), as in tasks.task(retry=retry(attempts=3)).schedule(f, ...)")
def retry(
    *,
    attempts: int = 3,
    on: type[Exception] | tuple[type[Exception], ...] = Exception,
    backoff: float | timedelta = 1.0,
    jitter: bool = True,
    max_delay: float | timedelta = 60.0,
) -> RetryPolicy:
    """Return a policy for `retry=`: a failed task runs again, after an exponential pause.

    `tasks.task(retry=retry(attempts=5, on=ConnectionError)).schedule(f, x)`, or for all tasks
    `add_tasks(app, config=TaskConfig(retry=retry()))`. `on_error` and the ERROR in the log come after the last attempt.

    The pause before attempt `n + 1` is `backoff * 2 ** (n - 1)` seconds, at most `max_delay`. With `jitter` the pause
    is random, evenly distributed from 0 to that value, so that tasks that failed together do not run again together.

    `retry(attempts=1)` turns off an inherited policy.

    :param attempts: the most attempts, the first one included; 1 or more
    :param on: the exceptions that lead to another attempt
    :param backoff: seconds or a `timedelta` before the second attempt, 0 or more, finite
    :param jitter: whether the pause is random
    :param max_delay: the longest pause, seconds or a `timedelta`, 0 or more, finite
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if a parameter is out of range
    """
    check_count("attempts", attempts, least=1)
    kinds = on if isinstance(on, tuple) else (on,)
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        raise TypeError(f"on must be an exception class or a tuple of them, not {on!r}")
    if not isinstance(jitter, bool):
        raise TypeError(f"jitter must be a bool, not {jitter!r}")
    backoff = check_seconds("backoff", backoff, finite=True)
    max_delay = check_seconds("max_delay", max_delay, finite=True)
    return RetryPolicy(attempts, on, backoff, jitter, max_delay, _draw=random.uniform)
