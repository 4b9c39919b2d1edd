"""`Task`: the handle of one task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Protocol, cast, overload

from anyio.lowlevel import checkpoint

from ._drive.awaited import code_frames
from ._drive.inline import run_inline
from ._drive.job import Job
from ._drive.portable import refuse_async
from ._drive.waits import check_wait
from ._machine.calling import Handle, shown, type_name
from ._machine.config import UNSET, TaskConfig
from ._machine.hints import Elsewhere, HidesElsewhere, without_elsewhere
from ._machine.life import ENDS, IN_ATTEMPT, NOT_DUE, LifeEvent, TaskStatus
from ._machine.scope import Phase
from .errors import TaskCancelled, TaskDropped, TaskFailed, TaskHandedOver, TaskNotFinished

if TYPE_CHECKING:
    # For type checkers only: `Task` alone means `Task[Any]`, also where every type argument has to be written.
    from typing_extensions import TypeVar

    T_co = TypeVar("T_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

T = TypeVar("T")
H = TypeVar("H", bound=Handle)

# `new(Task)`, then `fill()`: a `Task()` without checks, and faster.
new, fill = object.__new__, Job.__init__


class Task(Job, Generic[T_co], metaclass=HidesElsewhere):
    """One task: its call, its state and its result. `schedule()` returns it.

    - `await task` waits for the end of the task and returns the result of its function; raises `TaskFailed` if the task
      failed, `TaskCancelled` or `TaskDropped` if there is no result. In the endpoint only for tasks of
      `tasks.schedule()`: the later phases begin after the endpoint.
    - `await task.wait()` only waits. `task.cancel()` stops the task. `task.status` is `"running"`, `"succeeded"`, ...
    - You need not keep the task: it runs without a reference, and an error is logged.

    `cancel()` and plain attributes work in any thread; the rest is for the event loop's thread. Names and behaviour
    follow `anyio.TaskHandle` (4.14).

    :ivar id: an integer that is unique in the process and grows with each task
    :ivar func: the function
    :ivar args: the positional arguments
    :ivar config: the settings, with all inherited settings
    :ivar phase: a `Phase`
    :ivar parent: the id of the task that scheduled this task, or None
    :ivar attempt: the number of the present or last attempt, from 1; 0 before the first attempt. The hand-over to a
        queue is one attempt
    :raises TypeError: if `func` is not callable, or does not accept these arguments; if a parameter has the wrong type
    :raises TasksUnportableError: if `config` has `run_in="process"`, and a process cannot make the call
    """

    __slots__ = ()

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
    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        config: TaskConfig = UNSET,
    ) -> None:
        if not isinstance(args, tuple):
            raise TypeError(f"args must be a tuple, not {type_name(args)}: write Task(f, (x,))")
        if not isinstance(config, TaskConfig):
            raise TypeError(f"config must be a TaskConfig, not {type_name(config)}: write TaskConfig(timeout=5)")
        fill(self, func, args, kwargs, config)

    if not TYPE_CHECKING:  # type checkers and completion must not know these names
        result = Elsewhere("`await task`, or task.return_value after its end")
        done = Elsewhere("task.status")
        add_done_callback = Elsewhere("`await task`, or .task(on_error=...) before .schedule()")

        def __dir__(self) -> list[str]:
            return without_elsewhere(type(self), super().__dir__())

    @property
    def started(self) -> Started:
        """The event that is set when the task takes its first step."""
        return Started(self)

    @property
    def return_value(self) -> T_co:
        """The return value of the function.

        :raises TaskNotFinished: if the task has not ended
        :raises TaskFailed: if the task failed; the exception is the `__cause__`
        :raises TaskCancelled: if the task was cancelled
        :raises TaskDropped: if the task was dropped
        :raises TaskHandedOver: if another process runs the task
        """
        if self._status is TaskStatus.SUCCEEDED:
            return cast(T_co, self._result)
        if self._status is TaskStatus.FAILED:
            raise TaskFailed(f"task {self.name!r} failed") from self._result
        raise self._no_result()

    @property
    def exception(self) -> BaseException | None:
        """The exception of a failed task; None if the task succeeded.

        :raises TaskNotFinished: if the task has not ended
        :raises TaskCancelled: if the task was cancelled
        :raises TaskDropped: if the task was dropped
        :raises TaskHandedOver: if another process runs the task
        """
        if self._status is TaskStatus.SUCCEEDED:
            return None
        if self._status is TaskStatus.FAILED:
            return cast(BaseException, self._result)
        raise self._no_result()

    @property
    def age(self) -> float:
        """The seconds from `schedule()` to now, or to the end of the task, by the loop's clock."""
        if self._taken_at is None:
            return 0.0
        return self._now() - self._taken_at

    @property
    def running_for(self) -> float | None:
        """The seconds from the first step of the present attempt to now, or to the end of the task, by the loop's
        clock. None before the first attempt, and in a pause between attempts.
        """
        return None if self._began_at is None else self._now() - self._began_at

    def _now(self) -> float:
        return self._ended_at if self._status in ENDS else self._runner.stamp()

    def frames(self) -> tuple[FrameType, ...] | None:
        """Return where the task waits now: the frames of its code, the outermost first. For the loop's thread.

        Do not keep the frames: they hold the local variables of the task.

        :return: None if no code of the task runs in the event loop: the function runs in a thread or in a process, or
            the task has not started, is between attempts or has ended
        """
        native = self._runner.alive.get(self) if self._status in IN_ATTEMPT else None
        return None if native is None else code_frames(native)

    async def wait(self) -> None:
        """Wait until the task has ended, in any way. A checkpoint.

        A cancellation of the waiting code does not cancel the task.

        :raises TaskNotFinished: at once, if the task waits for itself, or if its phase comes only after the end of the
            waiting code: in the route of its request, in the stream, or in the exit of a dependency
        :raises RuntimeError: at once, if the task runs in another event loop, which could not wake the waiting code
        """
        if self._has_ended:
            await checkpoint()
        else:
            check_wait(self)
            await self._wait_ended()

    def __await__(self) -> Generator[Any, Any, T_co]:
        """Wait until the task has ended, and return its `return_value`, or raise the same exceptions. A checkpoint."""
        yield from self.wait().__await__()
        return self.return_value

    def cancel(self) -> None:
        """Ask the task to stop. From any thread; does not wait. Further calls change nothing.

        - A task that has not started, or is between attempts, has ended when this returns (from another thread, from an
          observer and from a log handler: soon after).
        - A running task is cancelled at its next checkpoint, and at each checkpoint after that.
        - A sync function that has begun in a thread runs to its end, and its result counts. A process is killed.
        - A task of a queue is cancelled only until it is handed over. In an attempt a worker may get it all the same.
        - A journal forgets the task. (A task that the shutdown cancels stays in the journal.)

        :raises RecursionError: close to the recursion limit; nothing has changed
        """
        if self._is_new:
            self._end(LifeEvent.CANCEL)
        elif not self._has_ended:
            self._runner.call(partial(self._runner.cancel_for_good, self))

    async def __call__(self) -> T_co:
        """Run a task that you have made, here and now, for tests. For a scheduled task write `await task`.

        The task runs as in a host, and the call returns or raises the same as `await task`.

        :raises RuntimeError: if the task was scheduled before, or has ended
        :raises TypeError: if the function is async, and you have made the task with `run_in="process"`
        """
        if not self._is_new:
            raise RuntimeError(f"task {self.name!r} is {self._status.value} already; only a new one can be run inline")
        if not hasattr(self, "_runner"):  # otherwise it was scheduled, and a test has held it back
            refuse_async(self.config, self.func)
        await run_inline(self)
        return self.return_value

    def __start__(self, scheduler: Starts, /) -> None:
        """Schedule a task that you have made, with a scheduler or a scope.

        :raises RuntimeError: if the task was scheduled before, or has ended
        :raises TypeError: if the function is async, and you have made the task with `run_in="process"`
        :raises TasksUnportableError: if the task is for a process, which cannot make the call
        :raises TasksClosedError: if the host takes no more tasks
        :raises TasksSaturatedError: if `max_pending` tasks are pending already
        """
        scheduler._start(self)

    def __repr__(self) -> str:
        # Without the arguments: they may be secret, and the repr may be logged.
        return f"<Task {self.id} {shown(self.name)} {self.phase.value} {self._status.value}>"

    def _no_result(self) -> Exception:
        match self._status:
            case TaskStatus.HANDED_OVER:
                return TaskHandedOver(str(self.message_id))
            case TaskStatus.FAILED:
                return TaskFailed(f"task {self.name!r} failed before its first step")
            case TaskStatus.CANCELLED:
                return TaskCancelled(f"task {self.name!r} was cancelled")
            case TaskStatus.DROPPED:
                return TaskDropped(f"task {self.name!r} was dropped and never ran")
            case _:
                wait = "first write `await task`; in a `def`, `anyio.from_thread.run(task.wait)`"
                if self._status in NOT_DUE and self.phase is not Phase.IMMEDIATE:
                    wait = f"{self.phase.value} has not come, so wait in another task"
                wait = "schedule the task first" if self._is_new else wait
                return TaskNotFinished(f"task {self.name!r} is {self._status.value} and has no result yet: {wait}")


# `help(Task)` lists these members of `Job` as members of `Task`: users cannot import `Job`.
for _name, _member in tuple(vars(Job).items()):
    if not _name.startswith("_") or _name == "__weakref__":
        setattr(Task, _name, _member)


class Starts(Protocol):
    """A scheduler or a scope: an object that can start a task that you have made."""

    def _start(self, task: Task[Any], /) -> None: ...


class Started:
    """The event that is set when a task takes its first step, with two methods of `anyio.Event`."""

    __slots__ = ("_task",)

    def __init__(self, task: Task[Any]) -> None:
        self._task = task

    def is_set(self) -> bool:
        """Return whether the task has taken its first step. From any thread."""
        return self._task.attempt > 0

    async def wait(self) -> None:
        """Wait until the task has taken its first step. A checkpoint.

        :raises TaskCancelled: if the task was cancelled before
        :raises TaskDropped: if the task was dropped
        :raises TaskNotFinished: as `Task.wait()`
        :raises RuntimeError: as `Task.wait()`
        """
        if self.is_set():
            await checkpoint()
            return
        check_wait(self._task)
        await self._task._wait_started()
        if not self.is_set():
            raise self._task._no_result()
