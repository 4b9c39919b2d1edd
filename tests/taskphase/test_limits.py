"""G15, G19: `limit=Limit(...)`."""

from __future__ import annotations

import math
import pickle
import signal
import sys
import threading
from types import FrameType
from typing import Any

import anyio
import pytest
from tests.backends import turns, until
from tests.virtual import now, on_each_loop, run

from taskphase import (
    Limit,
    Task,
    TaskConfig,
    TaskHost,
    TaskObserver,
    TasksClosedError,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
)
from taskphase._definition import TaskDefinition
from taskphase._drive.inbox import Inbox
from taskphase._drive.runner import Runner
from taskphase.testing import record_tasks

S = TaskStatus


async def fail() -> None:
    raise LookupError


def has_no_lines(host: TaskHost) -> bool:
    return not host._runner.gates.lines


def statuses(tasks: list[Task[Any]]) -> list[TaskStatus]:
    return [task.status for task in tasks]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "most must be 1 or more, not 0"),
        ((1.5,), TypeError, "most must be an int, not 1.5"),
        ((True,), TypeError, "most must be an int, not True"),
        ((-math.inf,), TypeError, "most must be an int, not -inf"),
        ((1, -1), ValueError, "max_pending must be 0 or more, not -1"),
        ((1, 1.0), TypeError, "max_pending must be an int, not 1.0"),
    ],
)
def test_a_limit_refuses_what_is_no_number_of_tasks_g19(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Limit(*arguments[:1], **({"max_pending": arguments[1]} if arguments[1:] else {}))


def test_a_number_is_no_limit_g19() -> None:
    with pytest.raises(TypeError, match="limit must be a Limit, not 2: write `few = Limit"):
        TaskConfig(limit=2)  # type: ignore[arg-type]


def test_a_limit_shows_its_numbers_g19() -> None:
    assert [repr(limit) for limit in (Limit(2), Limit(math.inf), Limit(2, max_pending=0))] == [
        "Limit(2)",
        "Limit(inf)",
        "Limit(2, max_pending=0)",
    ]


@on_each_loop
class TestLimit:
    """In virtual time."""

    def test_at_most_so_many_tasks_run_at_a_time_first_in_first_out_g19(self, backend: Any) -> None:
        async def main() -> None:
            async def work(number: int) -> None:
                nonlocal running
                running += 1
                assert running <= 2
                began.append(number)
                await anyio.sleep(1)
                running -= 1

            running, began = 0, list[int]()
            async with TaskHost(drain_timeout=9) as host:
                limited = host.task(limit=Limit(2))
                made = [limited.schedule(work, number) for number in range(6)]
                other = host.schedule(now)
                assert statuses([*made, other]) == [*[S.STARTING] * 2, *[S.LIMITED] * 4, S.STARTING]
                assert (host.limited, host.running, host.waiting) == (4, 3, 0)
                await made[5]
                assert (began, host.limited, made[5].age) == (list(range(6)), 0, 3)
                await turns()
                assert has_no_lines(host)

        run(main, backend)

    def test_a_task_that_waits_for_a_place_is_pending_and_holds_no_slot_g15_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost(max_running=2, max_pending=1) as host:
                limited = host.task(limit=Limit(1))
                first, second = limited.schedule(anyio.sleep, 5), limited.schedule(now)
                assert statuses([first, second]) == [S.STARTING, S.LIMITED]
                with pytest.raises(TasksSaturatedError, match="1 limited tasks have reached max_pending=1") as caught:
                    limited.schedule(anyio.sleep, 0)
                assert caught.value.limited == 1
                await host.schedule(anyio.sleep, 1)  # the second slot is free
                await second

        run(main, backend)

    def test_a_place_is_taken_before_the_slot_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost(max_running=1) as host:
                limited = host.task(limit=Limit(1))
                blocker = host.schedule(anyio.sleep, 5)
                first, second = limited.schedule(now), limited.schedule(now)
                assert statuses([first, second]) == [S.WAITING, S.LIMITED]
                first.cancel()  # gives its place back
                assert statuses([first, second]) == [S.CANCELLED, S.WAITING]
                await blocker
                await second

        run(main, backend)

    def test_a_place_is_kept_until_the_handler_has_ended_g4_g19(self, backend: Any) -> None:
        async def main() -> None:
            async def handle(*_: object) -> None:
                await anyio.sleep(3)

            async with TaskHost() as host:
                began = anyio.current_time()
                limited = host.task(limit=Limit(1), on_error=handle)
                limited.schedule(fail)
                assert await limited.schedule(now) == began + 3

        run(main, backend)

    def test_a_pause_between_attempts_gives_the_place_back_g16_g19(self, backend: Any) -> None:
        async def main() -> None:
            async def work() -> None:
                times.append(anyio.current_time() - began)
                await anyio.sleep(1)
                if len(times) == 1:
                    raise LookupError

            began, times = anyio.current_time(), list[float]()
            async with TaskHost(drain_timeout=60) as host:
                limited = host.task(limit=Limit(1))
                first = limited.task(retry=lambda *_: 1).schedule(work)
                second = limited.schedule(anyio.sleep, 5)
                await anyio.sleep(1.5)
                assert statuses([first, second]) == [S.RETRYING, S.RUNNING]
                await anyio.sleep(1)
                assert (first.status, host.limited) == (S.LIMITED, 1)
                await first
            assert times == [0, 6]

        run(main, backend)

    def test_the_limit_comes_after_the_delay_g18_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost() as host:
                began = anyio.current_time()
                limited = host.task(limit=Limit(1))
                late = limited.task(delay=2).schedule(now)
                limited.schedule(anyio.sleep, 3)
                early = limited.schedule(now)
                await anyio.sleep(2.5)
                assert statuses([late, early]) == [S.LIMITED, S.LIMITED]
                assert (await early, await late) == (began + 3, began + 3)

        run(main, backend)

    def test_a_limit_is_counted_in_each_host_g19(self, backend: Any) -> None:
        async def main() -> None:
            one = Limit(1)
            async with TaskHost() as first, TaskHost() as second:
                for host in (first, second):
                    made = [host.task(limit=one).schedule(anyio.sleep, 1) for _ in range(2)]
                    assert statuses(made) == [S.STARTING, S.LIMITED]

        run(main, backend)

    def test_a_limited_task_can_be_cancelled_and_the_drain_cancels_it_g9_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost(max_pending=5) as host:
                limited = host.task(limit=Limit(1))
                first, second, third = (limited.schedule(anyio.sleep, 5) for _ in range(3))
                second.cancel()
                assert statuses([first, second, third]) == [S.STARTING, S.CANCELLED, S.LIMITED]
            assert statuses([first, third]) == [S.CANCELLED, S.CANCELLED]
            assert has_no_lines(host)

        run(main, backend)

    def test_the_drain_waits_for_a_shielded_task_that_waits_for_a_place_g9_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost() as host:
                limited = host.task(limit=Limit(1), shield=True)
                made = [limited.schedule(anyio.sleep, 1) for _ in range(3)]
            assert statuses(made) == [S.SUCCEEDED] * 3

        run(main, backend)

    def test_an_inherited_limit_is_lifted_by_infinity_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost(config=TaskConfig(limit=Limit(1))) as host:
                made = [host.schedule(anyio.sleep, 1) for _ in range(2)]
                free = host.task(limit=Limit(math.inf)).schedule(anyio.sleep, 1)
                assert statuses([*made, free]) == [S.STARTING, S.LIMITED, S.STARTING]

        run(main, backend)

    def test_a_foreign_group_has_limits_too_g19(self, backend: Any) -> None:
        async def main() -> None:
            began = anyio.current_time()
            async with anyio.create_task_group() as tg:
                limited = TasksScheduler(tg).task(limit=Limit(1))
                made = [limited.schedule(anyio.sleep, 1) for _ in range(3)]
            assert (statuses(made), anyio.current_time()) == ([S.SUCCEEDED] * 3, began + 3)

        run(main, backend)

    def test_a_recorder_that_runs_inline_waits_for_limited_tasks_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost() as host:
                with record_tasks(host, run="inline"):
                    async with host.scope() as tasks:
                        made = [tasks.task(limit=Limit(1)).schedule(anyio.sleep, 1) for _ in range(3)]
                    assert statuses(made) == [S.SUCCEEDED] * 3

        run(main, backend)


@on_each_loop
class TestMaxPending:
    """Of a limit, in virtual time."""

    def test_more_tasks_that_wait_are_refused_by_schedule_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost() as host:
                limit = Limit(1, max_pending=1)
                limited = host.task(limit=limit)
                running, waiting = limited.schedule(anyio.sleep, 1), limited.schedule(anyio.sleep, 1)
                with pytest.raises(TasksSaturatedError, match=r"1 tasks with Limit\(1, max_pending=1\) wait") as caught:
                    limited.schedule(anyio.sleep, 0)
                assert caught.value.limit is limit
                await running
                await turns()
                limited.schedule(anyio.sleep, 1)
                await waiting

        run(main, backend)

    @pytest.mark.parametrize("state", ["deferred", "delayed", "retrying", "limited"])
    def test_each_task_with_the_limit_that_waits_counts_g19(self, backend: Any, state: str) -> None:
        async def main() -> None:
            async with TaskHost() as host, host.scope() as tasks:
                limited = tasks.task(limit=Limit(2, max_pending=1))
                match state:
                    case "deferred":
                        waiting = limited.after_response.schedule(anyio.sleep, 0)
                    case "delayed":
                        waiting = limited.task(delay=60).schedule(anyio.sleep, 0)
                    case "retrying":
                        waiting = limited.task(retry=lambda *_: 60).schedule(fail)
                        await until(lambda: waiting.status is S.RETRYING)
                    case _:
                        for _ in range(2):
                            limited.schedule(anyio.sleep, 60)
                        waiting = limited.schedule(anyio.sleep, 60)
                assert waiting.status.value == state
                for definition in (limited.after_route, limited.task(delay=1)):
                    with pytest.raises(TasksSaturatedError):
                        definition.schedule(anyio.sleep, 0)
                if state != "limited":
                    limited.schedule(anyio.sleep, 1)  # it takes a place, and waits for nothing
                waiting.cancel()
                limited.after_response.schedule(anyio.sleep, 0)

        run(main, backend)

    @pytest.mark.parametrize("delay", [0, 1])
    def test_a_task_that_runs_after_its_wait_counts_no_longer_g19(self, backend: Any, delay: float) -> None:
        async def main() -> None:
            async with TaskHost() as host, host.scope() as tasks:
                limited = tasks.task(limit=Limit(1, max_pending=1))
                first = limited.task(delay=delay).after_route.schedule(anyio.sleep, 60)
                tasks.end_route()
                await first.started.wait()
                assert limited.schedule(anyio.sleep, 0).status is S.LIMITED

        run(main, backend)

    def test_a_limit_without_most_counts_the_tasks_that_wait_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost() as host, host.scope() as tasks:
                limited = tasks.task(limit=Limit(math.inf, max_pending=1))
                limited.after_response.schedule(anyio.sleep, 0)
                for definition in (limited.after_route, limited.task(delay=1)):
                    with pytest.raises(TasksSaturatedError):
                        definition.schedule(anyio.sleep, 0)
                assert statuses([limited.schedule(anyio.sleep, 0) for _ in range(2)]) == [S.STARTING] * 2

        run(main, backend)

    def test_a_task_that_would_be_dropped_is_not_refused_g5_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost() as host, host.scope() as tasks:
                limited = tasks.task(limit=Limit(1, max_pending=0))
                async with tasks.route():
                    pass
                assert limited.task(when="failure").after_route.schedule(anyio.sleep, 0).status is S.DROPPED

        run(main, backend)

    def test_what_is_refused_leaves_no_trace_g15_g19(self, backend: Any) -> None:
        async def main() -> None:
            async with TaskHost(max_pending=0, max_running=1) as host:
                for settings in ({"limit": Limit(1, max_pending=0), "delay": 1}, {"limit": Limit(1), "delay": 1}):
                    with pytest.raises(TasksSaturatedError):
                        host.task(key="a", **settings).schedule(anyio.sleep, 0)
                assert has_no_lines(host)
                await host.task(key="a", limit=Limit(1)).schedule(now)

        run(main, backend)


async def left_behind(limited: TaskDefinition, runner: Runner, release: threading.Event) -> Task[Any]:
    """Return a task that has timed out, and whose thread keeps the place of its limit until `release`.

    On a busy machine the time is over before the thread begins. Then the task leaves no thread behind: try again.
    """
    while True:
        task = limited.task(timeout=0.01).schedule(release.wait)
        await task.wait()
        await turns()
        if runner.gates.lines:
            return task


async def test_a_thread_that_outlives_its_timeout_keeps_its_place_g16_g19() -> None:
    release = threading.Event()
    async with TaskHost() as host:
        limited = host.task(limit=Limit(1))
        first = await left_behind(limited, host._runner, release)
        assert isinstance(first.exception, TimeoutError)
        second = limited.schedule(now)
        await turns()
        assert second.status is S.LIMITED
        release.set()
        await second
        await until(lambda: has_no_lines(host))


async def test_an_attempt_after_a_timeout_waits_for_the_thread_of_the_last_one_g16_g19() -> None:
    def work() -> bool:
        nonlocal running
        running += 1
        most.append(running)
        try:
            return release.wait() if len(most) == 1 else True
        finally:
            running -= 1

    running, most, release = 0, list[int](), threading.Event()
    async with TaskHost() as host:
        task = host.task(limit=Limit(1), timeout=0.02, retry=lambda *_: 0).schedule(work)
        await until(lambda: task.status is S.LIMITED)
        release.set()
        assert await task
    assert most == [1] * len(most)
    assert len(most) > 1  # a busy machine may need more attempts
    assert has_no_lines(host)


async def test_threads_take_the_places_in_schedule_g8_g19() -> None:
    def in_thread() -> None:
        made.extend(limited.schedule(anyio.sleep_forever) for _ in range(3))
        with pytest.raises(TasksSaturatedError):
            limited.schedule(anyio.sleep_forever)
        done.append(True)

    made: list[Task[Any]] = []
    done: list[bool] = []
    async with TaskHost() as host:
        limited = host.task(limit=Limit(2, max_pending=1))
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()  # in the loop's thread: it does not turn
        await turns()
        assert done
        assert statuses(made) == [S.RUNNING, S.RUNNING, S.LIMITED]


async def test_a_task_from_a_thread_goes_before_one_whose_pause_ends_meanwhile_g8_g19() -> None:
    """The thread was told that the task would not wait, and has not woken the loop yet."""
    is_about_to_wake, go_on = threading.Event(), threading.Event()

    class Watch(TaskObserver):
        def scheduled(self, task: Task[Any], scope: object, /) -> None: ...

    def trace(frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code.co_name == "call_from_thread":
            is_about_to_wake.set()
            go_on.wait(10)

    def schedule() -> None:
        sys.settrace(trace)
        limited.schedule(anyio.sleep_forever)

    async with TaskHost(observers=[Watch()]) as host:
        limited = host.task(limit=Limit(1, max_pending=1))
        paused = limited.task(delay=0.01).schedule(anyio.sleep, 0)
        thread = threading.Thread(target=schedule)
        thread.start()
        assert is_about_to_wake.wait(10)
        await until(lambda: paused.status is not S.DELAYED)
        assert {task.status for task in host.tasks()} <= {S.LIMITED, S.STARTING, S.RUNNING}
        assert paused.status is S.LIMITED
        go_on.set()
        thread.join()


async def test_a_signal_handler_finds_no_place_that_is_given_to_another_task_g8_g19() -> None:
    def handle(*_: object) -> None:
        made.append(limited.schedule(anyio.sleep, 0))

    made: list[Task[Any]] = []
    async with TaskHost() as host:
        limited = host.task(limit=Limit(1))
        before = signal.signal(signal.SIGUSR1, handle)
        try:
            made.append(limited.schedule(signal.raise_signal, signal.SIGUSR1))
            made.append(limited.schedule(anyio.sleep, 0))
            await until(lambda: len(made) == 3)
            for task in made:
                await task
        finally:
            signal.signal(signal.SIGUSR1, before)


async def test_a_sync_task_that_waits_for_a_place_holds_no_thread_g8_g19() -> None:
    release = threading.Event()
    async with TaskHost(max_threads=2) as host:
        limited = host.task(limit=Limit(1))
        made = [limited.schedule(release.wait, 10) for _ in range(3)]
        await until(lambda: host.statistics().threads == 1)
        assert statuses(made[1:]) == [S.LIMITED] * 2
        release.set()
        for task in made:
            await task


async def test_a_task_whose_group_is_closed_when_its_turn_comes_gives_its_place_on_g2_g19() -> None:
    release = threading.Event()
    async with anyio.create_task_group() as tg:
        tasks = TasksScheduler(tg)
        limited = tasks.task(limit=Limit(1))
        await left_behind(limited, tasks._scope._runner, release)
        made = [limited.schedule(anyio.sleep, 0) for _ in range(500)]
    with pytest.raises(TasksClosedError):
        tasks.schedule(anyio.sleep, 0)
    release.set()
    await until(lambda: all(task.status is S.CANCELLED for task in made))
    assert not tasks._scope._runner.gates.lines


def test_the_error_of_a_full_limit_can_be_pickled_g15_g19() -> None:
    error = TasksSaturatedError(1, 2, 0, 2, limit=Limit(1, max_pending=2))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.limit.most) == (str(error), 1)


async def test_schedule_looks_at_no_other_limit_g15_g19() -> None:
    """There may be a limit for each customer."""

    class Lines(dict[Any, Any]):
        def values(self) -> Any:
            raise AssertionError("this takes longer with each limit in use")

    async with TaskHost(max_pending=10, drain_timeout=9) as host:
        host._runner.gates.lines = lines = Lines()
        for _ in range(3):
            limited = host.task(limit=Limit(1))
            assert statuses([limited.schedule(anyio.sleep, 0) for _ in range(2)]) == [S.STARTING, S.LIMITED]
        assert (host.limited, host.statistics().limited) == (3, 3)
        await until(lambda: host._runner.ended[S.SUCCEEDED] == 6)
        assert (host.limited, lines) == (0, {})
        host._runner.gates.lines = {}


@pytest.mark.parametrize("settings", [{"limit": Limit(1)}, {"retry": lambda *_: None}, {"key": "a"}, {"delay": 1}])
async def test_a_thread_looks_at_no_mail_if_none_counts_g8_g15_g19(settings: dict[str, Any]) -> None:
    """So a thread may schedule any number of tasks while the loop is blocked."""

    class Unread(Inbox):
        def __iter__(self) -> Any:
            raise AssertionError("this takes longer with each mail")

    async with TaskHost() as host:
        runner = host._runner
        before = runner.inbox
        runner.inbox, runner._mails = (inbox := Unread()), inbox.mails
        made: list[Task[Any]] = []
        thread = threading.Thread(target=lambda: made.extend(host.task(**settings).schedule(now) for _ in range(2)))
        thread.start()
        thread.join()
        assert len(made) == 2
        await until(lambda: not runner.inbox.mails)
        runner.inbox, runner._mails = before, before.mails
