"""The arguments of a call, by parameter."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import BoundArguments, Parameter, Signature
from typing import Any


def bind(signature: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> BoundArguments:
    """Return `signature.bind(*args, **kwargs)`.

    Before Python 3.13 `bind()` refuses a keyword with the name of a positional-only parameter, which `**kwargs` takes.

    :raises TypeError: if a function with this signature does not accept the arguments
    """
    parameters = signature.parameters
    others = next((each.name for each in parameters.values() if each.kind is Parameter.VAR_KEYWORD), None)
    if others is None:
        return signature.bind(*args, **kwargs)
    taken = {name for name in parameters.keys() & kwargs if parameters[name].kind is Parameter.POSITIONAL_ONLY}
    bound = signature.bind(*args, **{name: value for name, value in kwargs.items() if name not in taken})
    if taken:
        more = {name: kwargs[name] for name in kwargs if name in taken}
        bound.arguments[others] = {**bound.arguments.get(others, {}), **more}
    return bound
