"""G4, G16: tracebacks begin at the user's function, and no frame of the library in them holds arguments.

The `Task` itself may be there: its `repr` does not show them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType, TracebackType
from typing import Any

import anyio
import pytest

from taskphase import Task, TaskHost, retry

SECRET = "hunter2"


async def fail(password: str, *, again: str = "") -> None:
    await anyio.lowlevel.checkpoint()
    raise ValueError("why")


def fail_in_thread(password: str, *, again: str = "") -> None:
    raise ValueError("why")


async def hang(password: str) -> None:
    await anyio.sleep_forever()


class Failing:
    def __init__(self, password: str) -> None:
        self.password = password

    def __repr__(self) -> str:
        return f"Failing({self.password!r})"

    async def __call__(self) -> None:
        raise ValueError("why")

    def method(self) -> None:
        raise ValueError("why")


FUNCTIONS: list[tuple[Callable[..., Any], tuple[str, ...], dict[str, str]]] = [
    (fail, (SECRET,), {}),
    (fail, (SECRET,), {"again": SECRET}),
    (fail_in_thread, (SECRET,), {}),
    (fail_in_thread, (SECRET,), {"again": SECRET}),
    (partial(fail, SECRET), (), {}),
    (partial(fail_in_thread, again=SECRET), (SECRET,), {}),
    (Failing(SECRET), (), {}),
    (Failing(SECRET).method, (), {}),
    (lambda password: fail(password), (SECRET,), {}),
    (fail, (), {"password": SECRET}),
]


def frames_of(error: BaseException | None) -> Iterator[FrameType]:
    """Yield each frame that an error tracker looks at."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback: TracebackType | None = error.__traceback__
        while traceback is not None:
            yield traceback.tb_frame
            traceback = traceback.tb_next
        error = error.__cause__ or error.__context__


def leaks(error: BaseException | None) -> list[str]:
    """Return where a frame of the library has a local that shows the secret."""
    assert error is not None
    frames = list(frames_of(error))
    return [
        f"{frame.f_globals['__name__']}.{frame.f_code.co_name}: {name}"
        for frame in frames
        if frame.f_globals["__name__"].startswith("taskphase.")
        for name, value in frame.f_locals.items()
        if SECRET in repr(value)
    ]


@pytest.mark.parametrize(("function", "args", "kwargs"), FUNCTIONS)
@pytest.mark.parametrize("timeout", [None, 5])
async def test_no_frame_of_a_failed_task_holds_its_arguments_g4(
    function: Callable[..., Any], args: tuple[str, ...], kwargs: dict[str, str], timeout: float | None
) -> None:
    async with TaskHost() as host:
        task = host.task(timeout=timeout, retry=retry(attempts=2, backoff=0)).schedule(function, *args, **kwargs)
        await task.wait()
    assert leaks(task.exception) == []
    assert task.exception is not None
    assert first_frame(task.exception) == __name__


def first_frame(error: BaseException) -> str:
    """Return the name of the module at which the traceback begins."""
    assert error.__traceback__ is not None
    name: str = error.__traceback__.tb_frame.f_globals["__name__"]
    return name


@pytest.mark.parametrize("timeout", [None, 5])
async def test_the_log_record_of_a_failure_begins_at_the_function_g4(
    timeout: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(task: Task[Any], error: Exception) -> None:
        raise LookupError

    async with TaskHost() as host:
        for function in (fail, fail_in_thread):
            await host.task(timeout=timeout, on_error=handler).schedule(function, SECRET).wait()
    assert caplog.text.count("Traceback") >= 4
    assert "taskphase/_drive" not in "".join(
        line for line in caplog.text.splitlines() if line.lstrip().startswith("File")
    )


async def test_where_a_task_was_when_its_time_was_up_begins_at_the_function_g4_g16() -> None:
    async with TaskHost() as host:
        task = host.task(timeout=0.01).schedule(hang, SECRET)
        await task.wait()
    assert task.exception is not None
    assert task.exception.__cause__ is not None
    assert first_frame(task.exception.__cause__) == __name__


# On a busy machine the thread may make the coroutine after the timeout.
@pytest.mark.filterwarnings("ignore:coroutine 'hang' was never awaited:RuntimeWarning")
async def test_no_frame_of_a_timeout_holds_the_arguments_g4_g16() -> None:
    begun = threading.Event()
    async with TaskHost() as host:
        tasks: list[Task[Any]] = [
            host.task(timeout=0.01).schedule(hang, SECRET),
            host.task(timeout=0.01).schedule(lambda password: hang(password), SECRET),
            host.task(timeout=0.01).schedule(lambda password: begun.wait(10), SECRET),
        ]
        for task in tasks:
            await task.wait()
        begun.set()
    for task in tasks:
        assert isinstance(task.exception, TimeoutError)
        assert leaks(task.exception) == []


async def test_no_frame_of_a_failed_handler_holds_the_arguments_g4(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(task: Task[Any], error: Exception) -> None:
        raise LookupError

    def handler_in_thread(task: Task[Any], error: Exception) -> None:
        raise LookupError

    async with TaskHost() as host:
        for each in (handler, handler_in_thread, partial(handler_in_thread)):
            await host.task(on_error=each).schedule(fail, SECRET).wait()
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert len(errors) == 6
    assert [leak for error in errors for leak in leaks(error)] == []


async def test_no_frame_that_a_task_runs_in_holds_its_arguments_g4() -> None:
    """Trackers take the stack of threads and tasks, too, when they are asked for it."""
    found: list[str] = []

    def look(password: str) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_globals["__name__"].startswith("taskphase."):
                found.extend(name for name, value in frame.f_locals.items() if SECRET in repr(value))
            frame = frame.f_back

    async def look_here(password: str) -> None:
        look(password)

    async with TaskHost() as host:
        await host.schedule(look, SECRET)
        await host.schedule(look_here, SECRET)
        await host.schedule(partial(look, SECRET))
    assert found == []
