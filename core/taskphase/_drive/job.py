"""The record of one task; only this code changes its status. The functions are no methods: `Task` is for users."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, copy_context
from itertools import count
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from .._machine.calling import check_call, name_of
from .._machine.config import UNSET, TaskConfig
from .._machine.life import ENDS, LIFE, LifeEvent, TaskStatus
from .._machine.parcel import IN_LOOP, IN_THREAD, Parcel
from .._machine.plain import PLAIN
from .._machine.scope import Phase
from .._machine.table import Row
from .cancelling import CancelScope
from .events import Events
from .keeping import Record
from .owner import Owner
from .portable import pack, refuse_async
from .unit import Unit

P = ParamSpec("P")
T = TypeVar("T")

# Each task needs these members (see `Symbol`).
_NEW = TaskStatus.NEW
_STARTING = TaskStatus.STARTING
_IMMEDIATE = Phase.IMMEDIATE
_STEPPED = LIFE[TaskStatus.STARTING][LifeEvent.STEP]

_LIFE = {status: Row(status, row) for status, row in LIFE.items()}  # without the read-only views, which cost time

_ids = count(1)

JOB: ContextVar[Job | None] = ContextVar("taskphase_job", default=None)
"""The job whose code runs here. None outside of tasks."""

_running_job = JOB.get  # (Python 3.11 is slow at finding a method)
_plain = PLAIN.get
_NONE: Mapping[str, Any] = MappingProxyType({})


class Job:
    """One task: its call, its settings and its state. `Task` is the subclass for users.

    :ivar parent: the id of the task that made this one, or None
    :ivar _parcel: where the call runs, and its forms for other processes
    :ivar _runner: the runner that has taken the job; missing before that
    :ivar _unit: the scope that holds the job for a phase, otherwise None
    :ivar _scope: see `set_scope()`
    :ivar _result: the return value as soon as there is one; the exception if the job has FAILED; otherwise None
    :ivar _context: the context of `schedule()`. If there may be several attempts, each runs in a copy: an attempt must
        find the context unchanged. None after the end, and on trio from the start on, if there is only one attempt
    :ivar _taken_at: the time at which the runner took the job, as `Seam.stamp` has it; None without a runner
    :ivar _began_at: the time of the first step of the present attempt; None before the first attempt and in a pause
    :ivar _ended_at: the time of the end; missing before that
    """

    __slots__ = (
        "__weakref__",
        "_began_at",
        "_context",
        "_ended_at",
        "_events",
        "_kwargs",
        "_parcel",
        "_result",
        "_runner",
        "_scope",
        "_status",
        "_taken_at",
        "_unit",
        "args",
        "attempt",
        "config",
        "func",
        "id",
        "parent",
        "phase",
    )

    if TYPE_CHECKING:
        id: int
        func: Callable[..., Any]
        args: tuple[Any, ...]
        config: TaskConfig
        phase: Phase
        attempt: int
        parent: int | None
        _kwargs: Mapping[str, Any]
        _runner: Owner[Job]
        _ended_at: float

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        config: TaskConfig = UNSET,
    ) -> None:
        self._kwargs = kwargs = kwargs or _NONE  # a sixth of the memory of a deferred task would be an empty dict
        self.func = func
        self.args = args
        self.config = config
        plain = _plain(func) if type(func) is FunctionType and not kwargs else None
        if plain is not None and plain[0] is func.__code__ and plain[1] == len(args):  # a fast path for most tasks
            self._parcel: Parcel = plain[2]
        elif plain is not None and plain[0] is func.__code__ and plain[1] == ~len(args):  # a `def` function
            self._parcel = plain[2]
            self._pack()
        elif check_call(func, args, kwargs):
            self._parcel = IN_LOOP
        else:
            self._parcel = IN_THREAD
            self._pack()
        self.phase = _IMMEDIATE
        self.id = next(_ids)
        self.attempt = 0
        by = _running_job()
        self.parent = None if by is None else by.id
        self._taken_at: float | None = None
        self._began_at: float | None = None
        self._context: Context | None = copy_context()
        self._scope: CancelScope | None = None
        self._result: Any = None
        self._status = _NEW
        self._events: Events | None = None
        self._unit: Unit[Job] | None = None

    @property
    def name(self) -> str:
        """The configured name; default: the name of the function, with its module."""
        return self.config.name or self.function

    @property
    def function(self) -> str:
        """The name of the function, with its module and behind all partials: the same for each of its tasks."""
        names = self._parcel.names
        return name_of(self.func) if names is None else names[0]

    @property
    def message_id(self) -> str | None:
        """For a queue or a journal: uuid4 hex, the same in the worker and after a crash. Otherwise None."""
        return self._parcel.message_id

    @property
    def recovered(self) -> bool:
        """True if a journal has recovered the task, so it may have run before: the process that has scheduled it has
        died, or has cut it off at its shutdown; or `Journal.retry()` was called.
        """
        record = self._parcel.record
        return record is not None and record.is_recovered

    def _own_parcel(self) -> Parcel:
        """Return a parcel to write to."""
        if self._parcel.is_shared:
            self._parcel = Parcel(is_async=self._parcel.is_async, is_shared=False)
        return self._parcel

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments: the same dict each time."""
        kwargs = self._kwargs
        if type(kwargs) is not dict:
            self._kwargs = kwargs = dict(kwargs)
        return cast("dict[str, Any]", kwargs)

    @property
    def status(self) -> TaskStatus:
        """The state of the task."""
        return self._status

    @property
    def _is_new(self) -> bool:
        """True if no runner has the job, and the job has not ended."""
        return self._taken_at is None and not self._has_ended

    @property
    def _has_ended(self) -> bool:
        return self._status in ENDS

    def _inherit(self, config: TaskConfig, thread: int) -> None:
        """Take over the settings that the job leaves open from `config`.

        :param thread: the identifier of the thread that is to run the job
        :raises RuntimeError: if the job has been scheduled or has ended; if another event loop has waited for it
        :raises TypeError: if an async function is to run in a process; `TasksUnportableError` if it cannot run there
        """
        if not self._is_new:
            raise RuntimeError(f"task {self.name!r} is {self._status.value} already; a task starts once")
        if self._events is not None and self._events.thread != thread:
            raise RuntimeError(f"another event loop has waited for task {self.name!r}, and cannot be woken from here")
        refuse_async(self.config, self.func)
        self.config = config.merge(self.config)
        self._pack()

    def _pack(self) -> None:
        """Pickle the call of a sync function, if it is for a process, and not pickled yet.

        :raises TasksUnportableError: if another process cannot make the call
        """
        if self.config.run_in == "process" and not (self._parcel.is_async or self._parcel.payload):
            self._own_parcel().payload = pack(self.func, self.args, self._kwargs)

    def _step(self, stamp: Callable[[], float]) -> bool:
        """Take the first step of an attempt; return False if the job was cancelled before.

        No Python code is called between the test and the change, so no signal handler or finalizer runs there. A job
        that was cancelled there would run.
        """
        now = stamp()
        if self._status is not _STARTING:
            return False
        self._status = _STEPPED
        self.attempt += 1
        self._began_at = now
        if self._events is not None:
            self._events.started.set()
        return True

    def _end(self, event: LifeEvent, result: Any = None, now: float = 0) -> None:
        """Follow `event`, which is an end, at the time `now`. Wake all code that waits for the task."""
        status = _LIFE[self._status][event]
        self._ended_at = now
        self._result = result
        self._status = status
        self._context = None  # last: finalizers of its values may look at the task
        if self._events is not None:
            self._events.ended.set()
            self._events.started.set()  # even if the task never started: `started.wait()` must return

    def _own_context(self) -> Context:
        """Return a copy of the context of `schedule()`."""
        return copy_context() if self._context is None else self._context.copy()

    def _run_in_context(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `func` in a copy of the context of `schedule()`."""
        return self._own_context().run(func, *args, **kwargs)

    async def _wait_started(self) -> None:
        self._events = events = self._events or Events()  # first: after the look a signal handler may cancel the task
        if not (self.attempt or self._has_ended):
            await events.started.wait()

    async def _wait_ended(self) -> None:
        self._events = events = self._events or Events()  # as above
        if not self._has_ended:
            await events.ended.wait()


def record_of(job: Job) -> Record | None:
    """Return the record of the job in its journal; None if no journal has its function."""
    return cast("Record | None", job._parcel.record)


def order_of(job: Job) -> Any:
    """Return the `HandOver` of a job for a queue; None if the job runs here."""
    return job._parcel.hand_over


def move(job: Job, event: LifeEvent) -> None:
    """Follow `event`, which is not an end.

    :raises IllegalEvent: if the row of the present status has no such event; nothing has changed
    """
    job._status = _LIFE[job._status][event]


def set_scope(job: Job, scope: CancelScope | None) -> None:
    """From here on have `Runner.cancel()` cancel `scope`.

    - RUNNING, CANCELLING: None if the attempt has entered no scope. `Runner.cancel()` then has `seam.enclose()` make
      one, as if the attempt had entered the scope at its first step. `attempt()` leaves the scope.
    - HANDLING, ABORTING: the scope around the handler. Its `with` block leaves the scope.
    - During a call of sync user code in the loop (policies, log handlers): a scope that is never entered. This code
      may cancel its own task, and `Runner.cancel()` needs a scope. Otherwise: None.
    """
    job._scope = scope


def enter_scope(job: Job, scope: CancelScope) -> None:
    """Enter the scope of an attempt."""
    set_scope(job, scope)
    scope.__enter__()


def leave_scope(job: Job, exc: BaseException | None = None) -> bool:
    """Leave the cancel scope, if there is one; return True if the scope has caught `exc`."""
    scope, job._scope = job._scope, None
    if scope is None:
        return False
    # Without the traceback: no scope looks at it, and a class of the user may have a property of that name.
    return bool(scope.__exit__(None if exc is None else type(exc), exc, None))
