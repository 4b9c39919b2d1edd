"""The threads of sync tasks: separate slots, and the limits of waiting: G4, G8, G9, G16."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio import current_time, to_thread
from hypothesis import example, given
from hypothesis import strategies as st

from property_tests.compact import Compact
from taskphase import Limit, Task, TaskHost, TaskStatus, current_task
from taskphase.testing import Cancel, RandomWalk, pause, simulate
from taskphase.testing._simulation.schedule import here

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
S = TaskStatus


async def fail() -> None:
    raise OSError


def handle(task: Task[Any], exc: Exception) -> None:
    pause(1)


@BACKENDS
@given(
    in_handlers=st.lists(st.booleans(), min_size=1, max_size=6),
    threads=st.integers(1, 3),
    of_endpoints=st.integers(1, 3),
)
def test_sync_tasks_and_def_endpoints_never_wait_for_each_others_threads_g8(
    backend: Any, in_handlers: list[bool], threads: int, of_endpoints: int
) -> None:
    async def endpoint() -> None:
        began = current_time()
        await to_thread.run_sync(pause, 9)
        assert current_time() == began + 9

    async def main() -> float:
        everybodys = to_thread.current_default_thread_limiter()
        everybodys.total_tokens = of_endpoints
        async with anyio.create_task_group() as endpoints:
            async with TaskHost(max_threads=threads) as host:
                for in_handler in in_handlers:
                    if in_handler:
                        host.task(shield=True, on_error=handle).schedule(fail)
                    else:
                        host.task(shield=True).schedule(pause, 1)
                await anyio.sleep(0.5)
                assert everybodys.borrowed_tokens == 0
                for _ in range(of_endpoints):
                    endpoints.start_soon(endpoint)
                await anyio.sleep(0.25)
            return current_time()

    # One second each, `threads` at a time.
    assert simulate(main, backend=backend).result() == math.ceil(len(in_handlers) / threads)


@BACKENDS
@given(
    calls=st.lists(st.tuples(st.booleans(), st.sampled_from([0.31, 1.72])), min_size=1, max_size=5),
    most=st.integers(1, 2),
    retries=st.booleans(),
)
def test_a_thread_that_outlives_its_timeout_keeps_the_place_of_its_limit_g19(
    backend: Any, calls: list[tuple[bool, float]], most: int, retries: bool
) -> None:
    """Each call takes some seconds in its thread; some time out after one second, and the retry does not."""
    begun: list[tuple[float, int]] = []
    running = most_running = 0

    def work(number: int, seconds: float) -> None:
        nonlocal running, most_running
        begun.append((here.schedule.now, number))
        running += 1
        most_running = max(most_running, running)
        pause(seconds if current_task().attempt == 1 else 0)
        running -= 1

    def again(task: Task[Any], error: Exception) -> float | None:
        return 9 if retries and task.attempt == 1 else None

    async def main() -> None:
        async with TaskHost(drain_timeout=math.inf) as host:
            limited = host.task(limit=Limit(most), retry=again)
            for number, (times_out, seconds) in enumerate(calls):
                limited.task(timeout=1 if times_out else None).schedule(work, number, seconds)

    simulate(main, backend=backend).result()
    assert most_running <= most
    free = [0.0] * most  # for each place, when it is free
    expected = []
    for number, (_, seconds) in enumerate(calls):
        begin = min(free)
        expected.append((begin, number))
        free[free.index(begin)] = begin + seconds
    assert [(pytest.approx(time), number) for time, number in expected] == begun[: len(calls)]


# Virtual seconds.
CLOSES = 0.1
TIMEOUT = 0.07
HANDLING = 3.0

End = tuple[float, TaskStatus]


@dataclass(frozen=True, repr=False)
class Call(Compact):
    """A sync task that takes `seconds` in its thread, or less if it times out."""

    seconds: float
    shield: bool = False
    times_out: bool = False


@dataclass(frozen=True, repr=False)
class Failure(Compact):
    """A task that raises after `seconds`, or as soon as it is cancelled; its handler needs a thread."""

    seconds: float
    shield: bool = False


@dataclass(frozen=True, repr=False)
class Crowd(Compact):
    """Calls that need threads, and a host that closes meanwhile. All calls exist from the start, in this order."""

    calls: tuple[Call, ...]
    failure: Failure
    threads: int = 1
    grace: float = 0
    patience: float = math.inf

    def ends(self) -> tuple[list[End], bool | None, float]:
        """Return the end of each call, the failure last; whether the failure's handler is called (None: unspecified);
        and the time at which the host is closed.
        """
        sweep = CLOSES + self.grace
        last = sweep + self.patience
        free = [0.0] * self.threads  # for each thread, when it is free
        ends: list[End] = []
        closed = CLOSES
        for call in self.calls:
            begin, spared = min(free), last if call.shield else sweep
            if begin > spared:  # still in the line at that time
                ends.append((spared, S.CANCELLED))
                continue
            free[free.index(begin)] = end = begin + call.seconds
            closed = max(closed, min(end, last))
            up = begin + TIMEOUT if call.times_out else math.inf
            if up < min(end, last):
                ends.append((up, S.FAILED))
            else:
                ends.append((end, S.SUCCEEDED) if end < last else (last, S.CANCELLED))
        raises = min(self.failure.seconds, last if self.failure.shield else sweep)
        begin = max(raises, min(free))
        # It is in a thread, or waits for one, until the host stops waiting.
        ends.append((min(begin + HANDLING, last), S.FAILED))
        is_called = None if raises == last else begin < last
        return ends, is_called, max(closed, *(time for time, _ in ends))


# No sum of these numbers equals another sum.
seconds = st.sampled_from([0.31, 1.72, 4.15, 20.0])
crowds = st.builds(
    Crowd,
    calls=st.lists(st.builds(Call, seconds, st.booleans(), st.booleans()), max_size=4).map(tuple),
    failure=st.builds(Failure, st.sampled_from([0.05, 0.2, 30.0]), st.booleans()),
    threads=st.integers(1, 2),
    grace=st.sampled_from([0, 1, 6]),
    patience=st.sampled_from([math.inf, 0, 1.5, 8]),
)


class Crowded:
    """Runs a crowd."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.ends: dict[int, End] = {}
        self.is_called = False

    async def main(self) -> float:
        crowd = self.crowd
        patience = None if crowd.patience == math.inf else crowd.patience
        host = TaskHost(max_threads=crowd.threads, drain_timeout=crowd.grace, shield_timeout=patience)
        async with anyio.create_task_group() as watchers:
            async with host:
                for number, call in enumerate(crowd.calls):
                    define = host.task(shield=call.shield, timeout=TIMEOUT if call.times_out else None)
                    watchers.start_soon(self._watch, number, define.schedule(pause, call.seconds))
                define = host.task(shield=crowd.failure.shield, on_error=self._handle)
                watchers.start_soon(self._watch, len(crowd.calls), define.schedule(self._fail))
                await anyio.sleep(CLOSES)
            return current_time()

    async def _fail(self) -> None:
        try:
            await anyio.sleep(self.crowd.failure.seconds)
        finally:
            raise OSError

    def _handle(self, task: Task[Any], exc: Exception) -> None:
        self.is_called = True
        pause(HANDLING)

    async def _watch(self, number: int, task: Task[Any]) -> None:
        await task.wait()
        self.ends[number] = current_time(), task.status


