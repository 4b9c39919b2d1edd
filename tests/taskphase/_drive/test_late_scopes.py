"""G9 and G17: late scopes are used only where a self-test has shown that they work. Otherwise, and where the
environment asks for that, each task enters its scope at the first step.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import anyio
import anyio._backends._asyncio as anyio_on_asyncio
import pytest
import trio
import trio.testing
from anyio.lowlevel import checkpoint
from tests.backends import native_cancel_only, turns

from taskphase import TaskHost, TaskStatus
from taskphase._drive import enclosing, enclosing_asyncio, enclosing_trio
from taskphase._drive.enclosing import Private, PrivateChanged
from taskphase._drive.loops import native_seam
from taskphase.testing import JumpClock, simulate

EARLY = "each task enters its cancel scope at the first step"


@pytest.fixture(autouse=True)
def verdicts(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What the self-test has found, as in a process that has just begun."""
    found: dict[str, bool] = {}
    monkeypatch.setattr(enclosing, "_verdicts", found)
    monkeypatch.delenv("TASKPHASE_SCOPES", raising=False)
    return found


def is_early(host: TaskHost) -> bool:
    return host._runner.seam.early


async def cancel_one(host: TaskHost) -> None:
    """Cancel a task that waits in scopes of its own, and see it end."""

    async def wait() -> None:
        with anyio.CancelScope(), anyio.CancelScope():
            await anyio.sleep_forever()

    task = host.schedule(wait)
    await task.started.wait()
    task.cancel()
    await task.wait()
    assert task.status is TaskStatus.CANCELLED


# A library whose names are all there, and whose cancellation goes another way: down a list that `__enter__()` fills.
LIES = {
    "asyncio": """
        from collections import defaultdict
        from anyio._backends._asyncio import CancelScope

        enter, deliver, inside = CancelScope.__enter__, CancelScope._deliver_cancellation, defaultdict(set)

        def listing(scope):
            enter(scope)
            if scope._parent_scope is not None:
                inside[scope._parent_scope].add(scope)
            return scope

        def delivering(scope, origin):
            children, scope._child_scopes = scope._child_scopes, scope._child_scopes & inside[scope]
            try:
                return deliver(scope, origin)
            finally:
                scope._child_scopes = children

        CancelScope.__enter__, CancelScope._deliver_cancellation = listing, delivering
    """,
    "trio": """
        from trio import CancelScope

        enter, cancel, entered = CancelScope.__enter__, CancelScope.cancel, set()

        def listing(scope):
            enter(scope)
            entered.add(scope)
            return scope

        def cancelling(scope, *reason):
            if scope in entered or scope._cancel_status is None:
                cancel(scope, *reason)
            else:
                scope._cancel_called = True

        CancelScope.__enter__, CancelScope.cancel = listing, cancelling
    """,
}

PROGRAM = """
import logging
import anyio
from taskphase import TaskHost

async def wait():
    with anyio.CancelScope(), anyio.CancelScope():
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
        await anyio.sleep_forever()

async def main():
    async with TaskHost() as host:
        task = host.schedule(wait)
        await task.started.wait()
        task.cancel()
        with anyio.fail_after(5):
            await task.wait()
        left = host.schedule(wait)
        await left.started.wait()
    print(task.status, left.status, host._runner.seam.early)
    async with TaskHost():
        pass

logging.basicConfig(format="%(name)s %(levelname)s %(message)s", level=logging.WARNING)
anyio.run(main, backend=BACKEND, backend_options=OPTIONS)
"""


