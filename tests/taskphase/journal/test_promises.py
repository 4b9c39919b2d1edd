"""G22, G24: random histories of hosts that share a journal: requests, ends, deaths, shutdowns, and disks that fail.

No task of an answered request is lost, no task of a failed route runs, and no task runs in two living hosts at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.taskphase.journal.hosts import MOMENT, die_with, disk_of, keeper_of
from tests.taskphase.journal.stores import look

from taskphase import Journal, JournalError, Task, TaskHost, TaskStatus, current_host, current_task
from taskphase.journal._share import Share

SLOTS = 2  # hosts at a time
TIMEOUT = 0.05  # seconds

Step = tuple[Literal["request", "end", "die", "close"], int, int]
"""What happens, in which host, and in which way."""

STEPS = st.lists(
    st.tuples(st.sampled_from(["request", "request", "end", "die", "close"]), st.integers(0, 1), st.integers(0, 11)),
    min_size=1,
    max_size=12,
)


class Refused(Exception):
    """The route says no."""


@asynccontextmanager
async def impatience(share: Share) -> AsyncIterator[None]:
    """End each write of `share` that takes too long. `Share.watch()` may sleep for the longer time-out of an earlier
    write, which only this test has.
    """

    async def watch() -> None:
        while True:
            seen = list(share._watched)
            await anyio.sleep(share._timeout)
            for write in seen:
                write.done.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(watch)
        yield
        tg.cancel_scope.cancel()


class World:
    """Two processes at a time, and the runs of their tasks.

    :ivar promised: the message ids of tasks of answered requests
    :ivar refused: the message ids of deferred tasks of routes that have failed
    :ivar ran: the message ids of tasks that have taken a first step
    :ivar done: the message ids of tasks that have ended by themselves
    :ivar doubles: the message ids of tasks that ran in two living hosts at once
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hosts: list[TaskHost | None] = [None] * SLOTS
        self.dead: list[TaskHost] = []
        self.promised: set[str] = set()
        self.refused: set[str] = set()
        self.ran: set[str] = set()
        self.done: set[str] = set()
        self.doubles: list[str] = []
        self.present: dict[str, tuple[TaskHost, anyio.Event]] = {}
        self.is_last = False
        self.keys = 0

    async def work(self) -> None:
        """Run until the history ends the task."""
        task, host = current_task(), current_host()
        message_id = str(task.message_id)
        other = self.present.get(message_id)
        if other is not None and other[0] not in self.dead:
            self.doubles.append(message_id)
        self.ran.add(message_id)
        self.present[message_id] = host, anyio.Event()
        try:
            if not self.is_last:
                await self.present[message_id][1].wait()
            self.done.add(message_id)
        finally:
            if self.present.get(message_id, (None,))[0] is host:
                del self.present[message_id]

    def journal(self) -> Journal:
        return Journal(self.path, [self.work], sync="normal", recoveries=100)

    async def host(self, number: int, stack: AsyncExitStack) -> TaskHost:
        host = self.hosts[number]
        if host is None:
            host = self.hosts[number] = await stack.enter_async_context(TaskHost(journal=self.journal()))
        return host

    async def request(self, host: TaskHost, way: int) -> None:
        """Serve a request whose disk works, fails or hangs (`way % 3`), and whose route may fail (`way // 6`)."""
        disk, share = disk_of(host), keeper_of(host).share
        disk.fails = "INSERT" if way % 3 == 1 else "never"
        disk.hangs = "COMMIT" if way % 3 == 2 else "never"
        share._timeout = TIMEOUT if way % 3 == 2 else 5
        async with impatience(share):
            await self.respond(host, way)
        disk.go_on.set()
        disk.fails = disk.hangs = "never"
        share._timeout = 5

    async def respond(self, host: TaskHost, way: int) -> None:
        made: list[Task[Any]] = []
        try:
            async with host.scope() as tasks, tasks.route():
                made += [tasks.after_route.schedule(self.work), tasks.after_response.schedule(self.work)]
                if way % 2:
                    self.keys += 1
                    made.append(tasks.task(key=str(self.keys % 2)).after_response.schedule(self.work))
                if way >= 6:
                    raise Refused
        except (Refused, JournalError):
            self.refused |= {str(task.message_id) for task in made}
        else:
            kept = [task for task in made if task.status is not TaskStatus.DROPPED]  # with a key that is taken
            self.promised |= {str(task.message_id) for task in kept}

    async def step(self, step: Step, stack: AsyncExitStack) -> None:
        what, number, way = step
        host = await self.host(number, stack)
        if what == "request":
            await self.request(host, way)
        elif what == "end":
            running = [event for owner, event in self.present.values() if owner is host]
            if running:
                running[way % len(running)].set()
        elif what == "die":
            die_with(host)
            self.dead.append(host)
            self.hosts[number] = None
        else:
            await host.aclose()
            self.hosts[number] = None
        await anyio.sleep(2 * MOMENT if way % 4 == 0 else 0)

    async def live(self, steps: list[Step]) -> None:
        async with AsyncExitStack() as stack:
            for step in steps:
                await self.step(step, stack)
        self.dead += [host for host in self.hosts if host is not None]  # all are closed
        self.is_last = True
        self.present.clear()
        async with TaskHost(journal=self.journal()):
            with anyio.fail_after(30):
                while look(self.path, "state") or len(list(self.path.parent.glob("*.alive"))) > 1:
                    await anyio.sleep(MOMENT)
        assert not self.doubles, "a task ran in two living hosts at once"
        assert self.promised <= self.done, "a task of an answered request is lost"
        assert not self.refused & self.ran, "a task of a failed route has run"
        assert not list(self.path.parent.glob("*.alive"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_all_promises_hold_through_deaths_and_broken_disks_g22_g24(backend: str, steps: list[Step]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            await World(Path(folder, "tasks.db")).live(steps)

    anyio.run(run, backend=backend)
