"""What the queues for engines share: decorated functions, names on the wire, errors that mean "not published"."""

from __future__ import annotations

import errno
import socket
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from ._machine.calling import check_call, name_of, shown, signature_of, type_name
from ._queue import Call, Queue
from .errors import TasksUnportableError

# Marks a message of ours, and names its queue.
MARK = "taskphase-queue"
# Before the names of `Queue.carry`: a variable named "timeout" must not become a setting of the engine.
_CARRIED = "taskphase-carry-"

# A copy of such an argument would be the argument itself.
IMMUTABLE = frozenset({str, int, float, bool, type(None)})

# A connection with one of these errors never was established.
_NEVER_CONNECTED = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.ENOENT}
)
# With these errors a broker says that it has not done the command: it is full, read-only, knows another password.
_ANSWERS = {"redis.exceptions": ("ResponseError", "AuthenticationError"), "amqp.exceptions": ("AccessRefused",)}
# asyncio has tried each address of a host, such as ::1 and 127.0.0.1. The error has no number.
_NO_ADDRESS = "Multiple exceptions: "


class EngineQueue(Queue):
    """A queue for an engine. Functions that are decorated for the engine need not be listed, and keep their names.

    :ivar _errors_are_sure: False if the client of the engine tries again by itself: an earlier try may have published
    """

    _errors_are_sure: bool

    def check_function(self, func: Callable[..., Any]) -> None:
        """Refuse a function of the list that a worker could not import by its name."""
        if self._own(func) is None:
            super().check_function(func)

    def takes(self, func: Callable[..., Any]) -> bool:
        """Return whether `func` is listed, or decorated for the engine."""
        return super().takes(func) or self._own(func) is not None

    def refused(self, error: Exception, /) -> bool:
        """Return whether no connection was established, or the broker has answered with an error."""
        return self._errors_are_sure and (_never_connected(error) or _is_answer(error))

    @abstractmethod
    def _own(self, func: Any) -> Any:
        """Return the engine's object for `func`, if `func` is decorated for the engine; otherwise None."""


def leave(context: AbstractContextManager[object], error: BaseException | None) -> None:
    """Leave the context of a task in a worker: the function has raised `error`, or has returned."""
    context.__exit__(None if error is None else type(error), error, None if error is None else error.__traceback__)


def outward(queue: Queue, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers as they go to the worker."""
    carried = queue.carry
    return {MARK: queue.name, **{_CARRIED + key if key in carried else key: text for key, text in headers.items()}}


def inward(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that `outward()` has got."""
    return {key.removeprefix(_CARRIED): value for key, value in headers.items()}


def _never_connected(error: BaseException) -> bool:
    """Return whether `error` is about a connection that was not established. The first reason with an error number
    decides, from the outside inwards.
    """
    for reason in _reasons(error, with_context=True):
        if isinstance(reason, socket.gaierror) or (type(reason) is OSError and str(reason).startswith(_NO_ADDRESS)):
            return True
        if isinstance(reason, OSError) and reason.errno is not None:
            return reason.errno in _NEVER_CONNECTED
    return False


def _is_answer(error: BaseException) -> bool:
    loaded = _ANSWERS.keys() & sys.modules.keys()
    kinds = tuple(getattr(sys.modules[module], name) for module in loaded for name in _ANSWERS[module])
    return any(isinstance(reason, kinds) for reason in _reasons(error, with_context=False))


def _reasons(error: BaseException, *, with_context: bool) -> Iterator[BaseException]:
    seen: set[int] = set()  # `raise error from error` makes a circle
    reason: BaseException | None = error
    while reason is not None and id(reason) not in seen:
        seen.add(id(reason))
        yield reason
        reason = reason.__cause__ or (reason.__context__ if with_context else None)


def check_arguments(call: Call, func: Callable[..., Any]) -> None:
    """Refuse arguments that `func`, the function of a decorated object, does not accept.

    :raises TasksUnportableError: for such arguments
    """
    try:
        check_call(func, call.args, call.kwargs)
    except TypeError as exc:
        # The engine may have renamed the function.
        text = str(exc).replace(shown(name_of(func)), shown(call.function))
        raise TasksUnportableError(text) from None


def refuse_argument(
    call: Call, func: Callable[..., Any], queue: Queue, error: Exception, fits: Callable[[Any], bool]
) -> TasksUnportableError:
    """Return the error for a call that the engine cannot encode. It names the argument and its class.

    :param fits: returns whether the engine can encode one argument
    """
    text = f"{shown(call.function)} cannot be handed over to {queue.name!r}"
    for name, value in _named_arguments(call, func):
        if not fits(value):
            return TasksUnportableError(
                f"{text}: its workers cannot get the argument {name}, an object of the class "
                f"{shown(type_name(value))}, or something in it ({type_name(error)})"
            )
    return TasksUnportableError(f"{text}: its arguments cannot be encoded ({type_name(error)})")


def _named_arguments(call: Call, func: Callable[..., Any]) -> list[tuple[str, Any]]:
    signature = signature_of(func)
    parameters = () if signature is None else tuple(signature.parameters.values())
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    found = [
        (repr(names[index]) if index < len(names) else f"number {index + 1}", value)
        for index, value in enumerate(call.args)
    ]
    return found + [(repr(name), value) for name, value in call.kwargs.items()]
