"""G1, G2, G9, and `taskphase.testing`: `simulate()`, `explore()`, and their messages."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

import taskphase.testing
from taskphase import TaskHost, retry
from taskphase.testing import (
    Deadlock,
    Livelock,
    RandomWalk,
    Replay,
    explore,
    explore_shutdown,
    mark,
    pause,
    simulate,
)

BACKENDS = ("asyncio", "trio")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


class Shop:
    """Sells its stock to two buyers, and looks before it sells."""

    def __init__(self, stock: int = 1) -> None:
        self.stock = stock

    async def buy(self) -> None:
        if self.stock:
            mark(f"sees {self.stock}")
            await checkpoint()
            self.stock -= 1


async def one_after_the_other(shop: Shop) -> None:
    """The second buyer comes after the first one, unless the first one is slow."""

    async def later() -> None:
        for _ in range(3):
            await checkpoint()
        await shop.buy()

    async with TaskHost() as host:
        for task in [host.schedule(shop.buy), host.schedule(later)]:
            await task
    assert shop.stock >= 0, "sold twice"


@explore(schedules=50)
async def test_tasks_that_do_not_share_stay_right_under_every_schedule() -> None:
    sold: list[str] = []

    async def sell(name: str) -> None:
        await checkpoint()
        sold.append(name)

    async with TaskHost() as host:
        for task in [host.schedule(sell, name) for name in "abc"]:
            await task
    assert sorted(sold) == ["a", "b", "c"]


@explore(schedules=5, backends=("trio",))
async def test_fixtures_reach_an_explored_test(tmp_path: Any) -> None:
    assert tmp_path.exists()


@each_backend
def test_a_race_is_found_shrunk_shown_and_replayed(backend: Any) -> None:
    runs = 0

    async def scenario() -> None:
        nonlocal runs
        runs += 1
        await one_after_the_other(Shop())

    assert simulate(scenario, backend=backend).exception is None  # first in, first out does not find it
    with pytest.raises(AssertionError, match="sold twice") as caught:
        explore(schedules=300, backends=(backend,))(scenario)()
    [note] = caught.value.__notes__
    choices = [int(choice) for choice in re.findall(r"\d+", note.partition("replay=[")[2].partition("]")[0])]

    assert 1 <= sum(map(bool, choices)) <= 4
    assert f"simulated on {backend}, with the choices {choices}" in note
    assert f"@explore(replay={choices}, backends=('{backend}',))" in note
    assert len(re.findall(r"buy#\d+ +mark sees 1|later#\d+ +mark sees 1|mark sees 1", note)) == 2

    runs = 0
    with pytest.raises(AssertionError, match="sold twice") as replayed:
        explore(replay=choices, backends=(backend,))(scenario)()
    assert runs == 1
    assert replayed.value.__notes__ == [note]
    assert "sold twice" in str(simulate(scenario, backend=backend, policy=Replay(choices)).exception)


def test_exploration_depends_on_its_seed_alone() -> None:
    async def scenario() -> None:
        await one_after_the_other(Shop(2))
        seen.append(None)

    async def three() -> str:
        order: list[int] = []

        async def note(number: int) -> None:
            for _ in range(3):
                await checkpoint()
                order.append(number)

        async with anyio.create_task_group() as tg:
            for number in range(3):
                tg.start_soon(note, number)
        orders.append(tuple(order))
        return ""

    seen: list[None] = []
    explore(schedules=20)(scenario)()
    assert len(seen) == 40

    orders: list[tuple[int, ...]] = []
    explore(schedules=60, backends=("asyncio",), seed=1)(three)()
    first, orders = orders, []
    explore(schedules=60, backends=("asyncio",), seed=1)(three)()
    again, orders = orders, []
    explore(schedules=60, backends=("asyncio",), seed=2)(three)()
    assert first == again != orders
    assert first[0] == (0, 1, 2) * 3
    assert len(set(first)) > 40


def test_a_program_without_choices_is_run_once_on_each_backend() -> None:
    async def scenario() -> None:
        runs.append(None)
        await anyio.sleep(1)

    runs: list[None] = []
    explore()(scenario)()
    assert len(runs) == 2


def test_an_explored_test_is_a_sync_function_with_the_same_parameters() -> None:
    async def scenario(first: int, *, second: str) -> None:
        """Say."""
        calls.append((first, second))

    calls: list[Any] = []
    explored = explore()(scenario)
    assert not inspect.iscoroutinefunction(explored)
    assert (explored.__name__, explored.__doc__) == ("scenario", "Say.")
    assert list(inspect.signature(explored).parameters) == ["first", "second"]
    explored(1, second="b")
    assert calls == [(1, "b")] * 2


@each_backend
def test_an_exit_ends_the_exploration_at_once_and_unadorned(backend: Any) -> None:
    async def scenario() -> None:
        runs.append(None)
        await checkpoint()
        raise KeyboardInterrupt

    runs: list[None] = []
    with pytest.raises(KeyboardInterrupt) as caught:
        explore(backends=(backend,))(scenario)()
    assert (len(runs), getattr(caught.value, "__notes__", [])) == (1, [])


@each_backend
def test_what_the_simulation_finds_is_shrunk_as_well(backend: Any) -> None:
    async def scenario() -> None:
        async def first() -> None:
            async with a:
                await checkpoint()
                async with b:
                    await checkpoint()

        async def second() -> None:
            await anyio.sleep(0)
            async with b, a:
                await checkpoint()

        a, b = anyio.Lock(fast_acquire=True), anyio.Lock(fast_acquire=True)
        async with anyio.create_task_group() as tg:
            tg.start_soon(first)
            tg.start_soon(second)

    with pytest.raises(Deadlock) as caught:
        explore(backends=(backend,))(scenario)()
    assert "wait for ever" in str(caught.value)
    assert "replay=" in caught.value.__notes__[0]


def test_a_poll_is_a_livelock_after_the_budget_of_steps() -> None:
    @explore(max_steps=30)
    async def scenario() -> None:
        while True:
            await checkpoint()

    with pytest.raises(Livelock, match="after 30 steps"):
        scenario()


def test_the_number_of_schedules_is_1_or_more() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        explore(schedules=0)


@pytest.mark.parametrize("decorator", [explore, explore_shutdown])
def test_a_wrong_use_of_an_explorer_is_refused_with_the_right_one(decorator: Any) -> None:
    async def scenario(*_: object) -> None: ...

    def in_a_thread() -> None:
        raise AssertionError

    with pytest.raises(TypeError, match=rf"write @{decorator.__name__}\(\) with parentheses"):
        decorator(scenario)
    with pytest.raises(TypeError, match=rf"@{decorator.__name__}\(\) takes an async def, and .*in_a_thread is not"):
        decorator()(in_a_thread)


async def connect() -> None:
    await anyio.connect_tcp("127.0.0.1", 9)


async def connect_in_the_machine() -> None:
    await anyio.connect_unix("/not/there")


async def look_up() -> None:
    await anyio.connect_tcp("localhost", 9)


async def listen() -> None:
    await anyio.create_tcp_listener(local_port=0)


async def open_by_asyncio() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def serve_by_asyncio() -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def open_by_trio() -> None:
    await trio.open_tcp_stream("127.0.0.1", 9)


async def look_up_by_trio() -> None:
    await trio.open_tcp_stream("localhost", 9)


async def serve_by_trio() -> None:
    await trio.serve_tcp(trio.aclose_forcefully, 0, host="127.0.0.1")


@pytest.mark.parametrize(
    ("backend", "scenario"),
    [
        *(
            (backend, scenario)
            for backend in BACKENDS
            for scenario in (connect, connect_in_the_machine, look_up, listen)
        ),
        *(("asyncio", scenario) for scenario in (open_by_asyncio, serve_by_asyncio)),
        *(("trio", scenario) for scenario in (open_by_trio, look_up_by_trio, serve_by_trio)),
    ],
)
def test_a_simulation_says_that_it_has_no_network(backend: Any, scenario: Any) -> None:
    error = simulate(scenario, backend=backend).exception
    while isinstance(error, ExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, RuntimeError)
    assert str(error).startswith("a simulation has no network: ")


# Hosts


async def phases_of_a_scope() -> Any:
    async def note(name: str) -> None:
        log.append(name)

    log: list[str] = []
    async with TaskHost() as host:
        async with host.scope() as tasks:
            async with tasks.route():
                tasks.after_response.schedule(note, "after_response")
                tasks.after_route.schedule(note, "after_route")
                tasks.schedule(note, "immediate")
                log.append("route")
            log.append("response")
        while len(log) < 5:
            await anyio.sleep(1)
    return log


async def a_drain_in_all_its_stages() -> Any:
    async def sleeps(seconds: float) -> None:
        await anyio.sleep(seconds)

    async with TaskHost(drain_timeout=1, shield_timeout=5) as host:
        shielded = host.task(shield=True)
        tasks = [
            host.schedule(sleeps, 0.5),
            host.schedule(sleeps, 2),
            shielded.schedule(sleeps, 4),
            shielded.schedule(sleeps, 40),
            host.schedule(pause, 3),
            shielded.schedule(pause, 50),
        ]
    return [task.status.value for task in tasks], anyio.current_time()


async def sync_functions_and_timeouts() -> Any:
    def work(seconds: float) -> float:
        pause(seconds)
        return seconds

    async with TaskHost(max_threads=2, drain_timeout=100) as host:
        tasks = [host.schedule(work, seconds) for seconds in (3, 1, 2)]
        late = host.task(timeout=1, on_error=lambda task, error: errors.append(type(error).__name__))
        errors: list[str] = []
        tasks.append(late.schedule(work, 7))
        for task in tasks:
            await task.wait()
        ended = anyio.current_time()
    return [task.status.value for task in tasks], errors, ended


async def retries() -> Any:
    async def flaky() -> str:
        times.append(anyio.current_time())
        if len(times) < 4:
            raise ConnectionError
        return "done"

    def fails() -> None:
        raise ValueError

    times: list[float] = []
    async with TaskHost(drain_timeout=100, max_running=1) as host:
        again = host.task(retry=retry(attempts=5, backoff=1, jitter=False)).schedule(flaky)
        other = host.task(retry=lambda task, error: 2 if task.attempt < 3 else None).schedule(fails)
        result = await again
        await other.wait()
    return result, times, other.status.value, other.attempt


async def cancelled_from_outside() -> Any:
    async with TaskHost() as host:
        tasks = [host.schedule(anyio.sleep, 90), host.task(shield=True).schedule(anyio.sleep, 3)]
        with anyio.move_on_after(1):
            async with TaskHost() as inner:
                tasks.append(inner.schedule(anyio.sleep, 10))
                tasks.append(inner.task(shield=True).schedule(anyio.sleep, 20))
                await anyio.sleep_forever()
        tasks[0].cancel()
    return [task.status.value for task in tasks], anyio.current_time()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (phases_of_a_scope, ["route", "immediate", "after_route", "response", "after_response"]),
        (
            a_drain_in_all_its_stages,
            (["succeeded", "cancelled", "succeeded", "cancelled", "succeeded", "cancelled"], 6),
        ),
        (sync_functions_and_timeouts, (["succeeded", "succeeded", "succeeded", "failed"], ["TimeoutError"], 4)),
        (retries, ("done", [0, 1, 3, 7], "failed", 3)),
        (cancelled_from_outside, (["cancelled", "succeeded", "cancelled", "succeeded"], 20)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_host_does_the_same_on_both_backends(program: Callable[[], Awaitable[Any]], expected: object) -> None:
    for backend in BACKENDS:
        assert simulate(program, backend=backend).result() == expected  # type: ignore[arg-type]


@each_backend
def test_a_host_drains_right_under_every_schedule_g2_g9(backend: Any) -> None:
    for seed in range(100):
        (statuses, _), run = _run(a_drain_in_all_its_stages, backend, seed)
        assert statuses == ["succeeded", "cancelled", "succeeded", "cancelled", "succeeded", "cancelled"]
        assert run.time == 6


def _run(program: Callable[[], Awaitable[Any]], backend: Any, seed: int) -> Any:
    run = simulate(program, backend=backend, policy=RandomWalk(seed))
    return run.result(), run


def test_phases_hold_in_every_order_that_trio_allows_g1() -> None:
    for seed in range(100):
        log = simulate(phases_of_a_scope, backend="trio", policy=RandomWalk(seed), turns=True).result()
        assert log == ["route", "immediate", "after_route", "response", "after_response"]


# The face


def test_the_face_is_these_names() -> None:
    names = taskphase.testing.__all__
    assert names == [
        "Call", "Cancel", "Deadlock", "Decision", "Deviate", "Entry", "Fifo", "ForeignBlock", "JumpClock", "Livelock",
        "PCT", "Policy", "QUEUE_CONTRACT", "RandomWalk", "RecordedTasks", "Replay", "Run", "RunMode", "TaskRecorder",
        "Throw", "UnexpectedFailures", "explore", "explore_shutdown", "mark", "pause", "queue_contract", "record_tasks",
        "simulate",
    ]  # fmt: skip
    for name in set(names) - {"RunMode", "QUEUE_CONTRACT"}:  # an alias and a mapping: they have no docstring
        value = getattr(taskphase.testing, name)
        assert value.__doc__, name
        assert value.__module__ == "taskphase.testing"
        assert pickle.loads(pickle.dumps(value)) is value


def test_a_run_prints_as_a_timeline() -> None:
    async def main() -> None:
        mark("begins")
        await anyio.sleep(1.5)

    run = simulate(main)
    assert run.timeline().splitlines() == [
        "  step      time  task    what",
        "     0     0.000  main#0  spawn",
        "     1     0.000  main#0  step",
        "     1     0.000  main#0  mark begins",
        "     1     1.500          timer",
        "     2     1.500  main#0  step",
        "     2     1.500  main#0  end",
    ]
    assert run.timeline(last=1).splitlines()[1:] == ["   ... (5 earlier entries)", "     2     1.500  main#0  end"]


def test_a_mark_outside_of_a_run_does_nothing() -> None:
    mark("nobody reads this")


def test_nothing_is_imported_but_what_the_backend_needs() -> None:
    program = """
import sys
from taskphase.testing import simulate
import anyio
assert simulate(lambda: anyio.sleep(1)).time == 1
print(*[name for name in ("trio", "pytest", "hypothesis") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
