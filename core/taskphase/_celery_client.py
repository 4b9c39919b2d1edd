"""The connections of `CeleryQueue`: the threads that publish, and the settings of the app that bound an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu import pools

from ._daemons import Daemons

# Threads for publishing. Celery's client is sync, and more threads would only wait for the interpreter's lock.
THREADS = 4
_ProducerPool: Any = pools.ProducerPool  # has no types


class Message:
    """A call that is to be published.

    :ivar is_busy: True while a thread publishes it
    :ivar is_published: True if Celery has returned
    """

    __slots__ = ("args", "is_busy", "is_published", "kwargs", "options", "task")

    def __init__(self, task: Any, args: list[Any], kwargs: dict[str, Any], options: Mapping[str, Any]) -> None:
        self.task: Any = task
        self.args: list[Any] = args
        self.kwargs: dict[str, Any] = kwargs
        self.options: Mapping[str, Any] = options
        self.is_busy: bool = False
        self.is_published: bool = False

    def rest(self) -> None:
        """Note that no thread publishes the message."""
        self.is_busy = False


class Client:
    """The threads and connections of one event loop.

    Without the pool of the app: its connections wait between tries, in the thread, and other code may hold them all.
    """

    def __init__(self, connection: Any, app: Any) -> None:
        self.threads = Daemons(THREADS, "taskphase-celery")
        self._pool = _ProducerPool(connection.Pool(THREADS), THREADS, Producer=app.amqp.Producer)

    def send(self, message: Message, headers: Mapping[str, str]) -> None:
        """Publish, in a thread."""
        try:
            options: dict[str, Any] = dict(message.options)
            # Celery would subscribe to the result, on a connection whose timeouts are not checked. No code here waits
            # for the result. The header tells the worker to store it.
            more = {"ignore_result": options.pop("ignore_result"), **headers, **options.pop("headers", {})}
            with self._pool.acquire(block=True) as producer:
                message.task.apply_async(
                    message.args,
                    message.kwargs,
                    producer=producer,
                    retry=False,
                    headers=more,
                    ignore_result=True,
                    add_to_parent=False,
                    **options,
                )
            message.is_published = True
        finally:
            message.rest()

    def close(self) -> None:
        """Close the connections, in a thread."""
        self._pool.force_close_all()
        self._pool.connections.force_close_all()


def connection_of(app: Any) -> Any:
    """Return a connection, not yet connected, which tries each of its hosts once."""
    if app.conf.task_always_eager:
        raise ValueError(
            "task_always_eager=True runs tasks in this program, in the middle of an attempt to publish: set it to "
            "False, or give the host queues=[] to run tasks here"
        )
    hosts = len(app.connection_for_write().alt) or 1
    once = {"max_retries": hosts - 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    return app.connection_for_write(transport_options=once)


def longest_attempt(app: Any, connection: Any) -> float | None:
    """Return the most seconds that publishing waits for sockets; None if that is not known.

    :raises ValueError: if publishing may wait for ever, or Celery would not wait for the broker's answer
    """
    options: Mapping[str, Any] = connection.transport_options
    hosts = len(connection.alt) or 1
    match connection.transport.driver_type:
        case "redis":
            _require("Redis", options, {"socket_timeout": 2, "socket_connect_timeout": 2})
            return float(options["socket_connect_timeout"] * hosts + options["socket_timeout"])
        case "amqp":
            _require("RabbitMQ", options, {"read_timeout": 2, "write_timeout": 2, "confirm_publish": True})
            timeout = app.conf.broker_connection_timeout
            if not timeout:
                raise ValueError(f"broker_connection_timeout={timeout!r} would wait for ever: set it to 2")
            return float(timeout * hosts + options["read_timeout"] + options["write_timeout"])
        case "memory":
            return 0.0
        case _:
            return None


def _require(transport: str, options: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    missing = [key for key in wanted if not options.get(key)]
    if missing:
        why = (
            "publishing would not wait for the broker's answer"
            if missing == ["confirm_publish"]
            else ("a thread that publishes could wait for ever")
        )
        raise ValueError(
            f"the Celery app lacks {', '.join(missing)} for {transport}: {why}. Set "
            f"app.conf.broker_transport_options = {dict(wanted)} before you make the CeleryQueue"
        )
