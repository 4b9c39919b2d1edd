"""What the queues for engines share: decorated functions, names on the wire, errors that mean "not published"."""

from __future__ import annotations

import errno
import socket
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from ._drive.portable import named_arguments
from ._handed import running
from ._machine.calling import check_call, name_of, shown, type_name
from ._queue import Call, Queue
from .errors import TasksUnportableError

# Marks a message of ours, and names its queue.
_MARK = "taskphase-queue"
# Before the names of `Queue.carry`: a variable named "timeout" must not become a setting of the engine.
_CARRIED = "taskphase-carry-"

_IMMUTABLE = frozenset({str, int, float, bool, type(None)})

# A connection with one of these errors never was established.
_NEVER_CONNECTED = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.ENOENT}
)
# With these errors a broker says that it has not done the command: it is full, read-only, knows another password, has
# no such exchange. (RabbitMQ's "nack" is no such error: with several queues the others may have the message.)
_ANSWERS = {
    "redis.exceptions": ("ResponseError", "AuthenticationError"),
    "amqp.exceptions": ("ChannelError", "NotAllowed"),
}
# asyncio has tried each address of a host, such as ::1 and 127.0.0.1. The error has no number.
_NO_ADDRESS = "Multiple exceptions: "


class EngineQueue(Queue):
    """A queue for an engine. Functions that are decorated for the engine need not be listed, and keep their names.

    :cvar _decorated: the attribute of an object of the engine that has the decorated function
    """

    _decorated: str

    def check_function(self, func: Callable[..., Any]) -> None:
        """Refuse a function of the list that a worker could not import by its name."""
        if self._own(func) is None:
            super().check_function(func)

    def takes(self, func: Callable[..., Any]) -> bool:
        """Return whether `func` is listed, or decorated for the engine."""
        return super().takes(func) or self._own(func) is not None

    def prepare(self, call: Call, /) -> Any:
        """Return the message, with a copy of the arguments."""
        task, func = self._own(call.func), call.func
        if task is None:
            task = self.__tasks[id(func)]
        else:
            func = getattr(task, self._decorated)
            _check_arguments(call, func)
        try:
            return self._message(call, task, call.args, call.kwargs)
        except Exception:
            self._check_each_argument(call, task, func)
            raise

    def refused(self, error: Exception, /) -> bool:
        """Return whether no connection was established, or the broker has answered with an error."""
        return self.__errors_are_sure and (_never_connected(error) or _is_answer(error))

    def _outward(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of `publish()` as they go to the worker."""
        return {
            _MARK: self.name,
            **{_CARRIED + key if key in self.carry else key: text for key, text in headers.items()},
        }

    def _set_up(self, *, errors_are_sure: bool) -> None:
        """Register the functions of the list that are not decorated for the engine. For the constructor.

        :param errors_are_sure: False if the client of the engine tries again by itself: an earlier try may have
            published
        """
        self.__errors_are_sure = errors_are_sure
        self.__tasks = {id(func): self._register(func) for func in self.functions if self._own(func) is None}

    def _check_each_argument(self, call: Call, task: Any, func: Callable[..., Any]) -> None:
        """Refuse an argument that the engine cannot encode. The error names the parameter of `func` and the class."""
        for name, value in named_arguments(func, call.args, call.kwargs):
            try:
                self._message(call, task, (value,), {})
            except Exception as exc:
                raise TasksUnportableError(
                    f"{shown(call.function)} cannot be handed over to {self.name!r}: its workers cannot get {name}, "
                    f"an object of the class {shown(type_name(value))}, or something in it ({type_name(exc)})"
                ) from None

    @abstractmethod
    def _own(self, func: Any) -> Any:
        """Return the engine's object for `func`, if `func` is decorated for the engine; otherwise None."""

    @abstractmethod
    def _register(self, func: Callable[..., Any]) -> Any:
        """Register a function of the list with the engine, and return the engine's object."""

    @abstractmethod
    def _message(self, call: Call, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the message of `call`, but with these arguments: copies that the engine has encoded and decoded.

        :param task: the engine's object for the function
        :raises Exception: if the engine cannot encode the arguments
        """


def has_sent(queue: Queue, headers: Mapping[str, Any]) -> bool:
    """Return whether a message with these headers is from `queue`."""
    return headers.get(_MARK) == queue.name


def enter(
    queue: Queue, function: str, message_id: str, headers: Mapping[str, Any], attempt: int
) -> AbstractContextManager[object]:
    """Enter the context of a task, in a worker. Return the context: see `leave()`."""
    inward = {key.removeprefix(_CARRIED): value for key, value in headers.items()}
    context = running(queue, function, message_id, inward, attempt=attempt)
    context.__enter__()
    return context


def leave(context: AbstractContextManager[object], error: BaseException | None) -> None:
    """Leave the context of a task in a worker: the function has raised `error`, or has returned."""
    context.__exit__(None if error is None else type(error), error, None if error is None else error.__traceback__)


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


def are_immutable(args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a copy of each argument would be the argument itself."""
    return all(type(value) in _IMMUTABLE for value in (*args, *kwargs.values()))


def _check_arguments(call: Call, func: Callable[..., Any]) -> None:
    """Refuse arguments that `func`, the function of a decorated object, does not accept.

    :raises TasksUnportableError: for such arguments
    """
    try:
        check_call(func, call.args, call.kwargs)
    except TypeError as exc:
        # The engine may have renamed the function.
        text = str(exc).replace(shown(name_of(func)), shown(call.function))
        raise TasksUnportableError(text) from None
