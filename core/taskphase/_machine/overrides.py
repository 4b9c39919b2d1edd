"""A check of the methods that users override."""

from types import FunctionType

from .calling import is_async, shown, type_name


def check_overrides(given: object, base: type) -> None:
    """Refuse an `async def` that overrides a sync method of `base`, and a sync method that overrides an `async def`.

    Nobody would await the first one, and its coroutine would count as true, or as a message.

    :param given: an object of a subclass of `base`
    :raises TypeError: for such a method
    """
    for name, method in vars(base).items():
        if type(method) is FunctionType and not name.startswith("_"):
            own = getattr(type(given), name)
            if is_async(own) is not is_async(method):
                right = "an `async def`" if is_async(method) else "a plain `def`: nobody would await it"
                raise TypeError(f"{shown(type_name(given))}.{name}() must be {right}")
