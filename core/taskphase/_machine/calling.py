"""Is a callable async, does it accept these arguments, and what is its name?

A proxy or a mock has its own attribute lookup, which may return anything, raise, or call another machine. So this
module reads the class of such an object, never its attributes, and treats a callable as unknown in doubt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_NESTED, CO_VARARGS, Parameter, Signature
from types import (
    CodeType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MethodDescriptorType,
    MethodType,
    NoneType,
    WrapperDescriptorType,
)
from typing import Any, Protocol, cast

from .hints import iterates, misplaced, uncalled
from .plain import note_plain

_ASYNC = CO_COROUTINE | CO_ITERABLE_COROUTINE  # `types.coroutine` marks a generator function with the latter
_GENERATORS = inspect.CO_GENERATOR | CO_ASYNC_GENERATOR

# asyncio, `inspect` of 3.12 and later ones mark a function that returns an awaitable by one of these names.
_MARKS = ("_is_coroutine", "_is_coroutine_marker", "_is_coroutine_mark")

# A class has its own attribute lookup if it defines one of these names other than in C.
_LOOKUPS = ("__getattr__", "__getattribute__", "__class__")
_IN_C = (WrapperDescriptorType, MethodDescriptorType, GetSetDescriptorType, NoneType)

# Read the attributes of a class past its metaclass, which may have its own attribute lookup.
_bases: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_members: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__


class Handle(Protocol):
    """An awaitable with `cancel()`, so it runs by itself: a `Task`, an asyncio Future or Task, anyio's TaskHandle."""

    def __await__(self) -> Generator[Any, Any, Any]: ...
    def cancel(self) -> object: ...


