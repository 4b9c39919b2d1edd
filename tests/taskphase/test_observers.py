"""G3, G4, G6, G8, G9, G17, G20: observers are told of each task in order, and change nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any
from unittest.mock import Mock

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from tests.backends import ASYNCIO, TRIO, native_cancel_only, turns, until

from taskphase import (
    DrainReport,
    Limit,
    Scope,
    Task,
    TaskHost,
    TaskObserver,
    TasksClosedError,
    TasksError,
    TasksSaturatedError,
    TasksScheduler,
    TaskStatus,
    current_host,
    current_task,
    retry,
)
from taskphase._drive import report, watching
from taskphase._drive.hooks import HOOKS
from taskphase._observer import hooks_of

Logged = Callable[[], list[tuple[str, str]]]
S = TaskStatus

DRAIN = 5  # seconds for what a test has left; nothing needs them
PATIENCE = 10  # seconds; a thread that waits for longer fails its test

TAG: ContextVar[str] = ContextVar("tag", default="nobody's")
SPAN: ContextVar[str] = ContextVar("span", default="no span")


class Diary(TaskObserver):
    """Writes down each call: the hook, the name of the task, the rest; the thread; and the context by its tag."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.threads: list[int] = []
        self.tags: list[str] = []
        self.reports: list[DrainReport] = []
        self.errors: list[BaseException | None] = []
        self.scopes: list[Scope | None] = []

    def write(self, *call: object) -> None:
        self.calls.append(tuple(map(str, call)))
        self.threads.append(threading.get_ident())
        self.tags.append(TAG.get())

    def scheduled(self, task: Task[Any], scope: Scope | None) -> None:
        self.scopes.append(scope)
        self.write("scheduled", task.name)

    def refused(self, func: Callable[..., Any], error: TasksError) -> None:
        self.write("refused", getattr(func, "__name__", func), type(error).__name__)

    def due(self, task: Task[Any]) -> None:
        self.write("due", task.name)

    def started(self, task: Task[Any]) -> None:
        self.write("started", task.name, task.attempt)

    def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
        self.errors.append(error)
        self.write("attempt_ended", task.name, type(error).__name__, retry_after)

    def ended(self, task: Task[Any]) -> None:
        self.write("ended", task.name, task.status.value)

    def scope_changed(self, scope: Scope, change: str) -> None:
        self.scopes.append(scope)
        self.write("scope_changed", change)

    def drained(self, report: DrainReport) -> None:
        self.reports.append(report)
        self.write("drained")

    def of(self, name: str) -> list[tuple[str, ...]]:
        """Return the calls about one task, without its name."""
        return [(call[0], *call[2:]) for call in self.calls if len(call) > 1 and call[1] == name]

    def where(self, name: str) -> dict[str, tuple[bool, str]]:
        """Return, of each hook that was called for a task, whether that was in this thread, and the tag there."""
        rows = zip(self.calls, self.threads, self.tags, strict=True)
        here = threading.get_ident()
        return {call[0]: (thread == here, tag) for call, thread, tag in rows if call[1:2] == (name,)}


@pytest.fixture
def diary() -> Diary:
    return Diary()


def in_thread(func: Callable[[], Any]) -> Any:
    """Call `func` in a thread while the event loop stands still, and return or raise what it does."""
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append((func(), None))
        except BaseException as exc:
            outcome.append((None, exc))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(PATIENCE)
    assert outcome, "the thread is blocked"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


async def work() -> int:
    await anyio.lowlevel.checkpoint()
    return 42


async def fail() -> None:
    raise LookupError


def sync_work() -> None:
    pass


BEGINNING = [("scheduled",), ("due",), ("started", "1")]
CANCELLED_EARLY = [("scheduled",), ("ended", "cancelled")]
CANCELLED_WHEN_DUE = [("scheduled",), ("due",), ("ended", "cancelled")]


def succeeded(attempt: int = 1) -> list[tuple[str, ...]]:
    return [("started", str(attempt)), ("attempt_ended", "NoneType", "None"), ("ended", "succeeded")]


