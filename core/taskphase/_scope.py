"""`Scope`: one unit of work, for programs without a framework, and for code that binds a framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Token
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import Any

from anyio.abc import TaskGroup

from ._batch import SchedulesPhases
from ._drive.current import BODY, body_here
from ._drive.job import JOB
from ._drive.runner import Runner
from ._drive.watching import tell_all
from ._machine.config import UNSET, TaskConfig
from ._machine.drain import DrainStage
from ._machine.scope import OVER, SCOPE, Phase, ScopeEvent, ScopeState
from ._route import Routed, call_hooks
from ._task import Task, fill, new
from .errors import TasksClosedError, TasksUnportableError

# Each task and each scope needs these members (see `Symbol`).
_IMMEDIATE, _AFTER_RESPONSE = Phase.IMMEDIATE, Phase.AFTER_RESPONSE
_ROUTE, _LATE = ScopeState.ROUTE, ScopeState.LATE
_ROUTE_SUCCEEDED, _ROUTE_FAILED, _ENDED = ScopeEvent.ROUTE_SUCCEEDED, ScopeEvent.ROUTE_FAILED, ScopeEvent.ENDED

_ANSWERS = frozenset({ScopeState.RESPONDING, ScopeState.EXCUSING})
_OVER = dict.fromkeys(OVER, "ended")
_CHANGES = {ScopeState.RESPONDING: "route_succeeded", ScopeState.EXCUSING: "route_failed", **_OVER}


class Scope(Routed, SchedulesPhases):
    """One unit of work that schedules tasks: a request, a session, a message.

    `async with host.scope() as tasks` gives you a scope, and so does `async with TasksScheduler(tg) as tasks`. In a
    FastAPI app each request has a scope; the endpoint gets a `TasksScheduler` of the scope. `schedule()` works in any
    thread. All other methods are for the event loop's thread.

    :ivar tg: the task group; for a scope of a host, `host.tg`
    :ivar in_route: True while the route runs, if the route was entered
    :ivar info: facts about the unit of work, for observers. fastapi_tasks sets `method`, `path` and `route` (the path
        template). The scopes of one request share one dict
    """

    __slots__ = ("__weakref__", "_config", "_token", "in_route", "info", "tg")

    def __init__(
        self,
        runner: Runner,
        tg: TaskGroup,
        config: TaskConfig,
        in_route: bool = False,
        info: dict[str, Any] | None = None,
    ) -> None:
        self._state = _ROUTE
        self._held = self._owner = self._hooks = None
        self._holds_for_route = False
        self.unsettled: bool = False
        self.tg: TaskGroup = tg
        self.in_route: bool = in_route
        self.info: dict[str, Any] = {} if info is None else info
        self._runner = runner
        self._turn = runner.seam.turn
        self._config = config
        self._token: Token[Any] | None = None
        if in_route:
            running = runner.seam.running  # (Python 3.11 is slow at calling an attribute of an object)
            self._owner = running()
            BODY.set((runner.host, JOB.get(), self))

    def route(self) -> Route:
        """Return an async context manager around the route: the part of the scope that produces its answer.

        The end of the block starts the after_route tasks, and is a barrier (see `settle()`). If an exception leaves the
        block, the route has failed. Without such a block the route ends with the scope.
        """
        return Route(self)

    def end_route(self, *, failed: bool = False) -> None:
        """Note that the route has returned, or has `failed`. Start or drop the after_route tasks.

        Later calls change nothing. Not a checkpoint. Prefer `route()`: after this call, on trio, an after_route task
        may take its first step before an immediate task. `await settle()` before this call prevents that.

        :raises RuntimeError: if there is a hook of `before_route_ends()`. Nothing has changed
        """
        if self._end_route(failed=failed):
            self.end()

    def end_route_now(self, *, failed: bool = False) -> bool:
        """Call `end_route()` if nothing has to be awaited: no hook, and on trio no first step. Return False if not."""
        in_order = self._runner.seam.in_order or (self._state is _ROUTE and not self.unsettled and not self._held)
        if not in_order or self._hooks is not None:
            return False
        self.end_route(failed=failed)
        return True

    def _end_route(self, *, failed: bool) -> bool:
        """Note how the route has ended, once. Return whether the scope was over before."""
        if self._hooks is not None and self.takes_hooks:
            raise RuntimeError(
                "a hook of before_route_ends() has to be awaited before this route ends, and this call cannot wait: "
                "end the route by `async with`"
            )
        was_late = self._state is _LATE
        if was_late:
            del self._runner.late[self]
        elif self._state is not _ROUTE:
            return False
        self.in_route = False
        self._follow(_ROUTE_FAILED if failed else _ROUTE_SUCCEEDED)
        return was_late

    def end(self, *, failed: bool = False) -> None:
        """Note that the scope is over, and its route too. Start or drop the deferred tasks.

        If the route still runs (`route()` was entered and not left), its tasks wait for the end of the route. `failed`
        counts if `end_route()` was not called. Later calls change nothing. Not a checkpoint. Prefer `async with`, for
        the reason in `end_route()`.

        :raises RuntimeError: if this call ends the route, and there is a hook of `before_route_ends()`. Nothing has
            changed
        """
        if self._state is _ROUTE and not self.in_route:
            self._end_route(failed=failed)
        self._follow(_ENDED)
        if self._state is _LATE:
            self._runner.late[self] = None
            if self._runner.stage in (DrainStage.SHIELDED, DrainStage.FORCED):
                self._runner.give_up(self)
        else:
            self._owner = None  # it keeps the route's frames, and no task waits for its phase any more

    @property
    def route_runs_here(self) -> bool:
        """True if the route has not ended, and this code runs in it."""
        body = body_here() if self.in_route else None
        return body is not None and body[2] is self

    @property
    def is_observed(self) -> bool:
        """True if an observer or the journal may read `info`."""
        return self._runner.watching is not None or self._runner.keeper is not None

    async def leave_route(self, exc: BaseException | None) -> None:
        """End the route as the end of a `route()` block does, for code that binds a framework.

        :param exc: the exception that leaves the block
        :raises BaseException: the exception of a hook
        """
        try:
            await self._leave_route(exc)
        except Exception:  # of a hook: the route has failed, and here is its barrier, too
            await self.settle()
            raise
        if _may_wait(exc):
            await self.settle()

    async def _leave_route(self, exc: BaseException | None) -> None:
        """End the route. If the scope was over before, end the scope, too.

        :raises BaseException: the exception of a hook
        """
        failed = True
        try:
            if self._hooks and self.outcome is None and not isinstance(exc, GeneratorExit):
                await call_hooks(self._hooks, "success" if exc is None else "failure")
            failed = exc is not None
        finally:
            self._hooks = ()  # a first step may schedule a task of a journal
            if self.unsettled and not self.in_order:
                await self._let_step()
            self._hooks = None
            if self._end_route(failed=failed):
                if self.unsettled and not self.in_order:
                    await self._let_step()
                self.end()

    def note_first_message(self) -> None:
        """Note that the server has the first message of the response: tell the observers."""
        if self._runner.watching is not None:
            self._tell("first_message")

    async def __aenter__(self) -> Scope:
        self._owner = self._runner.seam.running()
        if self._runner.host is not None:
            self._token = BODY.set((self._runner.host, JOB.get(), self))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._token is not None:
            with suppress(ValueError):  # another context: test fixtures
                BODY.reset(self._token)
        try:
            if self._state is _ROUTE and not self.in_route:
                await self._leave_route(exc)
        finally:
            if self.unsettled and not self.in_order:
                await self._let_step()
            self.end()
            if self._owner is self._runner.seam.running():
                self._owner = None  # from now on this native task may wait for deferred tasks: another runs the route
        if (watching := self._runner.watching) is not None and _may_wait(exc):
            await watching.wait_for_ends(self)

    def leave(self, exc: BaseException | None) -> Awaitable[None] | None:
        """End the scope as the end of an `async with` block does, for code that binds a framework.

        :param exc: the exception that leaves the block
        :return: None if the scope has ended, otherwise an awaitable that ends it
        """
        if self._state in _ANSWERS and not self.unsettled and self._runner.watching is None:
            self._follow(_ENDED)  # the usual end of a request, without a coroutine
            self._owner = None
            return None
        return self.__aexit__(None if exc is None else type(exc), exc, None)

    def _schedule(
        self,
        config: TaskConfig,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        phase: Phase = _IMMEDIATE,
    ) -> Task[Any]:
        try:
            task: Task[Any] = new(Task)
            fill(task, func, args, kwargs, self._config if config is UNSET else self._config.merge(config))
            task.phase = phase
            self._runner.submit(task, self)
        except TasksUnportableError as exc:
            self._runner.note_refused(func, exc)
            raise
        return task

    def _start(self, task: Task[Any]) -> None:
        self._runner.submit_made(task, self._config, self)

    def _start_phase(self, phase: Phase, maker: object = None) -> None:
        """End the route or the scope. With `maker` only start its tasks of `phase` and of the phase before."""
        if maker is None:
            (self.end if phase is _AFTER_RESPONSE else self.end_route)()
            return
        held = [job for job, by in list((self._held or {}).items()) if by is maker]
        for each in dict.fromkeys((Phase.AFTER_ROUTE, phase)):
            self._runner.decide(self, [job for job in held if job.phase is each], ScopeState.OVER)

    def _follow(self, event: ScopeEvent) -> None:
        before = self._state
        self._state = SCOPE[before][event]
        if self._runner.watching is not None and self._state is not before and self._state in _CHANGES:
            self._tell(_CHANGES[self._state])
        if self._held and (self._holds_for_route or self._state in OVER):
            self._runner.decide(self, self._held, self._state)

    def _tell(self, change: str) -> None:
        runner = self._runner
        if get_ident() != runner.seam.thread:
            with suppress(TasksClosedError):  # the event loop has ended
                runner.call(partial(self._tell, change))
        elif runner.watching is not None:
            tell_all(runner.watching.scope_changed, runner.telling, (self, change))


class Route:
    """The part of a scope that produces its answer. See `Scope.route()`."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __aenter__(self) -> None:
        if self._scope._state is not _ROUTE:
            raise RuntimeError("the route of this scope has ended already")
        self._scope.in_route = True

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._scope.leave_route(exc)


def _may_wait(exc: BaseException | None) -> bool:
    """Return whether a block that ends with `exc` may wait at its end: not if it is being cancelled."""
    return exc is None or isinstance(exc, Exception)
