"""`.schedule()` and `.task()`, and the object that `.task()` returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar, cast, overload

from ._drive.portable import refuse_async
from ._machine.calling import Handle
from ._machine.config import UNSET, AnyQueue, Here, RunIn, TaskConfig, When
from ._machine.hints import Elsewhere, HidesElsewhere, keywords_of, refuse_call, without_elsewhere
from ._machine.limit import Limit
from ._task import Task

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=Handle)
Definition = TypeVar("Definition")

_NO_PHASES = ".schedule(f, ...). For a phase take `tasks: Tasks`, or `async with host.scope() as tasks`"

TaskErrorHandler: TypeAlias = Callable[[Task[Any], Exception], object]
"""The type of `on_error`: sync or async, called with the task and its exception. The return value means nothing."""

TaskRetryPolicy: TypeAlias = Callable[[Task[Any], Exception], float | timedelta | None]
"""The type of `retry`: called with the task and the exception of an attempt. Returns the pause before the next attempt,
in seconds or as a `timedelta`, or None for no further attempt.
"""


class Schedules(ABC, Generic[Definition], metaclass=HidesElsewhere):
    """An object with `.schedule()` and `.task()`."""

    __slots__ = ()

    if not TYPE_CHECKING:  # type checkers and completion must not know these names
        add_task = Elsewhere(".schedule(f, ...)")
        create_task = Elsewhere(".schedule(f, ...)")
        start_soon = Elsewhere(".schedule(f, ...)")
        after_route = Elsewhere(_NO_PHASES)
        after_response = Elsewhere(_NO_PHASES)

        def __dir__(self) -> list[str]:
            return without_elsewhere(type(self), super().__dir__())

    @overload
    def schedule(self, func: Callable[P, H], /, *args: P.args, **kwargs: P.kwargs) -> Task[H]: ...
    @overload
    def schedule(self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    @overload
    def schedule(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    def schedule(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Schedule `func(*args, **kwargs)`, and return its `Task` at once. From any thread; no checkpoint.

        The task never starts inside this call:

        - `tasks.schedule(f, x)`, `host.schedule(f, x)`: the task starts at once, beside the endpoint.
        - `tasks.after_route.schedule(f, x)`: before the response, when the endpoint has returned.
        - `tasks.after_response.schedule(f, x)`: after the response, when the request is over.

        The task sees the context variables of this call. Settings go before: `tasks.task(timeout=5).schedule(f, x)`.

        :param func: an `async def`; or any other callable, which runs in a thread. If `func` returns an awaitable, the
            task awaits it; but an awaitable with `cancel()` (a `Task`, a Future) is itself the result
        :param args: the arguments of `func`; hand over ids and not database sessions, which FastAPI closes
        :param kwargs: the keyword arguments of `func`
        :return: the task; `await` it for the result, or ignore it
        :raises TypeError: if `func` is not callable, does not accept these arguments, or is async after
            `.task(run_in="process")`
        :raises TasksUnportableError: for a process, a queue or a journal, if another process cannot make the call
        :raises TasksClosedError: if the host takes no more tasks; nothing was scheduled
        :raises TasksSaturatedError: if `max_pending` tasks are pending already; nothing was scheduled
        """
        return self._schedule(UNSET, func, args, kwargs)

    @keywords_of(".task()", ".task(timeout=5).schedule(f, ...)")
    def task(
        self,
        *,
        name: str | None = None,
        shield: bool | float | timedelta | None = None,
        on_error: TaskErrorHandler | None = None,
        when: When | None = None,
        timeout: float | timedelta | None = None,
        retry: TaskRetryPolicy | None = None,
        delay: float | timedelta | None = None,
        limit: Limit | None = None,
        run_in: RunIn | None = None,
        key: str | None = None,
        queue: AnyQueue | Here | None = None,
    ) -> Definition:
        """Return an object with the same methods, and with these settings: `tasks.task(timeout=5).schedule(f, x)`.

        The result has `.schedule()`, and in an endpoint `.after_route.schedule()` and `.after_response.schedule()` too.
        A setting that you leave out is inherited, in the end from `add_tasks(app, config=...)`.

        :param name: for logs and for `host.tasks()`; default: the name of the function
        :param shield: True: the shutdown of the server waits for the task. A number: it waits that many seconds
        :param on_error: called once with `(task, exception)` when the task has failed for good; sync or async
        :param when: "success" (the default): run only if the endpoint returns. "failure": only if it raises.
            "always": in both cases. For `.after_route` and `.after_response`
        :param timeout: the most seconds for one attempt, which then fails with `TimeoutError`
        :param retry: a policy for further attempts, such as `retry(attempts=5)`
        :param delay: seconds from the beginning of the phase to the start
        :param limit: a `Limit(n)`, shared by all tasks of which at most `n` may run at a time
        :param run_in: "process": call a sync function in a worker process, for work that needs the CPU. Function and
            arguments are pickled in `schedule()`; a cancellation kills the process. "thread": the default
        :param key: at most one task of this function with this key waits or runs; a later one is dropped
        :param queue: "here": run the task in this program, although a queue takes its function
        :raises TypeError: if a setting has the wrong type
        :raises ValueError: if a setting is out of its range
        """
        return self._define(TaskConfig(name, shield, on_error, when, timeout, retry, delay, limit, run_in, key, queue))

    @abstractmethod
    def _define(self, config: TaskConfig) -> Definition: ...

    @abstractmethod
    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]: ...


class Configured(Schedules[Definition]):
    """`.schedule()` with settings: the result of `.task(...)`. Immutable, and reusable."""

    __slots__ = ("_config", "_target")

    if not TYPE_CHECKING:
        __call__ = refuse_call

    def __init__(self, target: Schedules[Any], config: TaskConfig) -> None:
        self._target: Any = target
        self._config = config

    def _define(self, config: TaskConfig) -> Definition:
        return cast("Definition", type(self)(self._target, self._config.merge(config)))

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        config = self._config.merge(config)
        refuse_async(config, func)
        task: Task[Any] = self._target._schedule(config, func, args, kwargs)
        return task


class TaskDefinition(Configured["TaskDefinition"]):
    """`.schedule()` with settings, for one phase."""

    __slots__ = ()
