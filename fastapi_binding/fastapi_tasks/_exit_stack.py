"""The callbacks of an exit stack: the only private name of other code that the binding uses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

# CPython's exit stacks keep their callbacks there since 3.7: a deque of pairs (is the callback sync?, the callback).
# The last callback is called first.
_PRIVATE = "_exit_callbacks"


def leave_last(stack: Any, leave: Callable[..., Any], *, is_async: bool = False) -> None:
    """Have `stack` call `leave` last at its end: after all other callbacks, also after callbacks that come later. So
    the order of the parameters of an endpoint does not matter.
    """
    if _IS_KNOWN:  # the public methods cost several times as much in each request
        stack._exit_callbacks.appendleft((not is_async, leave))
        return
    entered = stack.pop_all()
    (stack.push_async_exit if is_async else stack.push)(leave)
    stack.push_async_exit(entered)


def _is_known() -> bool:
    """Return whether exit stacks keep their callbacks as described above."""
    stack: Any = AsyncExitStack()
    stack.push(_is_known)
    stack.push_async_exit(_leave)
    return getattr(stack, _PRIVATE, None) == deque([(True, _is_known), (False, _leave)])


async def _leave(*_: object) -> None: ...


_IS_KNOWN = _is_known()
