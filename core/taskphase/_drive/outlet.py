"""The way of tasks to a queue: who publishes when, and what becomes of a hand-over that fails."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from anyio import Lock, Semaphore, current_time, move_on_after, sleep, sleep_until
from anyio.lowlevel import RunVar

from .._machine.config import TaskConfig
from .._machine.dispatch import Outcome
from .._machine.life import TOLD_TO_STOP, LifeEvent
from .._queue import Queue, trace_headers
from ..errors import HandOverFailed
from . import report
from .cancelling import CancelScope
from .job import Job, move
from .raised import judge, leaves
from .watching import tell

# Seconds: the pause before a probe, at most, after the first failure and after many; the longest `Queue.close()`.
_SHORTEST_PAUSE = 0.2
_LONGEST_PAUSE = 1.0
_LONGEST_CLOSE = 1.0


@dataclass(eq=False, repr=False, slots=True)  # no text has the arguments: they may be secret
class HandOver:
    """The hand-over of one task.

    :ivar prepared: what `Queue.prepare()` has returned
    :ivar carried: the values of `Queue.carry`
    :ivar deadline: seconds for all attempts; infinity for a task of a journal
    :ivar here: the settings of the task if it runs here after all
    :ivar attempts: the number of attempts to publish
    :ivar outcome: "unknown" as soon as the queue may have the task
    :ivar error: the exception of the last attempt; None if `cut()` has ended the attempt
    :ivar has_turn: True if the task has one of the turns of its outlet
    :ivar is_cut: True if the drain does not wait for it any longer
    :ivar ends_at: the time of its deadline, by the loop's clock; infinity before its start
    :ivar failed_after: the number of hand-overs that the queue had confirmed when an attempt of this one failed, and
        the queue was taken for down; infinity before that
    :ivar scope: the scope around all its waits that have begun; None before the first
    """

    outlet: Outlet
    prepared: Any
    carried: Mapping[str, str]
    here: TaskConfig
    deadline: float
    attempts: int = 0
    outcome: Literal["refused", "unknown"] = "refused"
    error: BaseException | None = None
    has_turn: bool = False
    is_cut: bool = False
    ends_at: float = inf
    failed_after: float = inf
    scope: CancelScope | None = None

    def cut(self) -> None:
        """Have the hand-over fail at its next checkpoint."""
        self.is_cut = True
        if self.scope is not None:
            self.scope.cancel()

    def note_no_answer(self) -> None:
        """Note that an attempt was cut off: by its own time, by the deadline or by `cut()`."""
        self.error = None if self.is_cut else TimeoutError("the queue has not answered in time")

    async def run(self, job: Job) -> None:
        """Hand the task over, in the context of `schedule()`. Returns when the queue has confirmed it.

        :raises HandOverFailed: after the deadline, or after `cut()`
        """
        queue, runner = self.outlet.queue, job._runner
        move(job, LifeEvent.HAND_OVER)
        if runner.watching is not None:
            tell(runner.watching.moved, runner.telling, job)
        self.ends_at = runner.seam.clock() + self.deadline
        try:
            # After `cut()` the queue must not get the task: `publish()` may do its work before its first checkpoint.
            if self.is_cut or not await self.outlet.deliver(self, job):
                raise HandOverFailed(queue.name, str(job.message_id), self.attempts, self.outcome) from self.error
        finally:
            self.scope = self.error = None
            del self, job, queue  # as in `attempt()`


class Outlet:
    """One queue, in one host: takes turns, and finds out if the queue is down.

    - While the queue works, at most `attempts_at_once` hand-overs publish at a time.
    - After a failed attempt the queue is down. Then one hand-over at a time probes it, after a random pause that grows
      with each failure, and the others wait. A hand-over that has failed before lets others probe first: its own call
      may be the reason.
    - If the queue confirms others, and the same hand-over fails again, its own call is the reason. The queue is not
      down, and the hand-over pauses alone.

    :ivar waiting: the hand-overs that wait for a turn or for the probe
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._connection: Connection | None = None
        self._turns = Semaphore(queue.attempts_at_once, fast_acquire=True)
        self._probe = Lock(fast_acquire=True)
        self._again = Lock(fast_acquire=True)  # of all that have failed before, one stands in line for the probe
        self._pause = 0.0
        self._confirmed = 0
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
        self._give_back(order)

    def _give_back(self, order: HandOver) -> None:
        if order.has_turn:
            order.has_turn = False
            self._turns.release()

    async def close(self) -> None:
        """Note that the host has ended."""
        if self._connection is not None:
            await self._connection.leave()

    async def deliver(self, order: HandOver, job: Job) -> bool:
        """Publish `order`, in as many attempts as it takes. Return False after its deadline, or after `order.cut()`."""
        try:
            # Nearly all hand-overs need only this attempt. It enters its own scope, and no other scope is needed.
            if order.has_turn and not self.is_down and await self._attempt(order, job):
                return True
            order.scope = job._runner.seam.cancel_scope(deadline=order.ends_at)
            with order.scope:
                if order.is_cut:
                    return False
                await self._persist(order, job)
                return True
            return False
        finally:
            self.leave(order)
            del order, job  # as in `attempt()`

    async def _persist(self, order: HandOver, job: Job) -> None:
        """Publish `order` in its turn, again and again."""
        try:
            while True:
                if self.is_down:
                    self._line_up(order)
                    async with self._again if order.attempts else nullcontext(), self._probe:
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

    def _line_up(self, order: HandOver) -> None:
        self.waiting.add(order)
        self._give_back(order)

    async def _take_turn(self, order: HandOver) -> None:
        if not order.has_turn:
            await self._turns.acquire()
            order.has_turn = True
            self.waiting.discard(order)

    def _note_failure(self, order: HandOver) -> None:
        if order.failed_after < self._confirmed and not self.is_down:
            return  # the call of `order` is the reason
        order.failed_after = self._confirmed
        self._pause = min(2 * self._pause or _SHORTEST_PAUSE, _LONGEST_PAUSE)
        self._next_probe = current_time() + random.uniform(0, self._pause)  # noqa: S311

    async def _attempt(self, order: HandOver, job: Job) -> bool:
        """Make one attempt to publish; return whether the queue has confirmed it."""
        queue, runner, before, around = self.queue, job._runner, order.outcome, order.scope
        order.attempts += 1
        try:
            ends_at = min(order.ends_at, runner.seam.clock() + queue.attempt_timeout)
            scope = runner.seam.cancel_scope(deadline=ends_at)
            order.scope = around or scope
            with scope:
                self._connection = connection = self._connection or _connection_to(queue)
                if not connection.is_open:
                    await connection.open()
                order.outcome = "unknown"  # until the end of the attempt is known
                await queue.publish(order.prepared, {**order.carried, **trace_headers(order.carried)})
                self._pause = 0
                self._confirmed += 1
                return True
            order.note_no_answer()
            self._note_failure(order)
        except BaseException as exc:
            outcome, error, stray = judge(exc, job)
            # (A `SystemExit` of an engine is a failed attempt. A `GeneratorExit` ends each coroutine on its way.)
            is_exit = outcome is Outcome.EXITED and type(exc) is SystemExit and job.status not in TOLD_TO_STOP
            if (outcome is not Outcome.RAISED and not is_exit) or stray is not None:
                order.note_no_answer()  # the scope of the hand-over has cut the attempt off
                raise
            order.error = error
            with suppress(Exception):
                if before == "refused" and isinstance(error, Exception) and queue.refused(error) is True:
                    order.outcome = before
            self._note_failure(order)
        finally:
            del order, job  # as in `attempt()`
        return False


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
                await self._queue.open()
                self.is_open = True

    async def leave(self) -> None:
        """Note that a host does not use the connection any more. Close it after the last host."""
        self.hosts -= 1
        async with self._lock:
            if self.hosts:
                return
            try:
                if self.is_open:
                    self.is_open = False
                    with move_on_after(_LONGEST_CLOSE):
                        await self._queue.close()
            except BaseException as exc:
                if isinstance(exc, GeneratorExit) or any(isinstance(part, KeyboardInterrupt) for part in leaves(exc)):
                    raise
                report.queue_not_closed(self._queue.name, exc)
            finally:
                if not self.hosts:
                    _connections.get().pop(self._queue, None)


_connections: RunVar[dict[Queue, Connection]] = RunVar("taskphase_queue_connections")


def _connection_to(queue: Queue) -> Connection:
    """Return the connection of `queue` in the running event loop, for one more host."""
    none: dict[Queue, Connection] = {}
    connections = _connections.get(none)
    _connections.set(connections)
    connection = connections.setdefault(queue, Connection(queue))
    connection.hosts += 1
    return connection