class TestOrder:
    """Each task: which calls, in which order."""

    @pytest.mark.parametrize("function", [work, sync_work, partial(work)])
    async def test_a_task_that_succeeds_is_told_of_in_order_g20(
        self, diary: Diary, function: Callable[..., Any]
    ) -> None:
        async with TaskHost(observers=[diary]) as host:
            task = host.task(name="a").schedule(function)
            assert diary.of("a") == BEGINNING[:2]
            await task.wait()
        assert diary.of("a") == [*BEGINNING[:2], *succeeded()]
        assert diary.calls[-1] == ("drained",)

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_an_attempt_ends_behind_its_handler_and_log_record_g4_g20(self, is_async: bool) -> None:
        story: list[str] = []

        async def on_error(task: Task[Any], error: Exception) -> None:
            await anyio.lowlevel.checkpoint()
            story.append("handler")

        def sync_on_error(task: Task[Any], error: Exception) -> None:
            story.append("handler")

        class Watch(TaskObserver):
            def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
                story.append(f"attempt_ended {error!r} {retry_after} {task.status}")

            def ended(self, task: Task[Any]) -> None:
                story.append(f"ended {task.status}")

        with log_handler(lambda record: story.append(record.getMessage())):
            async with TaskHost(observers=[Watch()]) as host:
                await host.task(name="a", on_error=on_error if is_async else sync_on_error).schedule(fail).wait()
        assert story == [
            "handler",
            "task 'a' failed in attempt 1",
            "attempt_ended LookupError() None failed",
            "ended failed",
        ]

    async def test_each_attempt_is_told_of_and_one_end_g16_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            await host.task(name="a", retry=retry(attempts=3, backoff=0, jitter=False)).schedule(fail).wait()
        assert diary.of("a") == [
            ("scheduled",),
            ("due",),
            ("started", "1"),
            ("attempt_ended", "LookupError", "0.0"),
            ("started", "2"),
            ("attempt_ended", "LookupError", "0.0"),
            ("started", "3"),
            ("attempt_ended", "LookupError", "None"),
            ("ended", "failed"),
        ]

    async def test_the_log_record_of_a_retry_comes_before_the_end_of_its_attempt_g4_g20(self) -> None:
        story: list[str] = []

        class Watch(TaskObserver):
            def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
                story.append(f"attempt_ended {retry_after}")

        with log_handler(lambda record: story.append(record.levelname)):
            async with TaskHost(observers=[Watch()]) as host:
                await host.task(retry=lambda task, error: 0 if task.attempt == 1 else None).schedule(fail).wait()
        assert story == ["INFO", "attempt_ended 0.0", "ERROR", "attempt_ended None"]

    @pytest.mark.parametrize("is_sync", [False, True])
    async def test_a_timeout_is_the_error_of_its_attempt_g16_g20(self, diary: Diary, is_sync: bool) -> None:
        go_on = threading.Event()
        func: Callable[..., Any] = partial(go_on.wait, PATIENCE) if is_sync else anyio.sleep_forever
        async with TaskHost(observers=[diary]) as host:
            await host.task(name="a", timeout=0.01).schedule(func).wait()
            go_on.set()
        assert diary.of("a") == [*BEGINNING, ("attempt_ended", "TimeoutError", "None"), ("ended", "failed")]
        assert isinstance(diary.errors[0], TimeoutError)

    async def test_the_cancellation_is_the_error_of_a_cancelled_attempt_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            task = host.task(name="a").schedule(anyio.sleep_forever)
            await task.started.wait()
            task.cancel()
            await task.wait()
        name = anyio.get_cancelled_exc_class().__name__
        assert diary.of("a") == [*BEGINNING, ("attempt_ended", name, "None"), ("ended", "cancelled")]
        assert isinstance(diary.errors[0], anyio.get_cancelled_exc_class())

    @native_cancel_only
    async def test_a_native_cancellation_is_told_of_g20(self, diary: Diary) -> None:
        natives: list[Any] = []

        async def hang() -> None:
            natives.append(asyncio.current_task())
            await anyio.sleep_forever()

        async with TaskHost(observers=[diary]) as host:
            task = host.task(name="a").schedule(hang)
            await task.started.wait()
            natives[0].cancel()
            await task.wait()
        assert diary.of("a") == [*BEGINNING, ("attempt_ended", "CancelledError", "None"), ("ended", "cancelled")]

    async def test_a_task_that_starts_and_is_cancelled_has_no_attempt_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            task = host.task(name="a").schedule(work)
            assert task.status is S.STARTING
            task.cancel()
            await turns()
        assert diary.of("a") == CANCELLED_WHEN_DUE

    async def test_a_task_that_waits_for_a_slot_is_due_g15_g20(self, diary: Diary) -> None:
        async with TaskHost(max_running=1, observers=[diary]) as host:
            first = host.task(name="a").schedule(work)
            second = host.task(name="b").schedule(work)
            third = host.task(name="c").schedule(work)
            assert diary.of("b") == diary.of("c") == BEGINNING[:2]
            third.cancel()
            await second
            assert first.status is S.SUCCEEDED
        assert diary.of("b") == [*BEGINNING[:2], *succeeded()]
        assert diary.of("c") == CANCELLED_WHEN_DUE

    async def test_a_deferred_task_is_due_when_its_phase_comes_g1_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            async with host.scope() as scope:
                async with scope.route():
                    scope.task(name="route").after_route.schedule(work)
                    scope.task(name="response").after_response.schedule(work)
                    scope.task(name="cancelled").after_route.schedule(work).cancel()
                    assert diary.of("route") == diary.of("response") == BEGINNING[:1]
                assert ("due",) in diary.of("route")
                assert diary.of("response") == BEGINNING[:1]
            await turns()
        assert diary.of("route") == diary.of("response") == [*BEGINNING[:2], *succeeded()]
        assert diary.of("cancelled") == CANCELLED_EARLY

    async def test_a_task_that_is_cancelled_in_a_pause_is_told_of_once_g16_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            task = host.task(name="a", retry=lambda task, error: 1000).schedule(fail)
            await until(lambda: task.status is S.RETRYING)
            task.cancel()
            assert task.status is S.CANCELLED
            await turns()
        assert diary.of("a") == [*BEGINNING, ("attempt_ended", "LookupError", "1000.0"), ("ended", "cancelled")]

    async def test_a_task_is_not_due_if_when_drops_it_g5_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            async with host.scope() as scope:
                scope.task(name="a", when="failure").after_route.schedule(work)
            scope.task(name="late", when="failure").after_route.schedule(work)
        for name in ("a", "late"):
            assert diary.of(name) == [("scheduled",), ("ended", "dropped")]

    async def test_a_task_ends_as_dropped_with_the_scheduler_that_nobody_starts_g2_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            scheduler = TasksScheduler(host.tg)
            scheduler.task(name="a").after_route.schedule(work)
            del scheduler
            gc.collect()
            await turns()
            assert diary.of("a") == [("scheduled",), ("ended", "dropped")]

    async def test_a_task_that_the_drain_cancels_is_told_of_once_g9_g20(self, diary: Diary) -> None:
        async with TaskHost(max_running=1, observers=[diary]) as host:
            running = host.task(name="running").schedule(anyio.sleep_forever)
            host.task(name="waiting").schedule(work)
            scope = host.scope()
            scope.task(name="deferred").after_route.schedule(work)
            await running.started.wait()
            in_thread(lambda: host.task(name="thread").schedule(work))
        name = anyio.get_cancelled_exc_class().__name__
        assert diary.of("running") == [*BEGINNING, ("attempt_ended", name, "None"), ("ended", "cancelled")]
        assert diary.of("waiting") == CANCELLED_WHEN_DUE
        assert diary.of("deferred") == CANCELLED_EARLY
        assert diary.of("thread") in (CANCELLED_EARLY, CANCELLED_WHEN_DUE)
        assert diary.calls[-1] == ("drained",)
        assert diary.reports == [host.drain_report]
        assert sum(diary.reports[0].cancelled.values()) == 4

    async def test_a_drop_with_the_closing_host_is_told_of_g9_g20(self, diary: Diary) -> None:
        """The route of the scope still runs when the patience of the host ends."""
        async with TaskHost(observers=[diary]) as host:
            scope = host.scope()
            await scope.route().__aenter__()
            scope.task(name="a", shield=True).after_route.schedule(work)
            scope.end()
        assert diary.of("a") == [("scheduled",), ("ended", "dropped")]
        assert diary.calls.count(("scope_changed", "ended")) == 1

    async def test_observers_are_nested_in_the_order_of_the_argument_g20(self) -> None:
        story: list[str] = []

        class Named(TaskObserver):
            def __init__(self, name: str) -> None:
                self.name = name

            def started(self, task: Task[Any]) -> None:
                story.append(f"{self.name} started")

            def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
                story.append(f"{self.name} attempt ended")

            def ended(self, task: Task[Any]) -> None:
                story.append(f"{self.name} ended")

        async with TaskHost(observers=iter([Named("a"), Named("b")])) as host:
            await host.schedule(work)
            host.add_observer(Named("outermost"))
            await host.schedule(work)
        starts, attempts, ends = ([f"{name} {what}" for name in "ab"] for what in ("started", "attempt ended", "ended"))
        around = [f"outermost {what}" for what in ("started", "attempt ended", "ended")]
        assert story[:6] == [*starts, *attempts[::-1], *ends[::-1]]
        assert story[6:] == [around[0], *starts, *attempts[::-1], around[1], *ends[::-1], around[2]]


