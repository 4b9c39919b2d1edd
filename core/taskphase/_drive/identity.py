"""The ids of messages."""

from __future__ import annotations

import os

_AT_ONCE = 64

# The bits of a UUID that tell its version, 4, and its variant.
_FIXED = 0xF << 76 | 0x3 << 62
_VERSION_4 = 0x4 << 76 | 0x2 << 62

_unused: list[int] = []

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_unused.clear)


def new_message_id() -> str:
    """Return the hex digits of a new random UUID. From any thread.

    As unpredictable as `uuid4()`, which asks the system for each id: each of these calls lets another thread run, and
    under load a request with a journal, whose thread writes meanwhile, would take a tenth more CPU time.
    """
    while True:
        try:
            number = _unused.pop()
        except IndexError:
            random = os.urandom(16 * _AT_ONCE)
            _unused.extend(int.from_bytes(random[start : start + 16], "big") for start in range(0, len(random), 16))
            continue
        return f"{number & ~_FIXED | _VERSION_4:032x}"
