"""A check of the methods that users override."""

from inspect import getattr_static, isasyncgenfunction, isgeneratorfunction
from types import FunctionType, MethodType

from .calling import check_call, is_async, shown, type_name


def check_overrides(given: object, base: type) -> None:
    """Refuse a method that `base` cannot call like its own: an `async def` in place of a sync method, or the other way
    round; a generator function; a function with other parameters.

    Nobody would await the first one, and its coroutine would count as true, or as a message.

    :param given: an object of a subclass of `base`
    :raises TypeError: for such a method
    """
    for name, method in vars(base).items():
        if type(method) is FunctionType and not name.startswith("_"):
            own = getattr(type(given), name)
            right = "an `async def`" if is_async(method) else "a plain `def`"
            what = f"{shown(type_name(given))}.{name}() must be {right}"
            if isgeneratorfunction(own) or isasyncgenfunction(own):
                raise TypeError(f"{what} without `yield`: a call would not run its body")
            if is_async(own) is not is_async(method):
                raise TypeError(what if is_async(method) else f"{what}: nobody would await it")
            if type(plain := getattr_static(type(given), name)) is FunctionType:
                check_call(MethodType(plain, given), (None,) * (method.__code__.co_argcount - 1), {})
