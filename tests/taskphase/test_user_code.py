"""G2, G3, G4, G16: user code raises, cancels or schedules where the library calls user code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import anyio
import anyio.to_thread
import pytest
from tests.backends import native_cancel_only, turns, until

from taskphase import Task, TaskHost, TasksScheduler, TaskStatus, current_task, retry

S = TaskStatus
LOGGER = logging.getLogger("taskphase")


class Underived(ExceptionGroup[Exception]):
    """A group whose `derive()` raises, a common mistake."""

    def __new__(cls, message: str, excs: list[Exception], order: int) -> Underived:
        self = super().__new__(cls, message, excs)
        self.order = order
        return self

    order: int

    def derive(self, excs: Any) -> Any:
        return Underived(self.message, excs)  # type: ignore[call-arg]


class Broken(BaseExceptionGroup[BaseException]):
    """A group that cannot even be asked."""

    def derive(self, excs: Any) -> NoReturn:
        raise LookupError("derive")

    def split(self, condition: Any) -> NoReturn:
        raise LookupError("split")

    def subgroup(self, condition: Any) -> NoReturn:
        raise LookupError("subgroup")


def underived(inner: BaseException) -> BaseException:
    return Underived("", [inner if isinstance(inner, Exception) else ValueError()], 7)


def broken(inner: BaseException) -> BaseException:
    return Broken("", [inner])


def nested(inner: BaseException) -> BaseException:
    return BaseExceptionGroup("", [Broken("", [Broken("", [inner]), inner])])


GROUPS = [underived, broken, nested]


@contextmanager
def log_handler(*, level: int, then: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == level:
                then(record)

    handler = Handler()
    before = LOGGER.level
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)


class TestGroupsThatCannotBeSplit:
    @pytest.mark.parametrize("group", GROUPS)
    async def test_a_task_that_raises_an_unsplittable_group_has_failed_g2_g3(
        self, group: Callable[[BaseException], BaseException]
    ) -> None:
        error = group(ValueError())

        async def fail() -> NoReturn:
            raise error

        def fail_in_thread() -> NoReturn:
            raise error

        async with TaskHost() as host:
            other = host.task(shield=True).schedule(turns)
            for func in (fail, fail_in_thread):
                for timeout in (None, 10):
                    task = host.task(timeout=timeout).schedule(func)
                    await task.wait()
                    assert task.exception is error
        assert other.status is S.SUCCEEDED

    @pytest.mark.parametrize("group", GROUPS)
    async def test_a_cancelled_task_that_raises_an_unsplittable_group_ends_g2_g3(
        self, group: Callable[[BaseException], BaseException]
    ) -> None:
        async def work() -> None:
            try:
                await anyio.sleep_forever()
            except BaseException as exc:
                raise group(exc) from None

        async with TaskHost() as host:
            other = host.task(shield=True).schedule(turns)
            task = host.schedule(work)
            await task.started.wait()
            await turns()
            task.cancel()
            await task.wait()
            drained = host.schedule(work)
            await drained.started.wait()
            assert host.running == 1 + (other.status is S.RUNNING)
        expected = S.FAILED if group is underived else S.CANCELLED
        assert (task.status, drained.status, other.status) == (expected, expected, S.SUCCEEDED)

    @pytest.mark.parametrize("group", GROUPS)
    async def test_a_timed_out_task_that_raises_an_unsplittable_group_ends_g3_g16(
        self, group: Callable[[BaseException], BaseException]
    ) -> None:
        async def work() -> None:
            try:
                await anyio.sleep_forever()
            except BaseException as exc:
                raise group(exc) from None

        async with TaskHost() as host:
            other = host.task(shield=True).schedule(turns)
            task = host.task(timeout=0.01).schedule(work)
            await task.wait()
            assert host.running == (other.status is S.RUNNING)
        assert task.status is S.FAILED
        assert other.status is S.SUCCEEDED

    @pytest.mark.parametrize("group", GROUPS)
    @pytest.mark.parametrize("cancelled", [False, True])
    async def test_a_handler_that_raises_an_unsplittable_group_has_failed_g3_g4(
        self, group: Callable[[BaseException], BaseException], cancelled: bool
    ) -> None:
        async def fail() -> NoReturn:
            raise OSError

        async def handle(task: Task[Any], error: Exception) -> None:
            if cancelled:
                task.cancel()
            try:
                await anyio.lowlevel.checkpoint()
                raise LookupError
            except BaseException as exc:
                raise group(exc) from None

        async with TaskHost() as host:
            other = host.task(shield=True).schedule(turns)
            task = host.task(on_error=handle).schedule(fail)
            await task.wait()
        assert isinstance(task.exception, OSError)
        assert other.status is S.SUCCEEDED


class TestLogHandlers:
    async def test_a_log_handler_that_cancels_the_failed_task_changes_nothing_g3_g4(self) -> None:
        async def fail() -> NoReturn:
            raise ValueError

        async with TaskHost() as host:
            with log_handler(level=logging.ERROR, then=lambda record: current_task().cancel()):
                tasks = [host.schedule(fail), host.task(timeout=10).schedule(fail), host.schedule(lambda: 1 / 0)]
                for task in tasks:
                    await task.wait()
            assert host.running == 0
        assert [task.status for task in tasks] == [S.FAILED] * 3

    async def test_a_log_handler_that_cancels_the_retried_task_ends_the_pause_g3_g16(self) -> None:
        async def fail() -> NoReturn:
            raise ValueError

        async with TaskHost() as host:
            with log_handler(level=logging.INFO, then=lambda record: current_task().cancel()):
                task = host.task(retry=retry(attempts=3, backoff=1000, jitter=False)).schedule(fail)
                await task.wait()
                await until(lambda: host.running == 0)
        assert (task.status, task.attempt) == (S.CANCELLED, 1)

    async def test_a_log_handler_that_cancels_the_dropped_task_decides_its_end_g3_g5(self) -> None:
        async def nothing() -> None: ...

        held: list[Task[Any]] = []
        async with TaskHost() as host:
            with (
                log_handler(level=logging.WARNING, then=lambda record: held[0].cancel()),
                pytest.raises(LookupError),
            ):
                async with host.scope() as scope:
                    held += [scope.after_response.schedule(nothing) for _ in range(3)]
                    raise LookupError
            assert host.deferred == 0
        assert {task.status for task in held} <= {S.CANCELLED, S.DROPPED}
        assert [task.status for task in held[1:]] == [S.DROPPED] * 2
        statistics = host.statistics()
        assert statistics.cancelled + statistics.dropped == 3

    @pytest.mark.parametrize("level", [logging.ERROR, logging.INFO, logging.WARNING])
    async def test_a_log_handler_may_schedule_g3_g8(self, level: int) -> None:
        ran: list[int] = []

        async def note(number: int) -> None:
            ran.append(number)

        async def fail() -> NoReturn:
            raise ValueError

        def schedule(record: logging.LogRecord) -> None:
            host.schedule(note, 1)
            host.schedule(note, 2)

        async with TaskHost(max_running=1, drain_timeout=10) as host:
            with log_handler(level=level, then=schedule):
                async with host.scope() as scope:
                    again = scope.task(retry=retry(attempts=2, backoff=0)).schedule(fail)
                    dropped = scope.after_response.schedule(fail)
                    async with scope.route():
                        pass
                    scope.task(when="failure").after_response.schedule(fail)
                    await again.wait()
                await dropped.wait()
                with pytest.raises(LookupError):
                    async with host.scope() as scope:
                        scope.after_response.schedule(fail)
                        raise LookupError
                await until(lambda: sorted(ran[:2]) == [1, 2])
        assert again.status is S.FAILED

    async def test_a_log_handler_that_cancels_other_tasks_touches_only_these_tasks_g3(self) -> None:
        async def fail() -> NoReturn:
            raise ValueError

        async with TaskHost() as host:
            others = [host.schedule(anyio.sleep_forever) for _ in range(3)]
            await turns()
            with log_handler(level=logging.ERROR, then=lambda record: [other.cancel() for other in others]):
                task = host.schedule(fail)
                await task.wait()
            for other in others:
                await other.wait()
        assert task.status is S.FAILED
        assert {other.status for other in others} == {S.CANCELLED}


@pytest.mark.parametrize("level", [logging.ERROR, logging.INFO])
def test_an_interrupt_in_a_log_handler_leaves_its_task_at_its_end_g2_g3(level: int) -> None:
    """The library passes `KeyboardInterrupt` on, and ends the task first."""
    tasks: list[Task[Any]] = []
    seen: list[tuple[TaskStatus, int]] = []

    def interrupt(record: logging.LogRecord) -> NoReturn:
        raise KeyboardInterrupt

    async def fail() -> NoReturn:
        raise ValueError

    async def main() -> None:
        host = TaskHost()
        try:
            async with host:
                policy = retry(attempts=2, backoff=1000, jitter=False) if level == logging.INFO else None
                tasks.append(host.task(retry=policy).schedule(fail))
                await anyio.sleep_forever()
        finally:
            seen.append((tasks[0].status, host.running))

    for run in (run_asyncio, run_trio):
        with log_handler(level=level, then=interrupt), pytest.raises(KeyboardInterrupt):
            run(main)
        assert tasks.pop().status in (S.FAILED, S.CANCELLED)
        assert seen.pop() == (S.FAILED if level == logging.ERROR else S.CANCELLED, 0)


def run_asyncio(main: Any) -> None:
    asyncio.run(main())


def run_trio(main: Any) -> None:
    anyio.run(main, backend="trio")


@pytest.mark.parametrize("run", ["asyncio", "trio"])
def test_an_interrupt_in_the_log_record_of_a_failed_handler_ends_its_task_g2_g3(run: str) -> None:
    tasks: list[Task[Any]] = []

    def interrupt(record: logging.LogRecord) -> None:
        if "handler" in record.getMessage():
            raise KeyboardInterrupt

    async def fail(*_: Any) -> NoReturn:
        raise ValueError

    async def main() -> None:
        async with TaskHost() as host:
            tasks.append(host.task(on_error=fail).schedule(fail))
            await anyio.sleep_forever()

    with log_handler(level=logging.ERROR, then=interrupt), pytest.raises(KeyboardInterrupt):
        anyio.run(main, backend=run)
    assert tasks[0].status is S.FAILED


async def test_an_interrupt_in_the_log_record_of_a_drop_leaves_its_task_at_its_end_g2_g3() -> None:
    def interrupt(record: logging.LogRecord) -> NoReturn:
        raise KeyboardInterrupt

    async with TaskHost() as host:
        scope = host.scope()
        task = scope.after_response.schedule(turns)
        with log_handler(level=logging.WARNING, then=interrupt), pytest.raises(KeyboardInterrupt):
            scope.end(failed=True)
        assert (task.status, host.deferred) == (S.DROPPED, 0)


async def test_a_log_handler_may_cancel_the_task_that_is_dropped_g2_g3_g5() -> None:
    """Here by the host, which closes before a late route has ended."""
    async with TaskHost() as host:
        scope = host.scope()
        await (route := scope.route()).__aenter__()
        task, other = (scope.after_response.schedule(turns) for _ in range(2))
        scope.end()
        with log_handler(level=logging.WARNING, then=lambda _: task.cancel()):
            await host.aclose()
        assert (task.status, other.status, host.deferred) == (S.CANCELLED, S.DROPPED, 0)
        await route.__aexit__(None, None, None)


async def test_a_handler_that_awaits_what_raises_generator_exit_has_failed_g3_g4(backend_name: str) -> None:
    """A coroutine cannot catch a `GeneratorExit` from outside on behalf of the coroutines that await it."""

    async def fail() -> NoReturn:
        raise OSError

    async def handle(task: Task[Any], error: Exception) -> None:
        await raise_from_outside(GeneratorExit(), backend_name)

    async with TaskHost() as host:
        tasks = [host.task(on_error=handle, shield=shield).schedule(fail) for shield in (False, True)]
        for task in tasks:
            await task.wait()
        assert host.running == 0
    assert [type(task.exception) for task in tasks] == [OSError, OSError]


async def raise_from_outside(error: BaseException, backend_name: str) -> None:
    if backend_name == "asyncio":
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, error)
        await future
    else:
        import outcome
        import trio

        this = trio.lowlevel.current_task()

        async def wake() -> None:
            trio.lowlevel.reschedule(this, outcome.Error(error))

        trio.lowlevel.spawn_system_task(wake)
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


class Escaping:
    """Each exception that Python itself means something by."""

    @staticmethod
    def kinds() -> list[BaseException]:
        return [GeneratorExit(), StopIteration(1), StopAsyncIteration(), SystemExit(3), RuntimeError(), Bare()]


class Bare(BaseException):
    pass


@pytest.mark.parametrize("error", Escaping.kinds(), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("sync", [False, True])
async def test_whatever_a_handler_raises_its_task_has_failed_and_the_others_go_on_g3_g4(
    error: BaseException, sync: bool
) -> None:
    async def fail() -> NoReturn:
        raise OSError

    def handle_in_thread(task: Task[Any], exc: Exception) -> NoReturn:
        raise error

    async def handle(task: Task[Any], exc: Exception) -> NoReturn:
        raise error

    async with TaskHost() as host:
        other = host.task(shield=True).schedule(turns)
        task = host.task(on_error=handle_in_thread if sync else handle).schedule(fail)
        await task.wait()
        assert await host.schedule(anyio.sleep, 0) is None
    assert isinstance(task.exception, OSError)
    assert other.status is S.SUCCEEDED


@pytest.mark.parametrize("error", Escaping.kinds(), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("sync", [False, True])
async def test_whatever_a_function_raises_its_task_has_failed_and_the_others_go_on_g3_g4(
    error: BaseException, sync: bool
) -> None:
    async def fail() -> NoReturn:
        raise error

    def fail_in_thread() -> NoReturn:
        raise error

    async with TaskHost() as host:
        other = host.task(shield=True).schedule(turns)
        task = host.schedule(fail_in_thread if sync else fail)
        await task.wait()
    assert task.status is S.FAILED
    assert other.status is S.SUCCEEDED


class Unreadable(TimeoutError):
    """An exception whose properties raise."""

    @property
    def __traceback__(self) -> NoReturn:
        raise LookupError("__traceback__")

    @property
    def __cause__(self) -> NoReturn:
        raise LookupError("__cause__")


@pytest.mark.parametrize("options", [{}, {"timeout": 10}, {"retry": retry(attempts=2, backoff=0)}], ids=str)
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_an_exception_whose_properties_raise_ends_its_task_g2_g3(
    options: dict[str, Any], is_cancelled: bool
) -> None:
    async def fail() -> NoReturn:
        if is_cancelled:
            current_task().cancel()
        raise Unreadable

    async with TaskHost(max_running=1) as host:
        task = host.task(**options).schedule(fail)
        await task.wait()
        assert type(task.exception) is Unreadable
        assert await host.schedule(anyio.sleep, 0) is None


async def test_the_coroutine_that_a_timeout_came_from_goes_on_g3() -> None:
    errors: list[TimeoutError] = []
    go_on, ended = anyio.Event(), anyio.Event()

    async def read() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as exc:
                error = TimeoutError("no answer")
                error.__cause__ = exc  # as `asyncio.timeout()` does
                errors.append(error)
                raise
        await go_on.wait()
        ended.set()

    async def fail() -> NoReturn:
        raise errors[0]

    async with anyio.create_task_group() as tg, TaskHost() as host:
        tg.start_soon(read)
        await until(lambda: bool(errors))
        task = host.schedule(fail)
        await task.wait()
        assert task.exception is errors[0]
        go_on.set()
        await ended.wait()


class TestTaskFactories:
    @pytest.fixture
    async def factory(self) -> AsyncIterator[list[int]]:
        """Let the loop's task factory raise while the returned list is not empty."""
        raising: list[int] = []

        def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            if raising:
                coro.close()
                raise LookupError("no more tasks")
            return asyncio.Task(coro, loop=loop, **options)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(make)  # type: ignore[arg-type]
        yield raising
        loop.set_task_factory(None)

    @native_cancel_only
    async def test_a_task_factory_that_raises_in_schedule_leaves_nothing_g3_g15(self, factory: list[int]) -> None:
        async with TaskHost(max_running=1) as host:
            factory.append(1)
            with pytest.raises(LookupError):
                host.schedule(turns)
            factory.clear()
            assert (host.running, host.waiting) == (0, 0)
            await host.schedule(anyio.sleep, 0)

    @native_cancel_only
    async def test_a_task_factory_that_raises_when_a_phase_comes_drops_only_its_task_g3_g5(
        self, factory: list[int]
    ) -> None:
        ran: list[int] = []

        async def note() -> None:
            ran.append(1)

        async with TaskHost() as host:
            async with host.scope() as scope:
                async with scope.route():
                    dropped = scope.after_route.schedule(note)
                    later = scope.after_response.schedule(note)
                    factory.append(1)
                factory.clear()
            await later.wait()
            assert (host.running, host.deferred) == (0, 0)
        assert (dropped.status, later.status, ran) == (S.DROPPED, S.SUCCEEDED, [1])

    @native_cancel_only
    async def test_a_task_factory_that_raises_for_a_free_slot_cancels_only_its_task_g3_g15(
        self, factory: list[int]
    ) -> None:
        go = anyio.Event()
        async with TaskHost(max_running=1) as host:
            first, waits, last = host.schedule(go.wait), host.schedule(turns), host.schedule(turns, 1)
            await first.started.wait()
            factory.append(1)
            go.set()
            await waits.wait()
            await last.wait()
            factory.clear()
            await host.schedule(anyio.sleep, 0)
        assert [task.status for task in (first, waits, last)] == [S.SUCCEEDED, S.CANCELLED, S.CANCELLED]

    @native_cancel_only
    async def test_a_task_factory_that_raises_for_an_attempt_cancels_only_its_task_g3_g16(
        self, factory: list[int]
    ) -> None:
        async def fail() -> NoReturn:
            raise ValueError

        def again(task: Task[Any], error: Exception) -> float:
            factory.append(1)
            return 0

        async with TaskHost() as host:
            other = host.schedule(anyio.sleep_forever)
            task = host.task(retry=again).schedule(fail)
            await task.wait()
            factory.clear()
            assert (other.status, host.running) == (S.RUNNING, 1)
            await host.schedule(anyio.sleep, 0)
        assert (task.status, task.attempt) == (S.CANCELLED, 1)

    @native_cancel_only
    async def test_a_task_factory_that_raises_for_a_thread_s_task_drops_only_that_task_g3_g8(
        self, factory: list[int]
    ) -> None:
        async with TaskHost() as host:
            tasks: list[Task[Any]] = []

            def schedule() -> None:
                factory.append(1)
                tasks.append(host.schedule(turns))

            await anyio.to_thread.run_sync(schedule)
            await until(lambda: tasks[0].status is not S.NEW)
            factory.clear()
            await host.schedule(anyio.sleep, 0)
        assert tasks[0].status is S.DROPPED


