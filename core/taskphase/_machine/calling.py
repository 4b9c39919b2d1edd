"""Is this callable async, does it take these arguments, and what is it called?

A callable may be a proxy or a mock, which answers for itself when an attribute is asked of it: with anything, with an
exception, or after a call to another machine. So such an object is asked for nothing. Its class decides, and an answer
that `inspect` cannot give decides nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_ITERABLE_COROUTINE, CO_VARARGS, Signature
from types import (
    CodeType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MethodDescriptorType,
    MethodType,
    NoneType,
    WrapperDescriptorType,
)
from typing import Any, Protocol, cast

_ASYNC = CO_COROUTINE | CO_ITERABLE_COROUTINE  # the latter: a generator function under `types.coroutine`
_GENERATORS = CO_GENERATOR | CO_ASYNC_GENERATOR
_KINDS = _ASYNC | _GENERATORS

# The marks of a function that returns an awaitable: those of asyncio, of `inspect` in 3.12, and of later ones.
_MARKS = ("_is_coroutine", "_is_coroutine_marker", "_is_coroutine_mark")

# Attributes by which an object answers for itself, if they are not made of these.
_ANSWERS = ("__getattr__", "__getattribute__", "__class__")
_IN_C = (WrapperDescriptorType, MethodDescriptorType, GetSetDescriptorType, NoneType)

# The class attributes of a class, past a metaclass that answers for itself.
_bases: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_members: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__


class Handle(Protocol):
    """An awaitable that can be cancelled: the handle of something that runs by itself.

    A `Task`, an asyncio Future or Task, and anyio's TaskHandle are handles.
    """

    def __await__(self) -> Generator[Any, Any, Any]: ...
    def cancel(self) -> object: ...


def check_call(func: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether `func` is async, having made sure that it can be called so.

    The arguments' values are in no message: they may be secret.

    :raises TypeError: if `func` is not callable, is a generator function (its body would never run), or does not take
        the arguments
    """
    if type(func) is FunctionType and not kwargs:  # most tasks: no more than they need
        code = func.__code__
        if code.co_flags & _KINDS == CO_COROUTINE and code.co_argcount == len(args) and not code.co_kwonlyargcount:
            return True
    return _check(func, args, kwargs)


