"""`.schedule` and `.task`, and what the latter returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from ._machine.calling import Handle
from ._machine.config import UNSET, TaskConfig, When
from ._task import Task, TaskErrorHandler, TaskRetryPolicy

if TYPE_CHECKING:
    from ._scheduler import TasksScheduler

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=Handle)
Definition = TypeVar("Definition")


class Schedules(ABC, Generic[Definition]):
    """`.schedule` and `.task`, and what the latter returns."""

    __slots__ = ()

    @overload
    def schedule(self, func: Callable[P, H], /, *args: P.args, **kwargs: P.kwargs) -> Task[H]: ...
    @overload
    def schedule(self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    @overload
    def schedule(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    def schedule(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Schedule `func(*args, **kwargs)`. From the event loop or from any other thread; no checkpoint; the task never
        starts inside this call.

        :param func: any callable; what is not an `async def` runs in a thread. An awaitable that it returns is awaited,
            unless the awaitable can be cancelled: such a handle (a `Task`, a Future) is the result
        :return: its handle
        :raises TypeError: if `func` is not callable, or does not take these arguments
        :raises TasksClosedError: if tasks are no longer taken
        :raises TasksSaturatedError: if `max_pending` tasks are pending
        """
        return self._schedule(UNSET, func, args, kwargs)

    def task(
        self,
        *,
        name: str | None = None,
        shield: bool | float | None = None,
        on_error: TaskErrorHandler | None = None,
        when: When | None = None,
        timeout: float | None = None,
        retry: TaskRetryPolicy | None = None,
    ) -> Definition:
        """Return `.schedule`, and whatever else this has of it, with settings that win over those of this.

        Parameters and errors: see `TaskConfig`.
        """
        return self._define(
            TaskConfig(name=name, shield=shield, on_error=on_error, when=when, timeout=timeout, retry=retry)
        )

    @abstractmethod
    def _define(self, config: TaskConfig) -> Definition: ...

    @abstractmethod
    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]: ...


class TaskDefinition(Schedules["TaskDefinition"]):
    """`.schedule` with settings: what `.task(...)` returns. It changes nothing, and may be kept and used again."""

    __slots__ = ("_config", "_target")

    def __init__(self, target: Schedules[Any], config: TaskConfig) -> None:
        self._target = target
        self._config = config

    def _define(self, config: TaskConfig) -> TaskDefinition:
        return TaskDefinition(self._target, self._config.merge(config))

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        return self._target._schedule(self._config.merge(config), func, args, kwargs)


class ScopedTaskDefinition(Schedules["ScopedTaskDefinition"]):
    """A definition whose tasks can be scheduled for each phase of a scope: what `tasks.task(...)` returns."""

    __slots__ = ("_config", "_scheduler")

    def __init__(self, scheduler: TasksScheduler, config: TaskConfig) -> None:
        self._scheduler = scheduler
        self._config = config

    @property
    def after_route(self) -> TaskDefinition:
        """The same settings, for tasks that start when the route has returned."""
        return TaskDefinition(self._scheduler.after_route, self._config)

    @property
    def after_response(self) -> TaskDefinition:
        """The same settings, for tasks that start when the scope is over."""
        return TaskDefinition(self._scheduler.after_response, self._config)

    def _define(self, config: TaskConfig) -> ScopedTaskDefinition:
        return ScopedTaskDefinition(self._scheduler, self._config.merge(config))

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        return self._scheduler._schedule(self._config.merge(config), func, args, kwargs)
