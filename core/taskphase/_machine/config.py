"""The settings of a task, and how a task inherits them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from sys import float_info
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from .calling import check_call, is_async, name_of, shown, type_name
from .hints import keywords_of, uncalled
from .limit import Limit
from .retrying import RetryPolicy

When = Literal["success", "failure", "always"]
RunIn = Literal["thread", "process"]
Handler = Callable[[Any, Exception], object]
Policy = Callable[[Any, Exception], float | timedelta | None]
Here = Literal["here"]
DEFAULT_WHEN: When = "success"


class AnyQueue:
    """The base class of `Queue`, which lives outside of this folder."""

    name: str


def check_seconds(name: str, value: object, *, finite: bool = False, what: str = "a number of seconds") -> float:
    """Return a duration in seconds.

    :raises TypeError: if `value` is not an int, a float or a `timedelta`
    :raises ValueError: if `value` is negative, not a number, too large for a float, or infinite although `finite` is
        set
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {what} or a timedelta, not {shown(type_name(value))}")
    if not (0 <= value <= float_info.max or (value == math.inf and not finite)):
        raise ValueError(f"{name} must be {'finite and ' if finite else ''}0 seconds or more, not {value!r}")
    return value


@cache
def _interned(names: frozenset[str]) -> frozenset[str]:
    """Return the same object for the same names: a set for each task would take more memory than the settings."""
    return names


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """The settings of a task: of all tasks with `add_tasks(app, config=TaskConfig(...))`, of one with `.task(...)`.

    A setting that is `None` is inherited: `.task()` from the app. A `timedelta` becomes seconds.

    :param name: for logs and debuggers; default: the qualified name of the function
    :param shield: True: the shutdown of the server waits for the task (the drain spares it). A number limits the
        shield: seconds from the moment when the drain cancels unshielded tasks. Default: False
    :param on_error: called once with `(task, exception)` when the task has failed for good; sync (in a thread) or
        async; the return value is ignored
    :param when: "success" (the default): a task of `.after_route` or `.after_response` runs only if the endpoint
        returns. "failure": only if it raises. "always": in both cases. Ignored by immediate tasks
    :param timeout: the most seconds for one attempt; then the attempt fails with `TimeoutError`. Default: no limit
    :param retry: called with `(task, exception)` after each failed attempt; returns the pause before the next attempt
        (seconds or a `timedelta`), or None for no further attempt. Runs in the event loop, so it must be quick.
        `retry()` makes such a policy. Default: no further attempt
    :param delay: seconds between the phase of the task and its start, finite. Default: 0
    :param limit: at most `limit.most` tasks with this `Limit` run at a time in one host. Default: no limit
    :param run_in: "thread" (the default) or "process", for sync functions. Inherited by an `async def`, it means
        nothing
    :param key: of one function, at most one task with this key waits or runs in one host. The later task is dropped
        when its phase comes. Default: no key
    :param queue: "here": run the task in this program although a queue takes its function. A `Queue` of the host: hand
        the task over to it. Default: the queue whose list has the function; without one, the task runs here
    :raises TypeError: if a setting has the wrong type
    :raises ValueError: if `when`, `run_in` or `queue` is another word, or a number of seconds is negative, not a
        number, or (for `delay`) infinite
    """

    name: str | None = None
    shield: bool | float | None = None
    on_error: Handler | None = None
    when: When | None = None
    timeout: float | None = None
    retry: Policy | None = None
    delay: float | None = None
    limit: Limit | None = None
    run_in: RunIn | None = None
    key: str | None = None
    queue: AnyQueue | Here | None = None
    is_gated: bool = field(default=False, init=False, repr=False, compare=False)
    """True if the task may wait for its delay, its limit or its next attempt, has a key, or is for a queue or
    a journal.
    """
    own: frozenset[str] = field(default=frozenset(), init=False, repr=False, compare=False)
    """The settings that come from `.task()` or a scheduler, not from the host, a journal or a queue."""

    if TYPE_CHECKING:  # at run time the dataclass makes it

        def __init__(
            self,
            name: str | None = None,
            shield: bool | float | timedelta | None = None,
            on_error: Handler | None = None,
            when: When | None = None,
            timeout: float | timedelta | None = None,
            retry: Policy | None = None,
            delay: float | timedelta | None = None,
            limit: Limit | None = None,
            run_in: RunIn | None = None,
            key: str | None = None,
            queue: AnyQueue | Here | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        own = list[str]()
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(name, value))
                own.append(name)
        object.__setattr__(self, "own", _interned(frozenset(own)))
        object.__setattr__(self, "is_gated", self._may_wait())

    def _may_wait(self) -> bool:
        may_wait = any(each is not None for each in (self.limit, self.retry, self.key))
        return may_wait or bool(self.delay) or isinstance(self.queue, AnyQueue)

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
        changes = {name: value for name in _CHECKS if (value := getattr(other, name)) is not None}
        return self._changed(changes, own=_interned(self.own | other.own))

    def shared(self) -> "TaskConfig":
        """Return these settings, for all tasks of a host or for all tasks of one function.

        :raises ValueError: for a setting of single tasks
        """
        if self.key is not None:
            raise ValueError("key is a setting of single tasks: set it with .task(key=...)")
        if self.queue is not None and self.queue != "here":
            raise ValueError("queue is a setting of single tasks: list the functions in the queue")
        return self if self is UNSET else self._changed({}, own=frozenset())

    def outward(self, queue: AnyQueue) -> "TaskConfig":
        """Return the settings for a hand-over to `queue`: shielded, without the settings of the run."""
        changes = {"queue": queue, "shield": True, "timeout": None, "retry": None, "limit": None, "run_in": None}
        return self._changed(changes)

    def at_home(self) -> "TaskConfig":
        """Return the settings for a run here after a hand-over that was refused: the task waits for a moment."""
        return self._changed({"queue": "here"}, is_gated=True)

    def kept(self, kept: "TaskConfig") -> "TaskConfig":
        """Return the settings of a task in a journal. The task may have to wait for the journal. The settings of `kept`
        count, unless the task has its own.
        """
        inherited = (name for name in _CHECKS if name not in self.own)
        changes = {name: value for name in inherited if (value := getattr(kept, name)) is not None}
        return self._changed(changes, is_gated=True)

    def _changed(
        self, changes: Mapping[str, object], *, is_gated: bool = False, own: frozenset[str] | None = None
    ) -> "TaskConfig":
        changed = object.__new__(TaskConfig)  # without `__init__()`: all values were checked before
        for name in _CHECKS:
            object.__setattr__(changed, name, changes[name] if name in changes else getattr(self, name))
        object.__setattr__(changed, "is_gated", is_gated or changed._may_wait())
        object.__setattr__(changed, "own", self.own if own is None else own)
        return changed