def _check(func: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    inner: Any = func
    count = len(args)
    if type(inner) is MethodType:
        inner, count = inner.__func__, count + 1
    if type(inner) is FunctionType:
        # The other common cases, without the cost of a signature (which is tens of times that of starting the task).
        if not kwargs:
            code = inner.__code__
            flags = code.co_flags
            fits = code.co_argcount == count and not code.co_kwonlyargcount
            if not flags & _GENERATORS and (fits or _takes(inner, count)):
                return bool(flags & CO_COROUTINE) or _is_marked(inner)
    elif not callable(func):
        raise TypeError(f"expected a callable, not {shown(type_name(func))}{_hint(func)}")
    plain = _plain(func)
    flags = _flags(plain)
    if flags & _GENERATORS and not flags & _ASYNC:
        raise TypeError(f"{shown(name_of(func))} is a generator function: calling it would run none of it")
    _check_arguments(func, plain, args, kwargs)
    return bool(flags & _ASYNC) or _is_marked(func)


def is_async(func: Callable[..., object]) -> bool:
    """Return whether `func` is an `async def`, also behind partials, methods and `__call__`."""
    flags = func.__code__.co_flags if type(func) is FunctionType else _flags(_plain(func))
    return bool(flags & _ASYNC) or _is_marked(func)


def is_awaited(result: object) -> bool:
    """Return whether the result of a sync function is an awaitable that its task awaits. A `Handle` is not."""
    kind = type(result)
    if kind is GeneratorType:
        return bool(cast("GeneratorType[Any, Any, Any]", result).gi_code.co_flags & CO_ITERABLE_COROUTINE)
    return _of_class(kind, "__await__") is not None and _of_class(kind, "cancel") is None


def signature_of(func: Callable[..., object]) -> Signature | None:
    """Return the parameters of a call of `func`, not those that a decorator claims; None if there is no telling.

    :raises TypeError: if a partial or a method binds what its function does not take
    """
    return _signature(func, _plain(func))


def name_of(func: Callable[..., object]) -> str:
    """Return the qualified name of `func`, with its module, as anyio names tasks. Raises nothing."""
    if type(func) is FunctionType:
        module: object = func.__module__
        name = func.__qualname__
        if type(module) is str and type(name) is str:
            return f"{module}.{name}"
    named, text = _named(func)
    prefix = _text(named, "__module__")  # a method of a built-in class has none
    return f"{prefix}.{text}" if prefix else text


def qualname_of(func: Callable[..., object]) -> str:
    """Return the qualified name of `func`, or that of its class, without the module. Raises nothing."""
    return _named(func)[1]


def type_name(value: object) -> str:
    """Return the name of the class of `value`. Raises nothing."""
    return _text(type(value), "__name__") or "object"


def shown(name: str) -> str:
    """Return a name as messages show it: on one line, and with escapes for all that cannot be printed."""
    return repr(name)[1:-1]


def _named(func: Callable[..., object]) -> tuple[object, str]:
    inner = _innermost(func)
    text = _text(inner, "__qualname__")
    if text is None:
        return type(inner), _text(type(inner), "__qualname__") or "object"
    return inner, text


def _text(named: object, attribute: str) -> str | None:
    """Return a plain string, if the attribute is one of any kind."""
    try:
        if issubclass(type(named), type):
            value = type.__dict__[attribute].__get__(named)
        elif _answers_for_itself(named):
            value = inspect.getattr_static(named, attribute, None)
        else:
            value = getattr(named, attribute, None)
        return str.__str__(cast(str, value))
    except Exception:
        return None


def _is_partial(func: object) -> bool:
    return issubclass(type(func), partial)  # and not what only says that it is one


def _without_partials(func: Callable[..., object]) -> Callable[..., object]:
    while _is_partial(func):
        func = cast("partial[object]", func).func
    return func


def _innermost(func: Callable[..., object]) -> Callable[..., object]:
    inner: Any = func
    while True:
        if type(inner) is MethodType:
            inner = inner.__func__
        elif _is_partial(inner):
            inner = inner.func
        else:
            return cast("Callable[..., object]", inner)


def _of_class(cls: type, name: str) -> Any:
    """Return what `cls` or a base of it defines by this name, or None. No code of theirs runs."""
    for base in _bases(cls):
        members = _members(base)
        if name in members:
            return members[name]
    return None


def _answers_for_itself(value: object) -> bool:
    return any(type(_of_class(type(value), name)) not in _IN_C for name in _ANSWERS)


def _is_marked(func: Callable[..., object]) -> bool:
    inner = _innermost(func)
    if type(inner) is FunctionType and not inner.__dict__:
        return False
    # Each mark is a bare object. (Some classes have attributes of these names, for themselves.)
    return any(type(inspect.getattr_static(inner, mark, None)) is object for mark in _MARKS)


def _plain(func: Callable[..., object]) -> Callable[..., object] | None:
    """Return a callable that runs the same code with the same arguments, and does not answer for itself; None if there
    is no telling.
    """
    try:
        return _replaced(func)
    except Exception:  # of a descriptor of the user's
        return None


def _replaced(func: Callable[..., object]) -> Callable[..., object]:
    kind = type(func)
    if kind is FunctionType:
        return _bare(cast(FunctionType, func))
    if kind is MethodType:
        method = cast(MethodType, func)
        return partial(_replaced(method.__func__), method.__self__)  # for `inspect` says why a partial is wrong
    if _is_partial(func):
        bound = cast("partial[object]", func)
        return partial(_replaced(bound.func), *bound.args, **bound.keywords)
    if issubclass(kind, type):
        return func
    call = _of_class(kind, "__call__")
    in_c = issubclass(type(call), WrapperDescriptorType)
    if in_c and not _answers_for_itself(func):
        return func
    if _of_class(type(cast(object, call)), "__get__") is not None:
        call = call.__get__(func, kind)
    return cast("Callable[..., object]", call if in_c else _replaced(call))


def _bare(func: FunctionType) -> Callable[..., object]:
    """Return a copy of `func` that has its parameters, and nothing that says otherwise."""
    bare = FunctionType(func.__code__, {}, None, func.__defaults__, func.__closure__)
    bare.__kwdefaults__ = func.__kwdefaults__
    return bare


def _flags(plain: Callable[..., object] | None) -> int:
    """Return the flags of the code that a call runs; 0 if there is no telling."""
    try:
        code = None if plain is None else getattr(_innermost(plain), "__code__", None)
    except Exception:
        return 0
    return code.co_flags if type(code) is CodeType else 0


def _signature(func: Callable[..., object], plain: Callable[..., object] | None) -> Signature | None:
    if plain is None:
        return None
    try:
        return inspect.signature(plain, follow_wrapped=False)
    except ValueError:
        inner = _innermost(plain)
    except Exception:
        return None
    try:
        signature = inspect.signature(inner, follow_wrapped=False)
    except Exception:
        return None  # some built-ins tell nothing about their parameters
    text = f"{shown(name_of(func))}{_parameters(signature)} does not take what is bound to it"
    raise TypeError(text)


def _takes(func: FunctionType, count: int) -> bool:
    code = func.__code__
    if code.co_kwonlyargcount and len(func.__kwdefaults__ or ()) < code.co_kwonlyargcount:
        return False
    most = code.co_argcount
    least = most - len(func.__defaults__ or ())
    return least <= count and (count <= most or bool(code.co_flags & CO_VARARGS))


def _check_arguments(
    func: Callable[..., object],
    plain: Callable[..., object] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    signature = _signature(func, plain)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as exc:
        # (The parameters of a partial have what is bound to it, so they are not shown.)
        parameters = _parameters(signature_of(_without_partials(func)))
        raise TypeError(f"{shown(name_of(func))}{parameters} cannot be called like this: {exc}") from None


def _parameters(signature: Signature | None) -> str:
    try:
        return shown(str(signature))
    except Exception:  # of the `repr` of a default value
        return "(...)"


def _hint(func: object) -> str:
    if type(func) is CoroutineType:
        func.close()
        return ": pass the function and its arguments, not the result of calling it"
    return ""