@contextmanager
def log_handler(then: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            then(record)

    handler, logger = Handler(), logging.getLogger("taskphase")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class TestThreadsAndContexts:
    async def test_a_task_of_the_loop_is_told_of_in_the_loop_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            TAG.set("of schedule()")
            task = host.task(name="a").schedule(work)
            TAG.set("later")
            await task
        where = diary.where("a")
        assert all(is_here for is_here, _ in where.values())
        for hook in ("scheduled", "started", "attempt_ended"):
            assert where[hook][1] == "of schedule()", hook

    async def test_a_task_of_a_thread_is_scheduled_there_and_else_told_of_in_the_loop_g8_g20(
        self, diary: Diary
    ) -> None:
        async with TaskHost(observers=[diary]) as host:

            def schedule() -> Task[int]:
                TAG.set("of the thread")
                task = host.task(name="a").schedule(work)
                assert diary.of("a") == [("scheduled",)]
                return task

            assert await in_thread(schedule) == 42
        assert diary.of("a") == [*BEGINNING[:2], *succeeded()]
        where = diary.where("a")
        assert where.pop("scheduled") == (False, "of the thread")
        assert all(is_here for is_here, _ in where.values())
        assert where["started"] == where["attempt_ended"] == (True, "of the thread")

    @pytest.mark.parametrize("attempts", [1, 2])
    async def test_function_thread_and_handler_see_the_variables_of_started_g6_g20(self, attempts: int) -> None:
        seen: list[str] = []

        class Spans(TaskObserver):
            def started(self, task: Task[Any]) -> None:
                assert SPAN.get() == "no span"
                SPAN.set(f"span {task.attempt}")

            def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
                seen.append(f"{SPAN.get()} ends")

        def look(*_: object) -> None:
            seen.append(SPAN.get())
            raise LookupError

        async def look_here() -> None:
            seen.append(SPAN.get())
            await anyio.to_thread.run_sync(look)

        async def on_error(*_: object) -> None:
            seen.append(SPAN.get())

        async with TaskHost(observers=[Spans()]) as host:
            define = partial(host.task, retry=retry(attempts=attempts, backoff=0))
            await define(on_error=on_error).schedule(look_here).wait()
            assert SPAN.get() == "no span"
            numbers = range(1, attempts + 1)
            of_attempts = [text for n in numbers for text in (f"span {n}", f"span {n}", f"span {n} ends")]
            assert seen == [*of_attempts[:-1], f"span {attempts}", of_attempts[-1]]
            seen.clear()
            await define(on_error=look).schedule(look).wait()
            of_attempts = [text for n in numbers for text in (f"span {n}", f"span {n} ends")]
            assert seen == [*of_attempts[:-1], f"span {attempts}", of_attempts[-1]]

    async def test_current_task_and_host_are_there_in_started_and_attempt_ended_g14_g20(self) -> None:
        seen: list[object] = []

        class Watch(TaskObserver):
            def started(self, task: Task[Any]) -> None:
                seen.append(current_task() is task and current_host() is host)

            attempt_ended = started  # type: ignore[assignment]

        def end(self: object, task: Task[Any], *_: object) -> None:
            seen.append(current_task() is task and current_host() is host)

        Watch.attempt_ended = end  # type: ignore[assignment,method-assign]
        async with TaskHost(observers=[Watch()]) as host:
            await host.schedule(work)
        assert seen == [True, True]

    async def test_a_finalizer_in_schedule_has_its_task_told_of_g8_g20(self, diary: Diary) -> None:
        class InCycle:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                host.task(name="finalizer").schedule(work)

        class Collects(Diary):
            def scheduled(self, task: Task[Any], scope: Scope | None) -> None:
                if task.name == "outer":
                    InCycle()
                    gc.collect()
                super().scheduled(task, scope)

        diary = Collects()
        async with TaskHost(observers=[diary]) as host:
            await host.task(name="outer").schedule(work)
            await until(lambda: ("ended", "succeeded") in diary.of("finalizer"))
            InCycle()
            gc.collect()
            await until(lambda: len(diary.of("finalizer")) == 10)
        expected = [*BEGINNING[:2], *succeeded()]
        assert diary.of("outer") == expected
        assert diary.of("finalizer") == expected * 2

    async def test_a_signal_handler_in_an_observer_has_its_task_told_of_g8_g20(self) -> None:
        class Interrupted(Diary):
            def write(self, *call: object) -> None:
                if call[1:2] == ("outer",):
                    signal.raise_signal(signal.SIGALRM)
                super().write(*call)

        def schedule(*_: object) -> None:
            host.task(name=f"of signal {next(numbers)}").schedule(work)

        numbers = iter(range(100))
        diary = Interrupted()
        before = signal.signal(signal.SIGALRM, schedule)
        try:
            async with TaskHost(observers=[diary], drain_timeout=DRAIN) as host:
                await host.task(name="outer").schedule(work)
        finally:
            signal.signal(signal.SIGALRM, before)
        expected = [*BEGINNING[:2], *succeeded()]
        assert [diary.of(name) for name in ("outer", *(f"of signal {n}" for n in range(5)))] == [expected] * 6


class TestRefusals:
    async def test_a_refusal_is_told_of_and_nothing_else_g15_g20(self, diary: Diary) -> None:
        async with TaskHost(max_running=1, max_pending=0, observers=[diary]) as host:
            await_it = host.task(name="a").schedule(work)
            calls = list(diary.calls)
            TAG.set("of the loop")
            with pytest.raises(TasksSaturatedError):
                host.schedule(work)
            with pytest.raises(TasksSaturatedError):
                in_thread(lambda: TAG.set("of the thread") and host.schedule(sync_work))
            assert diary.calls[len(calls) :] == [
                ("refused", "work", "TasksSaturatedError"),
                ("refused", "sync_work", "TasksSaturatedError"),
            ]
            assert diary.tags[-2:] == ["of the loop", "of the thread"]
            assert [thread == threading.get_ident() for thread in diary.threads[-2:]] == [True, False]
            await await_it

    async def test_a_closed_host_tells_of_refusals_g9_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            pass
        for schedule in (host.schedule, host.scope().schedule, host.scope().after_route.schedule):
            with pytest.raises(TasksClosedError):
                schedule(work)
            with pytest.raises(TasksClosedError):
                in_thread(partial(schedule, work))
        assert diary.calls == [("drained",), *[("refused", "work", "TasksClosedError")] * 6]

    @pytest.mark.parametrize("name", [name for name in HOOKS if not name.startswith("_")])
    def test_a_method_that_nobody_would_await_is_refused_g20(self, name: str) -> None:
        async def in_the_background(*_args: Any) -> None: ...

        wrong: Any = type("Wrong", (TaskObserver,), {name: in_the_background})
        with pytest.raises(TypeError, match=rf"Wrong\.{name}\(\) must be a plain `def`: nobody would await it"):
            TaskHost(observers=[wrong()])

    @pytest.mark.parametrize("name", HOOKS)
    @pytest.mark.parametrize("kind", ["def", "async def"])
    def test_a_method_that_yields_is_refused_g20(self, kind: str, name: str) -> None:
        """By mistake, or instead of a context manager."""

        def yields(*_args: Any) -> Any:
            yield

        async def yields_and_awaits(*_args: Any) -> Any:
            yield

        wrong: Any = type("Wrong", (TaskObserver,), {name: yields if kind == "def" else yields_and_awaits})
        message = rf"Wrong\.{name}\(\) must be a plain `def` without `yield`: a call would not run its body"
        with pytest.raises(TypeError, match=message):
            TaskHost(observers=[wrong()])

    @pytest.mark.parametrize("name", HOOKS)
    def test_a_method_with_other_parameters_is_refused_g20(self, name: str) -> None:
        def without(_self: TaskObserver) -> None: ...

        def with_more(_self: TaskObserver, a: object, b: object, c: object, d: object) -> None: ...

        for method in (without, with_more):
            wrong: Any = type("Wrong", (TaskObserver,), {name: method})
            with pytest.raises(TypeError, match=rf"{method.__name__}\(.*cannot be called like this"):
                TaskHost(observers=[wrong()])

    @pytest.mark.parametrize("name", HOOKS)
    def test_a_method_with_optional_parameters_or_without_self_is_taken_g20(self, name: str) -> None:
        right: list[Any] = [
            lambda _self, *_args: None,
            lambda *_args, **_others: None,
            lambda _self, a=None, b=None, c=None, d=None: None,
            staticmethod(lambda *_args: None),
            classmethod(lambda _cls, *_args: None),
            Mock(),
        ]
        TaskHost(observers=[type("Right", (TaskObserver,), {name: method})() for method in right])

    async def test_misuse_is_no_refusal_g7_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            with pytest.raises(TypeError):
                host.schedule(work, "an argument too many")  # type: ignore[call-arg]
        assert diary.calls == [("drained",)]


class TestPlacesThatFail:
    """`schedule()` has told observers of the task, and then it cannot be placed."""

    @native_cancel_only
    @pytest.mark.parametrize("way", ["schedule", "inbox", "phase", "slot"])
    async def test_a_task_that_no_factory_makes_has_an_end_g3_g20(self, diary: Diary, way: str) -> None:
        def broken(*_: object, **__: object) -> Any:
            raise LookupError("no tasks today")

        loop = asyncio.get_running_loop()
        async with TaskHost(observers=[diary], max_running=1 if way == "slot" else None) as host:
            scope = host.scope()
            if way == "slot":
                running = host.schedule(work)
                host.task(name="a").schedule(work)
                await running.started.wait()
            elif way == "phase":
                scope.task(name="a").after_route.schedule(work)
            elif way == "inbox":
                in_thread(lambda: host.task(name="a").schedule(work))
            loop.set_task_factory(broken)
            try:
                if way == "schedule":
                    with pytest.raises(LookupError):
                        host.task(name="a").schedule(work)
                elif way == "phase":
                    scope.end_route()
                await turns()
            finally:
                loop.set_task_factory(None)
            assert list(host.tasks()) == []
        beginning = BEGINNING[: 2 if way == "slot" else 1]
        assert diary.of("a") == [*beginning, ("ended", "cancelled" if way == "slot" else "dropped")]

    @pytest.mark.parametrize("is_from_thread", [False, True])
    async def test_a_task_for_a_closed_task_group_has_an_end_g3_g20(self, diary: Diary, is_from_thread: bool) -> None:
        with observed_everywhere(diary):
            async with anyio.create_task_group() as tg:
                tasks = TasksScheduler(tg)
            define = tasks.task(name="a")
            if is_from_thread:
                in_thread(lambda: define.schedule(work))
                await turns()
            else:
                with pytest.raises(TasksClosedError):
                    define.schedule(work)
        assert diary.of("a") == [("scheduled",), ("ended", "dropped")]

    @pytest.mark.parametrize("anyio_backend", [*ASYNCIO, *TRIO])
    def test_a_task_for_a_loop_that_has_ended_has_an_end_g2_g8_g20(
        self, diary: Diary, anyio_backend: tuple[str, dict[str, Any]]
    ) -> None:
        async def main() -> TasksScheduler:
            async with anyio.create_task_group() as tg:
                return TasksScheduler(tg)

        backend, options = anyio_backend
        with observed_everywhere(diary):
            tasks = anyio.run(main, backend=backend, backend_options=options)
            with pytest.raises(TasksClosedError, match="the event loop has ended"):
                in_thread(lambda: tasks.task(name="a").schedule(work))
        assert diary.of("a") == [("scheduled",), ("ended", "dropped")]
        assert tasks._scope._runner.idle


@contextmanager
def observed_everywhere(observer: TaskObserver) -> Iterator[None]:
    watching.observe_everywhere(observer, {entry.name: entry.call for entry in hooks_of([observer])})
    try:
        yield
    finally:
        watching.forget_everywhere(observer)


def lone(hook: str, then: Callable[[], object]) -> TaskObserver:
    """Return an observer with one method, which calls `then()`."""

    def method(self: object, *args: object) -> None:
        then()

    method.__name__ = hook
    return type("Lone", (TaskObserver,), {hook: method})()


def wrapped(hook: str, then: Callable[[], object]) -> TaskObserver:
    """The same, and the method does not know its name."""
    return type("Wrapped", (TaskObserver,), {hook: lambda self, *args: then()})()


def static(hook: str, then: Callable[[], object]) -> TaskObserver:
    """The same, as a static method."""
    return type("Static", (TaskObserver,), {hook: staticmethod(lambda *args: then())})()


class Callee:
    def __init__(self, then: Callable[[], object]) -> None:
        self.then = then

    def __call__(self, *args: object) -> None:
        self.then()

    def __eq__(self, other: object) -> bool:
        raise LookupError("no questions")

    __hash__ = None  # type: ignore[assignment]


def called(hook: str, then: Callable[[], object]) -> TaskObserver:
    """The same, as an object that can be called, of which nothing can be asked."""
    return type("Called", (TaskObserver,), {hook: Callee(then)})()


BROKEN: list[tuple[Callable[..., TaskObserver], type[BaseException]]] = [
    (lone, ValueError),
    (lone, SystemExit),
    (lone, GeneratorExit),
    (lone, asyncio.CancelledError),
    (wrapped, ValueError),
    (static, ValueError),
    (called, ValueError),
]


async def exercise(host: TaskHost) -> list[str]:
    """Have each hook called, several times; return what became of the tasks."""
    tasks: list[Task[Any]] = []
    for _ in range(2):
        async with host.scope() as scope, scope.route():
            tasks.append(scope.schedule(work))
            tasks.append(scope.after_route.schedule(work))
            tasks.append(scope.after_response.schedule(sync_work))
            tasks.append(scope.task(when="failure").after_response.schedule(work))
        policy = retry(attempts=2, backoff=0)
        tasks.append(host.task(retry=policy, on_error=lambda task, error: None).schedule(fail))
        tasks.append(in_thread(lambda: host.schedule(work)))
        for task in tasks:
            await task.wait()
        stuck = host.schedule(anyio.sleep_forever)
        tasks.append(stuck)
        await stuck.started.wait()
        stuck.cancel()
        await stuck.wait()
    return [task.status.value for task in tasks]


UNDISTURBED = ["succeeded", "succeeded", "succeeded", "dropped", "failed", "succeeded", "cancelled"] * 2
EXERCISED = Counter(
    scheduled=14, due=12, started=14, attempt_ended=14, ended=14, scope_changed=4, drained=1
)  # how often each hook is called


def refuse(host: TaskHost) -> None:
    for _ in range(2):
        with pytest.raises(TasksClosedError):
            host.schedule(work)


class Statuses(TaskObserver):
    """Writes down the status of each task whenever a method tells of a change."""

    def __init__(self) -> None:
        self.story: dict[str, list[str]] = {}
        self.threads: set[int] = set()

    def due(self, task: Task[Any]) -> None:
        self.story.setdefault(task.name, []).append(f"due {task.status}")

    def moved(self, task: Task[Any]) -> None:
        self.threads.add(threading.get_ident())
        self.story.setdefault(task.name, []).append(task.status.value)


class TestMoved:
    async def test_a_task_that_starts_at_once_does_not_move_g20(self) -> None:
        observer = Statuses()
        async with TaskHost(observers=[observer]) as host:
            await host.task(name="a").schedule(work)
        assert observer.story == {"a": ["due starting"]}

    async def test_each_wait_and_the_start_behind_it_are_told_g15_g18_g19_g20(self) -> None:
        observer, limit, go_on = Statuses(), Limit(1), anyio.Event()
        async with TaskHost(observers=[observer], max_running=1, drain_timeout=DRAIN) as host:
            host.task(name="first", limit=limit).schedule(go_on.wait)
            second = host.task(name="second", delay=0.001, limit=limit).schedule(work)
            host.task(name="third").schedule(work)
            await until(lambda: second.status is S.LIMITED)
            go_on.set()
        assert observer.story == {
            "first": ["due starting"],
            "second": ["due delayed", "limited", "waiting", "starting"],
            "third": ["due waiting", "starting"],
        }
        assert observer.threads == {threading.get_ident()}

    async def test_a_deferred_task_and_its_start_are_told_g1_g20(self) -> None:
        observer = Statuses()
        async with TaskHost(observers=[observer], drain_timeout=DRAIN) as host, host.scope() as scope:
            scope.task(name="a").after_route.schedule(work)
            in_thread(lambda: scope.task(name="b").after_response.schedule(work))
            await turns()
        assert observer.story == {"a": ["deferred", "due starting"], "b": ["deferred", "due starting"]}
        assert observer.threads == {threading.get_ident()}

    async def test_a_deferred_task_leaves_its_phase_for_its_delay_g1_g18_g20(self) -> None:
        observer = Statuses()
        async with TaskHost(observers=[observer], drain_timeout=DRAIN) as host, host.scope() as scope:
            scope.task(name="a", delay=0.001).after_route.schedule(work)
            scope.end_route()
            assert (host.deferred, host.delayed) == (0, 1)
        assert observer.story == {"a": ["deferred", "due delayed", "starting"]}

    async def test_a_handler_and_the_start_behind_a_pause_are_told_g4_g16_g20(self) -> None:
        observer = Statuses()
        policy = retry(attempts=2, backoff=0, jitter=False)
        async with TaskHost(observers=[observer]) as host:
            await host.task(name="a", retry=policy, on_error=lambda task, error: None).schedule(fail).wait()
        assert observer.story == {"a": ["due starting", "starting", "handling"]}

    async def test_the_request_to_stop_is_told_g9_g20(self) -> None:
        observer = Statuses()
        async with TaskHost(observers=[observer]) as host:
            task = host.task(name="a").schedule(anyio.sleep_forever)
            await task.started.wait()
            task.cancel()
            assert observer.story == {"a": ["due starting", "cancelling"]}


class TestObserversThatRaise:
    @pytest.mark.parametrize(("kind", "error"), BROKEN)
    @pytest.mark.parametrize("hook", HOOKS)
    async def test_a_method_that_raises_is_logged_and_not_called_again_g3_g20(
        self, hook: str, kind: Callable[..., TaskObserver], error: type[BaseException], logged: Logged, diary: Diary
    ) -> None:
        calls: list[str] = []

        def fail_to_observe() -> None:
            calls.append(hook)
            raise error

        observer = kind(hook, fail_to_observe)
        for _ in range(2):
            async with TaskHost(observers=[observer, diary], drain_timeout=DRAIN) as host:
                assert await exercise(host) == UNDISTURBED
            refuse(host)
        assert calls == [hook]
        name = type(observer).__name__
        told = [message for level, message in logged() if level == "ERROR" and "of the observer" in message]
        assert len(told) == 1
        assert told[0].startswith(f"{hook}() of the observer ")
        assert f"{name} raised; it is not called again" in told[0]
        expected = Counter({each: 2 * count for each, count in EXERCISED.items()}, refused=4)
        assert Counter(call[0] for call in diary.calls) == expected

    @pytest.mark.parametrize("hook", HOOKS)
    async def test_an_observer_alone_that_raises_touches_no_task_g3_g20(self, hook: str) -> None:
        """No hook is left then, in the middle of telling."""

        def fail_to_observe() -> None:
            raise ValueError

        async with TaskHost(observers=[lone(hook, fail_to_observe)], drain_timeout=DRAIN) as host:
            assert await exercise(host) == UNDISTURBED
        refuse(host)

    async def test_the_other_methods_of_an_observer_that_raises_are_called_g20(self, diary: Diary) -> None:
        class Partly(Diary):
            def started(self, task: Task[Any]) -> None:
                super().started(task)
                raise ValueError

        diary = Partly()
        async with TaskHost(observers=[diary]) as host:
            await host.task(name="a").schedule(work)
            await host.task(name="b").schedule(work)
        assert diary.of("a") == [*BEGINNING[:2], *succeeded()]
        assert diary.of("b") == [*BEGINNING[:2], *succeeded()[1:]]

    async def test_an_equal_observer_is_another_one_g20(self) -> None:
        calls: list[int] = []

        class Equal(TaskObserver):
            def __init__(self, number: int) -> None:
                self.number = number

            def __eq__(self, other: object) -> bool:
                return True

            def __hash__(self) -> int:
                return 1

            def ended(self, task: Task[Any]) -> None:
                calls.append(self.number)
                if self.number == 1:
                    raise ValueError

        async with TaskHost(observers=[Equal(2), Equal(1)]) as host:
            await host.schedule(work)
            await host.schedule(work)
        assert calls == [1, 2, 2]

    async def test_an_error_while_one_is_logged_decides_nothing_g3_g20(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail_to_observe() -> None:
            raise ValueError

        def fail_to_log(record: logging.LogRecord) -> None:
            if "observer" in record.getMessage():
                raise OSError

        with log_handler(fail_to_log):
            async with TaskHost(observers=[lone("started", fail_to_observe)]) as host:
                assert await host.schedule(work) == 42
        assert "could not log" in capsys.readouterr().err

    async def test_an_interrupt_in_an_observer_keeps_no_other_from_being_told_g20(self, diary: Diary) -> None:
        interrupts = iter([KeyboardInterrupt])

        def interrupt() -> None:
            for each in interrupts:
                raise each

        async with TaskHost(observers=[lone("scheduled", interrupt), diary]) as host:
            with pytest.raises(KeyboardInterrupt):
                host.task(name="a").schedule(work)
            await host.task(name="b").schedule(work)
            assert list(host.tasks()) == []
        assert diary.of("a") == [("scheduled",), ("ended", "dropped")]
        assert diary.of("b") == [*BEGINNING[:2], *succeeded()]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    async def test_an_observer_behind_one_that_raises_may_raise_too_g3_g20(
        self, error: type[BaseException], logged: Logged, diary: Diary
    ) -> None:
        errors = iter([error])

        def fail_to_observe() -> None:
            raise LookupError

        def fail_once() -> None:
            for each in errors:
                raise each

        observers = [lone("scheduled", fail_to_observe), lone("scheduled", fail_once), diary]
        async with TaskHost(observers=observers) as host:
            if error is KeyboardInterrupt:
                with pytest.raises(KeyboardInterrupt):
                    host.task(name="a").schedule(work)
            else:
                assert await host.task(name="a").schedule(work) == 42
            await host.task(name="b").schedule(work)
        assert diary.of("a")[0] == ("scheduled",)
        assert diary.of("b") == [*BEGINNING[:2], *succeeded()]
        told = [message for level, message in logged() if level == "ERROR" and "of the observer" in message]
        assert len(told) == (1 if error is KeyboardInterrupt else 2)

    async def test_an_interrupt_in_an_observer_in_a_thread_keeps_nothing_waiting_g9_g20(self, diary: Diary) -> None:
        """Code in the main thread may schedule for a loop in another one."""
        interrupts = iter([KeyboardInterrupt])

        def interrupt() -> None:
            for each in interrupts:
                raise each

        async with TaskHost(observers=[diary, lone("scheduled", interrupt)], drain_timeout=1000) as host:
            with pytest.raises(KeyboardInterrupt):
                in_thread(lambda: host.task(name="a").schedule(work))
            assert [task.name for task in host.tasks()] == ["a"]
        assert diary.of("a") == CANCELLED_EARLY
        assert diary.where("a")["ended"][0] is True


class TestObserversThatAct:
    @pytest.mark.parametrize("hook", HOOKS)
    async def test_an_observer_that_schedules_is_told_later_g8_g20(self, hook: str, diary: Diary) -> None:
        depths: list[int] = []
        acted: list[Task[int] | None] = []
        nested: list[int] = []  # calls of an observer inside an observer
        depth = 0

        def schedule() -> None:
            nonlocal depth
            depth += 1
            depths.append(depth)
            if len(acted) < 50:  # else this would go on and on
                acted.append(None)
                before = len(diary.calls)
                try:
                    acted.append(host.task(name="own").schedule(work))
                except TasksError:
                    assert hook in ("refused", "drained")
                nested.append(len(diary.calls) - before)
            depth -= 1

        async with TaskHost(observers=[lone(hook, schedule), diary], drain_timeout=DRAIN) as host:
            assert await exercise(host) == UNDISTURBED
        refuse(host)
        own = [task for task in acted if task is not None]
        assert (hook in ("refused", "drained")) == (not own)
        assert all(task.status is S.SUCCEEDED for task in own)
        assert Counter(diary.of("own")) == Counter(len(own) * [*BEGINNING[:2], *succeeded()])
        assert set(depths) == {1}
        assert set(nested) == {0}

    @pytest.mark.parametrize("hook", HOOKS)
    async def test_an_observer_that_schedules_into_a_full_host_never_recurses_g15_g20(self, hook: str) -> None:
        refusals: list[str] = []

        def schedule() -> None:
            try:
                host.schedule(work)
            except TasksError as exc:
                refusals.append(type(exc).__name__)

        async with TaskHost(observers=[lone(hook, schedule)], max_running=1, max_pending=0) as host:
            scope = host.scope()
            stuck = scope.schedule(anyio.sleep_forever)
            with pytest.raises(TasksSaturatedError):
                host.schedule(work)
            with pytest.raises(TasksSaturatedError):
                in_thread(lambda: host.schedule(work))
            scope.end()
            await turns()
            stuck.cancel()
            await turns()
        assert len(refusals) < 10

    @pytest.mark.parametrize("hook", ["due", "started", "attempt_ended", "ended"])
    async def test_an_observer_that_cancels_breaks_no_order_g20(self, hook: str, diary: Diary) -> None:
        """The diary is told after the observer that cancels, and its story is the right one all the same."""

        def cancel(self: object, task: Task[Any], *_: object) -> None:
            task.cancel()

        first = type("First", (TaskObserver,), {hook: cancel})()
        async with TaskHost(observers=[first, diary]) as host:
            host.task(name="a").schedule(work)
            host.task(name="b", retry=lambda task, error: 0 if task.attempt < 3 else None).schedule(fail)
            host.task(name="c", retry=lambda task, error: 1000).schedule(fail)
            scope = host.scope()
            scope.task(name="d").after_route.schedule(work)
            scope.end()
            await turns()
        for name in "abcd":
            calls = diary.of(name)
            assert [call[0] for call in calls].count("ended") == 1, calls
            assert calls[0] == ("scheduled",), calls
            assert calls[-1][0] == "ended", calls

    async def test_observers_that_cancel_others_do_not_recurse_g20(self, diary: Diary) -> None:
        tasks: list[Task[Any]] = []
        depths: list[int] = []
        depth = 0

        class Cascade(TaskObserver):
            def ended(self, task: Task[Any]) -> None:
                nonlocal depth
                depth += 1
                depths.append(depth)
                if tasks:
                    tasks.pop().cancel()
                depth -= 1

        async with TaskHost(observers=[Cascade(), diary], max_running=1, drain_timeout=DRAIN) as host:
            stuck = host.schedule(anyio.sleep_forever)
            tasks += [host.schedule(work) for _ in range(2000)]
            stuck.cancel()
            await until(lambda: not host.tasks())
        assert set(depths) == {1}

    @pytest.mark.parametrize("is_from_thread", [False, True])
    async def test_a_task_that_is_cancelled_inside_scheduled_ends_after_it_g20(
        self, diary: Diary, is_from_thread: bool
    ) -> None:
        class Cancels(TaskObserver):
            def scheduled(self, task: Task[Any], scope: Scope | None) -> None:
                task.cancel()

        async with TaskHost(observers=[Cancels(), diary]) as host:
            define = host.task(name="a")
            task = in_thread(lambda: define.schedule(work)) if is_from_thread else define.schedule(work)
            await task.wait()
        assert task.status is S.CANCELLED
        assert diary.of("a")[0] == ("scheduled",)
        assert diary.of("a")[-1] == ("ended", "cancelled")
        assert len(diary.of("a")) in (2, 3, 5)  # on trio the first step may be faster than the inbox

    async def test_a_task_of_an_observer_that_is_cancelled_early_ends_after_scheduled_g20(self, diary: Diary) -> None:
        def schedule() -> None:
            if not own:
                own.append(host.task(name="own").schedule(work))

        own: list[Task[int]] = []
        async with TaskHost(observers=[lone("scheduled", schedule), diary]) as host:
            host.schedule(work)
            own[0].cancel()
            assert diary.of("own") == []  # the observers are told of it at the next turn
            await own[0].wait()
        assert diary.of("own") == [("scheduled",), ("ended", "cancelled")]

    async def test_a_log_handler_that_cancels_in_a_pause_breaks_no_order_g16_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            with log_handler(lambda record: record.levelname == "INFO" and task.cancel()):
                task = host.task(name="a", retry=lambda task, error: 1000).schedule(fail)
                await task.wait()
        assert task.status is S.CANCELLED
        assert diary.of("a") == [*BEGINNING, ("attempt_ended", "LookupError", "1000.0"), ("ended", "cancelled")]


class Slow(Diary):
    """An observer that blocks in `scheduled` for tasks with the name "slow"."""

    def __init__(self) -> None:
        super().__init__()
        self.is_blocked, self.go_on = threading.Event(), threading.Event()

    def scheduled(self, task: Task[Any], scope: Scope | None) -> None:
        if task.name == "slow":
            self.is_blocked.set()
            assert self.go_on.wait(PATIENCE)
        super().scheduled(task, scope)


class TestDurations:
    async def test_the_duration_of_each_attempt_is_there_when_it_ends_g17_g20(self) -> None:
        found: list[tuple[str, bool]] = []

        class Watch(TaskObserver):
            def attempt_ended(self, task: Task[Any], error: BaseException | None, retry_after: float | None) -> None:
                found.append((task.status.value, task.running_for is not None))

        async with TaskHost(observers=[Watch()]) as host:
            task = host.task(retry=lambda task, error: 1000 if task.attempt == 2 else 0).schedule(fail)
            await until(lambda: len(found) == 2)
            assert task.running_for is None
        assert found == [("retrying", True), ("retrying", True)]


class TestSlowObservers:
    """`schedule()` waits in a thread for its observer."""

    @contextmanager
    def blocked(self, host: TaskHost, slow: Slow) -> Iterator[list[Task[int]]]:
        """Have a thread in the middle of `schedule()`; yield a list that gets the task."""
        tasks: list[Task[int]] = []
        thread = threading.Thread(target=lambda: tasks.append(host.task(name="slow").schedule(work)))
        thread.start()
        assert slow.is_blocked.wait(PATIENCE)
        try:
            yield tasks
        finally:
            slow.go_on.set()
            thread.join(PATIENCE)

    async def test_a_slow_observer_blocks_neither_the_loop_nor_other_threads_g8_g20(self) -> None:
        slow = Slow()
        async with TaskHost(observers=[slow], max_running=5, max_pending=5) as host:
            with self.blocked(host, slow) as tasks:
                assert await host.task(name="a").schedule(work) == 42
                assert await in_thread(lambda: host.task(name="b").schedule(work)) == 42
                async with host.scope() as scope:
                    scope.task(name="c").after_response.schedule(work)
                await until(lambda: ("ended", "succeeded") in slow.of("c"))
                assert [task.name for task in host.tasks()] == ["slow"]
                assert slow.of("slow") == []
            assert await tasks[0] == 42
        assert slow.of("slow") == [*BEGINNING[:2], *succeeded()]

    async def test_a_cancellation_ends_no_other_task_that_its_observer_is_told_of_g3_g20(self) -> None:
        slow = Slow()
        async with TaskHost(observers=[slow]) as host:
            with self.blocked(host, slow) as tasks:
                other = in_thread(lambda: host.schedule(work))
                other.cancel()
            assert await tasks[0] == 42
        assert other.status is S.CANCELLED

    async def test_a_task_with_a_slow_observer_keeps_the_host_from_closing_g9_g20(self) -> None:
        slow = Slow()
        host = TaskHost(observers=[slow], drain_timeout=DRAIN)
        async with anyio.create_task_group() as tg, host:
            with self.blocked(host, slow) as tasks:
                tg.start_soon(host.aclose)
                await turns()
                assert host.drain_report is None
                assert not slow.reports
            await until(lambda: host.drain_report is not None)
            assert tasks[0].return_value == 42
        assert slow.of("slow") == [*BEGINNING[:2], *succeeded()]

    async def test_the_drain_cancels_a_task_that_its_observer_is_told_of_g9_g20(self) -> None:
        slow = Slow()
        async with anyio.create_task_group() as tg, TaskHost(observers=[slow]) as host:
            with self.blocked(host, slow):
                tg.start_soon(host.aclose)
                await turns()
                assert host.drain_report is None
                assert slow.of("slow") == []
            await until(lambda: host.drain_report is not None)
        assert slow.of("slow") == CANCELLED_EARLY
        assert slow.reports[0].cancelled == {"slow": 1}

    async def test_a_place_that_an_observer_hears_of_counts_for_the_limits_g15_g20(self) -> None:
        slow = Slow()
        async with TaskHost(observers=[slow], max_running=1, max_pending=0) as host:
            with self.blocked(host, slow) as tasks, pytest.raises(TasksSaturatedError):
                host.schedule(work)
            assert await tasks[0] == 42


class TestScopes:
    async def test_scope_is_that_which_the_code_runs_in_g20(self, diary: Diary) -> None:
        async def nested() -> None:
            current_host().task(name="child").schedule(work)

        async with TaskHost(observers=[diary], drain_timeout=DRAIN) as host:
            host.schedule(work)
            async with host.scope(info={"message": 1}) as scope:
                scope.schedule(work)
                current_host().schedule(work)
                in_thread(lambda: host.schedule(work))
                await anyio.to_thread.run_sync(lambda: current_host().schedule(work))
                parent = host.schedule(nested)
                await parent
                while_open = diary.scopes[:]
            after_close = len(diary.scopes)
            host.schedule(work)
            assert diary.scopes[after_close:] == [None]
        # (A plain thread has no context of the scope's.)
        assert while_open == [None, scope, scope, None, scope, scope, None]
        assert scope.info == {"message": 1}

    async def test_a_scope_that_is_over_is_no_scope_of_later_tasks_g20(self, diary: Diary) -> None:
        """A native task keeps the context of the scope in which it was made."""
        async with anyio.create_task_group() as tg, TaskHost(observers=[diary], drain_timeout=DRAIN) as host:
            over = anyio.Event()

            async def left_behind() -> None:
                await over.wait()
                host.task(name="a").schedule(work)

            async with host.scope():
                tg.start_soon(left_behind)
                await turns()
            over.set()
            diary.scopes.clear()
            await until(lambda: diary.of("a"))
            assert diary.scopes == [None]

    async def test_parent_is_the_id_of_the_task_that_schedules_g17_g20(self) -> None:
        found: list[Task[Any]] = []

        async def nest() -> None:
            found.append(current_host().schedule(work))
            found.append(await anyio.to_thread.run_sync(lambda: current_host().schedule(work)))

        async with TaskHost(drain_timeout=DRAIN) as host:
            parent = host.schedule(nest)
            await parent
            assert parent.parent is None
            assert [task.parent for task in found] == [parent.id] * 2

    async def test_the_changes_of_a_scope_come_once_each_and_before_its_tasks_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary], drain_timeout=DRAIN) as host:
            async with host.scope() as scope:
                scope.task(name="a").after_route.schedule(work)
                scope.task(name="b").after_response.schedule(work)
                scope.end_route()
                scope.end_route()
                scope.note_first_message()
                scope.end()
                scope.end()
            assert diary.scopes[-1] is scope
        story = [call for call in diary.calls if call[0] in ("scope_changed", "due")]
        assert story == [
            ("scope_changed", "route_succeeded"),
            ("due", "a"),
            ("scope_changed", "first_message"),
            ("scope_changed", "ended"),
            ("due", "b"),
        ]
        changed = [
            thread for call, thread in zip(diary.calls, diary.threads, strict=True) if call[0] == "scope_changed"
        ]
        assert set(changed) == {threading.get_ident()}

    @pytest.mark.parametrize("failed", [False, True])
    async def test_a_late_route_is_told_of_before_the_end_of_its_scope_g1_g20(self, diary: Diary, failed: bool) -> None:
        async with TaskHost(observers=[diary]) as host:
            scope = host.scope()
            route = scope.route()
            await route.__aenter__()
            scope.end()
            assert diary.calls == []
            error = LookupError() if failed else None
            await route.__aexit__(type(error) if failed else None, error, None)
        changes = [call[1] for call in diary.calls if call[0] == "scope_changed"]
        assert changes == ["route_failed" if failed else "route_succeeded", "ended"]

    async def test_a_route_that_fails_is_told_of_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            with pytest.raises(LookupError):
                async with host.scope():
                    raise LookupError
        assert diary.calls == [("scope_changed", "route_failed"), ("scope_changed", "ended"), ("drained",)]

    async def test_a_scope_that_changes_in_a_thread_is_told_of_in_the_loop_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as host:
            scope = host.scope()
            in_thread(scope.note_first_message)
            await turns()
            assert diary.calls == [("scope_changed", "first_message")]
            assert diary.threads == [threading.get_ident()]


