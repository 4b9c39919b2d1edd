"""`TaskiqQueue`: hands tasks over to the workers of a Taskiq broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from copy import deepcopy
from datetime import timedelta
from functools import wraps
from typing import Any, Literal

from anyio import get_cancelled_exc_class, move_on_after

from . import _engines
from ._drive import report
from ._machine.calling import is_async, name_of, shown, type_name
from .queues import Call

try:
    import taskiq
except ImportError as _missing:
    raise ImportError("taskphase.taskiq needs the package taskiq: pip install taskiq taskiq-redis") from _missing

from taskiq.labels import prepare_label
from taskiq.utils import maybe_awaitable

__all__ = ["TaskiqQueue"]

# The most attempts in one turn of the event loop, when a broker is back. redis-py takes 0.3 ms for each.
_AT_ONCE = 32
# Seconds for the shutdown of a broker that could not be started.
_LONGEST_SHUTDOWN = 0.5
# Taskiq renames a decorated function, and its object gets the new name.
_RENAMED = "__taskiq_original"
# These labels are objects of the program, and stay in the program.
_LOCAL_LABELS = frozenset({"types_of_exceptions"})
_FROM_THE_START = ("0", "0-0")
# The names in OpenTelemetry, by the package of the broker.
_SYSTEMS = {"taskiq_redis": "redis", "taskiq_aio_pika": "rabbitmq"}

_RUNNING: ContextVar[AbstractContextManager[object]] = ContextVar("taskphase_taskiq_running")


class TaskiqQueue(_engines.EngineQueue):
    """Hands tasks over to the workers of a Taskiq broker. Make it in a module that program and workers import: the
    constructor registers the functions with the broker, each under the name of the function with its module.

    - Tasks that are decorated with `@broker.task` need not be listed, and keep their names. The same goes for a shared
      task whose default broker this is.
    - The queue starts the broker in the program when it is first needed, and shuts it down. Do not start it yourself.
      A startup that fails is undone by a shutdown, and tried again. A broker belongs to one event loop at a time.
    - `.task(timeout=)` becomes the label `timeout`. Options of functions are labels: `{send_mail: {"priority": 3}}`.

    After publishing the promise is the broker's. A `RedisStreamBroker` runs the task of a worker that is killed again
    after `idle_timeout`, with the next message; it never deletes messages without `maxlen`. Other brokers for Redis
    lose such a task. A Redis without an append-only file loses its messages in a crash. A worker that does not know the
    name drops the message: deploy workers first.

    :param broker: a Taskiq broker
    :param functions: functions at the top of a module, or a dict of functions, with the labels of each
    :param name: in messages, records and telemetry; default: the name of the broker's queue
    :raises ValueError: if the broker would lose messages silently; the message says which setting helps
    """

    maps: frozenset[str] = frozenset({"timeout"})
    _decorated = "original_func"

    def __init__(
        self,
        broker: taskiq.AsyncBroker,
        functions: Iterable[Callable[..., Any]] | Mapping[Callable[..., Any], Mapping[str, Any]] = (),
        *,
        name: str | None = None,
        deadline: float | timedelta = 10,
        attempt_timeout: float | timedelta = 3,
        fallback: Literal["here"] | None = None,
        carry: Mapping[str, ContextVar[Any]] | None = None,
    ) -> None:
        if not isinstance(broker, taskiq.AsyncBroker):
            raise TypeError(f"broker must be a Taskiq broker, not {shown(type_name(broker))}")
        _check_broker(broker)
        self.broker = broker
        super().__init__(
            (getattr(broker, "queue_name", None) or "taskiq") if name is None else name,
            functions,
            deadline=deadline,
            attempt_timeout=attempt_timeout,
            fallback=fallback,
            carry=carry,
        )
        pool: Any = getattr(broker, "connection_pool", None)
        self.attempts_at_once: int = min(_AT_ONCE, getattr(pool, "max_connections", _AT_ONCE))
        packages = [base.__module__.partition(".")[0] for base in type(broker).__mro__]
        self.system: str | None = self.system or next((_SYSTEMS[each] for each in packages if each in _SYSTEMS), None)
        self._set_up(errors_are_sure=_is_without_retries(pool))
        broker.add_middlewares(_WorkerSide(self))

    def check_loop(self, backend: str) -> None:
        """Refuse trio."""
        if backend != "asyncio":
            raise RuntimeError(
                f"TaskiqQueue {self.name!r} works only on asyncio, because Taskiq does. On {backend} use "
                "taskphase.celery.CeleryQueue, or make a Queue for streaQ, whose client works on both"
            )

    async def publish(self, prepared: taskiq.TaskiqMessage, headers: Mapping[str, str], /) -> None:
        """Publish the message, through the middlewares of the broker."""
        middlewares: list[Any] = self.broker.middlewares
        labels = {**self._outward(headers), **prepared.labels}
        # Copies: middlewares may change the arguments in place, and the next attempt needs the first ones.
        given = [*prepared.args], {**prepared.kwargs}
        args, kwargs = given if _engines.are_immutable(*given) else deepcopy(given)
        message = prepared.model_copy(update={"labels": labels, "args": args, "kwargs": kwargs})
        for middleware in middlewares:
            message = await maybe_awaitable(middleware.pre_send(message))
        await self.broker.kick(self.broker.formatter.dumps(message))
        for middleware in reversed(middlewares):
            try:
                await maybe_awaitable(middleware.post_send(message))
            # A failure of the attempt, also by its timeout, would publish the message again.
            except (Exception, get_cancelled_exc_class(), SystemExit) as exc:
                report.failed_after_publishing(self.name, exc)

    async def open(self) -> None:
        """Start the broker. In a worker its own program has started it."""
        if not self.broker.is_worker_process:
            try:
                await self.broker.startup()
            except BaseException:  # the next attempt starts the broker from the beginning
                with move_on_after(_LONGEST_SHUTDOWN, shield=True):
                    await self.broker.shutdown()
                raise

    async def close(self) -> None:
        """Shut the broker down."""
        if not self.broker.is_worker_process:
            await self.broker.shutdown()

    def _own(self, func: Any) -> Any:
        # The class, not `isinstance()`, which asks the object: it may be any callable of the user.
        # (A shared task has a broker of its own, beside its default broker.)
        if not issubclass(type(func), taskiq.AsyncTaskiqDecoratedTask) or func.kicker().broker is not self.broker:
            return None
        func.__qualname__ = func.__qualname__.removesuffix(_RENAMED)
        return func

    def _register(self, func: Callable[..., Any]) -> Any:
        # A wrapper: Taskiq renames what it registers.
        @wraps(func)
        def run(*args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs)

        @wraps(func)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            return await func(*args, **kwargs)

        return self.broker.register_task(run_async if is_async(func) else run, name_of(func))

    def _message(self, call: Call, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> taskiq.TaskiqMessage:
        given = {**task.labels, **call.options, **call.settings}
        labels = {key: prepare_label(value) for key, value in given.items() if key not in _LOCAL_LABELS}
        message = taskiq.TaskiqMessage(
            task_id=call.id,
            task_name=task.task_name,
            labels={key: text for key, (text, _) in labels.items()},
            labels_types={key: kind for key, (_, kind) in labels.items()},
            args=list(args),
            kwargs=dict(kwargs),
        )
        dumped = self.broker.formatter.dumps(message)
        if _engines.are_immutable(message.args, message.kwargs):
            return message
        return self.broker.formatter.loads(dumped.message)


class _WorkerSide(taskiq.TaskiqMiddleware):
    """Surrounds the tasks of one queue with `running()`, in a worker. Taskiq calls both methods in the context of the
    function.
    """

    def __init__(self, queue: TaskiqQueue) -> None:
        super().__init__()
        self._queue = queue

    def pre_execute(self, message: taskiq.TaskiqMessage) -> taskiq.TaskiqMessage:
        """Enter the context of the task."""
        labels = message.labels
        if _engines.has_sent(self._queue, labels):
            task: Any = self.broker.find_task(message.task_name)
            function = name_of(task).removesuffix(_RENAMED)
            attempt = int(labels.get("_retries", 0)) + 1
            _RUNNING.set(_engines.enter(self._queue, function, message.task_id, labels, attempt))
        return message

    def post_execute(self, message: taskiq.TaskiqMessage, result: taskiq.TaskiqResult[Any]) -> None:
        """Leave the context of the task."""
        if _engines.has_sent(self._queue, message.labels):
            _engines.leave(_RUNNING.get(), result.error)


def _check_broker(broker: taskiq.AsyncBroker) -> None:
    kind: Any = getattr(broker, "consumer_id", _FROM_THE_START[0])
    if kind not in _FROM_THE_START:
        raise ValueError(
            f"{type(broker).__name__}(consumer_id={kind!r}) would lose each message that is published before its group "
            "of workers exists, for example after a restart of an empty Redis: set consumer_id='0'"
        )
    if any("PubSub" in base.__name__ for base in type(broker).__mro__):
        raise ValueError(
            f"{type(broker).__name__} loses each message that no worker is waiting for: use RedisStreamBroker, with "
            "consumer_id='0'"
        )


def _is_without_retries(pool: Any) -> bool:
    """Return whether `pool` is a pool of redis-py whose connections try each command once, as is the default."""
    settings: Any = getattr(pool, "connection_kwargs", None)
    return settings is not None and not any(
        settings.get(key) for key in ("retry", "retry_on_timeout", "retry_on_error")
    )
