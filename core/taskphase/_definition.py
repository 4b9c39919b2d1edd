"""`.schedule()` and `.task()`, and the object that `.task()` returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from ._machine.calling import Handle
from ._machine.config import UNSET, TaskConfig, When
from ._task import Task, TaskErrorHandler, TaskRetryPolicy

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=Handle)
Definition = TypeVar("Definition")


class Schedules(ABC, Generic[Definition]):
    """An object with `.schedule()` and `.task()`."""

    __slots__ = ()

    @overload
    def schedule(self, func: Callable[P, H], /, *args: P.args, **kwargs: P.kwargs) -> Task[H]: ...
    @overload
    def schedule(self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    @overload
    def schedule(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...
    def schedule(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Schedule `func(*args, **kwargs)`. From any thread; no checkpoint. The task never starts inside this call.

        :param func: any callable; a callable that is not an `async def` runs in a thread. If `func` returns an
            awaitable, the task awaits it; but an awaitable with `cancel()` (a `Task`, a Future) is itself the result
        :return: the handle of the task
        :raises TypeError: if `func` is not callable, or does not accept these arguments
        :raises TasksClosedError: if the host takes no more tasks; nothing was scheduled
        :raises TasksSaturatedError: if `max_pending` tasks are pending already; nothing was scheduled
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
        """Return an object with the same methods and phases. Its settings override the settings of this object.

        For the parameters and errors see `TaskConfig`.
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
    """`.schedule()` with settings: the result of `.task(...)`. Immutable, and reusable."""

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
