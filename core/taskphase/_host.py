"""The owner of every task of a program, for as long as it lives."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Any, cast

from anyio import CancelScope, Event, create_task_group
from anyio.abc import TaskGroup

from ._definition import Schedules, TaskDefinition
from ._drain import Drain, DrainReport
from ._drive.current import BODY, JOB, running_host, running_job
from ._drive.raw import RawGroup
from ._drive.runner import Runner
from ._drive.seam import is_cancelled_around, native_seam, outlast
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
        self._report = DrainReport(0, 0, {}, {})
        self._began = False
        self._maybe_runner: Runner | None = None

    async def __aenter__(self) -> TaskHost:
        if self._maybe_runner is not None:
            raise RuntimeError("a TaskHost can be entered only once; make another one")
        self._opened, self._closing, self._closed = Event(), Event(), Event()
        seam = native_seam()
        runner = Runner(seam, host=self, config=self._config, **self._limits)  # type: ignore[arg-type]
        self._maybe_runner = runner
        self._group = RawGroup(seam, lambda: self._drain.wake())  # noqa: PLW0108 - the drain is made with the group
        self._drain = Drain(runner, self._patience, self._group)
        # A native task of its own runs the tasks: the cancellation of the body does not reach them. On asyncio the body
        # may be left in another task than it was entered in, as fixtures are; on trio the nursery is the task's.
        self._entered_in = seam.running()
        self._beside = seam.beside(self._supervise, name="taskphase.TaskHost._supervise")
        await self._beside.__aenter__()
        try:
            await self._opened.wait()
        except BaseException:
            await self._leave()
            raise
        self._token = self.set_current()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.reset_current(self._token)
        await self._leave()

    async def _leave(self) -> None:
        try:
            if not self._closed.is_set():
                await self.aclose()
        finally:
            try:
                await self._beside.__aexit__(None, None, None)
            except BaseExceptionGroup as group:
                # Only what has no business in a task gets here: KeyboardInterrupt, from however deep inside.
                raise _alone(group) from None

    async def aclose(self) -> DrainReport:
        """Drain the host now, or wait until it is drained if somebody else has begun. A checkpoint; its end cannot
        be hastened by cancellation.

        :return: what that has cut short; `drain_report` later
        :raises RuntimeError: if one of its own tasks, or work in its task group, calls this: it would wait for itself
        """
        runner = self._runner
        job = running_job()
        if job is not None and not job._has_ended and getattr(job, "_runner", None) is runner:
            raise RuntimeError("a task cannot close its own host: it would wait for itself")
        if runner.seam.running() in self._group.names:
            raise RuntimeError("work in the task group of a host cannot close that host: it would wait for itself")
        self._begin_closing()
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

    async def _wait_for_closing(self) -> None:
        try:
            await self._closing.wait()
        except self._runner.seam.cancelled:
            if not is_cancelled_around() and self._runner.seam.is_over(self._entered_in):
                self._begin_closing()  # the end of `asyncio.run()`, and there is no body that is cancelled as well
                return
            raise

    def _begin_closing(self) -> None:
        if self._runner.stage is DrainStage.OPEN:
            self._runner.follow(DrainEvent.CLOSE)
            self._closing.set()

    async def _supervised(self) -> None:
        """Give the supervisor its first step. If it takes none it never will: asyncio's own cancel() was faster."""
        if not self._began:
            await self._runner.seam.turns()
        if not self._began:
            self._runner.abort()
            self._closed.set()

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

    def scope(self, *, in_route: bool = False) -> TasksScheduler:
        """Return the scheduler of one unit of work; its scope is the `async with` block.

        :param in_route: whether the route of the scope runs already, and here. The caller then says with `end_route()`
            that it has ended. The scope is the current one until `reset_current()`, or until the native task ends
        :raises TasksClosedError: if the host is not open yet
        """
        runner = self._runner
        return TasksScheduler._of(runner, self._group, in_route=in_route)

    def set_current(self, scheduler: Callable[[], TasksScheduler] | None = None) -> Token[Any]:
        """Make this host what `current_host()` finds in the running context. The body of the host has it set.

        For those who bind a framework, whose units of work do not run in the body.

        :param scheduler: returns the scheduler of the unit of work, for a `TasksScheduler` that is made by hand in it
        :return: what `reset_current()` takes
        """
        return BODY.set((self, JOB.get(), scheduler))

    def reset_current(self, token: Token[Any]) -> None:
        """Undo `set_current()`. In another context than that, where there is nothing to undo, nothing happens."""
        try:
            BODY.reset(token)
        except ValueError:
            pass  # test fixtures are entered and left in different contexts

    def runs_here(self) -> bool:
        """Return whether the event loop that runs in this thread is the one of this host. From any thread.

        :raises TasksClosedError: if the host is not open yet
        """
        runner = self._maybe_runner or self._runner  # which raises
        return runner.seam.runs_here()

    @property
    def tg(self) -> TaskGroup:
        """A plain anyio task group for raw work, which is no task. It can be used for as long as the host is open.

        Stage 1 of the drain does not wait for raw work. Stage 2 cancels it, and names it in a WARNING. An exception in
        the group is logged, and cancels the raw work that is running then, as a cancellation of the group does. No task
        is in the group.

        :raises TasksClosedError: if the host is not open yet
        """
        if self._maybe_runner is None:
            self._runner  # noqa: B018 - raises
        return self._group

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

    async def _supervise(self) -> None:
        """Keep the host open, then drain it: until `aclose()` says so, or somebody cancels this task."""
        self._began = True
        runner = self._runner
        try:
            with CancelScope(shield=True):
                async with runner.seam.open(), create_task_group() as keeper:
                    self._group.open(keeper, self._opened.set)
                    await outlast(runner.seam, self._wait_for_closing)
                    self._report = await self._drain.run()
        finally:
            if runner.stage is not DrainStage.CLOSED:
                runner.abort()
            self._closed.set()


def current_host() -> TaskHost:
    """Return the innermost host: that of the running task, or the one whose body, or whose app's request, this is.

    :raises NoCurrentError: if there is none
    """
    host = running_host()
    if host is None:
        raise NoCurrentError(
            "this code runs neither in a task nor in the body of a TaskHost. In a FastAPI app there are two reasons: "
            "nobody has run the lifespan by calling the app itself (a server, `with TestClient(app)` and asgi-lifespan "
            "do that; `app.router.lifespan_context(app)` does not); or the code runs in a thread of your own: call "
            "current_host() before you start the thread, and hand the host over"
        )
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
