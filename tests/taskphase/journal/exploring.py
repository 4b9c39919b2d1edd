"""Programs with a journal in a simulation, whose processes may die at each step.

A step is a step of the event loop, or one SQL statement of the thread that writes.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
from anyio.lowlevel import checkpoint
from tests.taskphase.journal.stores import look

from taskphase import Journal, JournalError, Task, TaskHost, current_task
from taskphase.journal._file import File
from taskphase.testing import Call, Policy, Run, mark, pause, simulate

SECONDS = 60  # for the last host, in virtual time

connect = File.connect

Backend: TypeAlias = Literal["asyncio", "trio"]


class Statements:
    """A connection that lets other threads and tasks run before each statement.

    A real connection blocks its thread while another one writes. Here it looks again later.
    """

    insert_takes = 0.0  # virtual seconds

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *args: Any) -> Any:
        pause(self.insert_takes if statement.startswith("INSERT") else 0)
        while True:
            try:
                return self._connection.execute(statement, *args)
            except Exception as exc:
                if "locked" not in str(exc):
                    raise
            pause(0.001)

    @staticmethod
    def connect(file: File) -> Statements:
        file.timeout = 0
        while True:
            with suppress(JournalError):
                return Statements(connect(file))
            pause(0.001)


class Refused(Exception):
    """The route says no."""


class World:
    """A file, its processes, and the runs of their tasks.

    :ivar promised: the tasks whose response was delivered
    :ivar refused: the deferred tasks of routes that have failed
    :ivar started: the number of first steps of each task
    :ivar done: the number of runs that have ended by themselves
    :ivar running: the process in which a task runs
    :ivar at_once: the tasks that ran in two living processes at once
    """

    def __init__(self, folder: str, process: type[Process]) -> None:
        self.path = Path(folder, "tasks.db")
        self.promised: set[str] = set()
        self.refused: set[str] = set()
        self.started: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.running: dict[str, Process] = {}
        self.at_once: list[str] = []
        self.first = process(self)

    @property
    def has_twins(self) -> bool:
        """True if a task has run twice to its end."""
        return self.done.total() > len(self.done)

    async def wait_for_all(self) -> None:
        """Wait until the file has no task."""
        with anyio.fail_after(SECONDS):
            while look(self.path):
                await anyio.sleep(0.5)

    def check(self) -> None:
        assert self.at_once == [], "a task has run in two living processes at once"
        assert self.promised - self.done.keys() == set(), "a task of a delivered response is lost"
        assert self.refused & self.started.keys() == set(), "a task of a failed route has run"
        assert self.first.is_dead or not self.has_twins, "a task that has ended runs again"
        assert {each.name for each in self.path.parent.iterdir()} == {self.path.name}
        assert not self.running


class Process:
    """A host of the file. After its death its tasks take no step that counts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_dead = False
        self.scope = anyio.CancelScope()
        self.share: Any = None
        journal = Journal(world.path, [self.work], sync="normal", names={self.work: "work"})
        keeper_for = journal._keeper_for

        def note_share(*args: Any) -> Any:
            keeper = keeper_for(*args)
            self.share = keeper.share
            return keeper

        journal._keeper_for = note_share  # type: ignore[method-assign]
        self.journal = journal
        self.host = TaskHost(journal=journal)

    async def work(self, seconds: float, turns: int = 0) -> None:
        message_id, world = str(current_task().message_id), self.world
        if self.is_dead:
            return
        if message_id in world.running:
            world.at_once.append(message_id)
        world.running[message_id] = self
        world.started[message_id] += 1
        try:
            for _ in range(turns):
                await checkpoint()
            await anyio.sleep(seconds)
            if not self.is_dead:
                world.done[message_id] += 1
        finally:
            if world.running.get(message_id) is self:
                del world.running[message_id]

    async def live(self) -> None:
        """Serve a request, refuse another one, and schedule a task outside of requests."""
        with self.scope:
            async with self.host as host:
                await self.serve(host)
                await self.serve(host, Refused())
                host.schedule(self.work, 0.5)
                await anyio.sleep(3)

    async def serve(self, host: TaskHost, error: Exception | None = None) -> None:
        deferred: list[Task[Any]] = []
        failure: list[Task[Any]] = []
        made: list[Task[Any]] = []
        async with host.scope() as tasks:
            try:
                async with tasks.route():
                    failure.append(tasks.task(when="failure").after_response.schedule(self.work, 2))
                    made += [tasks.schedule(self.work, 4), tasks.schedule(self.work, 0, turns=3)]
                    deferred.append(tasks.after_route.schedule(self.work, 0))
                    deferred.append(tasks.task(key="one").after_response.schedule(self.work, 1))
                    if error is not None:
                        raise error
            except BaseException as exc:
                if not self.is_dead:
                    self.world.refused |= {str(task.message_id) for task in deferred}
                if not isinstance(exc, Refused):
                    raise
                made = [made[0], *failure]  # the client has the response of an error
            else:
                made += deferred
            await tasks.settle()
            if not self.is_dead:
                self.world.promised |= {str(task.message_id) for task in made}

    def die(self) -> None:
        """Do what `kill -9` does: the lock is released, the transaction is rolled back, and no code runs any more."""
        world, self.is_dead = self.world, True
        world.running = {each: process for each, process in world.running.items() if process is not self}
        if self.share is not None:
            self.share._thread.worker.unwind()
            if self.share._owner._file is not None:
                self.share._owner._file.close()
        self.scope.cancel()


@contextmanager
def new_world(process: type[Process] | None = None) -> Generator[World]:
    """Return a world whose first process is a `process`. At the end check the promises."""
    # In memory: what reaches a disk is not the question here.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        world = World(folder, process or Process)
        yield world
        world.check()


Program: TypeAlias = Callable[[Callable[[World], None]], Awaitable[None]]


async def die_before_another_host_opens(begin: Callable[[World], None], process: type[Process] | None = None) -> None:
    with new_world(process) as world:
        begin(world)
        await world.first.live()
        mark("over")
        async with Process(world).host:
            await world.wait_for_all()


async def die_beside_a_living_host(begin: Callable[[World], None], process: type[Process] | None = None) -> None:
    with new_world(process) as world:
        async with Process(world).host:
            begin(world)
            await world.first.live()
            mark("over")
            await world.wait_for_all()


class Death:
    """One run of a program, whose first process dies at a step."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.world: World | None = None

    async def main(self) -> None:
        await self.program(self.begin)

    def begin(self, world: World) -> None:
        self.world = world

    def strike(self) -> None:
        if self.world is not None:
            self.world.first.die()

    def run(self, backend: Backend, policy: Policy, step: int | None = None) -> Run:
        faults = [] if step is None else [Call(step, self.strike)]
        run = simulate(self.main, backend=backend, policy=policy, faults=faults)
        if run.exception is not None:
            run.exception.add_note(f"{policy!r}, step {step}\n{run.timeline(120)}")
        run.result()
        return run
