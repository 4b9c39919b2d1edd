"""The settings of a task, and how a task inherits them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from .calling import check_call, is_async
from .retrying import RetryPolicy

When = Literal["success", "failure", "always"]

_WHENS = get_args(When)
DEFAULT_WHEN: When = "success"


def check_seconds(name: str, value: object, *, finite: bool = False, what: str = "a number of seconds") -> None:
    """Refuse a value that is not a duration in seconds.

    :raises TypeError: if `value` is not an int or a float
    :raises ValueError: if `value` is negative, not a number, or infinite although `finite` is set
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {what}, not {value!r}")
    if math.isnan(value) or value < 0 or (finite and math.isinf(value)):
        raise ValueError(f"{name} must be {'finite and ' if finite else ''}0 seconds or more, not {value!r}")


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """The settings of a task. A setting that is `None` is inherited.

    :param name: for logs and debuggers; default: the qualified name of the function
    :param shield: whether the drain spares the task. A number limits the shield: seconds from the moment when the drain
        cancels unshielded tasks. Default: no
    :param on_error: called once with `(task, exception)` when the task has failed for good; sync (in a thread) or
        async; the return value is ignored
    :param when: the outcome of the route for which a deferred task runs: "success" (the default), "failure" or
        "always". Ignored by immediate tasks
    :param timeout: the most seconds for one attempt; then the attempt fails with `TimeoutError`. Default: no limit
    :param retry: called with `(task, exception)` after each failed attempt; returns the pause before the next attempt
        (seconds or a `timedelta`), or None for no further attempt. Runs in the event loop, so it must be quick.
        `retry()` makes such a policy. Default: no further attempt
    :raises TypeError: if a setting has the wrong type
    :raises ValueError: if `when` is none of the three, or `timeout` or `shield` is negative or not a number
    """

    name: str | None = None
    shield: bool | float | None = None
    on_error: Callable[[Any, Exception], object] | None = None
    when: When | None = None
    timeout: float | None = None
    retry: Callable[[Any, Exception], float | timedelta | None] | None = None

    def __post_init__(self) -> None:
        if self.name is not None and type(self.name) is not str:
            if not issubclass(type(self.name), str):
                raise TypeError(f"name must be a str, not {self.name!r}")
            # A subclass of `str` may override methods; its code must not run wherever the name is shown.
            object.__setattr__(self, "name", str.__str__(self.name))
        if self.shield is not None and not isinstance(self.shield, bool):
            check_seconds("shield", self.shield, what="a bool or a number of seconds")
        if self.on_error is not None:
            _check_handler(self.on_error)
        if self.retry is not None:
            _check_policy(self.retry)
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
        """The seconds for which the drain spares the task: 0 without a shield, infinity without a limit."""
        return math.inf if self.shield is True else float(self.shield or 0)

    def merge(self, other: "TaskConfig") -> "TaskConfig":
        """Return new settings: those of `other`, and those of `self` where `other` has None."""
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
            retry=self.retry if other.retry is None else other.retry,
        )


def _check_handler(on_error: Callable[..., object]) -> None:
    if issubclass(type(on_error), RetryPolicy):  # `isinstance()` would run the code of a proxy
        raise TypeError("on_error must be a handler, not a retry policy; for further attempts write retry=retry(...)")
    try:
        check_call(on_error, (None, None), {})
    except TypeError as exc:
        raise TypeError(f"on_error must be callable with (task, exception): {exc}") from None


def _check_policy(policy: Callable[..., object]) -> None:
    if issubclass(type(policy), RetryPolicy):
        return
    try:
        check_call(policy, (None, None), {})
    except TypeError as exc:
        raise TypeError(f"retry must be callable with (task, exception), like the policy from retry(): {exc}") from None
    if is_async(policy):
        raise TypeError(f"retry must be a plain function, not an async one: {policy!r}")


UNSET = TaskConfig()


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
