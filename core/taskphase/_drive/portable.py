"""Calls that another process can make: `pack()` them here, `run()` them in the worker, `unpack()` the outcome here.

The function, its arguments and its result travel as pickles. No message contains the values of the arguments: they may
be secret. So a message never quotes an exception of the user's own pickling code.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from inspect import Parameter
from pathlib import Path
from traceback import format_exception, format_tb
from types import MethodType
from typing import Any, Literal, NamedTuple, cast

from anyio import BrokenWorkerProcess

from .._machine.calling import is_async, name_of, names_of, shown, signature_of, type_name
from .._machine.config import TaskConfig
from ..errors import TasksUnportableError

GUARD = (
    "A worker process imports the main module of the program again, by its path and under another name. So its imports "
    'must be absolute, the line that starts the program must be below `if __name__ == "__main__":`, and the functions '
    "and classes above that line. Or move them to a module that both processes import"
)

# The message of the C code of pickle: it names a type and no value.
_OF_PICKLE = re.compile(r"cannot pickle '[\w.]+' object")


class Answer(NamedTuple):
    """The outcome of a call in a worker. Only built-in types: the parent can always load it.

    :ivar kind: "unread": the worker could not load the call, so the function has not begun. "exited": the function
        raised an exception that is no `Exception`
    :ivar data: the pickle of the result or of the exception; None if pickle refuses
    :ivar kind_of_value: the name of the class of the result or of the exception
    :ivar detail: for "unread" the reason, otherwise the reason of pickle
    :ivar traceback: the traceback of the exception, as text
    """

    kind: Literal["returned", "raised", "exited", "unread"]
    data: bytes | None
    kind_of_value: str
    detail: str = ""
    traceback: str = ""


def refuse_async(config: TaskConfig, func: Callable[..., object]) -> None:
    """Refuse the explicit settings `config` if they ask for a process, and `func` is async.

    :raises TypeError: for such a function
    """
    if config.run_in == "process" and is_async(func):
        raise TypeError(
            f"{shown(name_of(func))} is async, and run_in='process' is for sync functions only: leave run_in out, or "
            "schedule a sync function"
        )


def pack(func: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Return the call as a pickle: what the function gets is the state of the arguments now.

    :raises TasksUnportableError: if the function or an argument cannot be pickled, or a worker process cannot import
        the function; also in a worker process that imports the main module
    """
    if "__main__" not in sys.modules:  # anyio removes it in a worker
        reason = f"this process is itself a worker process. {GUARD}"
    elif (payload := _dumped((func, args, dict(kwargs)))[0]) is None:
        reason = _why_not(func, args, kwargs)
    elif not _needs_main(payload) or _main_has_file():
        return payload
    else:
        reason = "a worker process cannot import the main module of this program, because it has no file"
    raise TasksUnportableError(f"{shown(name_of(func))} cannot run in a worker process: {reason}")


def run(payload: bytes) -> tuple[Any, ...]:
    """Make the call. For the main thread of a worker."""
    _alias_main()
    if not _connection:
        _move_connection()
    return tuple(_run(payload))


def _run(payload: bytes) -> Answer:
    try:
        func, args, kwargs = pickle.loads(payload)  # noqa: S301 - from the parent
    except BaseException as exc:
        # The message of another exception may contain an argument.
        reason = f": {exc}" if isinstance(exc, ImportError | AttributeError) else ""
        name = type_name(exc)
        frames = "".join(format_tb(exc.__traceback__)[1:])
        text = f"Traceback (most recent call last):\n{frames}{name}" if frames else ""
        return Answer("unread", None, name, f"{name}{reason}", text)
    try:
        result = func(*args, **kwargs)
    except BaseException as exc:
        at = exc.__traceback__
        text = "".join(format_exception(type(exc), exc, at and at.tb_next))
        if not isinstance(exc, Exception):
            return Answer("exited", None, type_name(exc), "", text)
        return Answer("raised", *_dumped(exc), text)
    return Answer("returned", *_dumped(result))


def unpack(answer: Answer, func: Callable[..., object], payload: bytes) -> Any:
    """Return the result of the call, or raise the exception of the call.

    :param payload: the call that `pack()` has returned
    :raises TasksUnportableError: if the worker could not load the call, or this process cannot load the outcome
    :raises BrokenWorkerProcess: if the function raised an exception that is no `Exception`, such as `SystemExit`
    """
    name = shown(name_of(func))
    if answer.kind == "unread":
        text = f"{name} cannot run in a worker process, which could not load the call: {answer.detail}"
        raise _noted(TasksUnportableError(f"{text}. {GUARD}" if _needs_main(payload) else text), answer)
    if answer.kind == "exited":
        raise _noted(BrokenWorkerProcess(f"{name} raised {answer.kind_of_value} in its worker process"), answer)
    detail = answer.detail
    if answer.data is not None:
        _alias_main()
        try:
            value = pickle.loads(answer.data)  # noqa: S301 - from a worker, which runs the code of this program
        except Exception as exc:
            detail = f"it is pickled in the worker process, but loading it raises {type_name(exc)}"
        else:
            if answer.kind == "returned":
                return value
            if isinstance(value, Exception):  # not a KeyboardInterrupt, which would end the program
                raise _noted(value, answer)
    what = "returned" if answer.kind == "returned" else "raised"
    text = f"{name} {what} an object of the class {answer.kind_of_value}, which cannot leave the worker process"
    raise _noted(TasksUnportableError(f"{text}: {detail}" if detail else text), answer)


