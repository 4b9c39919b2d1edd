"""G4, G8, G9, G16: the slots of threads, and the threads that are abandoned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Self

import anyio
import anyio.to_thread
import pytest
from tests.backends import end_time_of_thread, native_cancel_only, turns, until

from taskphase import Task, TaskHost, TaskStatus
from taskphase._drive import threads

Logged = Callable[[], list[tuple[str, str]]]

SHORT = 0.05  # seconds that a test waits on purpose


async def test_running_sync_tasks_hold_none_of_the_default_threads_g8() -> None:
    def work() -> None:
        began.append(True)
        release.wait()

    began: list[bool] = []
    release = threading.Event()
    default = anyio.to_thread.current_default_thread_limiter()
    async with TaskHost() as host:
        try:
            tasks = [host.schedule(work) for _ in range(50)]
            await until(lambda: len(began) == 40)
            assert default.borrowed_tokens == 0
        finally:
            release.set()
        for task in tasks:
            await task
    assert len(began) == 50


async def test_a_thread_that_the_system_refuses_keeps_neither_its_slot_nor_the_host_g2_g8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async with TaskHost(max_threads=1) as host:
        with monkeypatch.context() as patched:
            patched.setattr(threads.to_thread, "run_sync", refuse)
            refused = host.schedule(lambda: None)
            await refused.wait()
        assert str(refused.exception) == "can't start new thread"
        assert host._runner.threads.in_use == 0
        assert await host.schedule(lambda: "another") == "another"


async def test_the_timeout_of_a_thread_counts_from_its_slot_g16() -> None:
    release = threading.Event()
    async with TaskHost(max_threads=1, drain_timeout=10) as host:
        try:
            first = host.schedule(release.wait)
            await until(lambda: host._runner.threads.in_use == 1)
            second = host.task(timeout=SHORT).schedule(lambda: "in time")
            await anyio.sleep(2 * SHORT)
            assert second.status is TaskStatus.RUNNING
            second.cancel()
        finally:
            release.set()
        await first
        await second.wait()
        assert second.status is TaskStatus.CANCELLED


async def test_a_thread_that_never_began_has_given_its_slot_back_g16() -> None:
    ran: list[int] = []
    async with TaskHost(max_threads=1) as host:
        late = host.task(timeout=0).schedule(ran.append, 1)
        await late.wait()
        assert isinstance(late.exception, TimeoutError)
        await until(lambda: host._runner.threads.in_use == 0)
        assert await host.schedule(lambda: "got the slot") == "got the slot"


async def test_a_call_that_was_given_up_before_its_thread_began_never_runs_g2_g16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def queue(func: Callable[[], Any], **_: Any) -> None:
        queued.append(func)
        await anyio.sleep_forever()  # as when the machine is too busy to start the thread

    queued: list[Callable[[], Any]] = []
    ran: list[int] = []
    monkeypatch.setattr(threads, "to_thread", SimpleNamespace(run_sync=queue))
    async with TaskHost(max_threads=1) as host:
        task = host.task(timeout=SHORT).schedule(ran.append, 1)
        await task.wait()
        assert host._runner.threads.in_use == 0
        thread = threading.Thread(target=queued[0])
        thread.start()
        thread.join()
        await turns()
        assert (ran, host._runner.threads.in_use) == ([], 0)


async def test_a_slot_that_a_thread_gives_back_goes_to_the_next_in_line_at_once_g8() -> None:
    """The loop sleeps meanwhile, and nothing but the end of the thread wakes it."""
    release = threading.Event()
    async with TaskHost(max_threads=1) as host:
        try:
            first = host.task(timeout=SHORT).schedule(release.wait)
            await first.wait()
            second = host.schedule(lambda: "next")
            await turns()
            timer = threading.Timer(SHORT, release.set)
            timer.start()
            with anyio.fail_after(5):
                assert await second == "next"
            timer.join()
        finally:
            release.set()


async def test_an_unshielded_thread_is_waited_for_and_abandoned_like_shielded_g9(logged: Logged) -> None:
    release = threading.Event()
    try:
        async with TaskHost(shield_timeout=SHORT) as host:
            task = host.task(name="plain").schedule(release.wait)
            await until(lambda: host._runner.threads.in_use == 1)
        assert task.status is TaskStatus.CANCELLED
        assert logged()[-1] == ("WARNING", "closing the task host: 1 abandoned, with its thread still running: plain")
        assert "cancelled" not in str(logged())
    finally:
        release.set()


async def test_the_thread_of_a_handler_is_abandoned_too_and_its_task_has_failed_g4_g9(logged: Logged) -> None:
    def handler(task: Task[Any], error: Exception) -> None:
        release.wait()

    async def fail() -> None:
        raise ValueError

    release = threading.Event()
    try:
        async with TaskHost(shield_timeout=SHORT) as host:
            task = host.task(name="handled", shield=True, on_error=handler).schedule(fail)
            await until(lambda: host._runner.threads.in_use == 1)
        assert isinstance(task.exception, ValueError)
        assert logged() == [
            ("INFO", "closing the task host: waiting for 1: handled"),
            ("ERROR", "task 'handled' failed in attempt 1"),
            ("WARNING", "closing the task host: 1 abandoned, with its thread still running: handled"),
        ]
    finally:
        release.set()


async def test_a_handler_thread_that_begins_after_shield_timeout_is_abandoned_too_g4_g9(
    logged: Logged,
) -> None:
    async def fail_while_unwinding() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError

    def handler(task: Task[Any], error: Exception) -> None:
        began.set()
        release.wait()

    began, release = threading.Event(), threading.Event()
    rescue = threading.Timer(2, release.set)  # so that a failure does not hang
    rescue.start()
    try:
        async with TaskHost(shield_timeout=0) as host:
            task = host.task(name="late", shield=True, on_error=handler).schedule(fail_while_unwinding)
            await task.started.wait()
        assert not release.is_set()
        assert isinstance(task.exception, ValueError)
        expected = "closing the task host: 1 abandoned, with its thread still running: late"
        assert not began.is_set() or logged()[-1] == ("WARNING", expected)
    finally:
        rescue.cancel()
        release.set()


async def test_a_task_whose_thread_has_ended_is_not_said_to_be_abandoned_g9(logged: Logged) -> None:
    def begin() -> Any:
        began.set()
        return anyio.sleep_forever()  # the result of the thread is awaited

    began = threading.Event()
    async with TaskHost(shield_timeout=SHORT) as host:
        task = host.task(name="awaiting", shield=True).schedule(begin)
        await until(lambda: began.is_set() and host._runner.threads.in_use == 0)
        await turns()
    assert task.status is TaskStatus.CANCELLED
    assert logged()[1:] == [("WARNING", "closing the task host: 1 cancelled: awaiting")]


async def test_the_timeout_of_an_attempt_bounds_its_thread_and_its_awaitable_g16() -> None:
    class Sleep:  # no coroutine: a slow machine may never await it
        def __await__(self) -> Any:
            return anyio.sleep(3 * SHORT).__await__()

    def begin() -> Sleep:
        time.sleep(3 * SHORT)
        return Sleep()

    async with TaskHost() as host:
        task = host.task(timeout=5 * SHORT).schedule(begin)
        await task.wait()
    assert isinstance(task.exception, TimeoutError)


async def test_a_sync_handler_waiting_for_a_slot_is_called_though_cancelled_g4_g9() -> None:
    def handle(_task: Task[Any], exc: Exception) -> None:
        handled.append(exc)

    async def fail() -> None:
        raise ValueError

    handled: list[Exception] = []
    release = threading.Event()
    async with TaskHost(max_threads=1, drain_timeout=10) as host:
        try:
            busy = host.schedule(release.wait)
            await until(lambda: host._runner.threads.in_use == 1)
            failing = host.task(on_error=handle).schedule(fail)
            await until(lambda: failing.status is TaskStatus.HANDLING)
            failing.cancel()
            await turns()
            assert failing.status is TaskStatus.ABORTING
        finally:
            release.set()
        await busy
        await failing.wait()
    assert [type(exc) for exc in handled] == [ValueError]


async def test_a_sync_handler_waiting_for_a_slot_does_not_outlast_shield_timeout_g9() -> None:
    async def fail() -> None:
        raise ValueError

    handled: list[object] = []
    release = threading.Event()
    try:
        async with TaskHost(max_threads=1, shield_timeout=SHORT) as host:
            host.schedule(release.wait)
            await until(lambda: host._runner.threads.in_use == 1)
            failing = host.task(on_error=lambda *args: handled.append(args), shield=True).schedule(fail)
            await until(lambda: failing.status is TaskStatus.HANDLING)
        assert failing.status is TaskStatus.FAILED
        assert handled == []
    finally:
        release.set()


class Line:
    """A host with one thread, and sync tasks that need the thread. The slots of ended threads wait in `ended`. So a
    test decides when the next task in line gets such a slot, and what happens in the same turn of the event loop.

    :ivar begun: the names of the called functions, in order
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.host = TaskHost(max_threads=1, **settings)
        self.begun: list[str] = []
        self.ended: list[Callable[[], object]] = []
        self._go_on: dict[str, threading.Event] = {}
        self._monkeypatch = monkeypatch

    async def __aenter__(self) -> Self:
        await self.host.__aenter__()
        slots = self.host._runner.threads
        release = slots._release

        def keep(call: threads.ThreadCall) -> None:
            if call.has_ended:
                self.ended.append(partial(release, call))
            else:
                release(call)

        self._monkeypatch.setattr(slots, "_release", keep)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._monkeypatch.undo()
        for release in self.ended:
            release()
        for go_on in self._go_on.values():
            go_on.set()
        await self.host.__aexit__(*exc)

    def work(self, name: str) -> str:
        self.begun.append(name)
        self._go_on[name].wait(10)
        return name

    def want(self, name: str, **settings: Any) -> Task[str]:
        self._go_on[name] = threading.Event()
        return self.host.task(name=name, **settings).schedule(self.work, name)

    async def queue(self, *names: str, **settings: Any) -> list[Task[str]]:
        """Have the first of them in its thread and the others in line."""
        tasks = []
        for name in names:
            tasks.append(self.want(name, **settings))
            await until(lambda: self.begun)
            await turns(5)
        return tasks

    async def end(self, name: str) -> None:
        """Let a thread end, and keep its slot."""
        self._go_on[name].set()
        await until(lambda: self.ended)
        await turns(5)

    def give(self) -> None:
        """Give the slot of that thread to the next in line."""
        self.ended.pop()()

    async def all_began(self, *names: str) -> bool:
        await until(lambda: len(self.begun) >= len(names))
        await turns()
        return self.begun == [*names] and self.host.statistics().threads <= 1


