"""trio tasks: with a number, and passed to trio one by one; the virtual clock; and the network that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import CORO_CREATED, getcoroutinestate
from itertools import count
from typing import Any, NamedTuple

import trio
from trio.lowlevel import Task

from .real_time import refuse_network
from .record import Actor
from .schedule import Schedule
from .threads import Worker


class VirtualClock(trio.abc.Clock):
    """The schedule's time. trio never sleeps: the host decides when trio continues."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._schedule.now

    def deadline_to_sleep_time(self, deadline: float) -> float:  # noqa: ARG002
        return 0


class OfflineTrio(trio.abc.HostnameResolver, trio.abc.SocketFactory):
    """Refuses sockets of trio, which would wait for ever."""

    getaddrinfo: Any = refuse_network
    getnameinfo: Any = refuse_network
    socket: Any = refuse_network


class Ready(NamedTuple):
    """A candidate: its actor, and the task or worker that makes the step."""

    actor: Actor
    who: Task | Worker


class Queue:
    """Replaces trio's run queue. trio finds only the picked task in it.

    Tasks that become runnable in the same step are sorted in the order of spawning: trio wakes them in the order of a
    set, which is random.
    """

    def __init__(self, members: Members) -> None:
        self.ready: list[Ready] = []
        self.plumbing: list[Task] = []
        self._members = members
        self._fresh: list[Task] = []
        self._picked: list[Task] = []

    # Called by trio.

    def append(self, task: Task) -> None:
        self._fresh.append(task)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._picked)

    def __len__(self) -> int:
        return len(self._picked) + len(self._fresh) + len(self.ready) + len(self.plumbing)

    def clear(self) -> None:
        self._picked.clear()

    # Called by the host.

    def sort(self) -> None:
        """Sort new runnable tasks into `ready` and `plumbing`."""
        if len(self._fresh) > 1:
            self._fresh.sort(key=self._members.order_of)
        for task in self._fresh:
            actor = self._members.actors.get(task)
            if actor is None:
                self.plumbing.append(task)
            else:
                self.ready.append(Ready(actor, task))
        self._fresh.clear()

    def pick(self, task: Task) -> None:
        """Let trio run `task` at its next tick."""
        self._picked.append(task)


class Members(trio.abc.Instrument):
    """The living tasks. trio's own tasks have no actor: they are plumbing."""

    def __init__(self, schedule: Schedule) -> None:
        self.actors: dict[Task, Actor] = {}
        self._schedule = schedule
        self._order: dict[Task, int] = {}
        self._numbers = count()
        self._init: Task | None = None

    def order_of(self, task: Task) -> int:
        return self._order[task]

    def task_spawned(self, task: Task) -> None:
        self._order[task] = next(self._numbers)
        nursery = task.parent_nursery
        if nursery is None:
            self._init = task
        elif nursery.parent_task is not self._init or len(self._order) == 2:  # trio spawns the main task after init
            self.actors[task] = self._schedule.spawn(task.name)

    def task_exited(self, task: Task) -> None:
        del self._order[task]
        actor = self.actors.pop(task, None)
        if actor is not None:
            self._schedule.note("end", actor)


def has_started(task: Any) -> bool:
    """Return whether `task` has taken its first step."""
    return getcoroutinestate(task.coro) != CORO_CREATED
