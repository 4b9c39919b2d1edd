"""Texts about users' objects: short, on one line, and never with an exception."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import PurePath
from reprlib import Repr
from traceback import walk_tb
from types import CodeType, FrameType, FunctionType
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

# The class of an exception may override these attributes.
_traceback, _cause = (BaseException.__dict__[name].__get__ for name in ("__traceback__", "__cause__"))

_LOOPS = {"anyio", "asyncio", "outcome", "trio", "uvloop"}

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


def is_of_loop(frame: FrameType) -> bool:
    """Return whether `frame` runs code of an event loop."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LOOPS


def failure_of(error: BaseException) -> tuple[str, str, str]:
    """Return the type of an exception, its message, and the line that raised it.

    A timeout was raised by nobody. Its line is the line at which the attempt waited: its cause was raised there, by the
    event loop. An exception without both has no line.
    """
    steps = list(walk_tb(_traceback(error)))
    if not steps and (cause := _cause(error)) is not None:
        steps = list(walk_tb(_traceback(cause)))
        while len(steps) > 1 and is_of_loop(steps[-1][0]):
            steps.pop()
    where = [place(frame.f_code, line) for frame, line in steps[-1:]]
    return type_name(error), message_of(error), "".join(where)
