"""The code for asyncio that needs private names, `enclose()` above all: see `enclosing.py`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from threading import Event as ThreadEvent
from threading import Thread, current_thread
from threading import enumerate as all_threads
from types import FrameType
from typing import TYPE_CHECKING, Any

import anyio
from anyio import CapacityLimiter, from_thread, to_thread
from anyio.lowlevel import checkpoint

from . import enclosing
from .awaited import awaited_frames
from .enclosing import PrivateChanged, Trial, can_enclose, check, named

if TYPE_CHECKING:
    from .cancelling import CancelScope

Native = asyncio.Task[Any]

_tasks: Any = asyncio.tasks

running_loop: Callable[[], asyncio.AbstractEventLoop | None] = check(enclosing.ASYNCIO, asyncio)._get_running_loop


def _task_of() -> Callable[[Any], Any]:
    """Return the function that returns the running task of a loop: on Python 3.11 not the slow `current_task()`."""
    if sys.version_info < (3, 12):
        with suppress(PrivateChanged):
            return check(enclosing.ASYNCIO_CURRENT, _tasks)._current_tasks.get  # type: ignore[no-any-return]
    return asyncio.current_task


task_of: Callable[[Any], Any] = _task_of()


# Tell asyncio that a task no longer runs in a loop, or that it runs. (None if a name is gone: see `look()`.)
leave_task: Callable[[Any, Native], None] = getattr(_tasks, "_leave_task", None)  # type: ignore[assignment]
enter_task: Callable[[Any, Native], None] = getattr(_tasks, "_enter_task", None)  # type: ignore[assignment]


def enclose(loop: asyncio.AbstractEventLoop, native: Native) -> CancelScope:
    """Enter a cancel scope on behalf of `native`, a task of `loop`, around all that it has entered.

    anyio keeps two records of the scopes that a task has entered:

    - The state of the task, in `_task_states`: its innermost scope.
    - The tree: each scope knows its parent, its children, and the tasks that are directly in it. A cancelled scope
      cancels these tasks, and goes down to its children. A shield stops it.

    *Invariant*: after `enclose()` both records are as if the task had entered the new scope first. So the task leaves
    its own scopes as usual, and `attempt()` leaves the new scope last.

    The steps:

    1. Find the outermost scope of the task: from the innermost one up. If the task is in no scope, do step 3 only.
    2. If the outermost scope is the shield of a call in a thread, open the shield: see `_open_to_the_thread()`.
       Otherwise the thread never sees the cancellation.
    3. Enter the new scope as the task, while the state has no scope. Otherwise anyio makes the new scope a child of the
       innermost one.
    4. Put the outermost scope below the new one, in both directions. Without the link up, a checkpoint inside does not
       see the cancellation. Without the link down, anyio does not deliver it.
    5. Take the task out of the new scope: the task is directly in its innermost scope only. Otherwise the cancellation
       passes the shields of the task.
    6. Put the innermost scope back into the state. Otherwise the task cannot leave its scopes.
    """
    backend = _backend()
    scope = backend.CancelScope()  # not a shield: nothing encloses a task of the loop itself
    state = backend._task_states.get(native)
    if state is None or state.cancel_scope is None:
        _enter_as(loop, native, scope)
        return scope  # type: ignore[no-any-return]
    innermost = outermost = state.cancel_scope
    while outermost._parent_scope is not None:
        outermost = outermost._parent_scope
    if _is_known_to_a_thread(outermost, native):
        _open_to_the_thread(outermost, native)
    state.cancel_scope = None
    _enter_as(loop, native, scope)
    outermost._parent_scope = scope
    scope._child_scopes.add(outermost)
    scope._tasks.discard(native)  # it is in the innermost one
    state.cancel_scope = innermost
    return scope  # type: ignore[no-any-return]


def _backend() -> Any:
    return import_module("anyio._backends._asyncio")


def _enter_as(loop: asyncio.AbstractEventLoop, native: Native, scope: CancelScope) -> None:
    """Enter `scope` while `native` is the running task for asyncio: anyio asks asyncio which task enters."""
    running = task_of(loop)
    if running is not None:
        leave_task(loop, running)
    enter_task(loop, native)
    try:
        scope.__enter__()
    finally:
        leave_task(loop, native)
        if running is not None:
            enter_task(loop, running)


class _Others(set[Any]):
    """The tasks in a scope, without the task that has entered the scope and will leave it."""

    def remove(self, task: Any) -> None:
        self.discard(task)


def _open_to_the_thread(shield: Any, native: Native) -> None:
    """Make a shield hold for `native` only, not for the thread that `native` waits for.

    If no scope is around `to_thread.run_sync()`, anyio gives its own shield to the thread. The thread looks at that
    scope in `check_cancelled()`, and runs its async calls in it. So this function removes the shield, and takes the
    task out of the scope instead: the cancellation cannot reach the task before the thread ends. anyio later removes
    the task from the scope, hence `_Others`.
    """
    shield._shield = False
    shield._tasks = _Others(shield._tasks)
    shield._tasks.remove(native)


# The name of anyio's coroutine function that calls a function in a thread.
_TO_THREAD = enclosing.ANYIO_TO_THREAD[0].name


def _is_known_to_a_thread(scope: Any, native: Native) -> bool:
    """Return whether `scope`, the outermost scope of `native`, is anyio's shield around a call in a thread for which
    `native` waits, and the thread has this scope as well.
    """
    # Most cancelled tasks are in no shield: no walk then.
    return scope._shield and any(_gives_to_a_thread(frame, scope) for frame in awaited_frames(native.get_coro()))


def _gives_to_a_thread(frame: FrameType, scope: Any) -> bool:
    # The name first: on Python 3.11 and 3.12 `f_locals` makes a dict that keeps its values alive as long as the frame.
    if frame.f_code.co_name != _TO_THREAD:
        return False
    variables = frame.f_locals
    # One task enters a scope. So only the right frame has this scope, even if the walk yields frames of other tasks.
    return variables.get("worker_scope") is scope is variables.get("scope")


def look() -> None:
    """Check every name that `enclose()` uses.

    :raises PrivateChanged: if a name is gone, or its value has another type
    """
    check(enclosing.ASYNCIO_TASKS, _tasks)
    try:
        backend = check(enclosing.ANYIO_BACKEND, _backend())
        check(enclosing.ANYIO_SCOPE, backend.CancelScope())
        check(enclosing.ANYIO_STATE, backend.TaskState(None, None))
    except (ImportError, AttributeError, TypeError) as exc:
        raise PrivateChanged(f"{named('anyio')}: {exc}") from None
    to_thread = check(enclosing.ANYIO_TO_THREAD, backend.AsyncIOBackend).run_sync_in_worker_thread
    code: Any = getattr(to_thread, "__code__", None)
    if code is None or code.co_name != _TO_THREAD or not set(enclosing.ANYIO_VARIABLES) <= set(code.co_varnames):
        raise PrivateChanged(f"anyio's {_TO_THREAD}() has no local variables {' and '.join(enclosing.ANYIO_VARIABLES)}")


async def can_enclose_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether `enclose()` works in this process (see `can_enclose()`)."""
    return await can_enclose("asyncio", ("anyio", "asyncio"), look, partial(_try, loop))


