"""G23: sync functions in worker processes, their ends, and their limits."""

from __future__ import annotations

import gc
import math
import os
import re
import signal
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import BrokenWorkerProcess
from tests import calls
from tests.backends import native_cancel_only, turns, until

from taskphase import (
    Task,
    TaskConfig,
    TaskHost,
    TaskObserver,
    TasksBatch,
    TasksScheduler,
    TaskStatus,
    TasksUnportableError,
    current_task,
    retry,
)
from taskphase._drive.processes import _MOST_BROKEN
from taskphase._drive.slots import Slots
from taskphase.testing import record_tasks, simulate

IN_PROCESS = TaskConfig(run_in="process")
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def light_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a worker import no main module: the one of pytest takes long."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def is_alive(pid: int) -> bool:
    """Return whether the process runs or is a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def pid_in(file: Path) -> int:
    await until(file.exists)
    return int(file.read_text())


def children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError):  # this thread has ended meanwhile
            found.update(map(int, path.read_text().split()))
    return found


async def failure(task: Task[Any]) -> BaseException:
    await task.wait()
    assert task.status is TaskStatus.FAILED
    assert task.exception is not None
    return task.exception


# The call


async def test_a_function_runs_in_another_process_and_its_result_comes_back_g23() -> None:
    async with TaskHost() as host:
        task = host.task(run_in="process").schedule(calls.double, 20, plus=2)
        assert await task == 42
        assert task.config.run_in == "process"
        first = await host.task(run_in="process").schedule(calls.pid)
        assert first != os.getpid()
        assert await host.task(run_in="process").schedule(calls.pid) == first


async def test_each_way_to_schedule_reaches_a_process_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        here, found = os.getpid(), [host.schedule(calls.pid)]
        batch = TasksBatch()
        async with host.scope() as scope:
            found += [scope.schedule(calls.pid), scope.after_route.schedule(calls.pid)]
            found += [TasksScheduler(scope).after_response.task(name="n").schedule(calls.pid)]
            found += [batch.schedule(calls.pid), batch.task(run_in="process").schedule(calls.pid)]
            batch.start(scope)
            Task(calls.pid).__start__(scope)
            made: Task[int] = Task(calls.pid, config=IN_PROCESS)
            made.__start__(scope)
            found.append(made)
        assert here not in [await task for task in found]
    assert await Task(calls.pid, config=IN_PROCESS)() != here
    assert await Task(calls.pid)() == here


async def test_each_kind_of_callable_that_pickle_takes_runs_in_a_process_g23() -> None:
    portable = calls.Portable(40)
    async with TaskHost(config=IN_PROCESS) as host:
        assert await host.schedule(partial(partial(calls.double, 20), plus=2)) == 42
        assert await host.schedule(portable.method, 2) == 42
        assert await host.schedule(portable, plus=2) == 42
        assert await host.schedule(math.sqrt, 1764) == 42
        assert (await host.schedule(calls.Portable, 40)).number == 40
        assert await host.schedule(calls.big, 3_000_000) == bytes(3_000_000)
        assert await host.schedule(calls.length, [0] * 300_000) == 300_000


async def test_the_function_gets_the_arguments_as_they_were_at_schedule_g23() -> None:
    values = [1, 2, 3]
    async with TaskHost(config=IN_PROCESS) as host:
        async with host.scope() as scope:
            task = scope.after_response.task(retry=retry(attempts=2)).schedule(calls.length, values)
            values.append(4)
        assert await task == 3
        assert task.args == ([1, 2, 3, 4],)


async def test_context_variables_and_the_current_task_stay_here_g23() -> None:
    calls.REQUEST.set("7")
    async with TaskHost(config=IN_PROCESS) as host:
        assert await host.schedule(calls.context) == ["none"] * 3
        assert (await host.task(run_in="thread").schedule(calls.context))[0] == "7"


async def test_an_awaitable_result_is_not_awaited_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        task: Task[Any] = host.schedule(calls.awaitable)
        assert type(await task) is calls.Waits


async def test_the_standard_streams_of_the_function_lead_nowhere_g23(capfd: pytest.CaptureFixture[str]) -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        first = await host.schedule(calls.pid)
        assert await host.schedule(calls.write_everywhere) == "quiet"
        assert await host.schedule(calls.pid) == first
    assert capfd.readouterr().out == ""


async def test_a_thread_that_a_function_leaves_behind_harms_no_other_task_g3_g23(file: Path) -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        await host.schedule(calls.leave_thread, file)
        try:
            for number in range(20):
                assert await host.schedule(calls.double, number) == 2 * number
        finally:
            file.touch()


async def test_a_task_in_a_process_has_no_frames_here_g17(file: Path) -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        task = host.schedule(calls.wait, file)
        await until(file.exists)
        assert task.frames() is None
        assert task.status is TaskStatus.RUNNING


# Async functions


async def to_async() -> int:
    return os.getpid()


@pytest.mark.parametrize("function", [to_async, partial(to_async)])
async def test_an_async_function_is_refused_if_the_process_was_asked_for_g23(function: Callable[[], Any]) -> None:
    async with TaskHost() as host, host.scope() as scope:
        for target in (host, scope, scope.after_route, TasksScheduler(scope), TasksBatch()):
            definition: Any = target.task(run_in="process").task(name="n")
            with pytest.raises(TypeError, match="to_async is async, and run_in='process' is for sync functions only"):
                definition.schedule(function)
        with pytest.raises(TypeError, match="is async"):
            scope.task(run_in="process").after_response.schedule(function)
        made: Task[Any] = Task(function, config=IN_PROCESS)
        with pytest.raises(TypeError, match="is async"):
            made.__start__(scope)
        with pytest.raises(TypeError, match="is async"):
            await made()
        assert host.tasks() == ()


async def test_an_async_function_ignores_an_inherited_process_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        assert await host.schedule(to_async) == os.getpid()
        assert await host.task(timeout=5).schedule(to_async) == os.getpid()
        async with host.scope() as scope:
            made: Task[int] = Task(to_async)
            made.__start__(scope)
            assert await made == os.getpid()
        with record_tasks(host) as tasks:
            host.schedule(to_async)
            await tasks.await_all()
            assert tasks.one().return_value == os.getpid()


async def test_the_setting_is_lifted_by_thread_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        assert await host.task(run_in="thread").schedule(calls.pid) == os.getpid()
        assert await host.task(run_in="thread").schedule(lambda: 42) == 42


# Calls that no process can make


class Refusals(TaskObserver):
    def __init__(self) -> None:
        self.seen: list[tuple[object, type]] = []

    def refused(self, func: Callable[..., Any], error: Exception) -> None:
        self.seen.append((func, type(error)))


def _local() -> Any:
    def function() -> None: ...

    return function


def _local_object() -> object:
    class Inner:
        pass

    return Inner()


def takes(_order: object, /, amount: object = None, *_more: object) -> None: ...


class Taking:
    def takes(self, order: object) -> None: ...


REFUSED: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    (lambda: 1, (), {}, r"the function is a lambda"),
    (_local(), (), {}, r"function cannot run.* is defined inside another function"),
    (
        calls.Heavy().method,
        (),
        {},
        r"the object of the method, an object of the class Heavy, cannot be pickled: cannot",
    ),
    (partial(calls.ignore, calls.Heavy()), (), {}, r"argument 1, an object of the class Heavy, cannot be pickled"),
    (partial(lambda: 1), (), {}, r"the function is a lambda"),
    (
        calls.ignore,
        (1, SECRET, calls.Heavy()),
        {},
        r"argument 3, an object of the class Heavy, .*'_thread.lock' object",
    ),
    (takes, (SECRET, calls.Heavy()), {}, r"argument 'amount', an object of the class Heavy"),
    (partial(takes, SECRET), (calls.Heavy(),), {}, r"argument 'amount', an object of the class Heavy"),
    (takes, (1, 2, 3, calls.Heavy()), {}, r"argument 4, an object of the class Heavy"),
    (Taking().takes, (calls.Heavy(),), {}, r"argument 'order', an object of the class Heavy"),
    (
        calls.ignore,
        (SECRET,),
        {"key": calls.Telling()},
        r"argument 'key', an object of the class Telling, cannot be pi",
    ),
    (calls.ignore, (calls.Mute(),), {}, r"argument 1, an object of the class Mute, cannot be pickled$"),
    (calls.ignore, (calls.Bare(),), {}, r"argument 1, an object of the class Bare, cannot be pickled$"),
    (calls.ignore, (_local_object(),), {}, r"argument 1, .* Inner, .* the class is defined inside a function"),
    (calls.ignore, ({"key": [calls.Heavy()]},), {}, r"argument 1, an object of the class dict"),
    (calls.ignore, (_local(),), {}, r"argument 1, an object of the class function, cannot be pickled"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "message"), REFUSED)
async def test_a_call_that_pickle_refuses_is_refused_without_its_values_g23(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    observer = Refusals()
    async with TaskHost(config=IN_PROCESS, observers=[observer]) as host:
        async with host.scope() as scope:
            for target in (host, host.task(timeout=1), scope, scope.after_route, TasksScheduler(scope).after_response):
                with pytest.raises(TasksUnportableError, match=message) as caught:
                    target.schedule(function, *args, **kwargs)
                assert SECRET not in str(caught.value)
                assert caught.value.__context__ is None
                assert isinstance(caught.value, TypeError)
        made: Task[Any] = Task(function, args, kwargs)
        with pytest.raises(TasksUnportableError, match=message):
            made.__start__(TasksScheduler(host.tg, IN_PROCESS))
        with pytest.raises(TasksUnportableError, match=message):
            Task(function, args, kwargs, IN_PROCESS)
        assert host.tasks() == ()
    assert observer.seen == [(function, TasksUnportableError)] * 5


async def test_a_call_that_the_worker_cannot_load_fails_without_its_values_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        error = await failure(host.schedule(calls.ignore, calls.OnlyHere()))
        assert type(error) is TasksUnportableError
        assert str(error) == (
            "tests.calls.ignore cannot run in a worker process, which could not load the call: ValueError"
        )
        (note,) = error.__notes__
        assert "in give_up" in note
        assert SECRET not in note
        assert await host.schedule(calls.double, 21) == 42


async def test_a_result_that_cannot_come_back_fails_the_attempt_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        for what, message in {
            "lock": r"make returned an object of the class lock, which cannot leave .*: cannot pickle '_thread.lock'",
            "coroutine": r"of the class coroutine, .* cannot pickle 'coroutine' object",
            "local class": r"of the class Local, which cannot leave the worker process",
            "only there": r"of the class OnlyHere, .* loading it raises ValueError",
            "mute": r"of the class Mute, which cannot leave the worker process$",
        }.items():
            error = await failure(host.schedule(calls.make, what))
            assert type(error) is TasksUnportableError
            assert re.search(message, str(error))
            assert SECRET not in str(error)


async def test_an_exception_that_cannot_come_back_fails_the_attempt_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        for what in ("needs two", "holds a lock", "interrupts"):
            error = await failure(host.schedule(calls.raise_it, what))
            assert type(error) is TasksUnportableError
            kinds = "NeedsTwo|HoldsLock|Interrupts"
            assert re.search(rf"raise_it raised an object of the class ({kinds}), which cannot", str(error))
            assert "in raise_it" in error.__notes__[0]


# Failures


async def test_an_exception_comes_back_with_the_traceback_of_the_worker_g4_g23(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[tuple[int, str, int]] = []

    def note(task: Task[Any], error: Exception) -> None:
        assert current_task() is task
        told.append((os.getpid(), str(error), task.attempt))

    async with TaskHost(config=IN_PROCESS) as host:
        policy = retry(attempts=2, on=ValueError, backoff=0)
        task = host.task(on_error=note, retry=policy).schedule(calls.fail, "why")
        error = await failure(task)
        assert type(error) is ValueError
        assert error.__traceback__ is None
        assert error.__cause__ is error.__context__ is None
        (note_of_worker,) = error.__notes__
        assert re.match(r"In the worker process:\nTraceback .*\n  File .*calls.py\", line \d+, in fail", note_of_worker)
        assert "portable.py" not in note_of_worker
    assert told == [(os.getpid(), "why", 2)]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize(
    ("function", "ending"),
    [
        (calls.kill, "by SIGKILL. The system kills a process like this if the memory is full"),
        (calls.leave, "with the exit code 7"),
        (calls.crash, "by SIGSEGV"),
        (calls.close_streams, "by SIGKILL. The system kills a process like this if the memory is full"),
    ],
)
async def test_a_dead_worker_fails_the_attempt_g23(function: Callable[[], None], ending: str) -> None:
    told: list[str] = []
    async with TaskHost(config=IN_PROCESS) as host:
        task = host.task(on_error=lambda _task, error: told.append(str(error))).schedule(function)
        error = await failure(task)
        assert type(error) is BrokenWorkerProcess
        text = f"the worker process of tests.calls.{function.__name__} has ended before the function"
        assert str(error) in (f"{text}, {ending}", text)  # asyncio does not always learn the exit code
        assert error.__context__ is None
        assert await host.schedule(calls.double, 21) == 42
    assert told == [str(error)]


async def test_a_dead_worker_fails_the_attempt_although_a_child_of_it_lives_g23(file: Path) -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        try:
            error = await failure(host.schedule(calls.leave_child, file))
        finally:
            file.touch()
        assert type(error) is BrokenWorkerProcess


async def test_a_retry_after_a_dead_worker_gets_another_worker_g16_g23(file: Path) -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        policy = retry(attempts=5, on=BrokenWorkerProcess, backoff=0)
        task = host.task(retry=policy).schedule(calls.fail_until, file, 3)
        assert await task == 3
        assert task.attempt == 3


async def test_an_idle_worker_that_was_killed_is_replaced_and_nothing_runs_twice_g23(file: Path) -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        first = await host.schedule(calls.pid)
        os.kill(first, signal.SIGKILL)
        assert await host.schedule(calls.fail_until, file, 1) == 1
        assert file.read_text() == "x"


async def test_an_exception_that_is_no_error_fails_only_the_attempt_g3_g23() -> None:
    attempts: list[int] = []

    def again(task: Task[Any], error: Exception) -> float | None:
        assert isinstance(error, BrokenWorkerProcess)
        attempts.append(task.attempt)
        return 0 if task.attempt == 1 else None

    async with TaskHost(config=IN_PROCESS) as host:
        first = await host.schedule(calls.pid)
        for kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError", "BaseExceptionGroup"):
            error = await failure(host.task(retry=again).schedule(calls.leave_by_exception, kind))
            assert str(error) == f"tests.calls.leave_by_exception raised {kind} in its worker process"
            assert "in leave_by_exception" in error.__notes__[0]
        assert await host.schedule(calls.pid) == first
    assert attempts == [1, 2] * 5


async def test_a_stop_iteration_of_the_function_fails_as_in_a_thread_g23() -> None:
    async with TaskHost() as host:
        errors = [
            await failure(host.task(run_in="thread").schedule(calls.stop_iterating)),
            await failure(host.task(run_in="process").schedule(calls.stop_iterating)),
        ]
        assert [type(error) for error in errors] == [RuntimeError, RuntimeError]


# Cancellations


async def test_a_cancelled_task_kills_its_worker_at_once_g23(file: Path) -> None:
    for shield in (False, True):
        async with TaskHost(config=IN_PROCESS) as host:
            task = host.task(shield=shield).schedule(calls.wait, file)
            pid = await pid_in(file)
            task.cancel()
            await task.wait()
            assert task.status is TaskStatus.CANCELLED
            assert not is_alive(pid)
            assert host.statistics().running == 0
            file.unlink()


async def test_a_cancelled_scope_around_the_task_kills_the_worker_g23(file: Path) -> None:
    pids: list[int] = []
    with anyio.move_on_after(math.inf) as scope:
        async with anyio.create_task_group() as tg:

            async def cancel() -> None:
                pids.append(await pid_in(file))
                scope.cancel()

            tg.start_soon(cancel)
            await Task(calls.wait, (file,), config=IN_PROCESS)()
    assert not is_alive(pids[0])


@native_cancel_only
async def test_a_native_cancellation_kills_the_worker_g23(file: Path) -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        task = host.schedule(calls.wait, file)
        pid = await pid_in(file)
        native: Any = host._runner.alive[task]
        native.cancel()
        await task.wait()
        assert task.status is TaskStatus.CANCELLED
        assert not is_alive(pid)


@pytest.mark.parametrize("before", [0, 1, 2, 3, 5, 8, 13, 21, 34, 50, 89, 144])
async def test_a_task_that_is_cancelled_while_its_worker_starts_leaves_no_process_g23(before: int) -> None:
    known = children()
    async with TaskHost(config=IN_PROCESS) as host:
        task = host.schedule(calls.wait, Path("never"))
        await turns(before)
        task.cancel()
        await task.wait()
    assert task.status is TaskStatus.CANCELLED
    assert children() == known
    gc.collect()  # warns of what was left open


async def test_a_timeout_kills_the_worker_g16_g23(file: Path) -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        await host.schedule(calls.pid)
        timeout = 0.1
        while not file.exists():  # on a busy machine the time may be over before the function has begun
            timeout *= 2
            error = await failure(host.task(timeout=timeout).schedule(calls.wait, file))
            assert type(error) is TimeoutError
            assert str(error) == f"timed out after {timeout:g} seconds; its worker process was killed"
        assert not is_alive(int(file.read_text()))


async def test_the_drain_kills_the_unshielded_and_waits_for_the_shielded_g9_g23(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("cut", "kept", "go")]
    async with TaskHost(config=IN_PROCESS) as host:
        cut = host.schedule(calls.wait, files[0])
        kept = host.task(shield=True).schedule(calls.wait, files[1], files[2])
        pids = [await pid_in(file) for file in files[:2]]

        async def let_go() -> None:
            await cut.wait()
            assert kept.status is TaskStatus.RUNNING
            files[2].touch()

        host.task(shield=True).schedule(let_go)
    assert cut.status is TaskStatus.CANCELLED
    assert not is_alive(pids[0])
    assert kept.return_value == pids[1]
    assert host.drain_report is not None
    assert host.drain_report.abandoned == {}


async def test_the_drain_kills_a_shielded_worker_when_its_time_is_over_g9_g23(file: Path) -> None:
    async with TaskHost(config=IN_PROCESS, shield_timeout=0.1) as host:
        task = host.task(shield=True).schedule(calls.wait, file)
        pid = await pid_in(file)
    assert task.status is TaskStatus.CANCELLED
    assert not is_alive(pid)


# Places


async def test_as_many_calls_run_at_a_time_as_there_are_cores_g23(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(os, name, lambda: 2, raising=False)
    started, go = ([tmp_path / f"{name} {number}" for number in range(8)] for name in ("started", "go"))

    def running() -> list[int]:
        return [number for number in range(8) if started[number].exists() and not go[number].exists()]

    async with TaskHost(config=IN_PROCESS) as host, TaskHost(config=IN_PROCESS) as other:
        began = anyio.current_time()
        tasks = [(host, other)[number // 4].schedule(calls.hold, started[number], go[number]) for number in range(8)]
        await until(lambda: len(running()) >= 2)
        await anyio.sleep(anyio.current_time() - began)  # in this time a third process would start, too
        for left in range(8, 0, -1):
            await until(lambda: len(running()) >= min(left, 2))  # noqa: B023
            go[running()[0]].touch()
        spans = [await task for task in tasks]
    most = max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)
    assert most == 2


async def test_a_task_that_waits_for_a_place_is_cancelled_at_once_g23(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(os, name, lambda: 1, raising=False)
    go, started = tmp_path / "go", tmp_path / "first"
    async with TaskHost(config=IN_PROCESS) as host:
        first = host.schedule(calls.wait, started, go)
        await until(started.exists)
        second = host.task(timeout=0.5).schedule(calls.wait, tmp_path / "second", go)
        third = host.schedule(calls.pid)
        await turns()
        second.cancel()
        await second.wait()
        assert first.status is third.status is TaskStatus.RUNNING
        go.touch()
        assert await third == await first
    assert not (tmp_path / "second").exists()


async def test_a_timeout_begins_when_the_call_has_its_place_g16_g23(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(os, name, lambda: 1, raising=False)
    go, started = tmp_path / "go", tmp_path / "first"
    async with TaskHost(config=IN_PROCESS) as host:
        host.schedule(calls.wait, started, go)
        await until(started.exists)
        second = host.task(timeout=0.01).schedule(calls.pid)
        await anyio.sleep(0.02)
        assert second.status is TaskStatus.RUNNING
        second.cancel()
        go.touch()


async def test_a_place_goes_to_the_next_call_if_its_owner_was_cancelled_meanwhile_g23() -> None:
    places, log = Slots[str](1, anyio.Event), list[str]()

    async def use(name: str) -> None:
        await places.take(name)
        log.append(name)

    await places.take("first")
    async with anyio.create_task_group() as tg:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(use, "cancelled")
                await turns()
                tg.start_soon(use, "next")
                await turns()
                places.release("first")
                scope.cancel()
    assert log == ["next"]
    places.release("next")
    await places.take("last")


# Interrupts


async def test_the_function_ignores_sigint_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        assert await host.schedule(calls.sigint) == str(signal.SIG_IGN)


async def test_a_worker_that_is_interrupted_while_it_starts_is_replaced_g23() -> None:
    """The interrupts come at many moments of the start: each new worker gets one, a bit later than the last."""
    known = children()
    async with TaskHost(config=IN_PROCESS) as host:
        task = host.schedule(calls.double, 21)
        seen: set[int] = set()
        while task.status is not TaskStatus.SUCCEEDED:
            assert task.status is not TaskStatus.FAILED
            for pid in children() - known - seen:
                if len(seen) < _MOST_BROKEN - 1:
                    await anyio.sleep(0.01 * len(seen))
                    seen.add(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGINT)
            await turns(1)
        assert task.return_value == 42
        assert seen


# Test tools


async def test_an_inline_run_of_a_recorder_uses_a_process_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        with record_tasks(host, run="inline") as tasks:
            async with host.scope() as scope:
                scope.after_route.schedule(calls.pid)
            assert tasks.one().return_value != os.getpid()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_simulation_refuses_processes_g23(backend: Any) -> None:
    async def main() -> list[str]:
        async with TaskHost(config=IN_PROCESS) as host:
            tasks = [host.schedule(calls.pid) for _ in range(2)]
            return [str(await failure(task)) for task in tasks]

    text = "a simulation runs no processes: use run_in='thread' in the simulated program"
    assert simulate(main, backend=backend).result() == [text] * 2


async def test_a_pool_keeps_no_task_after_its_host_g2_g23() -> None:
    async with TaskHost(config=IN_PROCESS) as host:
        task = host.schedule(calls.double, 21)
        assert await task == 42
        forgotten = weakref.ref(task)
        del task
    del host
    await turns()
    gc.collect()
    assert forgotten() is None
