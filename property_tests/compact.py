"""Short `repr()`s of descriptions."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum


class Compact:
    """A dataclass whose `repr()` rebuilds it, without the fields that have their default."""

    def __repr__(self) -> str:
        mine = ((f.name, getattr(self, f.name), f.default) for f in fields(self))  # type: ignore[arg-type]
        shown = (f"{name}={_shown(value)}" for name, value, default in mine if value != default)
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: object) -> str:
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)
