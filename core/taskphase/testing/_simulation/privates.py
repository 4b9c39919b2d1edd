"""Every private name of asyncio, anyio and trio that the simulation uses, each with a check.

A check raises `PrivateChanged`, with the package, its version and the name, if the name is gone or has another type.
Tested with Python 3.11, anyio 4.9 and 4.16, and trio 0.35.
"""

from __future__ import annotations

import asyncio
import platform
import sys
from collections import deque
from collections.abc import Callable, Generator, MutableMapping
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeVarTuple

Ts = TypeVarTuple("Ts")

_MISSING = object()
_FUNCTION = (FunctionType, MethodType, BuiltinMethodType)
_OPTIONAL_FUNCTION = (*_FUNCTION, type(None))


class PrivateChanged(RuntimeError):
    """A private name that the simulation uses is gone, or has another type."""


@dataclass(frozen=True, slots=True)
class Private:
    """A private name: its package, its owner, the name, and the expected type."""

    package: str
    owner: str
    name: str
    kind: type | tuple[type, ...]

    def of(self, owner: object) -> Any:
        """Return the attribute of `owner` with this name.

        :raises PrivateChanged: if the attribute is missing, or has another type
        """
        value = getattr(owner, self.name, _MISSING)
        if value is _MISSING or not isinstance(value, self.kind):
            found = "is gone" if value is _MISSING else f"is now a {type(value).__name__}"
            raise PrivateChanged(
                f"taskphase.testing does not support {self.package} {_version_of(self.package)}: "
                f"its private {self.owner}.{self.name} {found}; "
                f"install another version of {self.package}, or report this one"
            )
        return value


def _version_of(package: str) -> str:
    return platform.python_version() if package == "asyncio" else version(package)


LOOP = (Private("asyncio", "BaseEventLoop", "_run_once", FunctionType),)
HANDLE = (Private("asyncio", "Handle", "_run", FunctionType),)
TASK = (
    Private("asyncio", "Task", "_log_destroy_pending", bool),
    Private("asyncio", "Task", "_exception", (BaseException, type(None))),
)
CALLBACK = (
    # A task passes bound methods of itself to its loop.
    Private("asyncio", "Task's step or wakeup", "__self__", asyncio.Task),
)
EVENTLOOP_MODULE = (
    Private("anyio", "_core._eventloop", "claim_worker_thread", FunctionType),
    Private("anyio", "_core._eventloop", "threadlocals", object),
)
ANYIO_MODULE = (
    Private("anyio", "_backends._asyncio", "CancelScope", type),
    Private("anyio", "_backends._asyncio", "TaskState", type),
    Private("anyio", "_backends._asyncio", "_task_states", MutableMapping),
    Private("anyio", "_backends._asyncio", "AsyncIOBackend", type),
)
ANYIO_TRIO_MODULE = (Private("anyio", "_backends._trio", "TrioBackend", type),)
BACKEND = (
    Private("anyio", "AsyncBackend", "run_sync_in_worker_thread", classmethod),
    Private("anyio", "AsyncBackend", "run_sync_from_thread", classmethod),
    Private("anyio", "AsyncBackend", "run_async_from_thread", classmethod),
    Private("anyio", "AsyncBackend", "check_cancelled", classmethod),
    Private("anyio", "AsyncBackend", "open_process", classmethod),
    Private("anyio", "AsyncBackend", "setup_process_pool_exit_at_shutdown", classmethod),
)
CANCEL_SCOPE = (
    Private("anyio", "CancelScope", "_tasks", set),
    Private("anyio", "CancelScope", "_child_scopes", set),
    Private("anyio", "CancelScope", "_parent_scope", type(None)),
    Private("anyio", "CancelScope", "_deliver_cancellation", MethodType),
)
TRIO_MODULE = (Private("trio", "_core._run", "GLOBAL_RUN_CONTEXT", object),)
RUN_CONTEXT = (Private("trio", "GLOBAL_RUN_CONTEXT", "runner", object),)
RUNNER = (
    Private("trio", "Runner", "runq", deque),
    Private("trio", "Runner", "deadlines", object),
    Private("trio", "Runner", "entry_queue", object),
    Private("trio", "Runner", "waiting_for_idle", MutableMapping),
    Private("trio", "Runner", "init_task", object),
    Private("trio", "Runner", "main_task", object),
)
DEADLINES = (Private("trio", "Deadlines", "next_deadline", _FUNCTION),)
ENTRY_QUEUE = (
    Private("trio", "EntryQueue", "size", _FUNCTION),
    Private("trio", "EntryQueue", "task", _FUNCTION),
)
TRIO_TASK = (
    Private("trio", "Task", "_next_send_fn", _OPTIONAL_FUNCTION),
    Private("trio", "Task", "_next_send", object),
    Private("trio", "Task", "_abort_func", _OPTIONAL_FUNCTION),
    Private("trio", "Task", "_attempt_abort", _FUNCTION),
    Private("trio", "Task", "_cancel_status", object),
)
CANCEL_STATUS = (Private("trio", "CancelStatus", "_scope", object),)

