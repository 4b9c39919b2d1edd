"""`TaskHost`: the owner of the tasks of a program. `_scope.py` is for one unit of work, `_drain.py` closes the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, cast

from anyio import CancelScope, Event
from anyio.abc import TaskGroup

from ._bound import Bound
from ._definition import Schedules, TaskDefinition
from ._drain import Drain, DrainReport
from ._drive.cancelling import is_cancelled_around
from ._drive.enclosing import is_forced_early
from ._drive.job import JOB
from ._drive.keeping import AnyJournal
from ._drive.loops import native_seam
from ._drive.raised import unwrapped
from ._drive.raw import RawGroup
from ._drive.runner import Runner
from ._drive.seam import outlast
from ._drive.waits import SUPERVISOR
from ._drive.watching import tell
from ._machine.calling import name_of, shown
from ._machine.config import UNSET, TaskConfig, check_seconds
from ._machine.drain import DrainEvent, DrainStage
from ._machine.hints import keywords_of
from ._machine.life import ENDS
from ._machine.limit import check_count
from ._observer import TaskObserver, check_observers, hooks_of
from ._queue import Queue, check_queues
from ._scope import Scope
from ._statistics import Closing
from ._task import Task, fill, new
from .errors import TasksClosedError, TasksUnportableError


class TaskHost(Schedules[TaskDefinition], Bound):
    """Owns tasks, and outlives them. An async context manager; enter it once.

    A failing task changes neither the body nor another task. The end of the body, or its cancellation, drains the host:

    1. For `drain_timeout` seconds tasks may end by themselves. The host still takes new tasks.
    2. The host cancels all tasks without a shield.
    3. For `shield_timeout` seconds at most the host waits for shielded tasks, their handlers and all threads. Only
       shielded tasks may schedule. Then the host cancels these tasks too, and leaves their threads behind.
    4. The log names all tasks that were cancelled or abandoned.

    :param config: settings for all tasks
    :param max_running: the most tasks that run at a time, 1 or more; others wait, first in first out; default: no limit
    :param max_pending: the most tasks that wait, for their phase or anything else, 0 or more; default: no limit
    :param max_threads: the most threads of sync tasks and handlers, 1 or more
    :param drain_timeout: seconds or a `timedelta`, 0 or more
    :param shield_timeout: seconds or a `timedelta`, 0 or more; default: for ever
    :param observers: objects that the host tells of each task and scope
    :param queues: engines that get the tasks of the functions in their lists
    :param journal: keeps the tasks of its functions in a file, so that they survive a crash
    :raises TypeError: if a parameter has the wrong type
    :raises ValueError: if a parameter is out of its range
    """

    @keywords_of("TaskHost()", "TaskHost(drain_timeout=5)")
    def __init__(
        self,
        *,
        config: TaskConfig | None = None,
        max_running: int | None = None,
        max_pending: int | None = None,
        max_threads: int = 40,
        drain_timeout: float | timedelta = 0,
        shield_timeout: float | timedelta | None = None,
        observers: Iterable[TaskObserver] = (),
        queues: Iterable[Queue] = (),
        journal: AnyJournal | None = None,
    ) -> None:
        if config is not None and not isinstance(config, TaskConfig):
            raise TypeError(f"config must be a TaskConfig, not {config!r}: write config=TaskConfig(...)")
        check_count("max_running", max_running, least=1, optional=True)
        check_count("max_pending", max_pending, least=0, optional=True)
        check_count("max_threads", max_threads, least=1)
        self._drain_timeout = check_seconds("drain_timeout", drain_timeout)
        shield_timeout = math.inf if shield_timeout is None else shield_timeout
        self._shield_timeout = check_seconds("shield_timeout", shield_timeout)
        self._observers = check_observers(observers)
        self._config = UNSET if config is None else config.shared()
        self._queues = check_queues(queues)
        if journal is not None and not isinstance(journal, AnyJournal):
            raise TypeError(f"journal must be a Journal, not {journal!r}: write journal=Journal(file, functions)")
        self._journal = journal
        self._limits: Any = {"max_running": max_running, "max_pending": max_pending, "max_threads": max_threads}
        self._report = DrainReport(0, 0, {}, {})
        self._maybe_runner: Runner | None = None
        self._open_runner: Runner | None = None  # the same object, as soon as tasks can start

    async def __aenter__(self) -> TaskHost:
        if self._maybe_runner is not None:
            raise RuntimeError("a TaskHost can be entered only once; make another one")
        self._opened, self._closing, self._closed = Event(), Event(), Event()
        self._seam = seam = native_seam(may_enclose=not is_forced_early())
        for queue in self._queues:
            queue.check_loop(seam.backend)
        runner = Runner(
            seam,
            host=self,
            config=self._config,
            hooks=hooks_of(self._observers),
            queues=self._queues,
            journal=self._journal,
            **self._limits,
        )
        if runner.keeper is not None:
            await runner.keeper.open()
        self._maybe_runner = runner
        self._group = RawGroup(seam, lambda: self._drain.wake())  # noqa: PLW0108 - the drain is made with the group
        self._drain = Drain(runner, self._group, self._drain_timeout, self._shield_timeout)
        # The supervisor, a native task of its own, runs the tasks: a cancellation of the body does not reach them. On
        # asyncio the body may be left in another native task than it was entered in, as fixtures are.
        self._entered_in = seam.running()
        self._beside = seam.beside(self._supervise, name=SUPERVISOR)
        await self._beside.__aenter__()
        try:
            await self._opened.wait()
        except BaseException:
            await self._leave()
            raise
        self._token = self.set_current()
        if self.takes_over:
            self.take_over()
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
                # Only exceptions that do not belong to a task come here: KeyboardInterrupt, from any depth.
                raise unwrapped(group) from None

    async def aclose(self) -> DrainReport:
        """Drain the host now, or wait for the end of its drain. A checkpoint. Cancellation does not shorten the drain.

        :return: the tasks that the drain has cut short; later also in `drain_report`
        :raises RuntimeError: if a task of this host, or work in its task group, calls this: it would wait for itself
        """
        runner = self._runner
        job = JOB.get()
        if job is not None and job.status not in ENDS and cast("object", job._runner) is runner:
            raise RuntimeError("a task cannot close its own host: it would wait for itself")
        if runner.seam.running() in self._group.names:
            raise RuntimeError("work in the task group of a host cannot close that host: it would wait for itself")
        self._begin_closing()
        cancellation = None
        with CancelScope(shield=True):
            while not self._closed.is_set():
                try:
                    await self._closed.wait()
                except runner.seam.cancelled as exc:  # asyncio's own cancel() ignores shields
                    cancellation = exc
        if cancellation is not None:
            raise cancellation
        return self._report

    def hurry(self, drain_timeout: float | timedelta) -> None:
        """Begin the drain, or end its stage 1 sooner: for code that binds a framework.

        :param drain_timeout: seconds or a `timedelta` from now for stage 1
        :raises TasksClosedError: if the host is not open yet
        """
        self._begin_closing()
        self._drain.hurry(check_seconds("drain_timeout", drain_timeout))

    async def _wait_for_closing(self) -> None:
        try:
            await self._closing.wait()
        except self._runner.seam.cancelled:
            if not is_cancelled_around() and self._seam.is_over(self._entered_in):
                self._begin_closing()  # the end of `asyncio.run()`, and the native task that entered the body is over
                return
            raise

    def _begin_closing(self) -> None:
        if self._runner.stage is DrainStage.OPEN:
            self._runner.follow(DrainEvent.CLOSE)
            self._closing.set()

    def _define(self, config: TaskConfig) -> TaskDefinition:
        return TaskDefinition(self, config)

    @property
    def closing(self) -> Closing:
        """The event that is set when the drain begins, for tasks that stop by themselves.

        :raises TasksClosedError: if the host is not open yet
        """
        self._runner  # noqa: B018
        return Closing(self._closing)

    @property
    def drain_report(self) -> DrainReport | None:
        """The tasks that the drain has cut short; None until the drain is over."""
        return self._report if self._maybe_runner is not None and self._closed.is_set() else None

    def scope(self, *, in_route: bool = False, info: dict[str, Any] | None = None) -> Scope:
        """Return the scope of one unit of work. Enter it with `async with`.

        :param in_route: for bindings: True if the route runs already, in this native task. The caller ends the route
            with `end_route()`. The scope is current until `reset_current()`, or until the native task ends
        :param info: `scope.info`, for observers; default: an empty dict
        :raises TasksClosedError: if the host is not open yet
        """
        return Scope(self._open_runner or self._refuse(), self._group, self._config, in_route, info)

    @property
    def tg(self) -> TaskGroup:
        """A plain anyio task group for raw work, without the tasks of the host. Usable while the host is open.

        Stage 1 of the drain does not wait for raw work. Stage 2 cancels it, and names it in a WARNING. An exception in
        the group is logged, and cancels the raw work that runs then.

        :raises TasksClosedError: if the host is not open yet
        """
        if self._open_runner is None:
            self._refuse()
        return self._group

    @property
    def journal(self) -> AnyJournal | None:
        """The `Journal` of this host, or None."""
        return self._journal

    @property
    def _runner(self) -> Runner:
        return self._maybe_runner or self._refuse()

    def _refuse(self, func: Callable[..., Any] | None = None) -> NoReturn:
        lost = "" if func is None else f", so {shown(name_of(func))} was not scheduled"
        raise TasksClosedError(f"the task host is not open yet{lost}: enter it with `async with` first")

    def _schedule(
        self, config: TaskConfig, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Task[Any]:
        runner = self._open_runner or self._refuse(func)
        try:
            task: Task[Any] = new(Task)
            fill(task, func, args, kwargs, self._config if config is UNSET else self._config.merge(config))
            runner.submit(task)
        except TasksUnportableError as exc:
            runner.note_refused(func, exc)
            raise
        return task

    async def _supervise(self) -> None:
        """Keep the host open until `aclose()`, or until this native task is cancelled. Then drain the host."""
        runner = self._runner
        try:
            with CancelScope(shield=True):
                keeping = nullcontext() if runner.keeper is None else runner.keeper.running(self._seam)
                async with self._seam.open(), keeping:
                    with closing(self._group):  # on trio its work is outside of this context
                        self._group.open(self._note_opened)
                        await outlast(runner.seam, self._wait_for_closing)
                        self._report = await self._drain.run()
                        if runner.outlets is not None:
                            await runner.outlets.close()
                        if runner.watching is not None and self.tells_drain:
                            tell(runner.watching.drained, runner.telling, self._report)
        finally:
            if runner.stage is not DrainStage.CLOSED:
                runner.abort()
            try:
                if runner.keeper is not None:
                    await runner.keeper.close()
            finally:
                self._closed.set()

    def _note_opened(self) -> None:
        self._open_runner = self._runner
        self._opened.set()
