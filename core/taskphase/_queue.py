"""`Queue`: the way of a task to an engine, whose workers run it in other processes."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Literal, NamedTuple, cast

from ._machine.calling import name_of, shown, type_name
from ._machine.config import AnyQueue, TaskConfig, check_seconds
from ._machine.hints import listed
from ._machine.limit import check_count
from ._machine.overrides import check_overrides
from .errors import TasksUnportableError


class Call(NamedTuple):
    """The call of a task that is to be handed over.

    :ivar id: `task.message_id`, for the worker to know the call again: it may be published more than once
    :ivar func: the function, as it was scheduled but without partials
    :ivar function: the name of the function with its module, under which a worker finds it
    :ivar args: the positional arguments, with the arguments of partials
    :ivar kwargs: the keyword arguments, with the arguments of partials
    :ivar options: the options of this function, from the list of the queue
    :ivar settings: the settings of `.task()` that are in `Queue.maps`
    """

    id: str
    func: Callable[..., Any]
    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<Call {self.id} of {shown(self.function)}>"  # without the arguments: they may be secret


class Queue(AnyQueue, ABC):
    """Hands tasks over to an engine. Make a subclass with `prepare()` and `publish()`; the others are optional.

    The host calls `prepare()` in `schedule()`, and `publish()` when the phase of the task has come and its delay is
    over. It retries, limits and reports: `publish()` is one attempt. Constructing a queue opens no connection.

    :param name: in messages, records and telemetry
    :param functions: the functions whose tasks the queue gets; functions at the top of a module that the workers can
        import. Or a dict of functions, with the options of each
    :param deadline: seconds or a `timedelta` for all attempts to publish, waits for a turn included. At shutdown it
        ends with `shield_timeout`
    :param attempt_timeout: seconds or a `timedelta` for one attempt
    :param fallback: "here": run the task in this program if it surely was not published. Default: the hand-over fails
    :param carry: context variables whose values (`str`) go to the worker, by name: `{"x-request-id": request_id}`
    :raises TypeError: if a parameter has the wrong type, or a method is an `async def` and should not be, or the other
        way round; `TasksUnportableError` if a worker could not import a function
    :raises ValueError: if a parameter is out of its range, or there is no function

    :cvar attempts_at_once: the most attempts of one host at a time
    :cvar maps: the settings of `.task()` that `prepare()` translates for the engine. Others of the run are refused,
        unless they only lift an inherited setting
    :cvar system: the broker as OpenTelemetry names it in `messaging.system`: "redis", "rabbitmq", ... None: unknown
    """

    attempts_at_once: int = 100
    maps: frozenset[str] = frozenset()
    system: str | None = None

    def __init__(
        self,
        name: str,
        functions: Iterable[Callable[..., Any]] | Mapping[Callable[..., Any], Mapping[str, Any]],
        *,
        deadline: float | timedelta = 10,
        attempt_timeout: float | timedelta = 3,
        fallback: Literal["here"] | None = None,
        carry: Mapping[str, ContextVar[Any]] | None = None,
    ) -> None:
        check_overrides(self, Queue)
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a queue must be a str, not {name!r}")
        if fallback not in (None, "here"):
            raise ValueError(f"fallback must be 'here' or None, not {fallback!r}")
        self.name = name
        self.deadline: float = check_seconds("deadline", deadline)
        self.attempt_timeout: float = check_seconds("attempt_timeout", attempt_timeout)
        self.fallback = fallback
        self.carry: Mapping[str, ContextVar[Any]] = check_carry(carry)
        if not isinstance(functions, Mapping):
            functions = {func: dict[str, Any]() for func in listed("functions", functions)}
        options = cast("Mapping[Callable[..., Any], Mapping[str, Any]]", functions)
        if not options and type(self).takes is Queue.takes:
            raise ValueError(f"the queue {name!r} has no function: no task would go to it")
        for func, given in options.items():
            self.check_function(func)
            if not isinstance(cast("object", given), Mapping):
                raise TypeError(f"the options of {shown(name_of(func))} must be a dict, not {given!r}")
        self.functions: tuple[Callable[..., Any], ...] = tuple(options)
        # By identity: the hash of a user's object may be user code. Two underscores: a subclass may use any name.
        self.__options = {id(func): dict(given) for func, given in options.items()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def check_function(self, func: Callable[..., Any]) -> None:
        """Refuse a function of the list that a worker could not import by its name.

        :raises TasksUnportableError: for such a function
        """
        module, name = getattr(func, "__module__", None), getattr(func, "__qualname__", None)
        text = f"{shown(name_of(func))} cannot be handed over, because a worker could not import it"
        if not callable(func) or not isinstance(module, str) or not isinstance(name, str):
            raise TasksUnportableError(f"{text}: it is an object of the class {shown(type_name(func))}; list functions")
        if module == "__main__":
            raise TasksUnportableError(f"{text}: move it from the main module to one that program and workers import")
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not func:
            raise TasksUnportableError(f"{text}: it is not at the top of its module, under its own name")

    def takes(self, func: Callable[..., Any]) -> bool:
        """Return whether tasks of `func`, which has no partials, are for this queue. Default: if `func` is listed."""
        return id(func) in self.__options

    def options_of(self, func: Callable[..., Any]) -> Mapping[str, Any]:
        """Return the options of a listed function; an empty mapping for another function."""
        return self.__options.get(id(func), {})

    def check_loop(self, backend: str) -> None:
        """Refuse the event loop of a host that opens. `backend`: "asyncio" or "trio". Default: accept both.

        :raises RuntimeError: if the queue does not work there
        """

    @abstractmethod
    def prepare(self, call: Call, /) -> Any:
        """Return the call in the form that `publish()` needs. In `schedule()`, so in its thread; must be quick.

        Serialise the arguments here: the worker gets their state at `schedule()`, and an argument that the engine
        cannot carry is refused before anything has happened. No message may contain the value of an argument.

        :raises TasksUnportableError: if the engine cannot carry the call. `schedule()` raises this error
        """

    @abstractmethod
    async def publish(self, prepared: Any, headers: Mapping[str, str], /) -> None:
        """Publish what `prepare()` has returned, once. Return when the engine has confirmed it. In the event loop, in
        the context of `schedule()`; cancelled after `attempt_timeout`.

        :param headers: for the worker: the values of `carry`, and the trace (`traceparent`, ...) if OpenTelemetry is
            set up. `taskphase.queues.running()` restores them
        """

    def refused(self, error: Exception, /) -> bool:  # noqa: ARG002 - for subclasses
        """Return whether `error`, raised by `open()` or `publish()`, means that the engine surely has not got the call.
        Default: False. In doubt return False.
        """
        return False

    async def open(self) -> None:
        """Connect, before the first `publish()` in an event loop. A part of that attempt: it counts for
        `attempt_timeout`, and is tried again in the next attempt. If it raises or is cancelled, it has to undo what it
        has done: `close()` is not called. The context is empty, so that no connection keeps the context of a request.
        """

    async def close(self) -> None:
        """Disconnect, if `open()` has returned in this event loop, and no host of the loop uses the queue any more. At
        most one second.
        """


def check_carry(carry: Mapping[str, ContextVar[Any]] | None) -> dict[str, ContextVar[Any]]:
    """Return context variables by the names of their headers.

    :raises TypeError: if `carry` is something else
    """
    given: Any = {} if carry is None else carry
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and isinstance(variable, ContextVar)
        for name, variable in cast("Mapping[object, object]", given).items()
    ):
        raise TypeError(f"carry must be a dict of context variables by name, not {carry!r}")
    return dict(carry or {})


def carried(carry: Mapping[str, ContextVar[Any]], problem: str) -> dict[str, str]:
    """Return the values of the context variables that have one, by the names of their headers.

    :param problem: begins the message
    :raises TasksUnportableError: if a value is no str
    """
    found = {name: value for name, variable in carry.items() if (value := variable.get(None)) is not None}
    for name, value in found.items():
        if not isinstance(value, str):
            raise TasksUnportableError(
                f"{problem}: the context variable for {name!r} in carry= has a value of the class "
                f"{shown(type_name(value))}, and only a str can be carried"
            )
    return found


def check_queues(queues: Iterable[Queue]) -> tuple[Queue, ...]:
    """Return the queues of a host as a tuple.

    :raises TypeError: if an element is no `Queue`, or a class attribute has the wrong type
    :raises ValueError: if two queues have the same name, or the same function; if a class attribute is out of its range
    """
    found = listed("queues", queues, Queue)
    names: set[str] = set()
    takers: dict[int, Queue] = {}
    for queue in found:
        _check_attributes(queue)
        if queue.name in names:
            raise ValueError(f"two queues have the name {queue.name!r}")
        names.add(queue.name)
        for func in queue.functions:
            if (other := takers.setdefault(id(func), queue)) is not queue:
                raise ValueError(f"{shown(name_of(func))} is in two queues, {other.name!r} and {queue.name!r}")
    return found


def _check_attributes(queue: Queue) -> None:
    check_count("attempts_at_once", queue.attempts_at_once, least=1)
    if unknown := [name for name in listed("maps", queue.maps) if name not in TaskConfig.__match_args__]:
        raise ValueError(f"maps of {queue!r} has {unknown[0]!r}, which is no setting: write maps = {{'timeout'}}")
    if not isinstance(cast("object", queue.system), str | None):
        raise TypeError(f"system must be a str, not {queue.system!r}")


def queue_of(config: TaskConfig) -> Queue | None:
    """Return the queue that a task with this `config` is handed over to; None if the task runs in this program."""
    queue = config.queue
    return cast("Queue", queue) if isinstance(queue, AnyQueue) else None


def trace_headers(carried: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of the current trace (W3C), if the program has loaded OpenTelemetry; otherwise an empty dict.

    :param carried: other headers. If the program puts a trace into them, the answer is an empty dict, too
    """
    if "opentelemetry.trace" not in sys.modules or any(name.lower() == "traceparent" for name in carried):
        return {}
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
