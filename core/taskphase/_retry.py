"""`retry()`: error handlers that ask for further attempts, in the common way."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from ._machine.config import check_seconds
from ._machine.dispatch import Retry
from ._task import Task

# A float overflows at 2 ** 1024; long before that, any `max_delay` has been reached.
_MOST_DOUBLINGS = 1000


def retry(
    *,
    attempts: int = 3,
    on: type[Exception] | tuple[type[Exception], ...] = Exception,
    backoff: float = 1.0,
    jitter: bool = True,
    max_delay: float = 60.0,
) -> Callable[[Task[Any], Exception], Awaitable[Retry | None]]:
    """Return an error handler that has its task run again, after exponentially growing pauses.

    The pause before attempt `n + 1` is `backoff * 2 ** (n - 1)` seconds, at most `max_delay`; with `jitter` it is drawn
    evenly from 0 to that, so that tasks which failed together do not come back together.

    :param attempts: how many there are at most, the first one included; 1 or more
    :param on: the exceptions that are worth another attempt
    :param backoff: seconds, 0 or more
    :param jitter: whether to draw the pause
    :param max_delay: seconds, 0 or more
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if it is out of its range
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

    async def ask_again(task: Task[Any], exception: Exception) -> Retry | None:
        if task.attempt >= attempts or not isinstance(exception, on):
            return None
        pause = min(max_delay, backoff * 2.0 ** min(task.attempt - 1, _MOST_DOUBLINGS))
        return Retry(after=random.uniform(0, pause) if jitter else pause)  # noqa: S311 - no secret

    return ask_again