ALL = (
    *LOOP, *HANDLE, *TASK, *CALLBACK, *EVENTLOOP_MODULE, *ANYIO_MODULE, *ANYIO_TRIO_MODULE, *BACKEND, *CANCEL_SCOPE,
    *TRIO_MODULE, *RUN_CONTEXT, *RUNNER, *DEADLINES, *ENTRY_QUEUE, *TRIO_TASK, *CANCEL_STATUS,
)  # fmt: skip


def check(privates: tuple[Private, ...], owner: object) -> Any:
    """Check `privates` in `owner`, and return `owner`.

    :raises PrivateChanged: at the first name that is missing or has another type
    """
    for private in privates:
        private.of(owner)
    return owner


class _Own:
    """The attributes of a class itself, without the inherited ones."""

    def __init__(self, cls: type) -> None:
        self.__dict__.update(vars(cls))


class OrderedSet(dict[Any, None]):
    """A set that iterates in the order of insertion, with the methods that anyio uses."""

    __slots__ = ()

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class AnyioOnAsyncio(NamedTuple):
    """The parts of anyio's asyncio backend that the simulation needs."""

    module: Any
    backend: Any
    cancel_scope: Any
    deliver: FunctionType

    def scope_of(self, task: asyncio.Task[Any]) -> Any:
        """Return the innermost cancel scope around `task`, or None."""
        state = self.module._task_states.get(task)
        return None if state is None else state.cancel_scope


def anyio_on_asyncio() -> AnyioOnAsyncio:
    module = check(ANYIO_MODULE, import_module("anyio._backends._asyncio"))
    check(EVENTLOOP_MODULE, import_module("anyio._core._eventloop"))
    check(CANCEL_SCOPE, module.CancelScope())
    check(BACKEND, _Own(module.AsyncIOBackend))
    return AnyioOnAsyncio(module, module.AsyncIOBackend, module.CancelScope, module.CancelScope._deliver_cancellation)


def anyio_on_trio() -> Any:
    """Return anyio's trio backend."""
    check(EVENTLOOP_MODULE, import_module("anyio._core._eventloop"))
    backend = check(ANYIO_TRIO_MODULE, import_module("anyio._backends._trio")).TrioBackend
    check(BACKEND, _Own(backend))
    return backend


def anyio_eventloop() -> Any:
    """Return anyio's module that stores the event loop of a thread."""
    return check(EVENTLOOP_MODULE, import_module("anyio._core._eventloop"))


@contextmanager
def ordered_cancellation(anyio: AnyioOnAsyncio) -> Generator[None]:
    """Make anyio deliver a cancellation in the order in which tasks and scopes were entered."""
    original: Any = anyio.cancel_scope.__init__

    def ordered(scope: Any, *args: Any, **kwargs: Any) -> None:
        original(scope, *args, **kwargs)
        scope._tasks = OrderedSet()
        scope._child_scopes = OrderedSet()

    with replaced(anyio.cancel_scope, "__init__", ordered):
        yield


@contextmanager
def replaced(owner: object, name: str, value: object) -> Generator[None]:
    """Replace an attribute while the context is open."""
    original = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


class Steps(NamedTuple):
    """How asyncio calls the steps of a task: by an object of the type `step`, or by a bound method named `wakeup`."""

    step: type
    wakeup: str

    def task_of(self, callback: Any) -> asyncio.Task[Any] | None:
        """Return the task if `callback` is a step of a task, otherwise None."""
        if type(callback) is self.step or (type(callback) is BuiltinMethodType and callback.__name__ == self.wakeup):
            owner: Any = getattr(callback, "__self__", None)
            if isinstance(owner, asyncio.Task):
                return owner  # pyright: ignore[reportUnknownVariableType]
        return None


def asyncio_steps() -> Steps:
    """Find out how asyncio calls the steps of a task, with a task that never ends.

    :raises PrivateChanged: if asyncio does not use callbacks that are bound to the task
    """
    check(LOOP, asyncio.BaseEventLoop)
    check(HANDLE, asyncio.Handle)
    loop = _Probe()
    try:
        future = loop.create_future()
        task = loop.create_task(_wait(future))
        check(TASK, task)
        step = check(CALLBACK, loop.last)
        step()
        future.set_result(None)
        wakeup = check(CALLBACK, loop.last)
        wakeup(future)
        return Steps(type(step), wakeup.__name__)
    finally:
        loop.close()


async def _wait(future: asyncio.Future[None]) -> None:
    await future


class _Probe(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self.last = callback
        return asyncio.Handle(callback, args, self, context)


def trio_runner() -> Any:
    """Return the runner of trio's run in this thread, which has just started."""
    module: ModuleType = sys.modules["trio._core._run"]
    context = check(TRIO_MODULE, module).GLOBAL_RUN_CONTEXT
    runner = check(RUNNER, check(RUN_CONTEXT, context).runner)
    check(DEADLINES, runner.deadlines)
    check(ENTRY_QUEUE, runner.entry_queue)
    check(CANCEL_STATUS, check(TRIO_TASK, runner.main_task)._cancel_status)
    return runner
