"""The way of tasks to a queue: who publishes when, and what becomes of a hand-over that fails."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from math import inf
from typing import Any, Literal
from weakref import WeakValueDictionary

from anyio import Lock, Semaphore, current_time, move_on_after, sleep, sleep_until
from anyio.lowlevel import RunVar

from .._machine.config import TaskConfig
from .._machine.dispatch import Outcome
from .._machine.life import LifeEvent
from .._queue import Queue, trace_headers
from ..errors import HandOverFailed
from . import report
from .cancelling import CancelScope
from .current import in_empty_context
from .job import Job, move, order_of, record_of
from .raised import judge, leaves
from .watching import tell

# Seconds: the pause before a probe, at most, after the first failure and after many; the longest `Queue.close()`.
_SHORTEST_PAUSE = 0.2
_LONGEST_PAUSE = 1.0
_LONGEST_CLOSE = 1.0

# How many hand-overs on average, at most, go to the end of a line before one is chosen: each costs a turn of the loop.
_MOST_PASSED = 50

_NO_ANSWER = "the queue has not answered in time"


@dataclass(eq=False, repr=False, slots=True)  # no text has the arguments: they may be secret
class HandOver:
    """The hand-over of one task.

    :ivar prepared: what `Queue.prepare()` has returned
    :ivar carried: the values of `Queue.carry`
    :ivar here: the settings of the task if it runs here after all
    :ivar attempts: the number of attempts to publish
    :ivar outcome: "unknown" as soon as the queue may have the task
    :ivar error: the exception of the last attempt; None if `cut()` has ended the attempt
    :ivar has_turn: True if the task has one of the turns of its outlet
    :ivar is_cut: True if the drain does not wait for it any longer
    :ivar scope: the scope of the first attempt, then the one around all others; None before and after them
    """

    outlet: Outlet
    prepared: Any
    carried: Mapping[str, str]
    here: TaskConfig
    attempts: int = 0
    outcome: Literal["refused", "unknown"] = "refused"
    error: BaseException | None = None
    has_turn: bool = False
    is_cut: bool = False
    scope: CancelScope | None = None

    def cut(self) -> None:
        """Make the hand-over fail at its next checkpoint."""
        self.is_cut = True
        if self.scope is not None:
            self.scope.cancel()


class Outlet:
    """One queue, in one host: takes turns, and finds out if the queue is down.

    - While the queue works, at most `attempts_at_once` hand-overs publish at a time.
    - After a failed attempt the queue is down. Then one hand-over at a time probes it, after a random pause that grows
      with each failure, and the others wait. A hand-over that has failed before, or whose function has, lets others
      probe first: its own call may be the reason.
    - If the queue confirms others, and the same hand-over fails again, its own call is the reason. The queue is not
      down, and the hand-over pauses alone.

    :ivar waiting: the hand-overs that wait for a turn or for the probe
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._connection: Connection | None = None
        self._turns = Semaphore(queue.attempts_at_once, fast_acquire=True)
        self._probe = Lock(fast_acquire=True)
        # Of all that have failed before, one stands in line for the probe, and so does one of all whose function has.
        self._again, self._doubtful = Lock(fast_acquire=True), Lock(fast_acquire=True)
        self._failed: set[str] = set()  # functions that have failed while the queue is down
        self._pause = 0.0
        self._next_probe = 0.0
        self.waiting: set[HandOver] = set()

    @property
    def is_down(self) -> bool:
        """True from a failed attempt to the next success."""
        return self._pause > 0

    @property
    def has_room(self) -> bool:
        """True if a hand-over that begins now need not wait for its turn."""
        return self._turns.value > 0 and not self.is_down

    def enter(self, order: HandOver) -> None:
        """Take a turn for `order`, if one is free. Otherwise `order` waits."""
        if self.has_room:
            self._turns.acquire_nowait()
            order.has_turn = True
        else:
            self.waiting.add(order)

    def leave(self, order: HandOver) -> None:
        """Forget `order`, and give back its turn, if it has one."""
        self.waiting.discard(order)
        if order.has_turn:
            order.has_turn = False
            self._turns.release()

    async def close(self) -> None:
        """Note that the host has ended."""
        if self._connection is not None:
            await self._connection.leave()

    async def deliver(self, job: Job) -> None:
        """Hand the task over, in the context of `schedule()`. Return when the queue has confirmed it.

        A task of a journal has no deadline.

        :raises HandOverFailed: after the deadline, or after `HandOver.cut()`
        """
        order: HandOver = order_of(job)
        runner = job._runner
        move(job, LifeEvent.HAND_OVER)
        if runner.watching is not None:
            tell(runner.watching.moved, runner.telling, job)
        deadline = runner.seam.clock() + self.queue.deadline if record_of(job) is None else inf
        try:
            # After `cut()` the queue must not get the task: `publish()` may need no checkpoint for that.
            is_ready = order.has_turn and not order.is_cut and not self.is_down
            if is_ready and await self._attempt(order, job, deadline):
                return  # as nearly always: another scope around this attempt would cost a fifth of the hand-over
            order.scope = runner.seam.cancel_scope(deadline=deadline)
            with order.scope:
                if not order.is_cut:
                    await self._persist(order, job)
                    return
            raise HandOverFailed(self.queue.name, str(job.message_id), order.attempts, order.outcome) from order.error
        finally:
            order.scope = order.error = None
            self.leave(order)
            del self, order, job  # as in `attempt()`

    async def _persist(self, order: HandOver, job: Job) -> None:
        """Publish `order` in its turn, again and again."""
        try:
            while True:
                if self.is_down:
                    self._line_up(order)
                    async with self._line_before(order, job), self._probe:
                        if self.is_down:
                            await sleep_until(self._next_probe)
                        await self._take_turn(order)
                        if self.is_down and await self._attempt(order, job):
                            return
                    continue
                await self._take_turn(order)
                if not self.is_down and await self._attempt(order, job):  # it may be down since the turn was given
                    return
                if not self.is_down:  # the call of `order` is the reason
                    self._line_up(order)
                    await sleep(_LONGEST_PAUSE)
        finally:
            del order, job  # as in `attempt()`

    def _line_before(self, order: HandOver, job: Job) -> AbstractAsyncContextManager[None]:
        """Return the line before the line for the probe."""
        if order.attempts:
            return _shuffled(self._again)
        return _shuffled(self._doubtful) if job.function in self._failed else nullcontext()

    def _line_up(self, order: HandOver) -> None:
        self.leave(order)
        self.waiting.add(order)

    async def _take_turn(self, order: HandOver) -> None:
        if not order.has_turn:
            await self._turns.acquire()
            order.has_turn = True
            self.waiting.discard(order)

    async def _attempt(self, order: HandOver, job: Job, deadline: float = inf) -> bool:
        """Make one attempt to publish; return whether the queue has confirmed it.

        :param deadline: of all attempts, for the first one; later ones are inside a scope with that deadline
        """
        queue, runner, before = self.queue, job._runner, order.outcome
        order.attempts += 1
        order.error = None
        own = runner.seam.cancel_scope(deadline=min(deadline, runner.seam.clock() + queue.attempt_timeout))
        order.scope = order.scope or own
        try:
            with own:
                self._connection = self._connection or _connection_to(queue)
                if not self._connection.is_open:
                    await self._connection.open()
                order.outcome = "unknown"  # until the end of the attempt is known
                await queue.publish(order.prepared, {**order.carried, **trace_headers(order.carried)})
                self._pause = 0
                return True
            if not order.is_cut:
                self._note_failure(order, job, TimeoutError(_NO_ANSWER))
        except BaseException as exc:
            outcome, error, stray = judge(exc, job)
            # (A `SystemExit` of an engine is a failed attempt. A `GeneratorExit` ends each coroutine on its way.)
            if stray is not None or (outcome is not Outcome.RAISED and type(exc) is not SystemExit):
                if not order.is_cut:  # the deadline: the attempt may have just begun, and says nothing about the queue
                    order.error = TimeoutError(_NO_ANSWER)
                raise
            with suppress(Exception):
                if isinstance(error, Exception) and queue.refused(error) is True:
                    order.outcome = before
            self._note_failure(order, job, error)
        finally:
            del order, job  # as in `attempt()`
        return False

    def _note_failure(self, order: HandOver, job: Job, error: BaseException) -> None:
        order.error = error
        if order.attempts > 1 and not self.is_down:
            return  # the queue was down after an earlier attempt, and has confirmed others: the call is the reason
        if not self.is_down:
            self._failed.clear()
        self._failed.add(job.function)
        self._pause = min(2 * self._pause or _SHORTEST_PAUSE, _LONGEST_PAUSE)
        self._next_probe = current_time() + random.uniform(0, self._pause)  # noqa: S311


