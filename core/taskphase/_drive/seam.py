"""The seam: operations of the event loop for which anyio's way costs several times as much, or does not exist."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from anyio import sleep_until

from .cancelling import CancelScope, is_cancelled_around

J_contra = TypeVar("J_contra", contravariant=True)
"""The record of a task."""


class Event(Protocol):
    """An event of asyncio or trio itself."""

    def set(self) -> None: ...
    async def wait(self) -> object: ...


class Seam(Protocol[J_contra]):
    """The part of an event loop that a runner needs."""

    cancelled: type[BaseException]
    """The class of the exception that a cancellation raises."""

    thread: int
    """The identifier of the loop's thread."""

    clock: Callable[[], float]
    """Return the time of the event loop, in seconds. From any thread."""

    stamp: Callable[[], float]
    """Return the time of the same clock, but for a constant: for times that are only subtracted. From any thread. Fast:
    each task calls this three times.
    """

    in_order: bool
    """True if tasks take their first steps in the order in which they were asked to start."""

    begins: bool
    """True if `attempt()` must call `begin()`. May change while tasks run, but always before the first step of a task
    that needs it.
    """

    turn: int
    """A number that changes in the turns in which jobs were asked to start, if `first_steps()` may need no turn."""

    cancel_scope: Callable[..., CancelScope]
    """The class of cancel scopes. Its parameters here are `shield` and `deadline`."""

    running: Callable[[], object]
    """Return the native task that runs in this loop now, or None. For the loop's thread."""

    has_running: Callable[[], object]
    """Return a true object if a task runs in this loop now. Fast: each `schedule()` calls this."""

    def is_here(self) -> bool:
        """Return whether a task of this event loop runs here. From any thread.

        False in other threads. In the loop's thread: False in a callback, and in a signal handler of a sleeping loop.
        """
        ...

    def runs_here(self) -> bool:
        """Return whether this event loop runs here, in a task or not. From any thread."""
        ...

    def check_loop(self) -> None:
        """Make sure that no other event loop runs in the loop's thread.

        :raises RuntimeError: if another loop does
        """
        ...

    def was_cancelled(self) -> bool:
        """Return whether the native task that runs here was cancelled natively, not by a cancel scope."""
        ...

    def start(self, job: J_contra) -> object:
        """Ask `job` to start: the event loop will run `attempt(job)`, in the context of the job.

        :return: the native task, or None if only `begin()` knows the native task
        """
        ...

    def first_steps(self) -> Awaitable[None]:
        """Make every task that was asked to start take its first step.

        If possible this call does it, in order, and the awaitable waits for nothing. Otherwise the loop does it, and
        the awaitable waits for the `turns()`.
        """
        ...

    def turns(self) -> Awaitable[None]:
        """Wait for as many turns of the event loop as the tasks that were asked to start need for their first steps.

        A cancel scope does not shorten this. asyncio's own `cancel()` is raised here, because it comes only once.
        """
        ...

    def begin(self, job: J_contra) -> None:
        """Note the running native task in `runner.alive`, in the first step of an attempt. If scopes are early, and on
        trio if the task is shielded, enter the cancel scope of the task.
        """
        ...

    def enclose(self, native: Any) -> CancelScope:
        """Enter a cancel scope on behalf of a running task: around all scopes that the task has entered, as if the task
        had entered it at its first step. `attempt()` leaves the scope.

        "How a running task is cancelled" in docs/architecture.md says why so late.

        :param native: the value of the job in `runner.alive`
        """
        ...

    def call_at(self, when: float, callback: Callable[[], None], cancelled: Callable[[], None]) -> Callable[[], object]:
        """Call `callback` at the time `when` of `clock`, or a little earlier (see `Pauses`).

        :param cancelled: called, and `callback` not, if the task group or nursery is cancelled before. From then on
            timers outlast the cancellation
        :return: a function that stops the timer
        :raises TasksClosedError: if the foreign task group is closed
        """
        ...

    @property
    def event(self) -> Callable[..., Event]:
        """The class of events, without parameters."""
        ...

    def call_from_thread(self, callback: Callable[[], object]) -> None:
        """Make the loop call `callback` soon, in order. From any thread; does not wait.

        :raises RuntimeError: if the loop has ended
        """
        ...


class NativeSeam(Seam[J_contra], Protocol[J_contra]):
    """The seam of an event loop itself, not of a foreign task group."""

    backend: str
    """anyio's name of the event loop: "asyncio" or "trio"."""

    def open(self) -> AbstractAsyncContextManager[None]:
        """Return a context in which `start()` works. It decides whether scopes are early. At its end no task of the
        runner is alive.
        """
        ...

    def beside(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> AbstractAsyncContextManager[None]:
        """Return a context that runs `work()` beside its body, in a native task. At its end the context waits
        for the end of `work()`, and raises the exception of `work()`.

        On asyncio one task may enter the context, and another task leave it. If `work()` has ended, this takes no turn
        of the loop. `work()` is called in any case: asyncio's own `cancel()` may come before the first step of a task.
        """
        ...

    def start_beside(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Run `work()` in a native task, in any case, as above. Of the seam only `open()` on trio waits for it."""
        ...

    def is_over(self, native: object) -> bool:
        """Return whether the native task `native` has ended. False on trio, where no cancellation ignores its scopes:
        the host asks only after such a cancellation.
        """
        ...

    def after_first_step(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the native task that was made last has taken its first step, or was cancelled before.

        Nothing happens on trio, where each task takes a first step, and in a loop that may not be first in, first out.
        """
        ...

    def in_task(self, callback: Callable[[], object]) -> None:
        """Call `callback` in a task, now or at the next turn. For callbacks of the loop, where no task runs."""
        ...


class RingsInTasks(ABC):
    """The timers of a seam as native tasks, in a group or nursery that may be cancelled: on trio `KeyboardInterrupt` in
    any task cancels the nursery.
    """

    turn: int = 0
    cancelled: type[BaseException]
    cancel_scope: Callable[..., CancelScope]
    after_first_step: Callable[[Callable[[], object]], None]
    _is_cancelled = False

    def call_at(self, when: float, callback: Callable[[], None], cancelled: Callable[[], None]) -> Callable[[], object]:
        """See `Seam.call_at()`."""
        scope = self.cancel_scope(shield=self._is_cancelled)
        has_begun = False

        async def ring() -> None:
            nonlocal has_begun
            has_begun = True
            try:
                with scope:
                    await sleep_until(when)
            except self.cancelled:
                note_cancelled()
                raise
            if not scope.cancel_called:
                callback()

        def note_cancelled() -> None:
            self._is_cancelled = True
            cancelled()

        def if_missed() -> None:
            if not has_begun:
                note_cancelled()

        self._start_timer(ring)
        self.after_first_step(if_missed)
        return scope.cancel

    @abstractmethod
    def _start_timer(self, ring: Callable[[], Coroutine[Any, Any, None]]) -> None: ...


async def outlast(seam: Seam[Any], wait: Callable[[], Awaitable[None]]) -> None:
    """Await `wait()`. After a native cancellation await it again. If a scope around this call is cancelled, stop.

    asyncio's own `cancel()` ignores shields. The end of `asyncio.run()` cancels every task in this way.
    """
    while True:
        try:
            return await wait()
        except seam.cancelled:
            if is_cancelled_around():
                raise
