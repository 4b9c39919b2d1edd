"""Every private name of asyncio, anyio and trio that the simulation uses, each with a check.

Tested with Python 3.11 to 3.15, anyio 4.9 to 4.16, and trio 0.35.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, MutableMapping
from contextvars import Context
from functools import cache
from importlib import import_module
from types import BuiltinMethodType, FunctionType, MethodType, SimpleNamespace
from typing import Any, NamedTuple, TypeVarTuple

from ..._drive import enclosing
from ..._drive.enclosing import Private, PrivateChanged

try:
    import sniffio
except ImportError:  # anyio needs sniffio only before 4.12, trio always does
    sniffio = None  # type: ignore[assignment]

Ts = TypeVarTuple("Ts")

_NONE = type(None)
_FUNCTION = (FunctionType, MethodType, BuiltinMethodType)

LOOP = (Private("asyncio", "BaseEventLoop", "_run_once", FunctionType),)
HANDLE = (Private("asyncio", "Handle", "_run", FunctionType),)
TASK = (
    Private("asyncio", "Task", "_log_destroy_pending", bool),
    Private("asyncio", "Task", "_exception", (BaseException, _NONE)),
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
    Private("anyio", "_backends._asyncio", "Future", type),
    Private("anyio", "_backends._asyncio", "_task_states", MutableMapping),
    Private("anyio", "_backends._asyncio", "AsyncIOBackend", type),
)
ANYIO_TRIO_MODULE = (Private("anyio", "_backends._trio", "TrioBackend", type),)
BACKEND = (
    Private("anyio", "AsyncBackend", "run_sync_in_worker_thread", classmethod),
    Private("anyio", "AsyncBackend", "open_process", classmethod),
    Private("anyio", "AsyncBackend", "setup_process_pool_exit_at_shutdown", classmethod),
)
CANCEL_SCOPE = (
    Private("anyio", "CancelScope", "_tasks", set),
    Private("anyio", "CancelScope", "_child_scopes", set),
    Private("anyio", "CancelScope", "_parent_scope", _NONE),
    Private("anyio", "CancelScope", "_deliver_cancellation", MethodType),
)
TRIO_THREADS = (
    Private("trio", "_threads", "start_thread_soon", FunctionType),
    Private("trio", "_threads", "_send_message_to_trio", FunctionType),
)
TRIO_MODULE = (Private("trio", "_core._run", "GLOBAL_RUN_CONTEXT", object),)
RUN_CONTEXT = (Private("trio", "GLOBAL_RUN_CONTEXT", "runner", object),)
RUNNER = (
    Private("trio", "Runner", "runq", deque),
    Private("trio", "Runner", "deadlines", object),
    Private("trio", "Runner", "entry_queue", object),
    Private("trio", "Runner", "waiting_for_idle", MutableMapping),
    Private("trio", "Runner", "main_task", object),
)
DEADLINES = (Private("trio", "Deadlines", "next_deadline", _FUNCTION),)
ENTRY_QUEUE = (
    Private("trio", "EntryQueue", "size", _FUNCTION),
    Private("trio", "EntryQueue", "task", _FUNCTION),
)
TRIO_TASK = (
    Private("trio", "Task", "_counter", int),
    Private("trio", "Task", "_next_send_fn", (*_FUNCTION, _NONE)),
    Private("trio", "Task", "_next_send", object),
    Private("trio", "Task", "_abort_func", (*_FUNCTION, _NONE)),
    Private("trio", "Task", "_attempt_abort", _FUNCTION),
    Private("trio", "Task", "_cancel_status", object),
)
CANCEL_STATUS = (Private("trio", "CancelStatus", "_scope", object),)


def check(privates: tuple[Private, ...], owner: object) -> Any:
    """Check all `privates` of `owner`, and return `owner`.

    :raises PrivateChanged: if a name is gone, or its value has another type
    """
    try:
        return enclosing.check(privates, owner)
    except PrivateChanged as exc:
        package = privates[0].package
        raise PrivateChanged(
            f"taskphase.testing does not support this version: {exc}; "
            f"install another version of {package}, or report this one"
        ) from None


def anyio_on_asyncio() -> Any:
    """Return anyio's module for asyncio."""
    module = check(ANYIO_MODULE, import_module("anyio._backends._asyncio"))
    check(CANCEL_SCOPE, module.CancelScope())
    check(BACKEND, SimpleNamespace(**vars(module.AsyncIOBackend)))  # without inherited attributes
    anyio_eventloop()
    return module


def anyio_on_trio() -> Any:
    """Return anyio's module for trio. Checks trio's module for threads as well."""
    module = check(ANYIO_TRIO_MODULE, import_module("anyio._backends._trio"))
    check(BACKEND, SimpleNamespace(**vars(module.TrioBackend)))
    check(TRIO_THREADS, import_module("trio._threads"))
    anyio_eventloop()
    return module


def anyio_eventloop() -> Any:
    """Return anyio's module that stores the event loop of a thread."""
    return check(EVENTLOOP_MODULE, import_module("anyio._core._eventloop"))


def enter_library(name: str | None) -> None:
    """Let anyio find this library, or none, in the current context."""
    if sniffio is not None:
        sniffio.current_async_library_cvar.set(name)


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


@cache
def asyncio_steps() -> Steps:
    """Find out how asyncio calls the steps of a task, with a task of a loop that keeps its callbacks.

    :raises PrivateChanged: if asyncio does not use callbacks that are bound to the task
    """
    check(LOOP, asyncio.BaseEventLoop)
    check(HANDLE, asyncio.Handle)
    loop = _Probe()
    try:
        task = loop.create_task(_wait(loop))
        check(TASK, task)
        loop.run_until_complete(task)
    finally:
        loop.close()
    step, _set_result, wakeup, *_ = loop.callbacks
    return Steps(type(check(CALLBACK, step)), check(CALLBACK, wakeup).__name__)


async def _wait(loop: asyncio.AbstractEventLoop) -> None:
    future: asyncio.Future[None] = loop.create_future()
    loop.call_soon(future.set_result, None)
    await future


class _Probe(asyncio.BaseEventLoop):
    """A loop without a selector, which keeps all callbacks that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: list[Any] = []
        self._due: deque[Any] = deque()

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self.callbacks.append(callback)
        handle = asyncio.Handle(callback, args, self, context)
        self._due.append(handle)
        return handle

    def _run_once(self) -> None:
        self._due.popleft()._run()
