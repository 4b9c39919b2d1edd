"""The owner of every task of a program, for as long as it lives."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Token
from types import TracebackType
from typing import Any, cast

from anyio import CancelScope, Event, create_task_group
from anyio.abc import TaskGroup

from ._definition import Schedules, TaskDefinition
from ._drain import Drain, DrainReport
from ._drive import report
from ._drive.current import BODY, JOB, Body, running_host, running_job
from ._drive.runner import Runner
from ._drive.seam import native_seam, outlast
from ._machine.config import UNSET, TaskConfig, check_seconds
from ._machine.drain import DrainEvent, DrainStage
from ._scheduler import TasksScheduler
from ._statistics import Closing, HostStatistics
from ._task import Task
from .errors import NoCurrentError, TasksClosedError


class TaskHost(Schedules[TaskDefinition]):
    """Owns tasks, and outlives them: an async context manager, to be entered once.

    Its tasks touch neither its body nor each other, whatever becomes of them. Leaving the body drains it, in stages:

    1. `drain_timeout` seconds for everything to end by itself; new tasks are still taken;
    2. what is not shielded is cancelled;
    3. the shielded, their handlers and all threads are waited for, `shield_timeout` seconds at most; only shielded
       tasks may schedule others; then they are cancelled too, and threads left behind;
    4. what was cancelled or abandoned is logged, by name.

    The cancellation of the body drains it in the same way, and does not cut it short.

    :param config: settings for all tasks
    :param max_running: how many tasks run at a time, 1 or more; the others wait, first in first out; default: no limit
    :param max_pending: how many tasks may wait for a slot or for their phase, 0 or more; default: no limit
    :param max_threads: how many threads sync tasks and handlers use, 1 or more
    :param drain_timeout: seconds, 0 or more
    :param shield_timeout: seconds, 0 or more; default: for ever
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if it is out of its range
    """

    def __init__(
        self,
        *,
        config: TaskConfig | None = None,
        max_running: int | None = None,
        max_pending: int | None = None,
        max_threads: int = 40,
        drain_timeout: float = 0,
        shield_timeout: float | None = None,
    ) -> None:
        if config is not None and not isinstance(config, TaskConfig):
            raise TypeError(f"config must be a TaskConfig, not {config!r}")
        _check_count("max_running", max_running, least=1, optional=True)
        _check_count("max_pending", max_pending, least=0, optional=True)
        _check_count("max_threads", max_threads, least=1)
        check_seconds("drain_timeout", drain_timeout)
        if shield_timeout is not None:
            check_seconds("shield_timeout", shield_timeout)
        self._config = UNSET if config is None else config
        self._limits = {"max_running": max_running, "max_pending": max_pending, "max_threads": max_threads}
        self._patience = {
            DrainStage.GRACE: drain_timeout,
            DrainStage.SHIELDED: math.inf if shield_timeout is None else shield_timeout,
            DrainStage.FORCED: math.inf,
        }
        self._body = Body(self, None)
        self._report = DrainReport(0, 0, {}, {})
        self._entered: AbstractAsyncContextManager[None] | None = None
        self._began = self._group_open = False
        self._maybe_runner: Runner | None = None

    async def __aenter__(self) -> TaskHost:
        if self._entered is not None:
            raise RuntimeError("a TaskHost can be entered only once; make another one")
        self._entered = self._open()
        await self._entered.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        assert self._entered is not None
        return await self._entered.__aexit__(exc_type, exc, tb)

    async def aclose(self) -> DrainReport:
        """Drain the host now, or wait until it is drained if somebody else has begun. A checkpoint; its end cannot
        be hastened by cancellation.

        :return: what that has cut short; `drain_report` later
        :raises RuntimeError: if one of its own tasks calls this: it would wait for itself
        """
        runner = self._runner
        job = running_job()
        if job is not None and not job._has_ended and getattr(job, "_runner", None) is runner:
            raise RuntimeError("a task cannot close its own host: it would wait for itself")
        if runner.stage is DrainStage.OPEN:
            runner.follow(DrainEvent.CLOSE)
            self._closing.set()
        cancellation = None
        with CancelScope(shield=True):
            while not self._closed.is_set():
                try:
                    await self._supervised()
                    await self._closed.wait()
                except runner.seam.cancelled as exc:  # asyncio's own cancel() knows no shield
                    cancellation = exc
        if cancellation is not None:
            raise cancellation
        return self._report

    def _define(self, config: TaskConfig) -> TaskDefinition:
        return TaskDefinition(self, config)

    @property
    def closing(self) -> Closing:
        """An event that is set when the drain begins: for tasks that would rather finish what they are at than be
        cancelled in the middle.

        :raises TasksClosedError: if the host is not open yet
        """
        self._runner  # noqa: B018
        return Closing(self._closing)

    @property
    def drain_report(self) -> DrainReport | None:
        """What the drain has cut short; None until it is over."""
        return self._report if self._maybe_runner is not None and self._closed.is_set() else None

    def statistics(self) -> HostStatistics:
        """Return how many tasks there are, and what has become of the others. In the event loop's thread.

        :raises TasksClosedError: if the host is not open yet
        """
        return HostStatistics._of(self._runner)

    def scope(self) -> TasksScheduler:
        """Return the scheduler of one unit of work; its scope is the `async with` block.

        :raises TasksClosedError: if the host is not open yet
        """
        return TasksScheduler._of(self._runner, self._tg)

    def set_current(self) -> Token[Any]:
        """Make this what `current_host()` finds in the running context. The body of the host has it set.

        For those who bind a framework, whose units of work do not run in the body.

        :return: what `reset_current()` takes
        """
        job = JOB.get()
        return BODY.set(self._body if job is None else Body(self, job))

    def reset_current(self, token: Token[Any]) -> None:
        """Undo `set_current()`. In another context than that, where there is nothing to undo, nothing happens."""
        try:
            BODY.reset(token)
        except ValueError:
            pass  # test fixtures are entered and left in different contexts

    @property
    def tg(self) -> TaskGroup:
        """A plain anyio task group that the host closes too, in stage 2. An exception in it cancels what is in it,
        is logged, and has it replaced by a new one, as its cancellation does; the host's own tasks are not in it.

        :raises TasksClosedError: if the host is not open yet
        """
        if self._maybe_runner is None:
            self._runner  # noqa: B018 - raises
        return self._tg

    @property
    def running(self) -> int:
        """How many tasks have a slot. From any thread."""
        return self._runner.running

    @property
    def waiting(self) -> int:
        """How many tasks wait for a slot. From any thread."""
        return self._runner.waiting

    @property
    def deferred(self) -> int:
        """How many tasks wait for their phase. From any thread."""
        return len(self._runner.deferred)

    @property
    def _runner(self) -> Runner:
        if self._maybe_runner is None:
            raise TasksClosedError("the task host is not open: enter it with `async with` first")
        return self._maybe_runner

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        runner = self._runner
        task: Task[Any] = Task(func, args, kwargs, self._config.merge(config))
        runner.submit(task, runner)
        return task

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[None]:
        error: BaseException | None = None
        self._opened, self._closing, self._closed = Event(), Event(), Event()
        runner = Runner(native_seam(), host=self, config=self._config, **self._limits)  # type: ignore[arg-type]
        self._drain = Drain(
            runner,
            self._patience,
            group_open=lambda: self._group_open,
            cancel_group=lambda: self._tg.cancel_scope.cancel(),  # noqa: PLW0108 - not that of now: it may be replaced
        )
        self._maybe_runner = runner
        try:
            async with create_task_group() as tg:
                # What runs the tasks is a task of its own, shielded: the cancellation of the body does not reach them.
                tg.start_soon(self._supervise)
                try:
                    await self._opened.wait()
                    token = self.set_current()
                    try:
                        yield
                    finally:
                        self.reset_current(token)
                except BaseException as exc:
                    error = exc  # kept out of the group, which would wrap it
                finally:
                    await self.aclose()
        except BaseExceptionGroup as group:
            # Only what has no business in a task gets here: KeyboardInterrupt, from however deep inside.
            raise _alone(group) from None
        if error is not None:
            raise error

    async def _supervise(self) -> None:
        self._began = True
        try:
            with CancelScope(shield=True):
                async with self._runner.seam.open(), create_task_group() as keeper:
                    # It says itself when it is open. (`keeper.start()` would wait for ever for a task that asyncio's
                    # own cancel() reached before its first step.)
                    keeper.start_soon(self._keep_group)
                    await outlast(self._runner.seam, self._closing.wait)
                    self._report = await self._drain.run()
        finally:
            if self._runner.stage is not DrainStage.CLOSED:
                self._runner.abort()
            self._closed.set()

    async def _supervised(self) -> None:
        """Give the supervisor its first step. If it takes none it never will: asyncio's own cancel() was faster."""
        if not self._began:
            await self._runner.seam.turns()
        if not self._began:
            self._runner.abort()
            self._closed.set()

    async def _keep_group(self) -> None:
        """Hold the plain task group open, or a new one if an exception or a cancellation has ended it."""
        self._group_open = True
        while self._group_open:
            try:
                await outlast(self._runner.seam, self._hold_group)
            except Exception as exc:
                report.group_failed(exc)
            self._group_open = not self._closing.is_set()
        self._drain.wake()

    async def _hold_group(self) -> None:
        async with create_task_group() as self._tg:
            self._opened.set()
            await self._closing.wait()


def current_host() -> TaskHost:
    """Return the innermost host: that of the running task, or the one whose body, or whose app's request, this is.

    :raises NoCurrentError: if there is none
    """
    host = running_host()
    if host is None:
        raise NoCurrentError("this code runs neither in a task nor in the body of a TaskHost")
    return cast(TaskHost, host)


def _alone(exc: BaseException) -> BaseException:
    inside = cast("tuple[BaseException, ...]", getattr(exc, "exceptions", ()))
    return _alone(inside[0]) if len(inside) == 1 else exc


def _check_count(name: str, value: object, *, least: int, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
