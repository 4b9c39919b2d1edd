"""The record of one task, and the only place that moves it through its life."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from itertools import count
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from anyio import Event

from .._machine.calling import check_call, name_of, qualname_of
from .._machine.config import UNSET, TaskConfig
from .._machine.life import ENDS, LIFE, LifeEvent, TaskStatus
from .._machine.scope import Phase

if TYPE_CHECKING:
    from .runner import Runner
    from .seam import CancelScope

P = ParamSpec("P")
T = TypeVar("T")

# What every task passes (see `Symbol`).
_NEW = TaskStatus.NEW
_STARTING = TaskStatus.STARTING
_IMMEDIATE = Phase.IMMEDIATE
_STEP = LifeEvent.STEP

_ids = count(1)
_NONE: Mapping[str, Any] = MappingProxyType({})


class Held(dict["Job", object]):
    """The deferred jobs of one route, in the order of `schedule()`. The value is the scheduler made by hand that
    scheduled the job, or None.

    :ivar owner: the native task that runs the route; it must not wait for a job held here
    """

    __slots__ = ("owner",)

    def __init__(self, owner: object) -> None:
        super().__init__()
        self.owner = owner


class Job:
    """One task: what to call, with which settings, and how far it has come.

    `_runner` is missing while none has it; `_scope` is the cancel scope that its attempt, its handler or its pause is
    in, or None where the seam makes one when it is needed; `_result` is the return value if it has SUCCEEDED, the
    exception if it has FAILED, else None. `_context` is that of the call of `schedule()`, untouched by the attempts if
    there may be another one, and let go at the end.
    """

    __slots__ = (
        "__weakref__",
        "_context",
        "_ended_event",
        "_is_async",
        "_kwargs",
        "_result",
        "_runner",
        "_scope",
        "_started_event",
        "_status",
        "args",
        "attempt",
        "config",
        "func",
        "id",
        "phase",
    )

    id: int
    func: Callable[..., Any]
    args: tuple[Any, ...]
    config: TaskConfig
    phase: Phase
    attempt: int
    _kwargs: Mapping[str, Any]
    _runner: Runner

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        config: TaskConfig = UNSET,
    ) -> None:
        self._kwargs = kwargs = kwargs or _NONE  # an empty dict for each would be a sixth of a deferred task
        self._is_async = check_call(func, args, kwargs)
        self.func = func
        self.args = args
        self.config = config
        self.phase = _IMMEDIATE
        self.id = next(_ids)
        self.attempt = 0
        self._context: Context | None = copy_context()
        self._scope: CancelScope | None = None
        self._result: Any = None
        self._status = _NEW
        self._started_event: Event | None = None
        self._ended_event: Event | None = None

    @property
    def name(self) -> str:
        """The configured name, else that of the function with its module."""
        return self.config.name or name_of(self.func)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments: the same dict each time."""
        kwargs = self._kwargs
        if type(kwargs) is not dict:
            self._kwargs = kwargs = dict(kwargs)
        return cast("dict[str, Any]", kwargs)

    def _names(self) -> tuple[str, str]:
        """Return the name of the task, and that of its function without the module."""
        func = self.func
        if type(func) is FunctionType:
            module: object = func.__module__
            qualname = func.__qualname__
            if type(module) is str and type(qualname) is str:  # as nearly always: in one call, for the sake of speed
                return self.config.name or f"{module}.{qualname}", qualname
        return self.name, qualname_of(func)

    @property
    def status(self) -> TaskStatus:
        """What the task is doing."""
        return self._status

    @property
    def _is_new(self) -> bool:
        """Whether nobody has it: it was not taken yet, or a recorder has taken it out of its host."""
        return not hasattr(self, "_runner") and not self._has_ended

    @property
    def _has_ended(self) -> bool:
        return self._status in ENDS

    def _move(self, event: LifeEvent) -> TaskStatus:
        """Follow `event`, which is not an end.

        :raises IllegalEvent: if the task's status has no row for it; nothing has changed
        """
        self._status = LIFE[self._status][event]
        return self._status

    def _step(self) -> bool:
        """Note the first step of an attempt; return False if the job was cancelled before.

        The test and the change are one step of the interpreter loop: no signal handler or finalizer runs between them.
        """
        if self._status is not _STARTING:
            return False
        self._status = LIFE[_STARTING][_STEP]
        self.attempt += 1
        if self._started_event is not None:
            self._started_event.set()
        return True

    def _leave(self, exc: BaseException | None) -> bool:
        """Leave the cancel scope, if there is one; return whether the scope has caught `exc`."""
        scope, self._scope = self._scope, None
        if scope is None:
            return False
        # Without the traceback, which no scope looks at: the class of the exception may have a property of that name.
        return bool(scope.__exit__(None if exc is None else type(exc), exc, None))

    def _end(self, event: LifeEvent, result: Any = None) -> None:
        """Follow `event`, which is an end, and wake whoever waits for it."""
        self._status = LIFE[self._status][event]
        self._result = result
        self._context = None
        if self._ended_event is not None:
            self._ended_event.set()
        if self._started_event is not None:
            self._started_event.set()  # if it never has: whoever waits for that has to hear of it

    def _run_in_context(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `func` in a copy of the context of `schedule()`."""
        context = copy_context() if self._context is None else self._context.copy()
        return context.run(func, *args, **kwargs)

    async def _wait_started(self) -> None:
        if not (self.attempt or self._has_ended):
            if self._started_event is None:
                self._started_event = Event()
            await self._started_event.wait()

    async def _wait_ended(self) -> None:
        if not self._has_ended:
            if self._ended_event is None:
                self._ended_event = Event()
            await self._ended_event.wait()