def _check_text(name: str, value: object) -> str:
    if not issubclass(type(value), str):
        raise TypeError(f"{name} must be a str, not {shown(type_name(value))}: write {name}=str(...)")
    # A subclass of `str` may override methods; its code must not run wherever the text is used.
    return str.__str__(cast("str", value))


def _check_shield(name: str, value: object) -> bool | float:
    return value if isinstance(value, bool) else check_seconds(name, value, what="a bool, a number of seconds")


def _one_of(words: tuple[str, ...]) -> Callable[[str, object], object]:
    def check(name: str, value: object) -> object:
        if value not in words:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, not {value!r}")
        return value

    return check


def _check_queue(name: str, value: object) -> object:
    if isinstance(value, AnyQueue) or value == "here":
        return value
    wrong = ValueError if isinstance(value, str) else TypeError
    raise wrong(f"{name} must be 'here' or a Queue of the host, not {value!r}")


def _check_limit(name: str, value: object) -> Limit:
    if not isinstance(value, Limit):
        most = value if type(value) is int and value > 0 else 2
        raise TypeError(
            f"{name} must be a Limit, not {value!r}: write `few = Limit({most})` once, outside of the endpoint, so "
            f"that all its tasks share the limit, and then {name}=few"
        )
    return value


def _check_handler(name: str, on_error: Callable[..., object]) -> object:
    is_policy = issubclass(type(on_error), RetryPolicy)  # `isinstance()` would run the code of a proxy
    if is_policy or _is_retry(on_error):
        call = "retry=retry(...)" if is_policy else "retry=retry()"
        raise TypeError(f"{name} must be a handler, not a retry policy; for further attempts write {call}")
    _check_callable(name, on_error, "")
    return on_error


def _check_policy(name: str, policy: Callable[..., object]) -> object:
    if issubclass(type(policy), RetryPolicy):
        return policy
    if _is_retry(policy):
        raise TypeError(f"{name} must be a policy, and retry() makes one: call it, {name}=retry()")
    if issubclass(type(policy), int):  # `isinstance()` would run the code of a proxy
        attempts = "" if issubclass(type(policy), bool) else f"attempts={policy}"
        raise TypeError(f"{name} must be a policy, not {policy}: write {name}=retry({attempts})")
    _check_callable(name, policy, ", like the policy from retry()")
    if is_async(policy):
        raise TypeError(f"{name} must be a plain function, not an async one: {policy!r}")
    return policy


def _check_callable(name: str, value: Callable[..., object], like: str) -> None:
    text = f"{name} must be callable with (task, exception){like}"
    if not callable(value):
        uncalled(value)
        raise TypeError(f"{text}, not {shown(type_name(value))}: pass the function itself, without calling it")
    try:
        check_call(value, (None, None), {})
    except TypeError as exc:
        raise TypeError(f"{text}: {exc}") from None


def _is_retry(value: Callable[..., object]) -> bool:
    """Return whether `value` is the function `retry()`, which lives outside of this folder."""
    return name_of(value) == "taskphase.retry"


_CHECKS: Mapping[str, Callable[[str, Any], object]] = MappingProxyType(
    {
        "name": _check_text,
        "shield": _check_shield,
        "on_error": _check_handler,
        "when": _one_of(get_args(When)),
        "timeout": check_seconds,
        "retry": _check_policy,
        "delay": partial(check_seconds, finite=True),
        "limit": _check_limit,
        "run_in": _one_of(get_args(RunIn)),
        "key": _check_text,
        "queue": _check_queue,
    }
)
"""The check of each setting: returns the value to keep."""

TaskConfig.__init__ = keywords_of("TaskConfig", "TaskConfig(timeout=5)")(TaskConfig.__init__)  # type: ignore[method-assign]

UNSET = TaskConfig()
