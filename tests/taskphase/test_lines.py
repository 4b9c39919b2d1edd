"""G4, G5, G6, G9, G16, G20: the lines of `LogTasks`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from taskphase import LogTasks, TaskHost, retry
from taskphase.testing import simulate

REQUEST: ContextVar[str] = ContextVar("request", default="none")

Logged = Callable[[], list[tuple[str, str]]]


async def work() -> None:
    await anyio.sleep(2)


async def fail() -> None:
    raise LookupError


def sync_work() -> None: ...


class Requests(logging.Filter):
    """As the filter of an app: puts the context of each record into the record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request = REQUEST.get()
        return True


def attributes(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name.startswith("task_")}


def test_each_start_and_each_end_is_one_line_with_its_seconds_g16_g20(logged: Logged) -> None:
    async def main() -> None:
        async with TaskHost(observers=[LogTasks()], max_running=1, drain_timeout=60) as host:
            host.task(name="first").schedule(work)
            host.task(name="second").schedule(work)
            again = retry(attempts=2, backoff=3, jitter=False)
            await host.task(name="third", retry=again).schedule(fail).wait()

    simulate(main).result()
    assert logged() == [
        ("DEBUG", "task 'first' started attempt 1, 0.000 s after schedule()"),
        ("DEBUG", "task 'first' ended as succeeded, 2.000 s after schedule(); attempt 1 took 2.000 s"),
        ("DEBUG", "task 'second' started attempt 1, 2.000 s after schedule()"),
        ("DEBUG", "task 'second' ended as succeeded, 4.000 s after schedule(); attempt 1 took 2.000 s"),
        ("DEBUG", "task 'third' started attempt 1, 4.000 s after schedule()"),
        ("INFO", "task 'third' raised LookupError in attempt 1; the next one comes in 3 s"),
        ("DEBUG", "task 'third' started attempt 2, 7.000 s after schedule()"),
        ("ERROR", "task 'third' failed in attempt 2"),
        ("DEBUG", "task 'third' ended as failed, 7.000 s after schedule(); attempt 2 took 0.000 s"),
    ]


async def test_a_task_that_never_starts_has_the_line_of_its_end_g5_g9_g20(logged: Logged) -> None:
    async with TaskHost(observers=[LogTasks()]) as host:
        host.task(name="cancelled", delay=3600).schedule(work).cancel()
        host.task(name="drained", delay=3600).schedule(work)
        async with host.scope() as tasks, tasks.route():
            tasks.task(name="dropped", when="failure").after_response.schedule(work)
    assert [line.partition(",")[0] for level, line in logged() if level == "DEBUG" and "ended" in line] == [
        "task 'cancelled' ended as cancelled",
        "task 'dropped' ended as dropped",
        "task 'drained' ended as cancelled",
    ]


async def test_a_line_has_the_attributes_of_all_records_and_the_seconds_g4_g20(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="taskphase")
    async with TaskHost(observers=[LogTasks()], drain_timeout=5) as host:
        task = host.task(name="mail").schedule(sync_work)
        await task.wait()
        other = host.task(name="mail", delay=3600).schedule(sync_work)
        other.cancel()
    start, end, other_end = (attributes(record) for record in caplog.records if record.levelno == logging.DEBUG)
    shared = {
        "task_function": f"{__name__}.sync_work",
        "task_name": "mail",
        "task_phase": "immediate",
        "task_message_id": None,
        "task_recovered": False,
    }
    assert start == {
        "task_id": task.id, **shared, "task_attempt": 1, "task_status": "running",
        "task_age": start["task_age"], "task_running_for": 0.0,
    }  # fmt: skip
    assert end == {
        "task_id": task.id, **shared, "task_attempt": 1, "task_status": "succeeded",
        "task_age": task.age, "task_running_for": task.running_for,
    }  # fmt: skip
    assert other_end == {
        "task_id": other.id, **shared, "task_attempt": 0, "task_status": "cancelled",
        "task_age": other.age, "task_running_for": None,
    }  # fmt: skip
    assert 0 <= start["task_age"] <= end["task_age"]  # type: ignore[operator]


async def test_a_line_has_the_context_of_its_task_however_the_task_ends_g6_g20(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bind_and_wait() -> None:
        REQUEST.set("of the function")
        await anyio.sleep_forever()

    caplog.set_level(logging.DEBUG, logger="taskphase")
    caplog.handler.addFilter(Requests())
    async with TaskHost(observers=[LogTasks()]) as host:
        REQUEST.set("a")
        running = host.task(name="running").schedule(bind_and_wait)
        waiting = host.task(name="waiting", delay=3600).schedule(work)
        await running.started.wait()
        REQUEST.set("b")
        running.cancel()
        waiting.cancel()
        await running.wait()
    seen = [(record.task_name, record.request) for record in caplog.records if hasattr(record, "task_age")]  # type: ignore[attr-defined]
    assert seen == [("running", "a"), ("waiting", "a"), ("running", "of the function")]


async def test_a_level_that_is_off_logs_and_keeps_nothing_g20(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="taskphase")
    observer = LogTasks()
    async with TaskHost(observers=[observer], drain_timeout=5) as host:
        host.schedule(work).cancel()
        host.schedule(sync_work)
        assert observer._contexts == {}
    assert caplog.records == []


async def test_nothing_is_kept_of_a_task_that_has_ended_g20(logged: Logged) -> None:
    observer = LogTasks(logging.INFO)
    async with TaskHost(observers=[observer], drain_timeout=5) as host, host.scope() as tasks:
        async with tasks.route():
            tasks.task(when="failure").after_response.schedule(work)
        host.schedule(sync_work)
        host.schedule(work).cancel()
    assert observer._contexts == {}
    assert {level for level, line in logged() if "ended" in line} == {"INFO"}


async def test_a_log_handler_that_raises_does_not_end_the_lines_g3_g20(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    handler = Raising()
    logging.getLogger("taskphase").addHandler(handler)
    try:
        async with TaskHost(observers=[LogTasks()], drain_timeout=5) as host:
            await host.schedule(sync_work)
            await host.schedule(sync_work)
    finally:
        logging.getLogger("taskphase").removeHandler(handler)
    assert capsys.readouterr().err.count("taskphase could not log: task") == 4


@pytest.mark.parametrize("level", ["INFO", 10.0, None])
def test_a_level_that_is_no_integer_is_refused_g20(level: Any) -> None:
    with pytest.raises(TypeError, match=r"level must be an integer such as logging\.INFO, not"):
        LogTasks(level)