async def test_a_closed_foreign_task_group_drops_waiting_tasks_and_raises_nowhere_g2_g3() -> None:
    async with anyio.create_task_group() as group:
        scheduler = TasksScheduler(group)
        held = scheduler.after_response.schedule(turns)
    scheduler.after_response.start(scheduler)
    assert held.status is S.DROPPED


def deep(error: Exception) -> Exception:
    """Return a group that is deeper than the stack."""
    for _ in range(2000):
        error = ExceptionGroup("", [error])
    return error


class Liar(Exception):
    """Says that it is something else."""

    @property
    def __class__(self) -> Any:
        return KeyboardInterrupt


class Silent(Exception):
    """Cannot even be asked."""

    @property
    def __class__(self) -> Any:
        raise LookupError("__class__")


def innermost(error: BaseException) -> BaseException:
    while type(error) is ExceptionGroup:
        [error] = error.exceptions
    return error


PLACES = ["function", "cancelled function", "thread", "handler", "handler in a thread", "policy"]
ODD = [
    *((lambda: deep(OSError()), place) for place in PLACES),
    *((Liar, place) for place in PLACES),
    *((Silent, place) for place in ("function", "handler", "policy")),  # asyncio, trio and anyio ask, too
]


@pytest.mark.parametrize(("make", "where"), ODD)
async def test_an_exception_that_is_hard_to_look_at_ends_its_task_and_no_other_g2_g3_g4(
    make: Callable[[], Exception], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The stack of the program would not hold these groups, and their classes say nothing true."""
    caplog.set_level(logging.CRITICAL, "taskphase")  # the tracebacks would fill the report
    error = make()

    async def fail() -> NoReturn:
        if where == "cancelled function":
            current_task().cancel()
        raise OSError if "handler" in where or where == "policy" else error

    def fail_in_thread() -> NoReturn:
        raise error

    async def handle(_task: Task[Any], _error: Exception) -> None:
        heard.append(_error)
        if where == "handler":
            raise error

    def handle_in_thread(_task: Task[Any], _error: Exception) -> None:
        heard.append(_error)
        raise error

    def policy(_task: Task[Any], _error: Exception) -> None:
        if where == "policy":
            raise error

    heard: list[Exception] = []
    async with TaskHost() as host:
        other = host.schedule(turns)
        handler = handle_in_thread if where == "handler in a thread" else handle
        task = host.task(on_error=handler, retry=policy).schedule(fail_in_thread if where == "thread" else fail)
        await task.wait()
        await other
    assert task.status is S.FAILED
    assert len(heard) == 1
    if where in ("function", "cancelled function", "thread"):
        assert type(innermost(heard[0])) is type(innermost(error))
        assert task.exception is heard[0]
