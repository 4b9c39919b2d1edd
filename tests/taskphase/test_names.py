"""G3, G4, G7: names, exceptions and log handlers of the user do no harm to log records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from tests.backends import turns

from taskphase import LogTasks, Task, TaskCancelled, TaskConfig, TaskDropped, TaskFailed, TaskHost, TaskStatus, retry

Logged = Callable[[], list[tuple[str, str]]]

FORGED = "x\nCRITICAL:auth:admin\r\x1b[2J\x85\u2028\u202e\u2066\ud800\x00"

LOGGER = logging.getLogger("taskphase")


async def fail() -> None:
    raise ValueError("why")


def is_one_line(text: str) -> bool:
    return text.isprintable() and "CRITICAL:auth:admin" in text


async def test_no_log_line_shows_a_name_unescaped_g4(logged: Logged) -> None:
    def handler(task: Task[Any], error: Exception) -> None:
        raise LookupError

    async with TaskHost(shield_timeout=0.02) as host:
        await host.task(name=FORGED).schedule(fail).wait()
        await host.task(name=FORGED, on_error=handler).schedule(fail).wait()
        await host.task(name=FORGED, retry=retry(attempts=2, backoff=0)).schedule(fail).wait()
        with pytest.raises(LookupError):
            async with host.scope() as tasks:
                tasks.task(name=FORGED).after_response.schedule(fail)
                raise LookupError
        host.task(name=FORGED, shield=True).schedule(anyio.sleep_forever)
        host.task(name=FORGED).schedule(anyio.sleep_forever)
        await turns()
    said = [text for _, text in logged()]
    assert {text.partition("x\\n")[0] for text in said} == {
        "task '",
        "the error handler of task '",
        "closing the task host: waiting for 1: ",
        "closing the task host: 2 cancelled: ",
    }
    assert [text for text in said if not is_one_line(text)] == []


async def test_no_error_shows_a_name_unescaped_g4_g17() -> None:
    async with TaskHost() as host:
        task = host.task(name=FORGED).schedule(fail)
        for error in (RuntimeError, TaskFailed):
            with pytest.raises(error) as refusal:
                await task() if error is RuntimeError else await task
            assert is_one_line(str(refusal.value))
        cancelled = host.task(name=FORGED).schedule(anyio.sleep_forever)
        cancelled.cancel()
        with pytest.raises(TaskCancelled) as refusal:
            await cancelled
        assert is_one_line(str(refusal.value))
        async with host.scope() as tasks:
            dropped = tasks.task(name=FORGED, when="failure").after_response.schedule(fail)
            with pytest.raises(RuntimeError) as refusal:
                dropped.__start__(tasks)
            assert is_one_line(str(refusal.value))
        with pytest.raises(TaskDropped) as refusal:
            await dropped
        assert is_one_line(str(refusal.value))
        assert is_one_line(repr(task))
        assert is_one_line(repr(Task(fail, config=TaskConfig(name=FORGED))))
        assert task.name == FORGED, "as data it is what it was"


async def test_the_report_of_a_drain_has_names_as_data_g9() -> None:
    async with TaskHost() as host:
        host.task(name=FORGED).schedule(anyio.sleep_forever)
        await turns()
        report = await host.aclose()
    assert dict(report.cancelled) == {FORGED: 1}
    assert is_one_line(repr(report))


async def test_the_name_of_a_function_or_exception_is_escaped_as_well_g4(logged: Logged) -> None:
    class Boom(Exception): ...

    async def func() -> None:
        raise Boom

    Boom.__name__ = func.__qualname__ = FORGED.removesuffix("\ud800\x00")
    async with TaskHost() as host:
        task = host.task(retry=retry(attempts=2, backoff=0)).schedule(func)
        await task.wait()
        assert is_one_line(repr(task))
    assert [level for level, text in logged() if is_one_line(text)] == ["INFO", "ERROR"]


class Text(str):
    """A string whose `repr()` and search methods raise."""

    __slots__ = ()

    def _refuse(self, *args: object) -> Any:
        raise OSError

    __str__ = __repr__ = __format__ = __hash__ = __eq__ = __len__ = _refuse  # type: ignore[assignment]


class Nameless:
    """A callable whose attributes all raise."""

    def __init__(self, result: int) -> None:
        object.__setattr__(self, "result", result)

    def __getattribute__(self, name: str) -> Any:
        raise OSError(name)

    async def __call__(self) -> int:
        result: int = object.__getattribute__(self, "result")
        if result < 0:
            raise ValueError
        return result


async def test_a_callable_that_can_be_asked_for_nothing_runs_fails_and_is_cancelled_g3_g7(logged: Logged) -> None:
    async def oddly_named() -> int:
        return 3

    oddly_named.__qualname__ = oddly_named.__module__ = Text("odd")
    async with TaskHost(max_running=3) as host:
        assert await host.schedule(Nameless(1)) == 1
        assert await host.schedule(oddly_named) == 3
        assert await host.task(name=Text("odd"), timeout=5).schedule(Nameless(2)) == 2
        failing = host.schedule(Nameless(-1))
        await failing.wait()
        assert failing.status == TaskStatus.FAILED
        waiting = host.task(name=Text("odd")).schedule(anyio.sleep_forever)
        await turns()
    assert waiting.status == TaskStatus.CANCELLED
    assert logged() == [
        ("ERROR", f"task '{__name__}.Nameless' failed in attempt 1"),
        ("WARNING", "closing the task host: 1 cancelled: odd"),
    ]


class Meta(type):
    __name__ = property(lambda cls: Text("Odd"))  # type: ignore[assignment]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise OSError("str")

    __repr__ = __str__

    @property
    def __notes__(self) -> Any:
        raise OSError("notes")


class UnprintableAndWorse(Exception):
    def __str__(self) -> str:
        raise OSError("str")

    __repr__ = __str__

    @property
    def __notes__(self) -> Any:
        raise SystemExit("notes")


class OddlyNamed(Exception, metaclass=Meta): ...


@contextmanager
def logging_with(handler: logging.Handler) -> Iterator[None]:
    """Have the logger use this handler only."""
    LOGGER.addHandler(handler)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.propagate = True
        LOGGER.removeHandler(handler)


@pytest.mark.parametrize("kind", [Unprintable, UnprintableAndWorse, OddlyNamed], ids=["str", "worse", "class"])
async def test_an_exception_that_cannot_be_shown_fails_its_task_and_is_reported_g3_g4(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    async def func() -> None:
        raise kind

    def in_thread() -> None:
        raise kind

    for raising in (func, in_thread):
        with logging_with(logging.StreamHandler()):
            async with TaskHost() as host:
                task = host.task(name="odd").schedule(raising)
                await task.wait()
                assert task.status == TaskStatus.FAILED
                assert type(task.exception) is kind
                handled = host.task(name="odd", retry=lambda task, error: 0 if task.attempt < 2 else None)
                again = handled.schedule(raising)
                await again.wait()
                assert (again.status, again.attempt) == (TaskStatus.FAILED, 2)
                assert await host.schedule(anyio.lowlevel.checkpoint) is None
        printed = capsys.readouterr().err
        assert "task 'odd' failed in attempt 1" in printed or "task %r failed in attempt %d" in printed


class Stop(BaseException):
    """No exception that a handler of logs would catch."""


class Raising(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error


@pytest.mark.parametrize("kind", [RuntimeError, Stop, SystemExit, GeneratorExit, UnprintableAndWorse])
async def test_whatever_a_log_handler_raises_the_task_ends_and_the_line_is_printed_g3_g4(
    kind: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_with(Raising(kind("of the handler"))):
        async with TaskHost() as host:
            task = host.task(name="t\n", retry=retry(attempts=2, backoff=0)).schedule(fail)
            await task.wait()
            assert (task.status, task.attempt) == (TaskStatus.FAILED, 2)
            host.task(name="u").schedule(anyio.sleep_forever)
            await turns()
    printed = capsys.readouterr().err
    assert "taskphase could not log: task 't\\n' failed in attempt 2\n" in printed
    assert "taskphase could not log: closing the task host: 1 cancelled: u\n" in printed
    assert kind.__name__ in printed


async def test_a_filter_that_raises_keeps_no_failure_from_being_printed_g3_g4(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class OfRequests(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return bool(vars(record)["request_id"])

    of_requests = OfRequests()
    LOGGER.addFilter(of_requests)
    try:
        async with TaskHost() as host:
            await host.schedule(fail).wait()
    finally:
        LOGGER.removeFilter(of_requests)
    printed = capsys.readouterr().err
    assert printed.count("in fail\n") == printed.count("ValueError: why\n") == 1
    assert printed.count("KeyError: 'request_id'\n") == 1


async def test_a_record_factory_that_uses_names_of_fields_loses_no_record_g4(
    logged: Logged, caplog: pytest.LogCaptureFixture
) -> None:
    """The recipe for asyncio's task in a log line: the name that the factory has set stays."""
    make = logging.getLogRecordFactory()

    def with_task_name(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        vars(record)["task_name"] = "native"
        return record

    logging.setLogRecordFactory(with_task_name)
    try:
        async with TaskHost(observers=[LogTasks(logging.INFO)]) as host:
            caplog.set_level(logging.INFO, logger="taskphase")
            task = host.schedule(fail)
            await task.wait()
    finally:
        logging.setLogRecordFactory(make)
    assert [level for level, _ in logged()] == ["INFO", "ERROR", "INFO"]
    about = [vars(record) for record in caplog.records]
    assert [(each["task_name"], each["task_id"]) for each in about] == [("native", task.id)] * 3


async def test_the_cancellation_that_a_log_handler_raises_ends_nothing_g3(capsys: pytest.CaptureFixture[str]) -> None:
    cancelled = anyio.get_cancelled_exc_class()
    async with TaskHost() as host:
        with logging_with(Raising(cancelled.__new__(cancelled))):  # only trio can make a Cancelled
            task = host.schedule(fail)
            await task.wait()
        assert task.status == TaskStatus.FAILED
    assert "taskphase could not log" in capsys.readouterr().err


async def test_where_nothing_can_be_printed_the_task_ends_all_the_same_g3(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise ValueError("closed")

    with logging_with(Raising(Stop())):
        async with TaskHost() as host:
            for stderr in (None, Closed()):
                monkeypatch.setattr("sys.stderr", stderr)
                task = host.schedule(fail)
                await task.wait()
                monkeypatch.undo()
                assert task.status == TaskStatus.FAILED