async def _try(loop: asyncio.AbstractEventLoop) -> bool | None:
    """Cancel three tasks through `enclose()`.

    The steps:

    1. Start the tasks: one in no scope, one in scopes and a shield, one that waits for a thread.
    2. When all of them wait, enclose and cancel each.
    3. After at most `MOST_TURNS` turns, release all tasks and wait for their end. So this function returns, even if
       anyio delivers no cancellation.
    4. Compare the log. A task that was not cancelled, or in its shield, or that stays cancelled, logs another line.

    *Invariant*: after the return no task and no thread of the self-test is alive. So a native cancellation of the
    running task, as at the end of `asyncio.run()`, must not cut step 3 short. It comes again at the next checkpoint.

    :return: True if the log is the expected one; None if the running task was cancelled meanwhile
    """
    trial, thread = Trial(asyncio.CancelledError, partial(asyncio.current_task, loop)), _InThread(loop)
    works: list[Callable[[], Awaitable[object]]] = [trial.wait, trial.wait_in_scopes, partial(thread.wait, trial)]
    natives = [asyncio.Task(trial.attempt(work), loop=loop, name="taskphase self-test") for work in works]
    is_cut_short = False
    try:
        await _cancel(natives, loop, trial, thread)
    except asyncio.CancelledError:
        is_cut_short = True
    except Exception as exc:
        trial.log.append(repr(exc))
    finally:
        trial.release()
        thread.go_on.set()
    while not _are_over(natives):
        try:
            await asyncio.wait(natives)
        except asyncio.CancelledError:
            is_cut_short = True
    thread.end()
    if is_cut_short:
        _cancel_again()
        return None
    expected = ["caught", "caught", "caught", "shielded", "told in the thread"]
    return sorted(trial.log) == expected and not any(native.cancelled() or native.cancelling() for native in natives)


async def _cancel(natives: list[Native], loop: asyncio.AbstractEventLoop, trial: Trial, thread: _InThread) -> None:
    """Cancel `natives` when all of them wait, and give them turns to end."""
    await thread.changed.wait()  # the task with the thread is the last one that begins
    thread.changed = anyio.Event()
    for native in natives:
        trial.scopes[native] = scope = enclose(loop, native)
        scope.cancel()
    trial.go_on.set()
    thread.go_on.set()
    await thread.changed.wait()
    for _ in range(enclosing.MOST_TURNS):
        if _are_over(natives):
            break
        await asyncio.sleep(0)


def _are_over(natives: list[Native]) -> bool:
    return all(native.done() for native in natives)


def _cancel_again() -> None:
    """Cancel the running task again, after its cancellation was caught. `cancelling()` does not count it twice."""
    here: Any = asyncio.current_task()
    here.uncancel()
    here.cancel()


class _InThread:
    """A call in a thread. When its task is cancelled, the thread calls `check_cancelled()`.

    :ivar changed: set when the thread has begun, and a second time when the task no longer waits for the thread
    :ivar go_on: ends the wait in the thread
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.changed, self.go_on = anyio.Event(), ThreadEvent()
        self._loop = loop
        self._known = set(all_threads())
        self._thread: Thread | None = None
        self._is_told = False

    async def wait(self, trial: Trial) -> None:
        try:
            # A new limiter: anyio's default limiter may have no free slot.
            await to_thread.run_sync(self._ask, limiter=CapacityLimiter(1))
        finally:
            self.changed.set()
        if self._is_told:
            trial.log.append("told in the thread")
        await checkpoint()
        await trial.wait()

    def _ask(self) -> None:
        self._thread = current_thread()
        self._loop.call_soon_threadsafe(self.changed.set)
        self.go_on.wait()
        try:
            from_thread.check_cancelled()
        except asyncio.CancelledError:
            self._is_told = True

    def end(self) -> None:
        """End the thread, unless it existed before. An idle thread would stay until the loop ends, and would make
        Python 3.12 warn at each `os.fork()`.
        """
        worker: Any = self._thread
        if worker is None or worker in self._known:
            return
        with suppress(PrivateChanged):
            check(enclosing.ANYIO_WORKER, worker)
            worker.root_task.remove_done_callback(worker.stop)
            worker.stop()
            worker.join(1)
