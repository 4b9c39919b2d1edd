"""Run tasks that were held back: in their host if the host is open, otherwise in a new host."""

from __future__ import annotations

from collections.abc import Iterable
from threading import get_ident

import anyio

from ..._host import TaskHost
from ..._machine.drain import DrainStage
from ..._machine.text import plain
from .changes import CHANGES
from .entry import Entry


def start(entries: Iterable[Entry]) -> list[Entry]:
    """Ask the hosts of held tasks to start them. From any thread.

    :return: the tasks whose hosts take no more tasks
    """
    return [entry for entry in entries if not _ask(entry)]


def is_done(entry: Entry) -> bool:
    """Return whether a task that `start()` has passed to a host has ended, or its host has closed before the start."""
    return entry.task._has_ended or (entry.is_held and not _has_open_host(entry))


async def run(entries: Iterable[Entry], timeout: float | None) -> None:
    """Run held tasks in a new host here, and wait for their ends.

    :raises TimeoutError: after `timeout` seconds; the tasks were cancelled
    """
    async with TaskHost(shield_timeout=0) as host:
        for entry in entries:
            if entry.is_held:
                host._runner.adopt(entry.task)
        with anyio.move_on_after(timeout):
            while jobs := host._runner.jobs():
                await jobs[0]._wait_ended()
    report = host.drain_report
    if report is not None and (late := [*report.cancelled, *report.abandoned]):
        assert timeout is not None
        raise TimeoutError(f"after {plain(timeout)} s these were cancelled, run by hand: {', '.join(late)}")


def run_in_thread(entries: list[Entry], timeout: float | None) -> None:
    """Run held tasks in new event loops in this thread, each on its backend. Otherwise the same as `run()`."""
    for backend in ("asyncio", "trio"):
        of_backend = [entry for entry in entries if _backend(entry) == backend]
        if of_backend:
            anyio.run(run, of_backend, timeout, backend=backend)


def _backend(entry: Entry) -> str:
    return entry.runner.seam.cancelled.__module__.partition(".")[0]


def _has_open_host(entry: Entry) -> bool:
    return entry.runner.host is not None and entry.runner.stage is DrainStage.OPEN


def _ask(entry: Entry) -> bool:
    if not _has_open_host(entry):
        return False
    if get_ident() == entry.runner.seam.thread:
        _start(entry)
        return True
    try:
        entry.runner.seam.call_from_thread(lambda: _start(entry))
    except RuntimeError:  # the loop has ended, and has not closed the host
        return False
    return True


def _start(entry: Entry) -> None:
    if entry.is_held and _has_open_host(entry):
        entry.runner.adopt(entry.task)
    CHANGES.tell()
