"""The recipe of docs/how-to/observability.md for a task that hangs, for async and sync functions.

Also the data that reaches an error tracker: no argument in a log line, but the local variables of the functions.
"""

import logging
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from tests.repo.test_docs import ROOT, executed, programs

from fastapi_tasks import TaskHost, Tasks

WITHIN = 10.0  # seconds
each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@contextmanager
def recipe(heading: str) -> Generator[ModuleType]:
    page = ROOT / "docs/how-to/observability.md"
    [program] = [program for program in programs(page) if program.id.endswith(f"#{heading}")]
    with executed(program) as module:
        yield module


@each_backend
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_each_hanging_task_is_told(backend: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait(WITHIN)

    async def begin(tasks: Tasks) -> None:
        for _ in range(2):
            tasks.task(name="twin").schedule(hang)

    with recipe("a-task-that-hangs") as module:
        told = spy_on(module, "tell", calls=2)  # one round may tell only of the first task
        module.app.add_api_route("/sync", begin, methods=["POST"])
        with TestClient(module.app, backend=backend) as client:
            try:
                client.post("/catalogues/7" if kind == "async" else "/sync")
                assert told.wait(WITHIN)
            finally:
                go_on.set()
    pages = [f"catalogue 7, page {page} hangs: update_catalogue > fetch_prices" for page in (1, 2)]
    lines = sorted(capsys.readouterr().out.splitlines())  # on trio either page may take its first step first
    assert lines == (pages if kind == "async" else ["twin hangs: in a thread"] * 2)


@each_backend
def test_a_watcher_ends_when_the_app_shuts_down_g9(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    with recipe("a-task-that-hangs") as module, TestClient(module.app, backend=backend):
        pass
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def spy_on(module: ModuleType, name: str, *, calls: int) -> threading.Event:
    """Return an event that is set when the function of a recipe has been called so many times."""
    called, function, seen = threading.Event(), getattr(module, name), list[object]()

    def spied(*args: Any) -> None:
        function(*args)
        seen.append(args)
        if len(seen) == calls:
            called.set()

    setattr(module, name, spied)
    return called


async def charge(card: str) -> None:
    raise ValueError("declined")


def charge_in_a_thread(card: str) -> None:
    raise ValueError("declined")


@pytest.mark.parametrize("function", [charge, charge_in_a_thread], ids=["async", "sync"])
async def test_a_log_line_has_no_argument_but_the_local_variables_have_g4(
    function: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with TaskHost() as host:
        with anyio.fail_after(WITHIN):
            await host.schedule(function, "a secret").wait()
    [record] = caplog.records
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert error is not None
    assert "secret" not in logging.Formatter().format(record)
    with_locals = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert "secret" in "".join(with_locals.format())  # as a tracker shows them
