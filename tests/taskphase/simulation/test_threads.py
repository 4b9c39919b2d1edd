"""The simulation (no G number): worker threads run one at a time, and the policy chooses among them as among tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
import trio
from anyio import from_thread, to_thread
from anyio.lowlevel import checkpoint

from taskphase.testing import ForeignBlock, RandomWalk, Replay, mark, pause, simulate
from taskphase.testing._simulation.running import Backend


async def in_threads(*functions: Callable[[], object], **options: Any) -> None:
    async with anyio.create_task_group() as tg:
        for function in functions:
            tg.start_soon(lambda function=function: to_thread.run_sync(function, **options))


def test_a_function_runs_in_a_thread_of_its_own_with_its_context(backend: Backend) -> None:
    variable = ContextVar[str]("variable")

    async def main() -> Any:
        def work(number: int) -> Any:
            seen = variable.get()
            variable.set("thread")
            return number, seen, threading.current_thread() is not threading.main_thread()

        variable.set("task")
        return await to_thread.run_sync(work, 3), variable.get()

    assert simulate(main, backend=backend).result() == ((3, "task", True), "task")


def test_what_a_function_raises_is_raised_in_its_task(backend: Backend) -> None:
    async def main() -> None:
        def work() -> None:
            raise LookupError("x")

        with pytest.raises(LookupError, match="x"):
            await to_thread.run_sync(work)

    simulate(main, backend=backend).result()


def test_every_interleaving_of_two_threads_can_be_had(backend: Backend) -> None:
    def work(name: str) -> Callable[[], None]:
        def steps() -> None:
            for number in range(2):
                mark(f"{name}{number}")
                pause()

        return steps

    async def main() -> None:
        await in_threads(work("a"), work("b"))

    orders = {"".join(simulate(main, backend=backend, policy=RandomWalk(seed)).marks) for seed in range(200)}
    assert orders == {"a0a1b0b1", "a0b0a1b1", "a0b0b1a1", "b0b1a0a1", "b0a0b1a1", "b0a0a1b1"}


def test_a_pause_takes_virtual_time_only(backend: Backend) -> None:
    async def main() -> list[float]:
        def work() -> None:
            pause(3600)
            times.append(from_thread.run_sync(anyio.current_time))

        times: list[float] = []
        async with anyio.create_task_group() as tg:
            tg.start_soon(to_thread.run_sync, work)
            with anyio.move_on_after(600):
                await anyio.sleep_forever()
            times.append(anyio.current_time())
        return times

    assert simulate(main, backend=backend).result() == [600, 3600]


def test_a_pause_outside_of_a_simulation_is_real() -> None:
    began = time.monotonic()
    pause()
    pause(0.01)
    assert time.monotonic() - began >= 0.01


def test_a_thread_calls_into_the_loop_and_gets_what_comes_of_it(backend: Backend) -> None:
    variable = ContextVar[str]("variable")

    async def main() -> list[Any]:
        async def double(number: int) -> int:
            await anyio.sleep(1)
            if not number:
                raise LookupError
            return 2 * number

        def fail() -> None:
            raise ValueError

        def work() -> list[Any]:
            variable.set("thread")
            in_loop = from_thread.run_sync(threading.current_thread) is threading.main_thread()
            with pytest.raises(ValueError):
                from_thread.run_sync(fail)
            with pytest.raises(LookupError):
                from_thread.run(double, 0)
            return [in_loop, from_thread.run(double, 4), from_thread.run_sync(variable.get)]

        return [*await to_thread.run_sync(work), *await to_thread.run_sync(work, abandon_on_cancel=True)]

    assert simulate(main, backend=backend).result() == [True, 8, "thread"] * 2


def test_a_call_into_asyncio_has_the_name_of_its_function_in_the_trace() -> None:
    async def main() -> None:
        await to_thread.run_sync(from_thread.run, checkpoint)

    assert "checkpoint#2" in {entry.task for entry in simulate(main).trace}


def test_what_a_thread_asks_of_the_loop_waits_to_be_chosen(backend: Backend) -> None:
    async def main() -> None:
        token = anyio.lowlevel.current_token() if hasattr(anyio.lowlevel, "current_token") else None
        assert token
        if backend == "trio":
            soon: Callable[..., object] = trio.lowlevel.current_trio_token().run_sync_soon
        else:
            soon = asyncio.get_running_loop().call_soon_threadsafe

        def work() -> None:
            soon(mark, "first")
            soon(mark, "second")

        async def other() -> None:
            for _ in range(6):
                await checkpoint()
            mark("other")

        async with anyio.create_task_group() as tg:
            tg.start_soon(to_thread.run_sync, work)
            tg.start_soon(other)

    orders = {tuple(simulate(main, backend=backend, policy=RandomWalk(seed)).marks) for seed in range(100)}
    assert ("first", "second", "other") in orders
    assert ("other", "first", "second") in orders
    assert all(order.index("first") < order.index("second") for order in orders)


def test_a_limiter_bounds_the_threads(backend: Backend) -> None:
    async def main() -> int:
        def work() -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            pause()
            now -= 1

        now = most = 0
        await in_threads(*[work] * 5, limiter=anyio.CapacityLimiter(2))
        return most

    assert {simulate(main, backend=backend, policy=RandomWalk(seed)).result() for seed in range(20)} == {1, 2}


def test_a_thread_is_waited_for_unless_it_may_be_abandoned(backend: Backend) -> None:
    async def main(abandon: bool) -> tuple[bool, float]:
        def work() -> None:
            pause(10)
            mark("done")

        with anyio.move_on_after(1):
            await to_thread.run_sync(work, abandon_on_cancel=abandon)
        left_at = anyio.current_time()
        await anyio.sleep(20)
        return left_at

    waits = simulate(lambda: main(False), backend=backend)
    assert (waits.result(), waits.marks) == (10, ["done"])
    abandons = simulate(lambda: main(True), backend=backend)
    assert (abandons.result(), abandons.marks) == (1, ["done"])


def test_a_thread_can_ask_whether_it_has_been_cancelled(backend: Backend) -> None:
    async def main() -> None:
        def work() -> None:
            from_thread.check_cancelled()
            pause(10)
            mark("asks")
            from_thread.check_cancelled()
            mark("goes on")

        with anyio.move_on_after(1):
            await to_thread.run_sync(work)

    assert simulate(main, backend=backend).marks == ["asks"]


def test_what_a_thread_has_started_is_cancelled_with_its_caller(backend: Backend) -> None:
    async def main() -> str:
        def work() -> None:
            try:
                from_thread.run(anyio.sleep_forever)
            except (asyncio.CancelledError, trio.Cancelled):
                mark("cancelled")

        with anyio.move_on_after(1):
            await to_thread.run_sync(work)
        return "over"

    run = simulate(main, backend=backend)
    assert (run.result(), run.marks) == ("over", ["cancelled"])


def test_a_thread_that_outlives_the_run_is_unwound(backend: Backend) -> None:
    log: list[str] = []

    async def main() -> None:
        def work() -> None:
            try:
                pause(1000)
            finally:
                log.append("unwound")
                from_thread.run_sync(log.append, "too late")

        with anyio.move_on_after(1):
            await to_thread.run_sync(work, abandon_on_cancel=True)

    assert simulate(main, backend=backend).exception is None
    assert log == ["unwound"]


def test_a_thread_that_waits_for_something_foreign_is_reported(backend: Backend) -> None:
    foreign = threading.Event()

    async def main() -> None:
        def work() -> None:
            foreign.wait()
            pause()
            pytest.fail("the run is over")

        await to_thread.run_sync(work)

    try:
        run = simulate(main, backend=backend, patience=0.05)
        assert isinstance(run.exception, ForeignBlock)
        assert run.exception.thread.label == "work#1 (thread)"
        assert "foreign.wait()" in str(run.exception)
    finally:
        foreign.set()
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(10)


def test_executors_of_asyncio_take_part() -> None:
    async def main() -> Any:
        def work(number: int) -> int:
            pause(number)
            if not number:
                raise LookupError
            return number

        with pytest.raises(LookupError):
            await asyncio.to_thread(work, 0)
        return await asyncio.gather(*(asyncio.to_thread(work, number) for number in (2, 1)))

    assert simulate(main, policy=Replay([1, 1])).result() == [2, 1]


def test_a_thread_waits_for_a_coroutine_of_asyncio_in_virtual_time() -> None:
    async def main() -> Any:
        def work() -> Any:
            future = asyncio.run_coroutine_threadsafe(asyncio.sleep(60, "slept"), loop)
            for seconds in (0, 10):
                with pytest.raises(TimeoutError):
                    future.result(seconds)
            return loop.time(), future.result(), loop.time()

        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(work)

    assert simulate(main).result() == (10, "slept", 60)


@pytest.mark.parametrize(("raised", "seen"), [(SystemExit, SystemExit), (StopIteration, RuntimeError)])
def test_a_thread_raises_what_it_likes(backend: Backend, raised: type[Exception], seen: type[Exception]) -> None:
    async def main() -> Any:
        def work() -> None:
            raise raised

        with pytest.raises(seen):
            await to_thread.run_sync(work)
        if backend == "asyncio":
            with pytest.raises(seen):
                await asyncio.to_thread(work)

    simulate(main, backend=backend).result()


def test_anyio_outside_of_a_run_is_untouched(backend: Backend, nothing_is_left_behind: set[threading.Thread]) -> None:
    """During a run in another thread, this thread's own threads are real."""

    async def elsewhere() -> int:
        async def answer() -> int:
            return 7

        def work() -> int:
            from_thread.check_cancelled()
            return from_thread.run_sync(int, "1") + from_thread.run(answer)

        return await to_thread.run_sync(work)

    async def main() -> Any:
        return [run_elsewhere("asyncio"), run_elsewhere("trio")]

    def run_elsewhere(name: str) -> int:
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.append(anyio.run(elsewhere, backend=name)))
        thread.start()
        thread.join(10)
        return results[0]

    assert simulate(main, backend=backend).result() == [8, 8]
    nothing_is_left_behind.update(threading.enumerate())  # trio keeps its threads for a while


def test_a_timer_of_a_thread_that_was_unwound_runs_nothing(backend: Backend) -> None:
    class Enough(BaseException):
        pass

    class GiveUpLater:
        def choose(self, count: int) -> int:
            if late:
                raise Enough
            return 0

    async def lasting() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)  # so that the timer of the pause fires during the unwinding

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(lasting)
            tg.start_soon(to_thread.run_sync, lambda: pause(1))
            await anyio.sleep(0.5)
            late.append(True)
            for _ in range(2):
                tg.start_soon(anyio.sleep, 0)

    late: list[bool] = []
    with pytest.raises(Enough):
        simulate(main, backend=backend, policy=GiveUpLater())
    late.clear()

    async def again() -> str:
        return "another run"

    assert simulate(again, backend=backend).result() == "another run"
