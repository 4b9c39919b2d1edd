"""Arguments as strict JSON: `unpack()` returns values that are equal to those given to `pack()`, and of the same types.

No message contains the values of the arguments: they may be secret.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from .._drive.portable import named_arguments
from .._machine.calling import shown, type_name
from ..errors import TasksUnportableError

# The most lists and dicts inside each other. The JSON code of Python has a limit that depends on its callers.
_DEEPEST = 100

_CARRIES = "a journal carries None, bool, int, finite float, str, list, and dict with str keys"


def pack(function: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return the arguments of `func` as JSON: what the function gets after a crash is their state now.

    :param function: the name of the function, for the message
    :raises TasksUnportableError: if a journal cannot carry an argument, or only as another type
    """
    if not args and not kwargs:
        return "[[],{}]"
    for position, value in enumerate((*args, *kwargs.values())):
        if (reason := _refusal(value, 0)) is not None:
            part = named_arguments(func, args, kwargs)[position][0]
            raise TasksUnportableError(f"{part} of {shown(function)} cannot go into the journal: {reason}")
    try:
        return json.dumps([list(args), dict(kwargs)], allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = f"an argument of {shown(function)} cannot go into the journal: it has an int with too many digits"
        raise TasksUnportableError(text) from None


def unpack(text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of `pack()`.

    :raises ValueError, TypeError: if `text` is no result of `pack()`
    """
    args, kwargs = json.loads(text)
    return tuple(args), dict(kwargs)


def _refusal(value: object, depth: int) -> str | None:
    """Return None if a journal carries `value`, otherwise the reason."""
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(cast(float, value))):
        return None
    if kind not in (list, dict):
        found = "a float that is not finite" if kind is float else f"an object of the class {shown(type_name(value))}"
        return f"it has {found}; {_CARRIES}"
    if depth == _DEEPEST:
        return f"it is nested more than {_DEEPEST} levels deep"
    inside: Iterable[object] = cast("list[object]", value)
    if kind is dict:
        mapping = cast("dict[object, object]", value)
        inside = mapping.values()
        if wrong := [key for key in mapping if type(key) is not str]:
            return f"it has a dict with a key of the class {shown(type_name(wrong[0]))}; {_CARRIES}"
    return next((reason for each in inside if (reason := _refusal(each, depth + 1)) is not None), None)
