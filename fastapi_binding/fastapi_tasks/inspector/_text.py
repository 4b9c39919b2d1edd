"""Texts about users' objects: short, on one line, and never with an exception."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import PurePath
from reprlib import Repr
from types import CodeType, FunctionType, TracebackType
from typing import Any, cast

from taskphase import Queue, Task

LONGEST = 300
"""The most characters of one text. A message may be a whole document."""


class _ShortRepr(Repr):
    """Takes the first items before it does anything with them: an argument may be a whole file."""

    def repr_bytes(self, x: bytes | bytearray, level: int) -> str:
        return self.repr_str(cast(str, x), level)  # it only slices

    repr_bytearray = repr_bytes

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        return super().repr_dict(dict(islice(x.items(), self.maxdict + 1)), level)

    def repr_set(self, x: set[Any], level: int) -> str:
        return super().repr_set(set(islice(x, self.maxset + 1)), level)

    def repr_frozenset(self, x: frozenset[Any], level: int) -> str:
        return super().repr_frozenset(frozenset(islice(x, self.maxfrozenset + 1)), level)


_repr = _ShortRepr()
_repr.maxstring = _repr.maxother = 60

_type_name = type.__dict__["__name__"].__get__  # the metaclass of a user may have a `__name__` of its own

_ROOTS = sorted({path.rstrip("/") + "/" for path in (*sys.path, sys.prefix) if path}, key=len, reverse=True)


def escaped(text: str) -> str:
    """Return `text` with escapes for characters that are not printable, and cut off behind `LONGEST` characters."""
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def texts_of(info: Mapping[str, object]) -> dict[str, Any]:
    """Return the values that are texts, each one escaped."""
    return {name: escaped(value) for name, value in tuple(info.items()) if isinstance(value, str)}


def type_name(value: object) -> str:
    """Return the name of the class of `value`."""
    return escaped(str(_type_name(type(value))))


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function with its module. Of another callable: the name of its class."""
    if type(function) is not FunctionType:  # `isinstance()` believes a mock
        return type_name(function)
    module: object = function.__module__
    return escaped(f"{module}.{function.__qualname__}" if type(module) is str else function.__qualname__)


def message_of(error: BaseException) -> str:
    """Return the message of an exception."""
    try:
        return escaped(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # the class of a user may raise anything
        return "(the message cannot be read)"


def queue_message(task: Task[Any]) -> tuple[str | None, str, bool] | None:
    """Return the name of the queue that takes a task, the id of the message, and whether a journal has recovered the
    task. None for a task without a message.

    The name is None for a task of a journal alone; or if the hand-over was refused, and the task runs here.
    """
    queue = task.config.queue
    if task.message_id is None:
        return None
    return (escaped(queue.name) if isinstance(queue, Queue) else None), task.message_id, task.recovered


def arguments_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return the arguments of a call, each as a short `repr()`."""
    shown = [_argument(value) for value in args]
    shown += [f"{name}={_argument(value)}" for name, value in kwargs.items()]
    return escaped(", ".join(shown))


def _argument(value: object) -> str:
    try:
        return _repr.repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # as in `message_of()`
        return f"<{type_name(value)}>"


def place(code: CodeType, line: int | None) -> str:
    """Return a line of code: file, line and function."""
    return escaped(f"{_file(code.co_filename)}:{line} {code.co_qualname}")


@lru_cache(maxsize=1000)
def _file(name: str) -> str:
    root = next((root for root in _ROOTS if name.startswith(root)), None)
    return name[len(root) :] if root else "/".join(PurePath(name).parts[-3:])


def failure_of(error: BaseException) -> tuple[str, str, str]:
    """Return the type of an exception, its message, and the line that raised it.

    An exception that nobody raised has no line. The line of a timeout is the line at which the attempt waited: the
    traceback of its cause.
    """
    found = _raised(error)
    if found is None or found.startswith("taskphase/"):
        found = (_raised(error.__cause__) if error.__cause__ is not None else None) or found
    return type_name(error), message_of(error), found or ""


def _raised(error: BaseException) -> str | None:
    trace: TracebackType | None = error.__traceback__
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return place(trace.tb_frame.f_code, trace.tb_lineno)