@BACKENDS
@given(crowds)
def test_threads_are_given_in_turn_and_waited_for_within_bounds_g4_g8_g9_g16(backend: Any, crowd: Crowd) -> None:
    crowded = Crowded(crowd)
    closed = simulate(crowded.main, backend=backend).result()
    ends, is_called, closes = crowd.ends()
    for number, (time, status) in enumerate(ends):
        ended, how = crowded.ends[number]
        assert (ended, how) == (pytest.approx(time), status), number
    assert is_called in (None, crowded.is_called)
    assert closed == pytest.approx(closes)


@dataclass(frozen=True, repr=False)
class Want(Compact):
    """A task that needs a thread at `at`, for itself or for its handler, and is cancelled `cancel` seconds later."""

    at: float
    seconds: float
    cancel: float = math.inf
    in_handler: bool = False
    shield: bool = False
    times_out: bool = False


@dataclass(frozen=True, repr=False)
class Rush(Compact):
    """Many of these, all at the same few times, and a host that closes at one of these times."""

    wants: tuple[Want, ...]
    threads: int
    closes: float
    grace: float
    patience: float


# Few numbers, so that much happens at the same time.
ticks = st.sampled_from([1.0, 0.0, 2.0])
rarely = st.just(math.inf)
rushes = st.builds(
    Rush,
    wants=st.lists(
        st.builds(
            Want,
            at=ticks,
            seconds=ticks,
            cancel=rarely | ticks,
            in_handler=st.booleans(),
            shield=st.booleans(),
            times_out=st.sampled_from([False, False, True]),
        ),
        min_size=3,
        max_size=4,
    ).map(tuple),
    threads=st.integers(1, 2),
    closes=st.just(30.0) | ticks,
    grace=ticks,
    patience=rarely | ticks,
)


