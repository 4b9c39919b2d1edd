"""Caches of other packages that would keep the latest thousands of endpoints, and so the journals of all examples."""

from __future__ import annotations

import typing

from fastapi.dependencies import models


def forget_apps() -> None:
    """Empty the caches. With all journals in memory each full garbage collection takes a second."""
    for forget in typing._cleanups:  # type: ignore[attr-defined]
        forget()
    for value in vars(models).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