class TestInstallation:
    @pytest.mark.parametrize("wrong", [[Diary], [None], [object()], ["ended"], 1, Diary()])
    def test_observers_that_are_none_are_refused_g20(self, wrong: Any) -> None:
        with pytest.raises(TypeError):
            TaskHost(observers=wrong)

    def test_the_same_observer_twice_is_refused_g20(self, diary: Diary) -> None:
        with pytest.raises(ValueError, match="an observer is in the list twice"):
            TaskHost(observers=[diary, Diary(), diary])

    @pytest.mark.parametrize("name", ["_hooks", "_call", "_entries", "_name", "_observer", "_observers"])
    async def test_an_observer_may_have_any_attribute_of_its_own_g20(self, name: str) -> None:
        class Own(TaskObserver):
            def ended(self, task: Task[Any], /) -> None:
                getattr(self, name).append(task.name)

        observer = Own()
        setattr(observer, name, [])
        async with TaskHost(observers=[observer]) as host:
            await host.task(name="work").schedule(work).wait()
        assert getattr(observer, name) == ["work"]

    async def test_overrides_are_fixed_when_the_host_opens_g20(self, diary: Diary) -> None:
        calls: list[str] = []

        class Late(TaskObserver):
            pass

        observer = Late()
        first, second = TaskHost(observers=[observer]), TaskHost(observers=[observer])
        async with first:
            Late.started = lambda self, task: calls.append("started")  # type: ignore[method-assign,assignment]
            observer.ended = lambda task: calls.append("ended")  # type: ignore[method-assign]
            with observed_everywhere(diary):
                await first.schedule(work)
            await first.schedule(work)
            assert calls == []
        async with second:
            await second.schedule(work)
            assert calls == ["started"]
            del Late.started
            with observed_everywhere(diary):
                await second.schedule(work)
            assert calls == ["started"] * 2

    async def test_a_host_without_observers_has_nothing_to_tell_g20(self) -> None:
        async with TaskHost(observers=[TaskObserver()]) as host:
            assert host._runner.watching is None

    async def test_one_observer_watches_several_hosts_g13_g20(self, diary: Diary) -> None:
        async with TaskHost(observers=[diary]) as one, TaskHost(observers=[diary]) as two:
            await one.task(name="a").schedule(work)
            await two.task(name="b").schedule(work)
        assert diary.of("a") == diary.of("b") == [*BEGINNING[:2], *succeeded()]
        assert diary.calls.count(("drained",)) == 2

    async def test_hosts_of_two_threads_are_told_of_in_their_own_g13_g20(self, diary: Diary) -> None:
        async def main() -> int:
            async with TaskHost(observers=[diary]) as host:
                await host.task(name="there").schedule(work)
            return threading.get_ident()

        async with TaskHost(observers=[diary]) as host:
            there = await anyio.to_thread.run_sync(anyio.run, main)
            await host.task(name="here").schedule(work)
        threads = {call[1]: set[int]() for call in diary.calls if len(call) > 1}
        for call, thread in zip(diary.calls, diary.threads, strict=True):
            if len(call) > 1:
                threads[call[1]].add(thread)
        assert threads == {"there": {there}, "here": {threading.get_ident()}}


