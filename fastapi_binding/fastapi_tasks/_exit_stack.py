"""The exit stack of a route: its callbacks, and the exception that has ended the route."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from sys import exception
from typing import Any

# FastAPI (0.121.1 to 0.165) puts the exit stack of the function-scope dependencies there. The stack ends when the route
# has returned and the response is built, or with an exception of either.
STACK_KEY = "fastapi_function_astack"


def leave_last(stack: Any, leave: Callable[..., None], *args: Any) -> None:
    """Register `leave(*args, around, exc_type, exc, tb)` as the last callback of `stack`: it runs after all others,
    also after callbacks that are registered later. So the order of the parameters of an endpoint does not matter.
    `around` is for `swallowed()`.
    """
    leave = partial(leave, *args, id(exception()))  # a middleware may call the app in an `except` block
    if _IS_KNOWN:  # the public methods cost several times as much in each request
        stack._exit_callbacks.appendleft((True, leave))
        return
    entered = stack.pop_all()
    stack.push(leave)
    stack.push_async_exit(entered)


def swallowed(around: int) -> BaseException | None:
    """Return the exception of the route, if a dependency has swallowed it: FastAPI has no response then. Call this in a
    callback of the exit stack, which ends while the exception is being handled.

    :param around: the id of the exception that was being handled around the route, if there was one
    """
    exc = exception()
    return None if id(exc) == around else exc


def _is_known() -> bool:
    """Return whether exit stacks keep their callbacks as CPython's do since 3.7: in a deque of pairs (is the callback
    sync?, the callback). The last callback is called first.

    `_exit_callbacks` is the only private attribute of other code that the binding uses.
    """
    stack: Any = AsyncExitStack()
    stack.push(_is_known)
    return getattr(stack, "_exit_callbacks", None) == deque([(True, _is_known)])


_IS_KNOWN = _is_known()