def run_program(before: str, backend: str, options: dict[str, Any]) -> tuple[str, list[str]]:
    """Run `PROGRAM` in a process of its own, after `before`; return what it prints and what it logs."""
    program = PROGRAM.replace("BACKEND", repr(backend)).replace("OPTIONS", repr(options))
    command = [sys.executable, "-W", "error", "-c", dedent(before) + program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip(), ended.stderr.splitlines()


def test_with_a_library_that_is_as_it_was_scopes_are_late_and_nothing_is_said_g17(anyio_backend: Any) -> None:
    printed, logged = run_program("", *anyio_backend)
    assert printed == "cancelled cancelled False"
    assert [line for line in logged if EARLY in line] == []


def test_a_library_that_keeps_its_names_and_not_their_meaning_is_found_out_g9_g17(anyio_backend: Any) -> None:
    """Without the self-test the task would not be cancelled, and the host would not close."""
    printed, logged = run_program(LIES[anyio_backend[0]], *anyio_backend)
    assert printed == "cancelled cancelled True"
    (line,) = (line for line in logged if EARLY in line)
    assert line.startswith("taskphase WARNING " + ("trio 0." if anyio_backend[0] == "trio" else "anyio 4."))


@native_cancel_only
def test_a_library_without_a_name_is_not_tried_g9_g17(anyio_backend: Any) -> None:
    printed, logged = run_program("import asyncio.tasks; del asyncio.tasks._leave_task", *anyio_backend)
    assert printed == "cancelled cancelled True"
    (line,) = (line for line in logged if EARLY in line)
    assert "asyncio of Python 3." in line and "has no asyncio.tasks._leave_task" in line


async def test_the_first_host_of_a_process_finds_out_and_others_know_g17(
    verdicts: dict[str, bool], backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TaskHost() as host:
        assert not is_early(host)
    assert verdicts == {backend_name: True}
    tries = list[object]()
    for module in (enclosing_asyncio, enclosing_trio):
        monkeypatch.setattr(module, "_try", tries.append)
    async with TaskHost() as host:
        assert not is_early(host)
        await cancel_one(host)
    assert tries == []


async def test_hosts_that_open_at_the_same_time_have_late_scopes_all_g17() -> None:
    async def use() -> None:
        async with TaskHost() as host:
            assert not is_early(host)
            await cancel_one(host)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(use)


@pytest.mark.parametrize("what", ["raises", "enters nothing", "enters as nobody"])
async def test_an_enclosing_that_does_not_do_what_it_should_is_found_out_g9_g17(
    what: str, verdicts: dict[str, bool], backend_name: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def enclose(*_: object) -> Any:
        if what == "raises":
            raise AttributeError("gone")
        if what == "enters as nobody":
            return SimpleNamespace(cancel=bool, __exit__=bool, cancel_called=True, cancelled_caught=False)
        return (trio if backend_name == "trio" else anyio).CancelScope()

    native_seam()  # imports on_asyncio.py or on_trio.py, which must keep the real `enclose()`
    with monkeypatch.context() as patch:
        patch.setattr(enclosing_asyncio, "enclose", enclose)
        patch.setattr(enclosing_trio, "enclose", enclose)
        with caplog.at_level(logging.WARNING, "taskphase"):
            for _ in range(2):
                async with TaskHost() as host:
                    assert is_early(host)
                    await cancel_one(host)
    assert verdicts == {backend_name: False}
    assert [record.levelname for record in caplog.records if EARLY in record.getMessage()] == ["WARNING"]


async def test_the_self_test_leaves_no_thread_no_task_and_no_garbage_g17(backend_name: str) -> None:
    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living if backend_name == "trio" else len(asyncio.all_tasks())

    async def run() -> bool | None:
        if backend_name == "trio":
            return await enclosing_trio._try()
        return await enclosing_asyncio._try(asyncio.get_running_loop())

    assert await run()
    await turns(3)
    gc.collect()
    threads, before = set(threading.enumerate()), tasks()
    gc.disable()
    try:
        assert await run()
        await turns(3)
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert tasks() == before
    assert set(threading.enumerate()) <= threads


@native_cancel_only
async def test_a_thread_that_was_there_before_the_self_test_stays_g17() -> None:
    thread = await anyio.to_thread.run_sync(threading.current_thread)
    async with TaskHost():
        pass
    assert thread.is_alive()
    assert await anyio.to_thread.run_sync(threading.current_thread) is thread


@native_cancel_only
@pytest.mark.parametrize("turn", range(14))
async def test_the_self_test_outlasts_a_native_cancellation_of_every_task_g3_g9(
    turn: int, verdicts: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    """As the end of `asyncio.run()` is one, while a host opens."""

    async def use() -> None:
        async with TaskHost() as host:
            await cancel_one(host)

    before = asyncio.all_tasks()
    using = asyncio.create_task(use())
    for _ in range(turn):
        await asyncio.sleep(0)
    while len(new := asyncio.all_tasks() - before) > 0:
        for task in new:
            task.cancel()
        await asyncio.wait(new)
    await asyncio.wait([using])
    assert verdicts in ({}, {"asyncio": True})
    assert [record for record in caplog.records if EARLY in record.getMessage()] == []


@native_cancel_only
@pytest.mark.parametrize("turn", range(1, 14))
async def test_a_host_opens_though_its_supervisor_is_cancelled_natively_meanwhile_g3_g9(
    turn: int, verdicts: dict[str, bool]
) -> None:
    async def use() -> None:
        async with TaskHost() as host:
            await cancel_one(host)

    using = asyncio.create_task(use())
    for _ in range(turn + 1):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if "_supervise" in task.get_name():
            task.cancel()
    await using
    assert verdicts in ({}, {"asyncio": True})


@pytest.mark.parametrize("turn", range(12))
async def test_the_cancellation_of_the_body_that_opens_a_host_decides_nothing_g3(
    turn: int, verdicts: dict[str, bool], backend_name: str
) -> None:
    async def use() -> None:
        async with TaskHost():
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(use)
        for _ in range(turn):
            await checkpoint()
        group.cancel_scope.cancel()
    assert verdicts in ({}, {backend_name: True})


class TestTime:
    """The self-test needs no clock: time that jumps does not mislead it, and simulated programs do not see it."""

    async def main(self) -> bool:
        async with TaskHost() as host:
            await cancel_one(host)
            return is_early(host)

    def test_a_clock_that_is_moved_by_hand_does_not_mislead_it_g17(self) -> None:
        clock = JumpClock()
        with asyncio.Runner(loop_factory=clock.backend_options("asyncio")["loop_factory"]) as runner:
            assert runner.run(self.main()) is False
        assert trio.run(self.main, clock=clock.backend_options("trio")["clock"]) is False

    def test_a_clock_of_trio_that_jumps_by_itself_does_not_mislead_it_g17(self) -> None:
        assert trio.run(self.main, clock=trio.testing.MockClock(autojump_threshold=0)) is False

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_the_first_simulated_run_of_a_process_is_like_the_second_g17(
        self, backend: Any, verdicts: dict[str, bool]
    ) -> None:
        first, second = (simulate(self.main, backend=backend) for _ in range(2))
        assert verdicts == {backend: True}
        assert (first.value, first.trace, first.decisions) == (False, second.trace, second.decisions)


class TestSetting:
    """`TASKPHASE_SCOPES`."""

    async def test_scopes_are_early_if_the_environment_asks_for_it_g17(
        self, monkeypatch: pytest.MonkeyPatch, verdicts: dict[str, bool], caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("TASKPHASE_SCOPES", "early")
        async with TaskHost() as host:
            assert is_early(host)
            await cancel_one(host)
        assert verdicts == {}
        assert caplog.records == []

    @pytest.mark.parametrize("value", ["", "late"])
    async def test_scopes_are_late_by_default_and_by_name_g17(
        self, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("TASKPHASE_SCOPES", value)
        async with TaskHost() as host:
            assert not is_early(host)

    async def test_another_value_is_refused_when_a_host_opens_and_changes_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = TaskHost()
        monkeypatch.setenv("TASKPHASE_SCOPES", "Early")
        with pytest.raises(ValueError, match="TASKPHASE_SCOPES must be 'early', 'late' or unset, not 'Early'"):
            await host.__aenter__()
        monkeypatch.setenv("TASKPHASE_SCOPES", "late")
        async with host:
            await cancel_one(host)


class TestPrivates:
    """A private name that is gone is found before anything is tried."""

    @pytest.mark.parametrize("private", enclosing.ASYNCIO_TASKS, ids=lambda private: private.name)
    def test_asyncio_without_one_of_them_is_found_out(self, monkeypatch: pytest.MonkeyPatch, private: Private) -> None:
        self.look_at_asyncio(None)
        monkeypatch.delattr(asyncio.tasks, private.name)
        self.look_at_asyncio(private.name)

    @pytest.mark.parametrize("private", enclosing.ANYIO_BACKEND, ids=lambda private: private.name)
    def test_anyio_without_one_of_them_is_found_out(self, monkeypatch: pytest.MonkeyPatch, private: Private) -> None:
        self.look_at_asyncio(None)
        monkeypatch.delattr(anyio_on_asyncio, private.name)
        self.look_at_asyncio(private.name)

    @pytest.mark.parametrize("private", enclosing.ANYIO_BACKEND, ids=lambda private: private.name)
    def test_an_anyio_where_one_of_them_is_of_another_kind_is_found_out(
        self, monkeypatch: pytest.MonkeyPatch, private: Private
    ) -> None:
        monkeypatch.setattr(anyio_on_asyncio, private.name, 1)
        self.look_at_asyncio(f"{private.name} of anyio .* is a int")

    @pytest.mark.parametrize(
        ("owner", "private"),
        [("CancelScope", each) for each in enclosing.ANYIO_SCOPE]
        + [("TaskState", each) for each in enclosing.ANYIO_STATE],
        ids=lambda each: getattr(each, "name", each),
    )
    def test_an_anyio_whose_objects_lack_one_of_them_is_found_out(
        self, monkeypatch: pytest.MonkeyPatch, owner: str, private: Private
    ) -> None:
        known = {"cancel_scope": None, "_tasks": set(), "_child_scopes": set(), "_parent_scope": None, "_shield": False}
        monkeypatch.setattr(anyio_on_asyncio, owner, lambda *_: SimpleNamespace(**known))
        self.look_at_asyncio(None)
        del known[private.name]
        self.look_at_asyncio(private.name)

    def test_an_anyio_that_calls_the_scope_of_a_thread_otherwise_is_found_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run_sync_in_worker_thread() -> None: ...

        self.take_for_anyio_s(monkeypatch, run_sync_in_worker_thread)
        self.look_at_asyncio("has no local variables scope and worker_scope")

    def test_an_anyio_with_another_function_around_its_calls_in_threads_is_found_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def around() -> None:
            scope = worker_scope = None  # noqa: F841

        self.take_for_anyio_s(monkeypatch, around)
        self.look_at_asyncio("has no local variables scope and worker_scope")

    @pytest.mark.parametrize(
        ("owner", "name"),
        [
            (trio.lowlevel.Task, "_activate_cancel_status"),
            (trio.lowlevel.Task, "_cancel_status"),
            (trio.CancelScope, "_cancel_status"),
        ],
    )
    def test_trio_without_one_of_them_is_found_out(
        self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
    ) -> None:
        async def look() -> None:
            async with trio.open_nursery() as nursery:
                enclosing_trio.look(nursery)
                with monkeypatch.context() as patch, pytest.raises(PrivateChanged, match=rf"^trio 0.*{name}"):
                    patch.delattr(owner, name)
                    enclosing_trio.look(nursery)

        trio.run(look)

    @staticmethod
    def look_at_asyncio(found: str | None) -> None:
        if found is None:
            enclosing_asyncio.look()
            return
        with pytest.raises(PrivateChanged, match=found):
            enclosing_asyncio.look()

    @staticmethod
    def take_for_anyio_s(monkeypatch: pytest.MonkeyPatch, function: Callable[[], object]) -> None:
        name = "run_sync_in_worker_thread"
        monkeypatch.setattr(anyio_on_asyncio.AsyncIOBackend, name, staticmethod(function))