class TestLogRecords:
    async def test_each_record_about_a_task_names_the_task_g4(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report, "_answered", set[str]())  # a handler that answers is told of once
        caplog.set_level(logging.DEBUG, logger="taskphase")

        def on_error(task: Task[Any], error: Exception) -> int:
            return 5

        def raise_again(*_: object) -> None:
            raise ValueError

        async with TaskHost() as host:
            tasks = [
                host.task(name="answers", on_error=on_error).schedule(fail),
                host.task(name="handler", on_error=raise_again).schedule(fail),
                host.task(name="policy", retry=raise_again).schedule(fail),
                host.task(name="retried", retry=retry(attempts=2, backoff=0)).schedule(fail),
            ]
            async with host.scope() as scope:
                tasks.append(scope.task(name="dropped", when="failure").after_route.schedule(partial(fail)))
            for task in tasks:
                await task.wait()
            drained = host.schedule(anyio.sleep_forever)
            await drained.started.wait()
        records = [record for record in caplog.records if record.name == "taskphase"]
        about = {task.id: task for task in tasks}
        texts: set[str] = set()
        for record in records:
            text = record.getMessage()
            if text.startswith("closing the task host"):
                assert not hasattr(record, "task_id")
                continue
            fields = vars(record)
            task = about[fields["task_id"]]
            assert f"task {task.name!r}" in text
            assert fields["task_name"] == task.name
            assert fields["task_function"] == task.function == f"{__name__}.fail"
            assert fields["task_phase"] == task.phase.value
            assert 0 <= fields["task_attempt"] <= task.attempt
            assert fields["task_status"] in [status.value for status in S]
            texts.add(text.partition("task '")[0] + text.partition("' ")[2].partition(" ")[0])
        assert len(texts) >= 4
        assert Counter(vars(record).get("task_name") for record in records) == {
            "answers": 2,
            "handler": 2,
            "policy": 2,
            "retried": 2,
            "dropped": 1,
            None: 1,
        }

    @native_cancel_only
    async def test_the_record_of_a_task_that_cannot_start_names_the_task_g4(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: object, **__: object) -> Any:
            raise LookupError

        loop = asyncio.get_running_loop()
        async with TaskHost(max_running=1) as host:
            running = host.schedule(work)
            task = host.schedule(work)
            await running.started.wait()
            loop.set_task_factory(broken)
            try:
                await turns()
            finally:
                loop.set_task_factory(None)
        (record,) = [each for each in caplog.records if "could not be started" in each.getMessage()]
        assert (vars(record)["task_id"], vars(record)["task_status"]) == (task.id, "waiting")

    @native_cancel_only
    async def test_the_record_of_a_held_task_that_cannot_start_has_no_foreign_text_g4(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: object, **__: object) -> Any:
            raise LookupError("s3cret")

        loop = asyncio.get_running_loop()
        async with TaskHost() as host:
            try:
                async with host.scope() as scope:
                    task = scope.after_response.schedule(work)
                    loop.set_task_factory(broken)
            finally:
                loop.set_task_factory(None)
        assert task.status is S.DROPPED
        (record,) = [each for each in caplog.records if "was dropped" in each.getMessage()]
        assert record.getMessage().endswith("it could not be started: LookupError")
