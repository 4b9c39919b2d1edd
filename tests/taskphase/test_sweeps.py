"""G8, G9: each stage of the drain also cancels the tasks that the stage before has taken.

A task from a thread is taken at once, and arrives a turn of the loop later. The stage may end in between, at a turn
that depends on the event loop. So the tests try each of the first turns.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from contextvars import Context, copy_context

import anyio
import pytest
from tests.backends import turns

from taskphase import Task, TaskHost, TasksClosedError, TaskStatus

TURNS = range(16)


def schedule_in_thread(host: TaskHost, shield: bool, context: Context) -> Task[None] | None:
    """Return a task that is on its way, or None if it was refused: the loop does not turn meanwhile."""
    tasks: list[Task[None]] = []

    def schedule() -> None:
        try:
            tasks.append(host.task(shield=shield).schedule(anyio.sleep_forever))
        except TasksClosedError:
            pass

    thread = threading.Thread(target=context.run, args=[schedule])
    thread.start()
    thread.join()
    return tasks[0] if tasks else None


async def test_threads_that_schedule_in_every_turn_do_not_hold_the_deadline_up_g8_g9() -> None:
    def schedule() -> None:
        with suppress(TasksClosedError):
            host.schedule(anyio.lowlevel.checkpoint)

    async def feed() -> None:
        while True:
            thread = threading.Thread(target=schedule)
            thread.start()
            thread.join()
            await anyio.lowlevel.checkpoint()

    async with TaskHost() as host:
        task = host.schedule(feed)
        await task.started.wait()
    assert task.status is TaskStatus.CANCELLED


@pytest.mark.parametrize("count", TURNS)
async def test_an_unshielded_task_from_a_thread_does_not_outlast_the_first_stage_g8_g9(count: int) -> None:
    release = anyio.Event()
    async with TaskHost() as host:
        host.task(shield=True).schedule(release.wait)
        async with anyio.create_task_group() as tg:
            tg.start_soon(host.aclose)
            await turns(count)
            task = schedule_in_thread(host, False, copy_context())
            await turns()
            status = None if task is None else task.status
            if task is not None:
                task.cancel()  # so that a failure does not hang
            release.set()
    assert status in (None, TaskStatus.CANCELLED)


@pytest.mark.parametrize("count", TURNS)
async def test_a_shielded_task_from_a_thread_does_not_outlast_the_second_stage_g8_g9(count: int) -> None:
    async def parent() -> None:
        contexts.append(copy_context())
        with anyio.CancelScope(shield=True):
            await release.wait()

    contexts: list[Context] = []
    release = anyio.Event()
    async with TaskHost(shield_timeout=0) as host:
        await host.task(shield=True).schedule(parent).started.wait()
        async with anyio.create_task_group() as tg:
            tg.start_soon(host.aclose)
            await turns(count)
            task = schedule_in_thread(host, True, contexts[0])
            await turns()
            status = None if task is None else task.status
            if task is not None:
                task.cancel()  # so that a failure does not hang
            release.set()
    assert status in (None, TaskStatus.CANCELLED)
