"""Plain functions: what each `schedule()` has to know of most functions, found out once."""

from __future__ import annotations

import sys
from types import CodeType, FunctionType

from .parcel import Parcel

PLAIN: dict[FunctionType, tuple[CodeType, int, Parcel]] = {}
"""The plain functions that were scheduled, or that are handlers: each a function of an imported module, without
keyword-only parameters, and no generator function.

The value: its code, the number of its parameters, and the parcel of its tasks. The value counts only as long as the
function has this code. (A function that is renamed later keeps its names here.) Of a `def` function, the value has `~`
of the number: then the fast path of `async def` functions needs no further test.
"""

_MOST = 1000  # a program that defines functions for ever, or again and again, must not fill the memory


def note_plain(func: FunctionType, *, is_async: bool) -> None:
    """Remember `func`, a plain function without keyword-only parameters, if its module has it under its name.

    Other functions may live shorter than the program, and refer to objects of a request, or to a whole namespace.
    """
    code, name, module = func.__code__, func.__qualname__, func.__module__
    if type(name) is not str or type(module) is not str:
        return  # a subclass of `str` would run its own code
    names = func.__globals__
    if names is getattr(sys.modules.get(module), "__dict__", None) and names.get(name) is func:
        if len(PLAIN) >= _MOST:
            PLAIN.clear()
        count = code.co_argcount if is_async else ~code.co_argcount
        PLAIN[func] = code, count, Parcel(is_async=is_async, names=(f"{module}.{name}", name))