class Rushing:
    """Runs a rush, and counts the threads.

    :ivar begun: the numbers of the called tasks, one entry for each call
    :ivar most: the largest number of slots in use
    """

    def __init__(self, rush: Rush) -> None:
        self.rush = rush
        self.begun: list[int] = []
        self.most = 0
        self.tasks: dict[int, Task[Any]] = {}
        patience = None if rush.patience == math.inf else rush.patience
        self.host = TaskHost(max_threads=rush.threads, drain_timeout=rush.grace, shield_timeout=patience)

    async def main(self) -> None:
        async with self.host, anyio.create_task_group() as actors:
            for number, want in enumerate(self.rush.wants):
                actors.start_soon(self._want, number, want)
            await anyio.sleep(self.rush.closes)
            actors.cancel_scope.cancel()
        await anyio.sleep(60)  # until threads that were left behind have ended

    async def _want(self, number: int, want: Want) -> None:
        def work(*_: object) -> None:
            self.begun.append(number)
            self.most = max(self.most, self.host.statistics().threads)
            pause(want.seconds)

        await anyio.sleep(want.at)
        define = self.host.task(
            name=f"want-{number}",
            shield=want.shield,
            timeout=0.5 if want.times_out else None,
            on_error=work if want.in_handler else None,
        )
        self.tasks[number] = task = define.schedule(fail if want.in_handler else work)
        await anyio.sleep(want.cancel)
        task.cancel()


# The third task requests a thread at the moment at which the second one gets the first one's slot.
THIRD = Rush((Want(0, 1), Want(0, 1), Want(1, 1)), threads=1, closes=30, grace=0, patience=math.inf)
# The first task has just ended when the host stops waiting.
LAST = Rush((Want(1, 1), Want(1, 1), Want(1, 1), Want(2, 1)), threads=1, closes=2, grace=0, patience=0)


@BACKENDS
@example(rush=THIRD, seed=0, cancels=[])
@example(rush=THIRD, seed=1, cancels=[])
@example(rush=LAST, seed=None, cancels=[])
@given(
    rush=rushes,
    seed=st.integers(0, 2**16) | st.none(),
    cancels=st.lists(st.integers(1, 60), max_size=2),
)
def test_no_slot_is_given_twice_or_lost_by_any_cancellation_g8_g9(
    backend: Any, rush: Rush, seed: int | None, cancels: list[int]
) -> None:
    rushing = Rushing(rush)
    faults = [Cancel(step, native=True, task="want-") for step in cancels if backend == "asyncio"]
    policy = None if seed is None else RandomWalk(seed)
    simulate(rushing.main, backend=backend, policy=policy, faults=faults).result()
    assert rushing.most <= rush.threads
    assert rushing.host.statistics().threads == 0
    assert len(rushing.begun) == len(set(rushing.begun))
    report = rushing.host.drain_report
    assert report is not None
    for number, task in rushing.tasks.items():
        want = rush.wants[number]
        if task.status is S.SUCCEEDED:
            assert number in rushing.begun
            assert task.name not in {*report.cancelled, *report.abandoned}
        elif rush.patience == math.inf and not faults:
            # Undisturbed tasks, and each handler of a failed task, get their threads.
            assert task.status is S.FAILED or not want.shield or want.cancel < math.inf, number
            assert (task.status is S.FAILED) <= (number in rushing.begun), number