async def test_nobody_takes_a_slot_that_the_next_in_line_was_given_g8(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Line(monkeypatch) as line:
        first, second = await line.queue("first", "second")
        await line.end("first")
        third = line.want("third")  # joins the line in the next turn, before the second task continues
        line.give()
        assert await line.all_began("first", "second")
        await line.end("second")
        line.give()
        assert await line.all_began("first", "second", "third")
    assert [first.return_value, second.return_value, third.return_value] == ["first", "second", "third"]


async def test_a_free_slot_goes_to_waiting_calls_first_in_first_out_g8(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}" for number in range(6)]
    async with Line(monkeypatch) as line:
        await line.queue(*names)
        for number, name in enumerate(names, 1):
            assert await line.all_began(*names[:number])
            await line.end(name)
            line.give()


@pytest.mark.parametrize("when", ["in line", "given its slot", "cancelled before it is given its slot"])
async def test_a_call_cancelled_while_waiting_is_not_made_and_takes_no_slot_g8_g9(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async with Line(monkeypatch) as line:
        _, second, third = await line.queue("first", "second", "third")
        await line.end("first")
        match when:
            case "in line":
                second.cancel()
                await second.wait()
                line.give()
            case "given its slot":
                line.give()
                second.cancel()
            case _:
                second.cancel()
                line.give()
        assert await line.all_began("first", "third")
        assert second.status is TaskStatus.CANCELLED
    assert third.return_value == "third"
    assert line.host.statistics().threads == 0


@native_cancel_only
@pytest.mark.parametrize("when", ["in line", "given its slot", "cancelled before it is given its slot"])
async def test_asyncio_s_own_cancellation_takes_no_slot_along_g8(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    async with Line(monkeypatch) as line:
        _, second, third = await line.queue("first", "second", "third")
        await line.end("first")
        native: Any = line.host._runner.alive[second]
        match when:
            case "in line":
                native.cancel()
                await second.wait()
                line.give()
            case "given its slot":
                line.give()
                native.cancel()
            case _:
                native.cancel()
                line.give()
        assert await line.all_began("first", "third")
        assert second.status is TaskStatus.CANCELLED
    assert third.return_value == "third"
    assert line.host.statistics().threads == 0


@pytest.mark.parametrize("given", [False, True], ids=["in line", "given its slot"])
@pytest.mark.parametrize("kind", ["function", "handler"])
async def test_a_thread_that_is_still_to_begin_when_patience_ends_never_does_g4_g9(
    monkeypatch: pytest.MonkeyPatch, logged: Logged, kind: str, given: bool
) -> None:
    async def fail() -> None:
        raise ValueError

    def handle(_task: Task[Any], _error: Exception) -> None:
        line.begun.append("second")

    async with Line(monkeypatch, shield_timeout=0) as line:
        await line.queue("first", shield=True)
        if kind == "handler":
            second = line.host.task(name="second", shield=True, on_error=handle).schedule(fail)
        else:
            second = line.want("second", shield=True)
        await turns()
        await line.end("first")
        if given:
            # In the turn in which the slot is given the host runs out of patience.
            abandon = line.host._runner.threads.abandon
            monkeypatch.setattr(line.host._runner.threads, "abandon", lambda: (line.give(), abandon())[1])
        await line.host.aclose()
        assert second.status is (TaskStatus.FAILED if kind == "handler" else TaskStatus.CANCELLED)
        assert line.begun == ["first"]
        assert "still running" not in str(logged())
    assert line.host.statistics().threads == 0


async def end_unseen(host: TaskHost, task: Task[Any], release: threading.Event) -> threads.ThreadCall:
    """Let the thread of `task` end. The loop does not turn meanwhile, so the result is on its way.

    :return: the call of the thread
    """
    calls = host._runner.threads._calls
    await until(lambda: task in calls and calls[task][0].has_begun)
    call, _ = calls[task]
    release.set()
    while not call.has_ended:
        time.sleep(SHORT / 50)
    return call


async def test_a_thread_that_has_ended_when_patience_ends_is_not_left_behind_g9() -> None:
    release = threading.Event()
    async with TaskHost() as host:
        task = host.schedule(release.wait)
        await end_unseen(host, task, release)
        assert host._runner.threads.abandon() == {}
        await task.wait()
    assert task.return_value is True


async def test_a_timeout_at_the_end_of_a_thread_leaves_no_thread_behind_g8_g16() -> None:
    release = threading.Event()
    async with TaskHost(max_threads=1) as host:
        slots = host._runner.threads
        task = host.task(timeout=60).schedule(release.wait)
        await end_unseen(host, task, release)
        end_time_of_thread(task)
        await task.wait()
        assert (slots.in_use, slots.left_behind) == (0, False)
        assert await host.schedule(lambda: "got the slot") == "got the slot"


async def test_a_slot_that_task_and_thread_release_is_given_once_g8() -> None:
    """A task that stops waiting in the moment in which its thread ends."""
    release = threading.Event()
    async with TaskHost(max_threads=1, drain_timeout=10) as host:
        slots = host._runner.threads
        try:
            first = host.schedule(release.wait)
            call = await end_unseen(host, first, release)
            await first
            release.clear()
            for _ in range(2):
                host.schedule(release.wait)
            await turns()
            late = threading.Thread(target=slots._free_from_thread, args=[call])
            late.start()
            late.join()
            await turns(5)
            assert (slots.in_use, len(slots._calls)) == (1, 1)
        finally:
            release.set()


async def test_only_a_thread_that_was_left_behind_sends_a_message_about_its_slot_g8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each message wakes the event loop, which costs about as much as all other work for a short sync task."""
    began, release = threading.Event(), threading.Event()
    messages: list[Callable[[], object]] = []

    def work() -> None:
        began.set()
        release.wait()

    async with TaskHost(max_threads=2) as host:
        monkeypatch.setattr(host._runner.seam, "call_from_thread", messages.append)
        tasks = [host.schedule(lambda: None) for _ in range(5)]
        for task in tasks:
            await task
        assert messages == []
        try:
            late = host.task(timeout=60).schedule(work)
            await until(began.is_set)
            end_time_of_thread(late)
            await late.wait()
        finally:
            release.set()
        await until(lambda: messages)
        assert host.statistics().threads == 1
        messages.pop()()
        assert host.statistics().threads == 0


@pytest.mark.parametrize("moment", ["before the thread begins", "in the function", "after the function"])
async def test_the_end_of_a_call_that_the_task_has_left_is_told_in_time_g22(moment: str) -> None:
    def work() -> None:
        begun.set()
        go_on.wait(10)

    begun, go_on = threading.Event(), threading.Event()
    freed: list[object] = []
    ended: list[object] = []
    call = threads.ThreadCall(work, freed.append)
    thread = threading.Thread(target=call.work)
    if moment != "before the thread begins":
        thread.start()
        begun.wait(10)
    if moment == "after the function":
        go_on.set()
        thread.join(10)
    call.is_left = True
    call.when_ended(ended.append)
    assert ended == ([] if moment == "in the function" else [call])
    go_on.set()
    if moment == "in the function":
        thread.join(10)
        assert ended == freed == [call]