def _noted(exc: Exception, answer: Answer) -> Exception:
    """Return `exc` with the traceback of the worker as a note, which Python shows below the exception."""
    if answer.traceback:
        BaseException.add_note(exc, f"In the worker process:\n{answer.traceback.rstrip()}")
    return exc


def _dumped(value: object) -> tuple[bytes | None, str, str]:
    """Return the pickle of `value` or None, the name of its class, and the reason of pickle, if it is known."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL), type_name(value), ""
    except Exception as exc:
        text = exc.args[0] if type(exc) is TypeError and exc.args else ""  # `str()` may be code of the user
        return None, type_name(value), text if type(text) is str and _OF_PICKLE.fullmatch(text) else ""


# Less than 0.1 seconds, once for each worker, on a system that lists no open descriptors.
_MOST_DESCRIPTORS = 65_536

_connection: list[int] = []
"""In a worker: the descriptors of the connection to the parent. Programs that the function starts do not inherit them.
"""


def _move_connection() -> None:
    """Move the connection away from the standard streams, which then lead to the null device.

    - A program or a thread that the function starts would write into an answer, also into the next one.
    - The parent never reads standard error: at some time a writer would wait for ever.
    - A forked child closes the connection. Otherwise the parent would see the end of the worker only when the child
      ends, too.
    """
    others = [descriptor for entry in Path("/dev/fd").glob("*") if (descriptor := int(entry.name)) > 2]
    for descriptor in others or range(3, _MOST_DESCRIPTORS):  # the latter on a system that lists none
        with suppress(OSError):  # the descriptor with which the directory was read is closed by now
            if any(os.path.sameopenfile(descriptor, stream) for stream in (0, 1, 2)):
                os.close(descriptor)  # uvloop leaves copies in the worker
    for stream, mode in ((sys.__stdin__, "rb"), (sys.__stdout__, "wb")):
        buffer = cast(Any, stream).buffer  # anyio reads and writes with these objects
        raw = getattr(buffer, "raw", buffer)  # `python -u` has no buffer for writing
        _connection.append(os.dup(raw.fileno()))
        raw.__init__(_connection[-1], mode, closefd=False)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    os.register_at_fork(after_in_child=_close_connection)


def _close_connection() -> None:
    while _connection:
        with suppress(OSError):  # the function has closed it
            os.close(_connection.pop())


def _alias_main() -> None:
    """Give the main module the name under which a worker imports it: its classes carry that name. multiprocessing does
    the same.
    """
    if "__main__" in sys.modules:
        sys.modules.setdefault("__mp_main__", sys.modules["__main__"])


def _needs_main(payload: bytes) -> bool:
    return b"__main__" in payload


def _main_has_file() -> bool:
    path: str | None = getattr(sys.modules["__main__"], "__file__", None)
    return path is not None and Path(path).is_file()  # not in an interactive session, and not with `python -c`


def _why_not(func: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return why the call cannot be pickled."""
    inner: Any
    inner, args, kwargs = without_partials(func, args, kwargs)
    parts = named_arguments(inner, args, kwargs)
    if type(inner) is MethodType:
        parts.insert(0, ("the object of the method", inner.__self__))
    for part, value in parts:
        if (detail := _refusal(value)) is not None:
            if "<locals>" in names_of(type(value))[1]:
                detail = "the class is defined inside a function"
            text = f"{part}, an object of the class {shown(type_name(value))}, cannot be pickled"
            return f"{text}: {detail}" if detail else text
    if (detail := _refusal(inner)) is None:
        return "the arguments cannot be pickled together"
    name = names_of(inner)[1]
    if "<lambda>" in name:
        return "the function is a lambda, which no other process can import: define it by `def`, in a module"
    if "<locals>" in name:
        return "the function is defined inside another function: define it at the top of a module"
    reason = detail or "another process must find the same object under its name in its module"
    return f"the function cannot be pickled: {reason}"


def _refusal(value: object) -> str | None:
    """Return None if `value` can be pickled, otherwise the reason of pickle, or "" if the reason may be secret."""
    data, _, detail = _dumped(value)
    return None if data is not None else detail


def without_partials(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
    """Return the same call, of the function inside all partials."""
    while issubclass(type(func), partial):
        bound = cast("partial[Any]", func)
        func, args, kwargs = bound.func, (*bound.args, *args), {**bound.keywords, **kwargs}
    return func, args, kwargs


def named_arguments(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, object]]:
    """Return each argument with its name for messages: with its number if its parameter has no name of its own."""
    signature = signature_of(func)
    parameters = () if signature is None else signature.parameters.values()
    names = [f"'{shown(each.name)}'" for each in parameters if each.kind <= Parameter.POSITIONAL_OR_KEYWORD]
    names += [str(number) for number in range(len(names) + 1, len(args) + 1)]
    names[len(args) :] = [f"'{shown(key)}'" for key in kwargs]
    return [(f"argument {name}", value) for name, value in zip(names, (*args, *kwargs.values()), strict=True)]
