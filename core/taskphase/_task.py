"""The handle of one task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, cast, overload

from anyio.lowlevel import checkpoint

from ._drive.current import running_job
from ._drive.inline import run_inline
from ._drive.job import Job
from ._machine.calling import Handle, shown
from ._machine.config import TaskConfig
from ._machine.life import LifeEvent, TaskStatus
from .errors import NoCurrentError, TaskCancelled, TaskDropped, TaskFailed, TaskNotFinished

if TYPE_CHECKING:
    # For type checkers only: `Task` alone means `Task[Any]`, also where every type argument has to be written.
    from typing_extensions import TypeVar

    from ._scheduler import TasksScheduler

    T_co = TypeVar("T_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

T = TypeVar("T")
H = TypeVar("H", bound=Handle)


class Task(Job, Generic[T_co]):
    """One task: what it calls, what it is doing, and what has come of it.

    `schedule()` returns it. It is modelled on `anyio.TaskHandle` (4.14). All but `cancel()` and the plain
    attributes is for the event loop's thread.

    :ivar id: an integer that is unique in the process and grows with each task
    :ivar func: the function
    :ivar args: its positional arguments
    :ivar config: its settings, all that is inherited included
    :ivar phase: a `Phase`
    :ivar attempt: the number of the attempt that runs or ran last; 0 before the first
    :raises TypeError: if `func` is not callable, or does not take these arguments
    """

    __slots__ = ()

    if TYPE_CHECKING:  # at run time it is that of `Job`

        @overload
        def __init__(
            self: Task[H],
            func: Callable[..., H],
            args: tuple[Any, ...] = ...,
            kwargs: Mapping[str, Any] | None = ...,
            config: TaskConfig = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: Task[T],
            func: Callable[..., Awaitable[T]],
            args: tuple[Any, ...] = ...,
            kwargs: Mapping[str, Any] | None = ...,
            config: TaskConfig = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: Task[T],
            func: Callable[..., T],
            args: tuple[Any, ...] = ...,
            kwargs: Mapping[str, Any] | None = ...,
            config: TaskConfig = ...,
        ) -> None: ...
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    @property
    def started(self) -> Started:
        """An event that is set when the task takes its first step."""
        return Started(self)

    @property
    def return_value(self) -> T_co:
        """What the function returned.

        :raises TaskNotFinished: if the task has not ended
        :raises TaskFailed: if it failed; the exception is the `__cause__`
        :raises TaskCancelled: if it was cancelled
        :raises TaskDropped: if it was dropped
        """
        match self._status:
            case TaskStatus.SUCCEEDED:
                return cast(T_co, self._result)
            case TaskStatus.FAILED:
                raise TaskFailed(f"task {self.name!r} failed") from self._result
            case _:
                raise self._no_result()

    @property
    def exception(self) -> BaseException | None:
        """What the task failed with, or None if it succeeded.

        :raises TaskNotFinished: if the task has not ended
        :raises TaskCancelled: if it was cancelled
        :raises TaskDropped: if it was dropped
        """
        match self._status:
            case TaskStatus.SUCCEEDED:
                return None
            case TaskStatus.FAILED:
                return cast(BaseException, self._result)
            case _:
                raise self._no_result()

    async def wait(self) -> None:
        """Wait until the task has ended, in whichever way. A checkpoint.

        To be cancelled while waiting does not cancel the task.

        :raises TaskNotFinished: at once, if the phase of the task comes only when the waiting code has ended: in the
            route of its request, in the stream, or in the exit of a dependency
        """
        if self._has_ended:
            await checkpoint()
        else:
            self._check_who_waits()
            await self._wait_ended()

    def __await__(self) -> Generator[Any, Any, T_co]:
        """Wait until the task has ended, and return what it returned. A checkpoint. Raises what `return_value`
        raises.
        """
        yield from self.wait().__await__()
        return self.return_value

    def cancel(self) -> None:
        """Ask the task to stop. From any thread; does not wait, and may be called again.

        A task that has not begun, or waits for another attempt, has ended when this returns (soon after, from
        another thread). One that runs is cancelled at its next checkpoint, and at each after that. A sync function
        that has begun runs to its end, with its result.
        """
        if self._is_new:
            self._end(LifeEvent.CANCEL)
        elif not self._has_ended:
            self._runner.call(self._runner.cancel, self)

    async def __call__(self) -> T_co:
        """Run the task here and now, for tests: as it would run in a host, and return or raise what awaiting it does.

        :raises RuntimeError: if it has been scheduled, started or ended
        """
        if not self._is_new:
            raise RuntimeError(f"task {self.name!r} is {self._status.value} already; only a new one can be run inline")
        await run_inline(self)
        return self.return_value

    def __start__(self, scheduler: TasksScheduler, /) -> None:
        """The same as `scheduler.start(task)`."""
        scheduler.start(self)

    def __repr__(self) -> str:
        # Without the arguments: they may be secret, and a repr ends up in logs.
        return f"<Task {self.id} {shown(self.name)} {self.phase.value} {self._status.value}>"

    def _check_who_waits(self) -> None:
        """Make sure that the native task that runs the task's route does not wait for a phase that comes only after it.

        :raises TaskNotFinished: if it does
        """
        if self._status is not TaskStatus.DEFERRED:
            return
        runner = self._runner
        held = runner.deferred.get(self)
        if (
            held is not None
            and held.owner is not None
            and runner.seam.is_here()
            and held.owner is runner.seam.running()
        ):
            raise TaskNotFinished(
                f"task {self.name!r} is for {self.phase.value}, which comes only when this code has ended: waiting for "
                "it here would never end. Wait for it in another task, or schedule it for an earlier phase"
            )

    def _no_result(self) -> Exception:
        match self._status:
            case TaskStatus.CANCELLED:
                return TaskCancelled(f"task {self.name!r} was cancelled")
            case TaskStatus.DROPPED:
                return TaskDropped(f"task {self.name!r} was dropped and never ran")
            case _:
                return TaskNotFinished(f"task {self.name!r} is {self._status.value}")


class Started:
    """Whether a task has taken its first step, with the two methods of an `anyio.Event`."""

    __slots__ = ("_task",)

    def __init__(self, task: Task[Any]) -> None:
        self._task = task

    def is_set(self) -> bool:
        """Return whether the task has taken its first step. From any thread."""
        return self._task.attempt > 0

    async def wait(self) -> None:
        """Wait until the task has taken its first step. A checkpoint.

        :raises TaskCancelled: if it was cancelled before that
        :raises TaskDropped: if it was dropped
        """
        if self.is_set():
            await checkpoint()
            return
        self._task._check_who_waits()
        await self._task._wait_started()
        if not self.is_set():
            raise self._task._no_result()


def current_task() -> Task[Any]:
    """Return the task that is running here: in its function or handler, in what they call, and in threads and child
    tasks of theirs.

    :raises NoCurrentError: outside of any task
    """
    job = running_job()
    if job is None:
        raise NoCurrentError(
            "this code does not run in a task. If it runs in a thread of your own, that a task has started: call "
            "current_task() before you start the thread, and hand the task over"
        )
    return cast("Task[Any]", job)


TaskErrorHandler: TypeAlias = Callable[[Task[Any], Exception], object]
"""What `on_error` is: called with the task and its exception, sync or async. What it returns means nothing."""

TaskRetryPolicy: TypeAlias = Callable[[Task[Any], Exception], float | timedelta | None]
"""What `retry` is: called with the task and the exception of an attempt. It returns the pause before the next attempt,
in seconds or as a `timedelta`, or None if there is no further attempt.
"""
