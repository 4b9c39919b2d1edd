"""G9, G13, G21: connections of a queue, and hand-overs while their host closes."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Callable
from itertools import product
from typing import Any

import anyio
import pytest
from tests.backends import native_cancel_only, turns, until
from tests.queueing import RAN, FakeQueue, Step, archive, send_mail
from tests.virtual import on_each_loop, run

from taskphase import (
    DrainReport,
    HandOverFailed,
    Task,
    TaskConfig,
    TaskHost,
    TaskObserver,
    TasksClosedError,
    TaskStatus,
    current_host,
)
from taskphase.testing import pause

S = TaskStatus
Logged = Callable[[], list[tuple[str, str]]]
pytestmark = pytest.mark.usefixtures("cleared")


class Heard:
    """An error handler that keeps its calls, and then takes some seconds."""

    def __init__(self, seconds: float = 0) -> None:
        self.errors: list[HandOverFailed] = []
        self.seconds = seconds

    async def __call__(self, task: Task[Any], error: Exception) -> None:
        assert isinstance(error, HandOverFailed)
        self.errors.append(error)
        await anyio.sleep(self.seconds)

    @property
    def outcomes(self) -> list[str]:
        return [error.outcome for error in self.errors]


class TestConnections:
    async def test_a_connection_is_opened_at_its_first_use_and_closed_with_the_host_g13_g21(self) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as host:
            await turns()
            assert queue.connections == []
            for number in range(3):
                await host.schedule(archive, number).wait()
            assert queue.connections == ["open"]
        assert queue.connections == ["open", "close"]

    async def test_a_queue_that_nobody_used_is_neither_opened_nor_closed_g13_g21(self) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]):
            pass
        assert queue.connections == []

    async def test_hosts_of_one_loop_share_a_connection_until_the_last_one_closes_g13_g21(self) -> None:
        queue = FakeQueue()
        async with TaskHost(queues=[queue]) as first:
            async with TaskHost(queues=[queue]) as second:
                await first.schedule(archive, 1).wait()
                await second.schedule(archive, 2).wait()
            assert queue.connections == ["open"]
            await first.schedule(archive, 3).wait()
        assert queue.connections == ["open", "close"]
        async with TaskHost(queues=[queue]) as third:
            await third.schedule(archive, 4).wait()
        assert queue.connections == ["open", "close"] * 2

    async def test_the_loop_forgets_a_queue_whose_hosts_have_closed_g13(self) -> None:
        queue = FakeQueue()
        forgotten = weakref.ref(queue)
        async with TaskHost(queues=[queue]) as host:
            await host.schedule(archive, 1).wait()
        del queue, host
        await turns()  # asyncio's own handles
        gc.collect()
        assert forgotten() is None

    async def test_a_host_that_publishes_while_another_one_disconnects_connects_again_g13_g21(self) -> None:
        class Slow(FakeQueue):
            async def close(self) -> None:
                closes.set()
                await go_on.wait()
                await super().close()

        async def use() -> None:
            async with TaskHost(queues=[queue]) as host:
                await host.schedule(archive, 1).wait()

        queue, closes, go_on = Slow(), anyio.Event(), anyio.Event()
        async with TaskHost(queues=[queue]) as other:
            async with anyio.create_task_group() as group:
                group.start_soon(use)
                await closes.wait()
                task = other.schedule(archive, 2)
                await turns()
                assert (task.status, queue.connections) == (S.HANDING_OVER, ["open"])
                go_on.set()
            await task.wait()
            await use()
            assert (task.status, queue.connections) == (S.HANDED_OVER, ["open", "close", "open"])
        assert queue.connections == ["open", "close"] * 2

    def test_each_loop_has_a_connection_of_its_own_g13_g21(self) -> None:
        queue = FakeQueue()
        both = threading.Barrier(2)

        async def main() -> None:
            async with TaskHost(queues=[queue]) as host:
                await host.schedule(archive, 1).wait()
                await anyio.to_thread.run_sync(both.wait, 10)

        threads = [
            threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": each}) for each in ("asyncio", "trio")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(queue.connections) == ["close", "close", "open", "open"]

    async def test_many_first_attempts_open_one_connection_g21(self) -> None:
        queue = FakeQueue(opening=("confirm",))
        async with TaskHost(queues=[queue]) as host:
            tasks = [host.schedule(archive, number) for number in range(20)]
            for task in tasks:
                await task.wait()
        assert queue.connections == ["open", "close"]

    @pytest.mark.parametrize("error", [RuntimeError("no"), BaseExceptionGroup("two", [ValueError(), ValueError()])])
    async def test_a_queue_that_cannot_be_closed_is_logged_and_the_others_are_closed_g3_g21(
        self, error: BaseException, logged: Logged
    ) -> None:
        class Broken(FakeQueue):
            async def close(self) -> None:
                raise error

        told: list[DrainReport] = []

        class Watch(TaskObserver):
            def drained(self, report: DrainReport) -> None:
                told.append(report)

        broken, other = Broken(send_mail), FakeQueue(archive, name="other")
        async with TaskHost(queues=[broken, other], observers=[Watch()]) as host:
            await host.schedule(send_mail, "ada").wait()
            await host.schedule(archive, 1).wait()
        assert other.connections == ["open", "close"]
        assert len(told) == 1
        assert [message for level, message in logged() if level == "WARNING" and "later" in message]

    @native_cancel_only
    async def test_a_stray_cancellation_in_close_is_logged_and_the_others_are_closed_g2_g21(
        self, logged: Logged
    ) -> None:
        class Broken(FakeQueue):
            async def close(self) -> None:
                await self._take("stray", lambda: None)

        broken, other = Broken(send_mail), FakeQueue(archive, name="other")
        async with TaskHost(queues=[broken, other]) as host:
            await host.schedule(send_mail, "ada").wait()
            await host.schedule(archive, 1).wait()
        assert other.connections == ["open", "close"]
        assert [message for level, message in logged() if level == "WARNING" and "later" in message]

    @on_each_loop
    def test_a_queue_that_hangs_in_close_holds_its_host_for_a_second_g9_g21(self, backend: Any) -> None:
        class Hanging(FakeQueue):
            async def close(self) -> None:
                await anyio.sleep_forever()

        async def main() -> None:
            queue = Hanging()
            async with TaskHost(queues=[queue]) as host:
                await host.schedule(archive, 1).wait()
                began = anyio.current_time()
            assert anyio.current_time() == began + 1

        run(main, backend)

    async def test_the_backend_is_checked_when_the_host_opens_g13_g21(self, backend_name: str) -> None:
        class Picky(FakeQueue):
            def check_loop(self, backend: str) -> None:
                assert backend == backend_name
                raise RuntimeError("not here")

        with pytest.raises(RuntimeError, match="not here"):
            async with TaskHost(queues=[Picky()]):
                raise AssertionError


# `shield_timeout`, and the seconds of each handler. A handler without an end holds a host without a `shield_timeout`.
PATIENCE = [*product([0, 0.4, 3], [0, 0.5, math.inf]), (None, 0), (None, 0.5)]


@on_each_loop
class TestDrain:
    """In virtual time."""

    @pytest.mark.parametrize(("patience", "seconds"), PATIENCE)
    @pytest.mark.parametrize("step", ["hang", "fail", "refuse", "slow"])
    def test_a_drain_cuts_hand_overs_off_and_ends_within_its_budget_g9_g21(
        self, backend: Any, patience: float | None, step: Step, seconds: float
    ) -> None:
        async def main() -> None:
            queue = FakeQueue(then=step, deadline=2, attempt_timeout=1.5, most=2)
            heard = Heard(seconds)
            async with TaskHost(
                queues=[queue], shield_timeout=patience, drain_timeout=0.25, config=TaskConfig(on_error=heard)
            ) as host:
                tasks = [host.schedule(archive, number) for number in range(5)]
                await anyio.sleep(0.1)
                began = anyio.current_time()
            took = anyio.current_time() - began
            # Without a shield_timeout the deadline of the queue is the limit, from the first attempt on.
            assert took <= 0.25 + (2 + seconds if patience is None else patience + 1)
            assert {task.status for task in tasks} <= {S.HANDED_OVER, S.FAILED}
            failed = [task for task in tasks if task.status is S.FAILED]
            assert {error.message_id for error in heard.errors} == {task.message_id for task in failed}
            assert len(heard.errors) == len(failed)
            if step != "slow":
                assert len(failed) == 5
            for error in heard.errors:
                assert (error.outcome == "refused") == (step == "refuse" or error.attempts == 0)
            report = host.drain_report
            assert report is not None
            assert (report.completed, report.cancelled) == (5, {})

        run(main, backend)

    @pytest.mark.parametrize("fallback", [None, "here"])
    @pytest.mark.parametrize("is_open", [False, True])
    def test_a_hand_over_delayed_beyond_stage_1_is_never_published_g9_g18_g21(
        self, backend: Any, is_open: bool, fallback: Any
    ) -> None:
        async def main() -> None:
            heard = Heard()
            queue = FakeQueue(fallback=fallback)
            async with TaskHost(
                queues=[queue], drain_timeout=1, shield_timeout=5, config=TaskConfig(on_error=heard)
            ) as host:
                if is_open:
                    await host.schedule(archive, 0).wait()
                    queue.published.clear()
                    queue.attempts.clear()
                early = host.task(delay=0.5).schedule(archive, 1)
                late = host.task(delay=1.5).schedule(archive, 2)
                began = anyio.current_time()
            assert anyio.current_time() == began + 0.5
            assert early.status is S.HANDED_OVER
            assert late.status is S.FAILED
            assert heard.outcomes == ["refused"]
            assert heard.errors[0].message_id == late.message_id
            assert queue.args == [(1,)]
            assert len(queue.attempts) == 1
            assert RAN == []

        run(main, backend)

    def test_the_delay_of_a_cut_hand_over_is_over_during_its_handler_g2_g18_g21(self, backend: Any) -> None:
        async def main() -> None:
            heard = list[Exception]()

            async def handle(task: Task[Any], error: Exception) -> None:
                heard.append(error)
                await anyio.sleep(3)

            queue = FakeQueue()
            async with TaskHost(queues=[queue], shield_timeout=5, config=TaskConfig(on_error=handle)) as host:
                task = host.task(delay=1).schedule(archive, 1)
                began = anyio.current_time()
            assert anyio.current_time() == began + 3
            assert task.status is S.FAILED
            assert (len(heard), queue.attempts) == (1, [])

        run(main, backend)

    def test_a_deferred_task_of_a_queue_is_not_spared_g9_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue()
            async with (
                TaskHost(queues=[queue], drain_timeout=1, shield_timeout=5) as host,
                anyio.create_task_group() as group,
            ):

                async def request() -> None:
                    async with host.scope() as tasks, tasks.route():
                        found.append(tasks.after_response.schedule(archive, 1))
                        await anyio.sleep(100)

                found: list[Task[Any]] = []
                group.start_soon(request)
                await until(lambda: found)
                began = anyio.current_time()
                await host.aclose()
                assert anyio.current_time() == began + 1
                group.cancel_scope.cancel()
            assert found[0].status in (S.CANCELLED, S.DROPPED)
            assert queue.published == []

        run(main, backend)

    def test_a_handler_that_hands_over_after_the_shields_holds_no_host_g9_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(then="hang")
            found: list[Task[Any]] = []
            outcomes: list[str] = []

            async def once_more(_task: Task[Any], _error: Exception) -> None:
                found.append(current_host().task(on_error=hang).schedule(archive, 2))

            async def hang(_task: Task[Any], error: Exception) -> None:
                assert isinstance(error, HandOverFailed)
                outcomes.append(error.outcome)
                await anyio.sleep_forever()

            async with TaskHost(queues=[queue], shield_timeout=1) as host:
                host.task(on_error=once_more).schedule(archive, 1)
                await anyio.sleep(0.1)
                began = anyio.current_time()
            assert anyio.current_time() <= began + 2
            assert (found[0].status, outcomes) == (S.FAILED, ["refused"])

        run(main, backend)

    def test_a_handler_in_a_thread_has_a_second_after_the_shields_g9_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(then="hang")
            ends: list[str] = []

            def handle(_task: Task[Any], _error: Exception) -> None:
                pause(0.5)
                ends.append("handled")

            async with TaskHost(queues=[queue], shield_timeout=1) as host:
                host.task(on_error=handle).schedule(archive, 1)
                await anyio.sleep(0.1)
                began = anyio.current_time()
            assert anyio.current_time() == began + 1.5
            assert ends == ["handled"]

        run(main, backend)

    def test_a_shielded_task_may_hand_over_while_the_host_closes_g9_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue()
            heard = Heard()

            async def work() -> None:
                await anyio.sleep(1)
                current_host().schedule(archive, 1)
                current_host().task(delay=0.5, on_error=heard).schedule(archive, 2)

            async with TaskHost(queues=[queue], shield_timeout=5) as host:
                host.task(shield=True).schedule(work)
                await anyio.sleep(0.1)
            assert queue.args == [(1,)]
            assert heard.outcomes == ["refused"]
            with pytest.raises(TasksClosedError):
                host.schedule(archive, 3)

        run(main, backend)

    def test_a_task_that_runs_here_after_all_is_no_hand_over_for_the_drain_g9_g21(self, backend: Any) -> None:
        async def main() -> None:
            queue = FakeQueue(then="refuse", deadline=0.5, fallback="here")
            queue.takes = lambda func: func is anyio.sleep  # type: ignore[method-assign]
            async with TaskHost(queues=[queue], drain_timeout=1, shield_timeout=5) as host:
                task = host.schedule(anyio.sleep, 100)
                await anyio.sleep(0.1)
                began = anyio.current_time()
            assert anyio.current_time() == began + 1
            assert task.status is S.CANCELLED

        run(main, backend)
