"""Plain functions: what each `schedule()` has to know of most functions, found out once."""

from __future__ import annotations

from types import CodeType, FunctionType

PLAIN: dict[FunctionType, tuple[CodeType, int, tuple[str, str]]] = {}
"""The plain functions that were scheduled: each an `async def` of a module, without keyword-only parameters.

The value: its code, the number of its parameters, and its names, with the module and without. It counts only as long as
the function has this code. (A function that is renamed later keeps its names here.)
"""

_MOST = 1000  # a program that defines functions for ever must not fill the memory


def note_plain(func: FunctionType) -> None:
    """Remember `func`, an `async def` without keyword-only parameters, if its module has it under its name.

    Other functions may live shorter than the module, and refer to objects of a request.
    """
    code, name = func.__code__, func.__qualname__
    if func.__globals__.get(name) is func and type(func.__module__) is str:
        if len(PLAIN) >= _MOST:
            PLAIN.clear()
        PLAIN[func] = code, code.co_argcount, (f"{func.__module__}.{name}", name)
