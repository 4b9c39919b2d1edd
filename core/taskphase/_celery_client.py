"""The connections of `CeleryQueue`: the threads that publish, and the settings of the app that bound an attempt."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from kombu import pools

from ._daemons import Daemons

# Threads for publishing. Celery's client is sync, and more threads would only wait for the interpreter's lock.
THREADS = 4
# The options of a transport, by its kind, where the app sets none. Times in seconds: a broker that works answers in
# milliseconds.
_BOUNDS: Mapping[str, Mapping[str, Any]] = {
    "redis": {"socket_timeout": 2, "socket_connect_timeout": 2},
    "amqp": {"read_timeout": 2, "write_timeout": 2, "confirm_publish": True},
}
_ProducerPool: Any = pools.ProducerPool  # has no types


@dataclass(eq=False, repr=False, slots=True)  # no text has the arguments: they may be secret
class Message:
    """A call that is to be published.

    :ivar arguments: the positional arguments and the keyword arguments
    :ivar lock: held by the thread that publishes it
    :ivar is_published: True if the broker has it
    """

    task: Any
    arguments: tuple[list[Any], dict[str, Any]]
    options: Mapping[str, Any]
    lock: Lock = field(default_factory=Lock)
    is_published: bool = False


class Client:
    """The threads and connections of one event loop.

    Without the pool of the app: its connections wait between tries, in the thread, and other code may hold them all.
    """

    def __init__(self, connection: Any, app: Any) -> None:
        self.threads = Daemons(THREADS, "taskphase-celery")
        self._pool = _ProducerPool(connection.Pool(THREADS), THREADS, Producer=app.amqp.Producer)

    def send(self, message: Message, headers: Mapping[str, str]) -> None:
        """Publish, in a thread, if no earlier attempt has published.

        :raises TimeoutError: if another thread still publishes the message
        """
        if not message.lock.acquire(blocking=False):
            raise TimeoutError("an earlier attempt has not ended")
        try:
            if message.is_published:
                return
            options: dict[str, Any] = dict(message.options)
            # Celery would subscribe to the result, on a connection whose timeouts are not checked. No code here waits
            # for the result. The header tells the worker to store it.
            more = {"ignore_result": options.pop("ignore_result"), **headers, **options.pop("headers", {})}
            # A copy: receivers of signals may change the arguments, and the next attempt needs the first ones.
            args, kwargs = deepcopy(message.arguments)
            with self._pool.acquire(block=True) as producer, _noting(message, producer):
                message.task.apply_async(
                    args,
                    kwargs,
                    producer=producer,
                    retry=False,
                    headers=more,
                    ignore_result=True,
                    add_to_parent=False,
                    **options,
                )
        finally:
            message.lock.release()

    def close(self) -> None:
        """Close the connections, in a thread."""
        self._pool.connections.force_close_all()


@contextmanager
def _noting(message: Message, producer: Any) -> Generator[None]:
    """Let `producer` note when the broker has the message: a receiver of Celery's signals that fails after that must
    not lead to a second publication.
    """
    publish = producer.publish

    def publish_and_note(*args: Any, **options: Any) -> None:
        publish(*args, **options)
        message.is_published = True

    producer.publish = publish_and_note
    try:
        yield
    finally:
        del producer.publish


def connection_of(app: Any) -> tuple[Any, float | None]:
    """Return a connection, not yet connected, which tries each of its hosts once, with bounded waits; and the most
    seconds that publishing waits for sockets, or None if that is not known.

    The bounds are not for the connections of workers. A worker whose acknowledgement gets no answer in time keeps the
    place of its message for ever, and takes no further messages when no place is left (Celery 5.7).

    :raises ValueError: if publishing may wait for ever, or Celery would not wait for the broker's answer
    """
    refuse_eager(app)
    of_app = app.connection_for_write()
    hosts, driver = len(of_app.alt) or 1, of_app.transport.driver_type
    options: dict[str, Any] = {**_BOUNDS.get(driver, {}), **of_app.transport_options, "max_retries": hosts - 1}
    _check_bounds(driver, options)
    return app.connection_for_write(transport_options=options), _longest_attempt(app, driver, options, hosts)


def refuse_eager(app: Any) -> None:
    """Refuse, by a `ValueError`, an app that runs its tasks where they are published."""
    if app.conf.task_always_eager:
        raise ValueError(
            "task_always_eager=True runs tasks in this program, in the middle of an attempt to publish: set it to "
            "False, or give the host queues=[] to run tasks here"
        )


def _check_bounds(driver: str, options: Mapping[str, Any]) -> None:
    off = {key: options[key] for key in _BOUNDS.get(driver, ()) if not options[key]}
    if off:
        why = (
            "publishing would not wait for the broker's answer"
            if off.keys() == {"confirm_publish"}
            else "a thread that publishes could wait for ever"
        )
        raise ValueError(
            f"with {off} in broker_transport_options of the Celery app {why}: leave them out, and CeleryQueue sets its "
            "own"
        )


def _longest_attempt(app: Any, driver: str, options: Mapping[str, Any], hosts: int) -> float | None:
    match driver:
        case "redis":
            return float((options["socket_connect_timeout"] + options["socket_timeout"]) * hosts)
        case "amqp":
            timeout = app.conf.broker_connection_timeout
            if not timeout:
                raise ValueError(f"broker_connection_timeout={timeout!r} would wait for ever: set it to 2")
            read = options["read_timeout"]
            # Closing a connection that does not answer waits for two more answers. Then connecting has not waited.
            return float(max(timeout * hosts, 2 * read) + read + options["write_timeout"])
        case "memory":
            return 0.0
        case _:
            return None
