"""What to write instead: the second half of the messages about common mistakes.

No text contains the values of a task's arguments: they may be secret.
"""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import Parameter, Signature
from types import CoroutineType
from typing import Any, NoReturn, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Elsewhere:
    """A name of another library, in a class that offers the same under its own name.

    Reading the name raises `AttributeError`, so `hasattr()` is False; the message has the code to write.
    (`__getattr__()` could do the same, but makes each access to an attribute of the class slower.)

    :param instead: the code to write
    """

    __slots__ = ("_instead", "_name")

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}: write {self._instead}")


class HidesElsewhere(ABCMeta):
    """The metaclass of a class with members of type `Elsewhere`: `dir()` of the class leaves them out."""

    def __dir__(cls) -> Iterable[str]:
        return without_elsewhere(cls, super().__dir__())


def without_elsewhere(cls: type, names: Iterable[str]) -> list[str]:
    """Return the `names` that are no members of type `Elsewhere` of `cls`."""
    return [name for name in names if type(inspect.getattr_static(cls, name, None)) is not Elsewhere]


def refuse_call(target: object, *_: object, **__: object) -> NoReturn:
    """The `__call__()` of an object with `.schedule()`, for code that calls it with a function, or as a decorator.

    :raises TypeError: always
    """
    raise TypeError(f"{type(target).__name__!r} object is not callable: write .schedule(f, ...)")


def keywords_of(label: str, example: str) -> Callable[[F], F]:
    """Return a decorator for a function with keywords only: the TypeError for another call says what to write.

    The decorated function keeps its signature, also for type checkers.

    :param label: the name of the function in messages
    :param example: a right call
    """

    def decorate(func: F) -> F:
        @wraps(func)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return func(*args, **kwargs)
            except TypeError as exc:
                if exc.__traceback__ is None or exc.__traceback__.tb_next is not None:
                    raise  # by the code of the function
                text = _unknown(label, kwargs, func) or f"{label} takes keyword arguments only: write {example}"
                raise TypeError(text) from None

        return cast("F", call)

    return decorate


def _unknown(label: str, kwargs: Mapping[str, object], func: Callable[..., object]) -> str:
    from difflib import get_close_matches

    from .config import TaskConfig  # here, because `config` imports this module

    known = [name for name in inspect.signature(func).parameters if name != "self"]
    unknown = next((name for name in kwargs if name not in known), None)
    if unknown is None:
        return ""
    if "config" in known and unknown in TaskConfig.__match_args__:
        return f"{label} has no parameter {unknown!r}: write config=TaskConfig({unknown}=...)"
    nearest = get_close_matches(unknown, known, 1)
    meant = f" (did you mean {nearest[0]}=?)" if nearest else ""
    return f"{label} has no parameter {unknown!r}{meant}; it has {', '.join(known)}"


def misplaced(kwargs: Mapping[str, object], signature: Signature) -> str:
    """Return a hint for settings among the arguments of a function that does not accept them; without such, "".

    :param signature: the signature of the function
    """
    from .config import TaskConfig  # here, because `config` imports `calling`, which imports this module

    accepted = signature.parameters
    settings = [name for name in TaskConfig.__match_args__ if name in kwargs and name not in accepted]
    if not settings or any(parameter.kind is Parameter.VAR_KEYWORD for parameter in accepted.values()):
        return ""
    return f"; settings go into .task({', '.join(f'{name}=...' for name in settings)}), before .schedule()"


def listed(name: str, values: Iterable[T], base: type = object) -> tuple[T, ...]:
    """Return `values` as a tuple.

    :param name: the parameter
    :param base: the class of the elements
    :raises TypeError: if `values` is no iterable (often it is the only element), or an element has another class
    """
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list, not {type(values).__name__}: write {name}=[...]")
    found = tuple(values)
    for value in found:
        if not isinstance(value, base):
            raise TypeError(f"{name} must be instances of a subclass of {base.__name__}, not {value!r}")
    return found


def uncalled(value: object) -> str:
    """Return a hint for a `value` that is no function, but perhaps the result of one.

    A coroutine that has not begun is closed: otherwise Python warns that no code has awaited it.
    """
    coroutine: Any = value
    kind: type[object] = type(value)
    if kind is CoroutineType and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        coroutine.close()
    name = "the name of the function or " if kind is str else ""
    return f"pass the function and its arguments, not {name}the result of calling it"


def iterates(func: str, *, is_async: bool) -> str:
    """Return the message for a generator function as a task. `func`: its name."""
    kind, define, loop = ("an async", "async def", "async for") if is_async else ("a", "def", "for")
    return (
        f"{func} is {kind} generator function: a call would not run its body. Write a function that iterates over it "
        f"(`{define}` with `{loop}`), and schedule that function"
    )