@asynccontextmanager
async def _shuffled(line: Lock) -> AsyncGenerator[None]:
    """Wait for `line`, but not in order: the queue may never take the calls in front.

    The first in line goes to the end of the line, or is chosen: one of all, or of very many one of `_MOST_PASSED`.
    """
    while True:
        async with line:
            if not random.randint(0, min(line.statistics().tasks_waiting, _MOST_PASSED)):  # noqa: S311
                yield
                return


class Connection:
    """The connection of a queue in one event loop.

    :ivar hosts: the number of hosts that use it
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._lock = Lock(fast_acquire=True)
        self.is_open = False
        self.hosts = 0

    async def open(self) -> None:
        """Open the connection, if it is not open."""
        async with self._lock:
            if not self.is_open:
                await in_empty_context(self._queue.open())
                self.is_open = True

    async def leave(self) -> None:
        """Note that a host does not use the connection any more. Close it after the last host."""
        self.hosts -= 1
        async with self._lock:
            if self.hosts or not self.is_open:
                return
            self.is_open = False
            try:
                with move_on_after(_LONGEST_CLOSE):
                    await self._queue.close()
            except BaseException as exc:
                if isinstance(exc, GeneratorExit) or any(isinstance(part, KeyboardInterrupt) for part in leaves(exc)):
                    raise
                report.queue_not_closed(self._queue.name, exc)


# The outlets of the hosts keep a connection alive: a loop that outlives its hosts forgets it, with its queue.
_connections: RunVar[WeakValueDictionary[Queue, Connection]] = RunVar("taskphase_queue_connections")


def _connection_to(queue: Queue) -> Connection:
    """Return the connection of `queue` in the running event loop, for one more host."""
    none: WeakValueDictionary[Queue, Connection] = WeakValueDictionary()
    connections = _connections.get(none)
    _connections.set(connections)
    connection = connections.setdefault(queue, Connection(queue))
    connection.hosts += 1
    return connection
