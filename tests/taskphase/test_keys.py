"""G24: `key=`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from tests.backends import turns, until

from taskphase import (
    Task,
    TaskConfig,
    TaskDropped,
    TaskHost,
    TaskObserver,
    TasksBatch,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
)

S = TaskStatus


async def wait() -> None:
    await anyio.sleep_forever()


async def work(*_: object) -> None:
    pass


async def fail() -> None:
    raise LookupError


async def test_a_later_task_with_the_key_of_a_running_one_is_dropped_g24(
    logged: Callable[[], list[tuple[str, str]]],
) -> None:
    async with TaskHost() as host:
        keyed = host.task(key="a")
        first, second = keyed.schedule(wait), keyed.schedule(wait)
        assert first is not second
        assert (first.status, second.status) == (S.STARTING, S.DROPPED)
        with pytest.raises(TaskDropped):
            await second
        text = f"task '{second.name}' was dropped: another task of its function with the same key waits or runs"
        assert logged() == [("DEBUG", text)]


async def test_a_deferred_task_is_pending_although_its_key_is_taken_now_g15_g24() -> None:
    async with TaskHost(max_pending=1) as host, host.scope() as tasks:
        tasks.task(key="a").schedule(wait)
        later = tasks.after_response.task(key="a")
        later.schedule(wait)
        with pytest.raises(TasksSaturatedError):
            later.schedule(wait)


async def test_another_key_and_another_function_are_free_g24() -> None:
    async with TaskHost() as host:
        made = [host.task(key="a").schedule(wait), host.task(key="b").schedule(wait), host.task(key="a").schedule(work)]
        made += [host.schedule(wait), host.schedule(wait)]
        assert S.DROPPED not in [task.status for task in made]


async def test_partials_and_arguments_make_no_other_function_g24() -> None:
    async with TaskHost() as host:
        keyed = host.task(key="a")
        assert keyed.schedule(partial(work, 1)).status is S.STARTING
        assert keyed.schedule(work, 2).status is S.DROPPED


async def test_the_key_is_free_when_its_task_has_ended_g24() -> None:
    async with TaskHost() as host:
        keyed = host.task(key="a")
        await keyed.schedule(work)
        await keyed.schedule(fail).wait()
        cancelled = keyed.schedule(wait)
        cancelled.cancel()
        await cancelled.wait()
        again = keyed.schedule(work)
        await again
        assert not host._runner.gates._keys


async def test_a_task_holds_its_key_wherever_it_waits_g18_g19_g24() -> None:
    async with TaskHost(max_running=1) as host:
        for settings in ({"delay": 60}, {"retry": lambda *_: 60}):
            keyed = host.task(key="a")
            holder = keyed.task(**settings).schedule(fail)
            await until(lambda holder=holder: holder.status in (S.DELAYED, S.RETRYING))
            assert keyed.schedule(fail).status is S.DROPPED
            holder.cancel()
        host.schedule(wait)
        waiting = host.task(key="a").schedule(fail)
        assert waiting.status is S.WAITING
        assert host.task(key="a").schedule(fail).status is S.DROPPED
        waiting.cancel()
        assert host.task(key="a").schedule(fail).status is S.WAITING


async def test_the_key_is_asked_when_the_phase_has_come_g24() -> None:
    """So a task that is dropped with its route takes no other task with it."""
    async with TaskHost(drain_timeout=9) as host:
        with pytest.raises(LookupError):
            async with host.scope() as failing:
                dropped = failing.task(key="a").after_response.schedule(work)
                async with host.scope() as tasks:
                    first, second = (tasks.task(key="a").after_response.schedule(work) for _ in range(2))
                    assert [task.status for task in (dropped, first, second)] == [S.DEFERRED] * 3
                assert [task.status for task in (dropped, first, second)] == [S.DEFERRED, S.STARTING, S.DROPPED]
                raise LookupError
        assert dropped.status is S.DROPPED
        await first


async def test_of_two_threads_with_one_key_the_first_wins_g8_g24() -> None:
    made: list[Task[Any]] = []
    async with TaskHost() as host:
        for _ in range(2):
            thread = threading.Thread(target=lambda: made.append(host.task(key="a").schedule(wait)))
            thread.start()
            thread.join()
        await turns()
        assert [task.status for task in made] == [S.RUNNING, S.DROPPED]


async def test_a_task_whose_key_is_taken_is_never_refused_for_want_of_room_g15_g24() -> None:
    async with TaskHost(max_running=1, max_pending=0) as host:
        host.task(key="a").schedule(wait)
        assert host.task(key="a").schedule(wait).status is S.DROPPED


async def test_an_observer_hears_of_no_due_task_whose_key_is_taken_g20_g24() -> None:
    class Watch(TaskObserver):
        def scheduled(self, task: Task[Any], scope: object) -> None:
            heard.append(("scheduled", task.id))

        def due(self, task: Task[Any]) -> None:
            heard.append(("due", task.id))

        def ended(self, task: Task[Any]) -> None:
            heard.append((task.status.value, task.id))

    heard: list[object] = []
    async with TaskHost(observers=[Watch()]) as host:
        first, second = (host.task(key="a").schedule(work) for _ in range(2))
        await first
    assert heard == [
        *(("scheduled", first.id), ("due", first.id)),
        *(("scheduled", second.id), ("dropped", second.id), ("succeeded", first.id)),
    ]


async def test_each_host_has_keys_of_its_own_g24() -> None:
    async with TaskHost() as one, TaskHost() as other, anyio.create_task_group() as tg:
        made = [each.task(key="a").schedule(work) for each in (one, other, TasksScheduler(tg))]
        assert [task.status for task in made] == [S.STARTING] * 3


async def test_a_batch_made_by_hand_asks_for_the_key_when_it_starts_g24() -> None:
    batch = TasksBatch()
    made = [batch.task(key="a").schedule(work) for _ in range(2)]
    async with TaskHost() as host, host.scope() as scope:
        batch.start(scope)
        assert [task.status for task in made] == [S.STARTING, S.DROPPED]


def test_a_host_can_have_no_key_g24() -> None:
    with pytest.raises(ValueError, match=r"key is a setting of single tasks: set it with \.task\(key=\.\.\.\)"):
        TaskHost(config=TaskConfig(key="a"))


def test_a_key_is_a_string_g24() -> None:
    """The object may be a user with all personal data."""

    class User:
        def __repr__(self) -> str:
            return "User(password='hunter2')"

    with pytest.raises(TypeError, match=r"^key must be a str, not User: write key=str\(...\)$"):
        TaskConfig(key=User())  # type: ignore[arg-type]


async def test_the_key_is_free_at_the_end_though_the_function_has_another_name_g24() -> None:
    async def rename() -> None:
        rename.__qualname__ = "renamed"

    name = rename.__qualname__
    async with TaskHost() as host:
        for _ in range(2):
            await host.task(key="a").schedule(rename)
            rename.__qualname__ = name
        assert not host._runner.gates._keys
