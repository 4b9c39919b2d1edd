"""Every private name of anyio, trio and asyncio that production uses, and the checks that decide if `enclose()` works.

`enclose()` puts a cancel scope around a running task. anyio and trio have no public way to do that, so `enclose()`
changes their private objects: see `enclosing_asyncio.py` and `enclosing_trio.py`. The first host of a process on
asyncio, and the first on trio, runs two checks before it opens:

1. The names: each name below exists, and its value has the right type.
2. The self-test: `enclose()` cancels real tasks. A name can stay while its meaning changes. Then check 1 passes, but a
   task is never cancelled, and its host never closes. Only the self-test finds that.

If a check fails, `taskphase` logs one line, and each task enters its scope at its first step: the *early* way. This way
takes longer and changes nothing else. `TASKPHASE_SCOPES=early` chooses the early way, without the checks.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.metadata import PackageNotFoundError, version
from math import inf
from os import environ
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from anyio import CancelScope, Event, current_effective_deadline
from anyio.lowlevel import checkpoint

from . import report

if TYPE_CHECKING:
    from .cancelling import CancelScope as NativeScope

SETTING = "TASKPHASE_SCOPES"

_OF_TASKS = f"{__package__}.attempt"  # the module of the outermost frame of each task

# How many turns of the event loop the self-test waits until its tasks have ended. They need about five.
MOST_TURNS = 50


class Private(NamedTuple):
    """A private name.

    :ivar package: the package that has the name
    :ivar owner: the module or the class that has the name, for messages
    :ivar kind: the type of its value
    """

    package: str
    owner: str
    name: str
    kind: type | tuple[type, ...]


class PrivateChanged(Exception):
    """A private name is gone, or its value has another type."""


_NONE = type(None)
_CALLABLE: Any = Callable  # `isinstance()` takes it, but type checkers do not

# Used for each task. (asyncio's own `current_task()` is slow on Python 3.11, hence `_current_tasks`.)
ASYNCIO = (Private("asyncio", "asyncio", "_get_running_loop", _CALLABLE),)
ASYNCIO_CURRENT = (Private("asyncio", "asyncio.tasks", "_current_tasks", MutableMapping),)

# Used by `enclose()` on asyncio.
ASYNCIO_TASKS = (
    Private("asyncio", "asyncio.tasks", "_enter_task", _CALLABLE),
    Private("asyncio", "asyncio.tasks", "_leave_task", _CALLABLE),
)
ANYIO_BACKEND = (
    Private("anyio", "_backends._asyncio", "_task_states", MutableMapping),
    Private("anyio", "_backends._asyncio", "TaskState", _CALLABLE),
    Private("anyio", "_backends._asyncio", "CancelScope", _CALLABLE),
    Private("anyio", "_backends._asyncio", "AsyncIOBackend", type),
)
ANYIO_SCOPE = (
    Private("anyio", "CancelScope", "_child_scopes", set),
    Private("anyio", "CancelScope", "_tasks", set),
    Private("anyio", "CancelScope", "_parent_scope", _NONE),
    Private("anyio", "CancelScope", "_shield", bool),
)
ANYIO_STATE = (Private("anyio", "TaskState", "cancel_scope", _NONE),)
ANYIO_TO_THREAD = (Private("anyio", "AsyncIOBackend", "run_sync_in_worker_thread", _CALLABLE),)
# Two local variables of that function. `waits.py` reads "context", too.
ANYIO_VARIABLES = ("scope", "worker_scope")

# The coroutine function that anyio runs for `from_thread.run()` on asyncio. `waits.py` reads its variable "scope".
ANYIO_FROM_THREAD = "task_wrapper"

# The same on trio for a thread that may be left behind. `waits.py` reads "context" of the function that waits for it.
TRIO_FROM_THREAD, TRIO_TO_THREAD = "run_system", "to_thread_run_sync"

# A local variable of `anyio.to_process.run_sync()`, which `processes.py` reads: the worker of the call.
ANYIO_PROCESS = "process"

# The class of trio's own clock. A program can give trio another one.
TRIO_CLOCK = "SystemClock"

# Used by the self-test on asyncio to end its thread. Without these names anyio ends the thread with the loop.
ANYIO_WORKER = (
    Private("anyio", "WorkerThread", "root_task", object),
    Private("anyio", "WorkerThread", "stop", _CALLABLE),
)

# Used by `enclose()` on trio.
TRIO_NURSERY = (Private("trio", "Nursery", "_cancel_status", object),)
TRIO_SCOPE = (Private("trio", "CancelScope", "_cancel_status", _NONE),)
TRIO_TASK = (
    Private("trio", "Task", "_cancel_status", object),
    Private("trio", "Task", "_activate_cancel_status", _CALLABLE),
)
TRIO_STATUS = (Private("trio", "CancelStatus", "parent", object),)


def check(privates: tuple[Private, ...], owner: object) -> Any:
    """Check all `privates` of `owner`, and return `owner`.

    :raises PrivateChanged: if a name is gone, or its value has another type
    """
    for package, of, name, kind in privates:
        try:
            value = getattr(owner, name)
        except AttributeError:
            raise PrivateChanged(f"{named(package)} has no {of}.{name}") from None
        if not isinstance(value, kind):
            raise PrivateChanged(f"{of}.{name} of {named(package)} is a {type(value).__name__}")
    return owner


def named(package: str) -> str:
    """Return the package's name with its version."""
    if package == "asyncio":
        return f"asyncio of Python {platform.python_version()}"
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # a program that was frozen into one file
        return package


