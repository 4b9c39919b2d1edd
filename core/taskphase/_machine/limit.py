"""`Limit`: how many tasks of one kind run at a time."""

import math
from typing import final


@final
class Limit:
    """At most `most` tasks with this object run at a time, in one host. The others wait, first in first out.

    Make it once, outside of the endpoint: `few = Limit(3)`, then `tasks.task(limit=few).schedule(f, x)`.

    - A task takes its place before it asks for a slot (`max_running`). It keeps the place until its attempt and its
      handler have ended; after a timeout, until the thread of its function has ended.
    - A waiting task holds no slot and no thread. Its status is `limited`, and it counts for the host's `max_pending`.
    - A pause between attempts gives the place back.

    Each host counts for itself, so several hosts, event loops and threads may share one `Limit`.

    `Limit(math.inf)` turns off an inherited limit.

    :param most: an int, 1 or more; or `math.inf`
    :param max_pending: the most tasks with this limit that wait in one host: for their phase, their delay, a place or
        their next attempt; 0 or more. `schedule()` refuses more of them. Default: no limit
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if a parameter is out of range
    """

    __slots__ = ("__weakref__", "max_pending", "most")

    def __init__(self, most: float, *, max_pending: int | None = None) -> None:
        if most != math.inf:
            check_count("most", most, least=1)
        check_count("max_pending", max_pending, least=0, optional=True)
        self.most: float = most
        self.max_pending: int | None = max_pending

    def __repr__(self) -> str:
        more = "" if self.max_pending is None else f", max_pending={self.max_pending}"
        return f"Limit({self.most}{more})"


def check_count(name: str, value: object, *, least: int, optional: bool = False) -> None:
    """Check a number of tasks or threads.

    :raises TypeError: if it is no int
    :raises ValueError: if it is less than `least`
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