def check_call(func: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether `func` is async. Refuse a call that cannot work.

    No message contains the values of the arguments: they may be secret.

    :raises TypeError: if `func` is not callable, is a generator function (a call would not run its body), or does not
        accept the arguments
    """
    inner: Any = func
    count = len(args)
    if type(inner) is MethodType:
        inner, count = inner.__func__, count + 1
    if type(inner) is FunctionType and not kwargs:  # most calls: `inspect.signature()` costs more than a task
        code = inner.__code__
        flags = code.co_flags
        fits = code.co_argcount == count and not code.co_kwonlyargcount
        if not flags & _GENERATORS and (fits or _takes(inner, count)):
            is_async = bool(flags & CO_COROUTINE)
            if not is_async and _is_marked(inner):
                return True
            if fits and not flags & CO_NESTED and func is inner:
                note_plain(func, is_async=is_async)
            return is_async
    return _check(func, args, kwargs)


def _check(func: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if not callable(func):
        raise TypeError(f"expected a callable, not {shown(type_name(func))}: {uncalled(func)}")
    flags = _flags(func)
    if flags & _GENERATORS and not flags & _ASYNC:
        raise TypeError(iterates(shown(name_of(func)), is_async=bool(flags & CO_ASYNC_GENERATOR)))
    signature = signature_of(func)
    if signature is not None:
        _check_arguments(func, signature, args, kwargs)
    return bool(flags & _ASYNC) or _is_marked(func)


def is_async(func: Callable[..., object]) -> bool:
    """Return whether a call of `func` returns a coroutine. Looks through partials, methods and `__call__`."""
    return bool(_flags(func) & _ASYNC) or _is_marked(func)


def is_awaited(result: object) -> bool:
    """Return whether the task has to await the result of its sync function: an awaitable that is not a `Handle`."""
    kind = type(result)
    if kind is GeneratorType:
        return bool(cast("GeneratorType[Any, Any, Any]", result).gi_code.co_flags & CO_ITERABLE_COROUTINE)
    return _of_class(kind, "__await__") is not None and _of_class(kind, "cancel") is None


def signature_of(func: Callable[..., object]) -> Signature | None:
    """Return the real parameters of `func`, not those that a decorator claims; None if unknown.

    :raises TypeError: if a partial or a method binds an argument that the function does not accept
    """
    plain = _plain(func)
    try:
        return inspect.signature(plain, follow_wrapped=False)
    except ValueError:
        inner = _innermost(plain)
    except Exception:  # also if nothing is known
        return None
    try:
        signature = inspect.signature(inner, follow_wrapped=False)
    except Exception:
        return None  # some built-ins do not reveal their parameters
    raise TypeError(f"{shown(name_of(func))}{_parameters(signature)} does not accept its bound arguments")


def name_of(func: Callable[..., object]) -> str:
    """Return the module and the qualified name of `func`, as anyio names tasks. Never raises."""
    return names_of(func)[0]


def names_of(func: Callable[..., object]) -> tuple[str, str]:
    """Return the name of `func`, or of its class, with the module and without. Never raises."""
    inner: Any = cast("Any", func).__func__ if type(func) is MethodType else func
    if type(inner) is FunctionType:
        module: object = inner.__module__
        name = inner.__qualname__
        if type(module) is str and type(name) is str:
            return f"{module}.{name}", name
    named, text = _named(func)
    prefix = _text(named, "__module__")  # None for a method of a built-in class
    return (f"{prefix}.{text}" if prefix else text), text


def type_name(value: object) -> str:
    """Return the name of the class of `value`. Never raises."""
    return _text(type(value), "__name__") or "object"


def shown(name: str) -> str:
    """Return `name` for messages: on one line, with escapes for characters that are not printable."""
    return repr(name)[1:-1]


def _named(func: Callable[..., object]) -> tuple[object, str]:
    inner = _innermost(func)
    text = _text(inner, "__qualname__")
    if text is None:
        current = _of_class(type(inner), "_get_current_object")
        with suppress(Exception):
            if type(current) is FunctionType:  # a proxy of Celery or of werkzeug
                return _named(current(inner))
        return type(inner), _text(type(inner), "__qualname__") or "object"
    return inner, text


def _text(named: object, attribute: str) -> str | None:
    """Return the attribute as a plain `str`, or None if the attribute is no string."""
    try:
        if issubclass(type(named), type):
            value = type.__dict__[attribute].__get__(named)
        elif _has_own_lookup(named):
            value = inspect.getattr_static(named, attribute, None)
        else:
            value = getattr(named, attribute, None)
        return str.__str__(cast(str, value))
    except Exception:
        return None


def _is_partial(func: object) -> bool:
    return issubclass(type(func), partial)  # not `isinstance()`: a proxy may lie about its class


def _innermost(func: Callable[..., object]) -> Callable[..., object]:
    inner: Any = func
    while type(inner) is MethodType or _is_partial(inner):  # no recursion: `name_of()` never raises
        inner = inner.__func__ if type(inner) is MethodType else inner.func
    return cast("Callable[..., object]", inner)


def _of_class(cls: type, name: str) -> Any:
    """Return the attribute `name` from `cls` or one of its bases, or None. Runs no user code."""
    return next((_members(base)[name] for base in _bases(cls) if name in _members(base)), None)


def _has_own_lookup(value: object) -> bool:
    return any(type(_of_class(type(value), name)) not in _IN_C for name in _LOOKUPS)


def _is_marked(func: Callable[..., object]) -> bool:
    inner = _innermost(func)
    if type(inner) is FunctionType and not inner.__dict__:
        return False
    try:
        # A mark is a plain `object()`. Some classes use the same names for other attributes.
        return any(type(inspect.getattr_static(inner, mark, None)) is object for mark in _MARKS)
    except Exception:  # a metaclass raised
        return False


def _plain(func: Any) -> Any:
    """Return a callable with the same code and parameters, whose attributes are safe to read; None if unknown."""
    kind = type(cast(object, func))
    try:
        if kind is FunctionType:
            return _bare(func)
        if kind is MethodType:
            return partial(_plain(func.__func__), func.__self__)  # `inspect` explains errors of a partial
        if _is_partial(func):
            return partial(_plain(func.func), *func.args, **func.keywords)
        call = _of_class(kind, "__call__")
        way = type(cast(object, call))
        if issubclass(kind, type) or (way is WrapperDescriptorType and not _has_own_lookup(func)):
            return func
        return _plain(call if _of_class(way, "__get__") is None else call.__get__(func, kind))
    except Exception:  # a descriptor of the user raised, or the inner callable is unknown
        return None


def _bare(func: FunctionType) -> Callable[..., object]:
    """Return a copy of `func` with its real parameters, without `__wrapped__` or `__signature__`."""
    bare = FunctionType(func.__code__, {}, None, func.__defaults__, func.__closure__)
    bare.__kwdefaults__ = func.__kwdefaults__
    return bare


def _flags(func: Callable[..., object]) -> int:
    """Return the flags of the code that a call runs; 0 if unknown."""
    inner: Any = func if type(func) is FunctionType else _innermost(_plain(func))
    try:
        code = inner.__code__
    except Exception:  # it has none, or a metaclass raised
        return 0
    return code.co_flags if type(code) is CodeType else 0


def _takes(func: FunctionType, count: int) -> bool:
    code = func.__code__
    if len(func.__kwdefaults__ or ()) < code.co_kwonlyargcount:
        return False
    most = code.co_argcount
    least = most - len(func.__defaults__ or ())
    return least <= count and (count <= most or bool(code.co_flags & CO_VARARGS))


def _check_arguments(
    func: Callable[..., object], signature: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    try:
        bind(signature, args, kwargs)
    except TypeError as exc:
        # Show the parameters of the innermost function: a partial hides its bound arguments.
        while _is_partial(func):
            func = cast("partial[object]", func).func
        parameters = _parameters(signature_of(func))
        hint = misplaced(kwargs, signature)
        raise TypeError(f"{shown(name_of(func))}{parameters} cannot be called like this: {exc}{hint}") from None


def bind(signature: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
    """Return `signature.bind(*args, **kwargs)`.

    Before Python 3.13 `bind()` refuses a keyword with the name of a positional-only parameter, which `**kwargs` takes.

    :raises TypeError: if a function with this signature does not accept the arguments
    """
    parameters = signature.parameters
    others = next((each.name for each in parameters.values() if each.kind is Parameter.VAR_KEYWORD), None)
    if others is None:
        return signature.bind(*args, **kwargs)
    reserved = {each.name for each in parameters.values() if each.kind is Parameter.POSITIONAL_ONLY}
    bound = signature.bind(*args, **{name: value for name, value in kwargs.items() if name not in reserved})
    more = {name: value for name, value in kwargs.items() if name in reserved}
    bound.arguments[others] = {**bound.arguments.get(others, {}), **more}
    return bound


def _parameters(signature: Signature | None) -> str:
    try:
        return shown(str(signature))
    except Exception:  # the `repr()` of a default value raised
        return "(...)"
