"""`TasksScheduler`: for an endpoint, and for a program with a task group of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import finalize

from anyio.abc import TaskGroup

from ._batch import SchedulesPhases
from ._drive.current import running_host, scope_here
from ._drive.on_group import GroupSeam
from ._drive.runner import Runner
from ._machine.calling import type_name
from ._machine.config import UNSET, TaskConfig
from ._machine.hints import refuse_call
from ._machine.scope import Phase
from ._scope import Scope
from ._task import Task, fill, new
from .errors import TasksClosedError, TasksUnportableError

_IMMEDIATE = Phase.IMMEDIATE


class TasksScheduler(SchedulesPhases):
    """Schedules the tasks of one request, session or message. A FastAPI endpoint gets one by `tasks: Tasks`.

    - `tasks.schedule(f, x)`: the task starts at once, beside the endpoint.
    - `tasks.after_route.schedule(f, x)`: when the endpoint has returned, before the response is sent.
    - `tasks.after_response.schedule(f, x)`: when the request is over: the response is sent, and all dependencies with
      `yield` have exited.
    - `tasks.task(timeout=5, ...).schedule(f, x)`: with settings, also for the later phases.

    You can also make one:

    - `TasksScheduler(scope)`, for a service that takes a `TasksScheduler`.
    - `TasksScheduler(host.tg)` in a request or a scope: it belongs to this scope, whose phases start its batches.
    - `TasksScheduler(tg)` elsewhere: it has no scope. Write `async with TasksScheduler(tg) as tasks`, which gives you a
      `Scope`; or start the batches yourself: `tasks.after_route.start(tasks)`. If you do neither, the tasks in the
      batches are dropped when the scheduler is garbage, with a log record.

    :param tg: any entered anyio task group, or a scope
    :param config: settings for all tasks of this scheduler
    :raises TypeError: if `tg` or `config` is something else
    """

    __slots__ = ("__weakref__", "_config", "_entered", "_is_alone", "_scope")

    if not TYPE_CHECKING:
        __call__ = refuse_call

    def __init__(self, tg: TaskGroup | Scope, config: TaskConfig = UNSET) -> None:
        if not isinstance(config, TaskConfig):
            raise TypeError(f"config must be a TaskConfig, not {type_name(config)}")
        scope, self._is_alone = (tg, False) if isinstance(tg, Scope) else _scope_of(tg)
        self._scope: Scope = scope
        self._config = config = scope._config.merge(config)
        if self._is_alone:
            scope._config = config
            finalize(self, _let_go, scope).atexit = False
        self._entered: Scope | None = None

    @property
    def tg(self) -> TaskGroup:
        """The task group; for a scheduler of a host, `host.tg`."""
        return self._scope.tg

    async def __aenter__(self) -> Scope:
        if self._entered is not None:
            raise RuntimeError("this TasksScheduler is entered already: make another one for each unit of work")
        own = self._scope
        self._entered = scope = own if self._is_alone else Scope(own._runner, own.tg, self._config)
        return await scope.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        scope, self._entered = self._entered, None
        assert scope is not None
        await scope.__aexit__(exc_type, exc, tb)

    def _schedule(
        self,
        config: TaskConfig,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        phase: Phase = _IMMEDIATE,
    ) -> Task[Any]:
        runner = self._scope._runner
        try:
            task: Task[Any] = new(Task)
            fill(task, func, args, kwargs, self._config if config is UNSET else self._config.merge(config))
            task.phase = phase
            # Without a scope the scheduler must not be the maker: held tasks would keep it, and it would never be
            # garbage.
            runner.submit(task, self._scope, None if self._is_alone else self)
        except TasksUnportableError as exc:
            runner.note_refused(func, exc)
            raise
        return task

    def _start(self, task: Task[Any]) -> None:
        self._scope._runner.submit_made(task, self._config, self._scope, None if self._is_alone else self)

    def _start_phase(self, phase: Phase) -> None:
        self._scope._start_phase(phase, None if self._is_alone else self)


def _scope_of(tg: TaskGroup) -> tuple[Scope, bool]:
    """Return the scope of the running code, if `tg` is the task group of its host; otherwise a new scope, and True.

    :raises TypeError: if `tg` is no task group
    """
    if not isinstance(tg, TaskGroup):
        raise TypeError(
            f"TasksScheduler() takes an anyio task group or a Scope, not {type_name(tg)}: write "
            "`TasksScheduler(host.tg)` for a host"
        )
    host = running_host()
    if host is None or host.tg is not tg:
        return Scope(Runner(GroupSeam(tg), config=UNSET), tg, UNSET), True
    here: Scope | None = scope_here(host)
    return (host.scope(), True) if here is None else (here, False)


def _let_go(scope: Scope) -> None:
    """Drop the tasks of a scheduler that is garbage. A finalizer calls this: in any thread, inside any other code."""
    with suppress(TasksClosedError):  # the event loop has ended
        runner = scope._runner
        runner.call(partial(runner.drop_held, scope, "its scheduler is gone, and nobody has started its batches"))
