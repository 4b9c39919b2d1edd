"""Find tasks by function, name or call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from ..._drive.portable import without_partials
from ..._machine.calling import bind, signature_of
from ..._task import Task


def is_of(task: Task[Any], what: Callable[..., Any] | str) -> bool:
    """Return whether `task` has the name `what`, or calls the function `what`, also through partials."""
    if isinstance(what, str):
        return task.name == what or task.name.endswith(f".{what}")
    func: Callable[..., Any] = task.func
    while func != what and issubclass(type(func), partial):
        func = cast("partial[object]", func).func
    return func == what


def calls(task: Task[Any], func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether `task` makes the call `func(*args, **kwargs)`, in any spelling. `func` accepts the arguments."""
    return is_of(task, func) and _written_out(task.func, task.args, task.kwargs) == _written_out(func, args, kwargs)


def _written_out(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """Return the arguments of a call by name, with default values."""
    func, args, kwargs = without_partials(func, args, kwargs)
    signature = signature_of(func)
    if signature is None:
        return args, dict(kwargs)  # some built-ins, and most proxies, do not reveal their parameters
    bound = bind(signature, args, kwargs)
    bound.apply_defaults()
    return bound.arguments
