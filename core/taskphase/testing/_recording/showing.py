"""Tasks in messages, with their arguments: in a test they are not secret."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from reprlib import Repr
from typing import Any

from ..._drive.portable import without_partials
from ..._machine.calling import names_of, shown
from ..._machine.life import TaskStatus
from ..._queue import Queue
from .entry import Entry

_MOST_CHARACTERS = 60  # of one argument or result: a line has several

_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = _MOST_CHARACTERS


def short_name(func: Callable[..., Any]) -> str:
    """Return the name of a function, without the module or the function in which it was defined."""
    return shown(names_of(func)[1].rpartition("<locals>.")[2])


def call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return a call as Python code."""
    func, args, kwargs = without_partials(func, args, kwargs)
    parts = [_short.repr(arg) for arg in args]
    parts += [f"{name}={_short.repr(value)}" for name, value in kwargs.items()]
    return f"{short_name(func)}({', '.join(parts)})"


def line(entry: Entry) -> str:
    """Return call, phase, status and result of a task, in one line."""
    task = entry.task
    status = "held" if entry.is_held else task.status.value
    name = "" if task.config.name is None else f"{task.config.name!r} "
    attempts = f" in attempt {task.attempt}" if task.attempt > 1 else ""
    return f"{name}{call(task.func, task.args, task.kwargs)} {task.phase.value} {status}{attempts}{_outcome(entry)}"


def lines(entries: Iterable[Entry]) -> str:
    """Return a line for each task, or "nothing"."""
    return "".join(f"\n  {line(entry)}" for entry in entries) or " nothing"


def _outcome(entry: Entry) -> str:
    task = entry.task
    result = task._result
    match task.status:
        case TaskStatus.SUCCEEDED if result is not None:
            return f" -> {_short.repr(result)}"
        case TaskStatus.HANDED_OVER if isinstance(task.config.queue, Queue):
            return f" to {task.config.queue.name!r} as {task.message_id}"
        case TaskStatus.FAILED:
            return f": {_short.repr(result)}"
        case _:
            return ""