def is_forced_early() -> bool:
    """Return whether the environment asks for the early way.

    :raises ValueError: if the environment asks for an unknown way
    """
    value = environ.get(SETTING, "")
    if value not in ("", "early", "late"):
        raise ValueError(f"the environment variable {SETTING} must be 'early', 'late' or unset, not {value!r}")
    return value == "early"


def is_inside_library() -> bool:
    """Return whether a signal handler or a finalizer runs here, and has interrupted anyio or trio in a task of this
    package. What `enclose()` changes may then be half changed already.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != _OF_TASKS:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in ("anyio", "trio"):
            return True
        frame = frame.f_back
    return False


# By backend: whether `enclose()` works in this process.
_verdicts: dict[str, bool] = {}


def is_decided(backend: str) -> bool:
    """Return whether the next host on this backend opens without the self-test.

    :raises ValueError: if the environment asks for an unknown way
    """
    return is_forced_early() or backend in _verdicts


async def can_enclose(
    backend: str, packages: tuple[str, ...], look: Callable[[], object], attempt: Callable[[], Awaitable[bool | None]]
) -> bool:
    """Return whether `enclose()` works on this backend. The first call in a process runs the two checks.

    A self-test that was cut short decides nothing: this host takes the early way, and the next host tests again.

    :param packages: whose private names `enclose()` uses, for the log
    :param look: checks the names; raises `PrivateChanged`
    :param attempt: runs the self-test; returns None if the self-test was cut short
    """
    if backend not in _verdicts:
        reason = None
        try:
            look()
            passed = await attempt()
            if passed is None:
                return False
            if not passed:
                reason = f"{' on '.join(map(named, packages))} does not cancel a task through a late scope"
        except PrivateChanged as exc:
            reason = str(exc)
        except Exception as exc:  # the host opens all the same
            reason = f"{' on '.join(map(named, packages))} raises {exc!r} in the test of late scopes"
        if backend not in _verdicts:  # another host may have been faster
            _verdicts[backend] = reason is None
            if reason is not None:
                report.scopes_are_early(reason)
    return _verdicts[backend]


class Trial:
    """The work of the tasks that the self-test cancels, and a log of each event that the tasks see.

    The self-test cannot hang: `release()` ends each task without a cancellation. The self-test cannot be misled by a
    clock that stops or jumps: no wait here has a timeout.

    :ivar log: the events, in any order
    :ivar scopes: the scopes that `enclose()` has entered, by native task
    :ivar waiting: the native tasks that have begun
    :ivar go_on: ends the wait in the shield
    """

    def __init__(self, cancelled: type[BaseException], running: Callable[[], Any]) -> None:
        self.log: list[str] = []
        self.scopes: dict[Any, NativeScope] = {}
        self.waiting: list[Any] = []
        self.go_on, self._released = Event(), Event()
        self._cancelled, self._running = cancelled, running

    async def attempt(self, work: Callable[[], Awaitable[object]]) -> None:
        """Await `work()`, then leave the scope from `enclose()`, like `attempt()` in attempt.py."""
        native = self._running()
        self.waiting.append(native)
        try:
            try:
                await work()
            except self._cancelled as exc:
                scope = self.scopes.pop(native, None)
                if scope is None or not scope.__exit__(type(exc), exc, None):
                    raise
                self.log.append("caught" if scope.cancel_called and scope.cancelled_caught else "caught by no scope")
            else:
                self.log.append("went on")
                if native in self.scopes:
                    self.scopes.pop(native).__exit__(None, None, None)
            await checkpoint()  # raises if the task is still cancelled
            if current_effective_deadline() == -inf:
                self.log.append("still cancelled")
        except Exception as exc:  # the log then differs from the expected log
            self.log.append(repr(exc))

    async def wait(self) -> None:
        """Wait for the cancellation."""
        await self._released.wait()

    async def wait_in_scopes(self) -> None:
        """Wait in a shield, then outside of the shield. The shield must hold, and the two scopes must catch nothing."""
        with CancelScope(), CancelScope():
            with CancelScope(shield=True):
                await self.go_on.wait()
                await checkpoint()
                self.log.append("shielded")
            await self.wait()
        self.log.append("caught inside")

    def release(self) -> None:
        self.go_on.set()
        self._released.set()
