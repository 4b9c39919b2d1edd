"""The settings of a task, and how they are inherited."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .calling import check_call

When = Literal["success", "failure", "always"]

_WHENS = get_args(When)
DEFAULT_WHEN: When = "success"


def check_seconds(name: str, value: object, *, finite: bool = False, what: str = "a number of seconds") -> None:
    """Refuse what is no duration.

    :raises TypeError: if `value` is not an int or a float
    :raises ValueError: if it is negative or not a number, or infinite where it has to be `finite`
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {what}, not {value!r}")
    if math.isnan(value) or value < 0 or (finite and math.isinf(value)):
        raise ValueError(f"{name} must be {'finite and ' if finite else ''}0 seconds or more, not {value!r}")


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """The settings of a task. `None` leaves a setting to whoever this configuration is merged into.

    :param name: for logs and debuggers; default: the function's qualified name
    :param shield: whether the task is spared by the drain; a number bounds that: so many seconds, from the moment that
        what is not shielded is cancelled; default: no
    :param on_error: called with `(task, exception)` when the task raises; sync (in a thread) or async; it may
        return a `Retry`
    :param when: which outcome of its route a deferred task wants: "success" (the default), "failure" or "always".
        It has no meaning for an immediate task
    :param timeout: seconds for one attempt, after which it fails with `TimeoutError`; default: no limit
    :raises TypeError: if a setting has the wrong type
    :raises ValueError: if `when` is none of the three, or `timeout` or `shield` is negative or not a number
    """

    name: str | None = None
    shield: bool | float | None = None
    on_error: Callable[[Any, Exception], object] | None = None
    when: When | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.name is not None and type(self.name) is not str:
            if not issubclass(type(self.name), str):
                raise TypeError(f"name must be a str, not {self.name!r}")
            # The methods of a class of the user's must not run wherever the name is shown.
            object.__setattr__(self, "name", str.__str__(self.name))
        if self.shield is not None and not isinstance(self.shield, bool):
            check_seconds("shield", self.shield, what="a bool or a number of seconds")
        if self.on_error is not None:
            _check_handler(self.on_error)
        if self.when is not None and self.when not in _WHENS:
            raise ValueError(f"when must be one of {', '.join(map(repr, _WHENS))}, not {self.when!r}")
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)

    @property
    def shielded(self) -> bool:
        """Whether the drain spares the task."""
        return bool(self.shield)

    @property
    def protection(self) -> float:
        """For how many seconds the drain spares the task: 0 if not at all, infinity if for ever."""
        return math.inf if self.shield is True else float(self.shield or 0)

    def merge(self, other: "TaskConfig") -> "TaskConfig":
        """Return a configuration in which the settings that `other` has win. Neither of the two changes."""
        if self is UNSET:
            return other
        if other is UNSET:
            return self
        return TaskConfig(
            name=self.name if other.name is None else other.name,
            shield=self.shield if other.shield is None else other.shield,
            on_error=self.on_error if other.on_error is None else other.on_error,
            when=self.when if other.when is None else other.when,
            timeout=self.timeout if other.timeout is None else other.timeout,
        )


def _check_handler(on_error: Callable[..., object]) -> None:
    try:
        check_call(on_error, (None, None), {})
    except TypeError as exc:
        raise TypeError(f"on_error must be callable with (task, exception): {exc}") from None


UNSET = TaskConfig()
