"""The queues of one host: which tasks they get, in which form, and how many are on their way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from anyio import create_task_group

from .._machine.calling import is_async, name_of, shown, type_name
from .._machine.config import AnyQueue, TaskConfig
from .._machine.limit import Limit
from .._machine.retrying import RetryPolicy
from .._queue import Call, Queue, carried
from ..errors import TasksUnportableError
from .identity import new_message_id
from .job import Job, order_of, record_of
from .keeping import Keeper
from .outlet import HandOver, Outlet
from .portable import without_partials

# These settings are about the run of the function. The queue has its own.
_OF_THE_RUN = ("timeout", "limit", "retry", "shield", "run_in")


class Outlets:
    """The queues of one host. For the loop's thread, but for `route()`.

    :ivar alive: the tasks that are being handed over, from their start until their native tasks leave
    :ivar is_cut: True if the drain waits for no hand-over any longer: one that begins now fails
    """

    def __init__(self, queues: tuple[Queue, ...], config: TaskConfig) -> None:
        self.alive: dict[Job, HandOver] = {}
        self.is_cut: bool = False
        self._outlets: dict[AnyQueue, Outlet] = {queue: Outlet(queue) for queue in queues}
        self._last: tuple[TaskConfig, AnyQueue | None, TaskConfig] = (config, None, config)

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for their turn to be handed over, or for the probe."""
        return sum(len(outlet.waiting) for outlet in self._outlets.values())

    def enter(self, job: Job) -> None:
        """Note that the native task of `job` is asked to start. Nothing happens to a job that runs here."""
        order = order_of(job)
        if order is not None:
            self.alive[job] = order
            if self.is_cut and record_of(job) is None:  # a journal keeps the task for another host
                order.cut()
            order.outlet.enter(order)

    def leave(self, job: Job) -> None:
        """Note that the native task of `job` leaves."""
        order = self.alive.pop(job, None)
        if order is not None:
            order.outlet.leave(order)

    async def close(self) -> None:
        """Note that the host has ended: close the connections that no other host uses."""
        async with create_task_group() as closing:
            for outlet in self._outlets.values():
                closing.start_soon(outlet.close)

    def route(self, job: Job) -> None:
        """Prepare `job` for the queue that takes it, if there is one. In `schedule()`, in any thread.

        :raises TasksUnportableError: if the queue does not take the call, or a setting means nothing there
        :raises ValueError: if `queue=` names a queue that is not one of this host
        """
        order = order_of(job)
        config = job.config if order is None else order.here
        if config.queue == "here":
            return
        func, args, kwargs = without_partials(job.func, job.args, job._kwargs)
        outlet = self._find(config.queue, func)
        if outlet is None:
            return
        queue = outlet.queue
        call = Call(
            job.message_id or new_message_id(),  # a journal has recovered the task: the worker must know it again
            func,
            name_of(func),
            args,
            kwargs,
            queue.options_of(func),
            _settings_for(queue, config, func),
        )
        prepared = _prepare(queue, call)
        values = carried(queue.carry, f"{shown(call.function)} cannot be handed over to {queue.name!r}")
        parcel = job._own_parcel()
        parcel.hand_over = HandOver(outlet, prepared, values, config)
        parcel.message_id = call.id
        parcel.is_async = False
        job.config = self._outward(config, queue)

    def _find(self, asked: object, func: Callable[..., Any]) -> Outlet | None:
        if not isinstance(asked, AnyQueue):
            return next((each for each in self._outlets.values() if each.queue.takes(func)), None)
        outlet = self._outlets.get(asked)
        if outlet is None:
            raise _unknown(asked, func)
        if not outlet.queue.takes(func):
            raise TasksUnportableError(f"{shown(name_of(func))} is not in the list of the queue {asked.name!r}")
        return outlet

    def _outward(self, config: TaskConfig, queue: Queue) -> TaskConfig:
        last, last_queue, outward = self._last
        if last is not config or last_queue is not queue:
            outward = config.outward(queue)
            self._last = config, queue, outward
        return outward


def route(job: Job, outlets: Outlets | None) -> None:
    """Prepare `job` for one of the queues, or for none. See `Outlets.route()`."""
    if outlets is not None:
        outlets.route(job)
    elif isinstance(job.config.queue, AnyQueue):
        raise _unknown(job.config.queue, job.func)


def prepare(job: Job, scope: object, outlets: Outlets | None, keeper: Keeper | None) -> None:
    """Prepare `job` for one of the queues, and for the journal, if they have its function. In `schedule()`."""
    if keeper is None:
        route(job, outlets)
    else:
        keeper.prepare(job, scope, outlets)


def bring_home(job: Job) -> None:
    """Make `job`, which is for a queue, run in this program instead.

    :raises TasksUnportableError: with `run_in="process"`, if another process cannot make the call; nothing has changed
    """
    parcel, outward = job._own_parcel(), job.config
    order = parcel.hand_over
    job.config = (outward if order is None else order.here).at_home()
    parcel.is_async = is_async(job.func)
    try:
        job._pack()
    except TasksUnportableError:
        job.config = outward
        raise
    parcel.hand_over = None
    job.attempt = 0


def _unknown(queue: AnyQueue, func: Callable[..., Any]) -> ValueError:
    text = f"{queue.name!r} is no queue of this host, so {shown(name_of(func))} was not scheduled"
    return ValueError(f"{text}: give the queue to the host, queues=[...]")


def _settings_for(queue: Queue, config: TaskConfig, func: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the settings that the queue translates. Refuse others that this task alone has."""
    asked = {name: getattr(config, name) for name in _OF_THE_RUN if name in config.own}
    settings = {name: value for name, value in asked.items() if not _asks_nothing(name, value)}
    for name in settings:
        if name not in queue.maps:
            raise TasksUnportableError(
                f"{shown(name_of(func))} cannot be handed over to {queue.name!r} with {name}=, which is about its "
                "run: set it where the worker is configured, or run the task here with queue='here'"
            )
    return settings


def _asks_nothing(name: str, value: object) -> bool:
    """Return whether `value` only lifts an inherited setting."""
    match value:
        case Limit():
            return value.most == math.inf and value.max_pending is None
        case RetryPolicy():
            return value.attempts == 1
        case _:
            return value is False or value == "thread" or (name == "timeout" and value == math.inf)


def _prepare(queue: Queue, call: Call) -> Any:
    try:
        return queue.prepare(call)
    except TasksUnportableError:
        raise
    except Exception as exc:
        # Not the exception itself: its message may contain an argument.
        text = f"{shown(call.function)} cannot be handed over to {queue.name!r}: its call cannot be prepared"
        raise TasksUnportableError(f"{text} ({type_name(exc)})") from None
