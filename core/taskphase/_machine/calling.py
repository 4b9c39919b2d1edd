"""Is this callable async, and does it take these arguments?"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_VARARGS
from types import FunctionType
from typing import Any, cast

_GENERATORS = CO_GENERATOR | CO_ASYNC_GENERATOR
_KINDS = CO_COROUTINE | _GENERATORS


def check_call(func: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether `func` is async, having made sure that it can be called so.

    The arguments' values are in no message: they may be secret.

    :raises TypeError: if `func` is not callable, is a generator function (its body would never run), or does not take
        the arguments
    """
    if type(func) is FunctionType:
        # The common cases, without the cost of a signature (which is tens of times that of starting the task).
        if not kwargs:
            code = func.__code__
            flags = code.co_flags
            fits = code.co_argcount == len(args) and not code.co_kwonlyargcount
            if fits and flags & _KINDS == CO_COROUTINE:
                return True
            if not flags & _GENERATORS and (fits or _takes(func, len(args))):
                return inspect.iscoroutinefunction(func)
    elif not callable(func):
        raise TypeError(f"expected a callable, not {type(func).__name__}{_hint(func)}")
    if _is(func, inspect.isgeneratorfunction) or _is(func, inspect.isasyncgenfunction):
        raise TypeError(f"{name_of(func)} is a generator function: calling it would run none of it")
    _check_arguments(func, args, kwargs)
    return is_async(func)


def is_async(func: Callable[..., object]) -> bool:
    """Return whether `func` is an `async def`, also behind partials, methods and `__call__`."""
    return _is(func, inspect.iscoroutinefunction)


def name_of(func: Callable[..., object]) -> str:
    """Return the qualified name of `func`, with its module, as anyio names tasks."""
    if type(func) is FunctionType:
        return f"{func.__module__}.{func.__qualname__}"
    inner = _unwrap(func)
    named: Any = inner if hasattr(inner, "__qualname__") else inner.__class__
    module = getattr(named, "__module__", None)  # a method of a built-in class has none
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def _unwrap(func: Callable[..., object]) -> Callable[..., object]:
    while isinstance(func, partial):
        func = cast("partial[object]", func).func
    return func


def _is(func: Callable[..., object], test: Callable[[object], bool]) -> bool:
    func = _unwrap(func)
    return test(func) or (not inspect.isclass(func) and test(type(func).__call__))


def _takes(func: FunctionType, count: int) -> bool:
    code = func.__code__
    if code.co_kwonlyargcount and len(func.__kwdefaults__ or ()) < code.co_kwonlyargcount:
        return False
    most = code.co_argcount
    least = most - len(func.__defaults__ or ())
    return least <= count and (count <= most or bool(code.co_flags & CO_VARARGS))


def _check_arguments(func: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    inner = _unwrap(func)
    try:
        # Not that of `__wrapped__`: a decorator may well take other arguments than what it decorates.
        shown = inspect.signature(inner, follow_wrapped=False)
    except ValueError:
        return  # some built-ins tell nothing about their parameters
    try:
        # (That of a partial has what is bound to it, so it is not shown.)
        signature = shown if inner is func else inspect.signature(func, follow_wrapped=False)
        signature.bind(*args, **kwargs)
    except ValueError:
        raise TypeError(f"{name_of(func)}{shown} does not take what a partial binds to it") from None
    except TypeError as exc:
        raise TypeError(f"{name_of(func)}{shown} cannot be called like this: {exc}") from None


def _hint(func: object) -> str:
    if inspect.iscoroutine(func):
        func.close()
        return ": pass the function and its arguments, not the result of calling it"
    return ""
