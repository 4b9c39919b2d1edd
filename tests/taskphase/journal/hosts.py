"""A program with a journal, for tests: its functions, its hosts and its disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from tests.backends import until
from tests.taskphase.journal.stores import die, look
from tests.taskphase.journal.test_writer import Disk, reached

from taskphase import Journal, Task, TaskHost, TaskStatus, current_task
from taskphase.journal._keeper import Keeper
from taskphase.journal._writer import nothing

MOMENT = 0.01  # seconds between two looks at the file, which another thread writes


class Program:
    """Functions that note their runs.

    :ivar runs: (name, argument, recovered) of each first step
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[tuple[str, object, bool]] = []
        self.release = anyio.Event()
        self.options: dict[str, Any] = {"sync": "normal"}

    def _note(self, name: str, argument: object) -> Task[Any]:
        task = current_task()
        self.runs.append((name, argument, task.recovered))
        return task

    async def send(self, argument: object = None) -> object:
        self._note("send", argument)
        return argument

    async def fail(self, argument: object = None) -> None:
        self._note("fail", argument)
        raise LookupError(argument)

    async def wait(self, argument: object = None) -> None:
        """Wait until `release`. A recovered run does not wait."""
        if not self._note("wait", argument).recovered:
            await self.release.wait()

    async def hold(self, argument: object = None) -> None:
        """Wait until `release`, also in a recovered run."""
        self._note("hold", argument)
        await self.release.wait()

    def journal(self, **options: Any) -> Journal:
        return Journal(self.path, [self.send, self.fail, self.wait, self.hold], **{**self.options, **options})

    @asynccontextmanager
    async def host(self, *, takes_over: bool = True, **settings: Any) -> AsyncIterator[TaskHost]:
        host = TaskHost(journal=self.journal(), **settings)
        host.takes_over = takes_over
        async with host:
            yield host

    def rows(self) -> dict[str, str]:
        """Return the state of each task in the file."""
        return dict(look(self.path))

    async def has(self, rows: dict[str, str]) -> None:
        """Wait until the file has exactly these tasks."""
        while self.rows() != rows:
            await anyio.sleep(MOMENT)


def keeper_of(host: TaskHost) -> Keeper:
    keeper = host._runner.keeper
    assert isinstance(keeper, Keeper)
    return keeper


async def looked(host: TaskHost) -> None:
    """Wait until `host`, in which no task ends meanwhile, has looked for tasks of dead hosts, and has taken them."""

    def room() -> int:
        looks.append(None)
        return type(keeper)._room(keeper)

    keeper, looks = keeper_of(host), list[None]()
    keeper._room = room  # type: ignore[method-assign]
    await until(lambda: len(looks) > 2)
    del keeper._room


def disk_of(host: TaskHost) -> Disk:
    """Put a disk that may hang or fail under the file of `host`."""
    share, disk = keeper_of(host).share, Disk()
    disk(share._connection)
    connect = share._connect
    share._connect, share._connection = lambda: disk(connect()), disk  # type: ignore[assignment]
    return disk


async def hung_disk_of(host: TaskHost) -> Disk:
    """Have the disk of `host` hang already, so that each write from now on takes too long."""
    disk, share = disk_of(host), keeper_of(host).share
    disk.hangs = "COMMIT"
    share.post(nothing)
    await reached(disk)
    share._timeout = 0.05
    return disk


async def go_on_after_the_cut(disk: Disk, task: Task[Any]) -> None:
    """Have `disk`, which hangs, go on as soon as the shutdown has cut `task` off."""
    await until(lambda: task.status is TaskStatus.CANCELLED)
    disk.go_on.set()


def die_with(host: TaskHost) -> None:
    """Do what the kernel does at the death of the process of `host`."""
    share = keeper_of(host).share
    die(share)
    share._timeout = 0.001  # nobody answers any more


async def killed(program: Program, *, function: str = "wait", argument: object = None, **settings: Any) -> str:
    """Return the message id of a task whose host has died while the task was running."""
    # A host that takes over would take the task of the last killed host, and share its death.
    async with program.host(takes_over=False) as host:
        task = host.task(**settings).schedule(getattr(program, function), argument)
        await task.started.wait()
        die_with(host)
    program.runs[:] = [run for run in program.runs if run[2]]
    return str(task.message_id)
