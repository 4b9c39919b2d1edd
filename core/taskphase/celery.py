"""`CeleryQueue`: hands tasks over to the workers of a Celery app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from functools import partial, wraps
from typing import Any, Literal

import anyio
from anyio.lowlevel import RunVar

from . import _engines
from ._machine.calling import is_async, name_of, shown, type_name
from ._machine.text import plain
from .queues import Call

try:
    import celery
except ImportError as _missing:
    raise ImportError("taskphase.celery needs the package celery: pip install celery[redis]") from _missing

from celery import signals
from celery.local import Proxy
from kombu import serialization

from ._celery_client import THREADS, Client, Message, connection_of, refuse_eager

__all__ = ["CeleryQueue"]

# Seconds of an attempt beside the waits for the sockets.
_MARGIN = 1.0
# These options are the queue's own.
_OWN_OPTIONS = frozenset(
    {"args", "kwargs", "task_id", "task_type", "retry", "retry_policy"}
    | {"producer", "publisher", "connection", "add_to_parent"}
)
# Neither package has types.
_signals: Any = signals
_serialization: Any = serialization
# The names in OpenTelemetry, by the kind of the transport.
_SYSTEMS = {"redis": "redis", "amqp": "rabbitmq"}
_STATE = "_taskphase_running"  # an attribute of Celery's request, for the time of its run


class CeleryQueue(_engines.EngineQueue):
    """Hands tasks over to the workers of a Celery app. Make it in a module that program and workers import, after the
    settings of the app: the constructor checks them, and registers the functions, each under the name of the function
    with its module.

    - Tasks that are decorated with `@app.task` or `@shared_task` need not be listed, and keep their names.
    - Works on asyncio and on trio. Publishes in four threads of its own, with connections of its own, and never in the
      event loop.
    - The options of a function are options of `apply_async()`: `{send_mail: {"priority": 3, "time_limit": 60}}`.
    - An `async def` runs in the worker by `anyio.run()`.

    After publishing the promise is Celery's. Set `task_acks_late=True` and `task_reject_on_worker_lost=True`: otherwise
    the task of a worker that is killed is lost. A Redis without an append-only file loses its messages in a crash. With
    Redis, Celery can also lose a message that a worker takes at the moment when worker or Redis is killed, or when the
    Redis is full. A worker that does not know the name drops the message: deploy workers first.

    :param app: a Celery app. The connections of the queue, not of workers, have timeouts of two seconds, and with
        RabbitMQ `confirm_publish`, unless `broker_transport_options` of the app set others. Leave them out: workers
        would have them, too, and a worker of Celery whose acknowledgement gets no answer in time may take no further
        messages
    :param functions: functions at the top of a module, or a dict of functions, with the options of each
    :param name: in messages, records and telemetry; default: the name of the app's default queue
    :param attempt_timeout: more than the timeouts of the sockets and one second, because a thread that publishes cannot
        be stopped. Default: these timeouts and two seconds
    :raises ValueError: if the settings of the app do not bound an attempt, or would lose messages silently; the message
        says which setting helps
    """

    _decorated = "run"

    def __init__(
        self,
        app: celery.Celery,
        functions: Iterable[Callable[..., Any]] | Mapping[Callable[..., Any], Mapping[str, Any]] = (),
        *,
        name: str | None = None,
        deadline: float | timedelta = 10,
        attempt_timeout: float | timedelta | None = None,
        fallback: Literal["here"] | None = None,
        carry: Mapping[str, ContextVar[Any]] | None = None,
    ) -> None:
        if not isinstance(app, celery.Celery):
            raise TypeError(f"app must be a Celery app, not {shown(type_name(app))}")
        self.app: Any = app
        self.__connection, longest = connection_of(app)
        if longest is None and attempt_timeout is None:
            raise ValueError(
                f"the timeouts of the transport {self.__connection.transport_cls!r} are not known: give "
                "attempt_timeout=, longer than publishing may take at most"
            )
        super().__init__(
            self.app.conf.task_default_queue if name is None else name,
            functions,
            deadline=deadline,
            attempt_timeout=(longest or 0) + 2 * _MARGIN if attempt_timeout is None else attempt_timeout,
            fallback=fallback,
            carry=carry,
        )
        if longest is not None and self.attempt_timeout <= longest + _MARGIN:
            raise ValueError(
                f"attempt_timeout={plain(self.attempt_timeout)} is too short: publishing may wait {plain(longest)} s "
                f"for sockets, and a thread cannot be stopped. Set more than {plain(longest + _MARGIN)}, or shorter "
                "timeouts in broker_transport_options"
            )
        self.attempts_at_once: int = THREADS
        self.system: str | None = self.system or _SYSTEMS.get(self.__connection.transport.driver_type)
        self.__clients: RunVar[Client] = RunVar("taskphase_celery_client")
        for func in self.functions:
            if own := _OWN_OPTIONS & self.options_of(func).keys():
                raise ValueError(f"the options of {shown(name_of(func))} contain {sorted(own)}, which the queue sets")
        self._set_up(errors_are_sure=not self.__connection.transport_options.get("retry_on_timeout"))
        # Celery calls the receivers of signals in the thread of the function, before and after it.
        _signals.task_prerun.connect(self._note_begin, weak=False)
        _signals.task_postrun.connect(self._note_end, weak=False)

    def check_loop(self, backend: str) -> None:  # noqa: ARG002 - Celery works on both
        """Refuse an app that tests have made eager since the constructor: it would run a task with each attempt."""
        refuse_eager(self.app)

    async def publish(self, prepared: Message, headers: Mapping[str, str], /) -> None:
        """Publish the message in a thread. An attempt that was given up may go on there: then this attempt fails."""
        if not prepared.is_published:
            client = self.__clients.get()
            await client.threads.call(partial(client.send, prepared, self._outward(headers)))

    async def open(self) -> None:
        """Make the threads. They connect later."""
        self.__clients.set(Client(self.__connection, self.app))

    async def close(self) -> None:
        """Close the connections, and let the threads end."""
        client = self.__clients.get()
        try:
            await client.threads.call(client.close)
        finally:
            client.threads.end()

    def _own(self, func: Any) -> Any:
        # The class first: `isinstance()` asks the object, which may be any callable of the user.
        if not (issubclass(type(func), celery.Task | Proxy) and isinstance(func, celery.Task)):
            return None
        task: Any = func
        if type(task) is Proxy:  # of `shared_task`, which asks for the task of the current app of this thread
            return self.app.tasks.get(task.name)
        return task if task.app is self.app else None

    def _register(self, func: Callable[..., Any]) -> Any:
        # A wrapper, because Celery cannot call async functions. The core has checked the arguments.
        asynchronous = is_async(func)

        @wraps(func)
        def run(*args: Any, **kwargs: Any) -> Any:
            return anyio.run(partial(func, *args, **kwargs)) if asynchronous else func(*args, **kwargs)

        return self.app.task(name=name_of(func), shared=False, typing=False)(run)

    def _message(self, call: Call, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Message:
        serializer: str = call.options.get("serializer") or task.serializer or self.app.conf.task_serializer
        arguments: Any = (list(args), dict(kwargs))
        kind, encoding, data = _serialization.dumps(arguments, serializer)
        if not _engines.are_immutable(args, kwargs):
            arguments = _serialization.loads(data, kind, encoding, accept=[kind])
        # RabbitMQ would confirm a message whose queue was deleted, and forget the message. With `mandatory` the attempt
        # fails, and the next one declares the queue again.
        options = {"ignore_result": task.ignore_result, "mandatory": True, **call.options, "task_id": call.id}
        return Message(task, arguments, options)

    def _note_begin(self, task: Any, **_: Any) -> None:
        """Enter the context of a task of this queue, in a worker."""
        request = task.request
        headers: dict[str, Any] = request.headers or {}
        if task.app is self.app and _engines.has_sent(self, headers):
            context = _engines.enter(self, name_of(task), request.id, headers, request.retries + 1)
            setattr(request, _STATE, (self, context))

    def _note_end(self, task: Any, retval: Any, **_: Any) -> None:
        """Leave the context of a task of this queue, in a worker."""
        begun: tuple[Any, Any] = getattr(task.request, _STATE, (None, None))
        if begun[0] is self:
            delattr(task.request, _STATE)
            _engines.leave(begun[1], retval if isinstance(retval, BaseException) else None)
