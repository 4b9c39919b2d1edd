"""The pytest plugin (no G number): its fixture, and its price where no test uses it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

WITHIN = 40.0  # seconds; it takes about two

APP = """
import sys
import pytest

def make_app():
    from fastapi import FastAPI
    from fastapi_tasks import Tasks, add_tasks

    app = FastAPI()
    add_tasks(app, drain_timeout=5)

    @app.post("/users/{name}")
    async def create(name: str, tasks: Tasks) -> None:
        tasks.after_response.schedule(send, name)

    return app

async def send(name):
    if name == "nobody":
        raise ConnectionError("no answer")
    return name
"""


def run_pytest(folder: Path, tests: str) -> str:
    """Run tests in a new process, and return pytest's report."""
    file = folder / "test_it.py"
    file.write_text(APP + tests)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "--rootdir",
        str(folder),
        str(file),
    ]
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WITHIN, check=False
    )
    return done.stdout


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    [entry] = [entry for entry in entry_points(group="pytest11") if entry.name == "fastapi_tasks"]
    assert entry.value == "pytest_fastapi_tasks"


def test_nothing_is_imported_until_the_fixture_is_used(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
HEAVY = {"fastapi", "starlette", "pydantic", "fastapi_tasks", "taskphase"}

def test_without():
    assert "pytest_fastapi_tasks" in sys.modules
    assert HEAVY & set(sys.modules) == set()

def test_with(record_tasks):
    assert {"fastapi", "fastapi_tasks", "taskphase"} <= set(sys.modules)
""",
    )
    assert "2 passed" in output, output


def test_the_fixture_records_until_the_end_of_the_test(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
from fastapi.testclient import TestClient

def test_normal(record_tasks):
    app, other = make_app(), make_app()
    tasks, held = record_tasks(app), record_tasks(other, run="never", timeout=5)
    with TestClient(app) as client:
        client.post("/users/ada")
        tasks.wait_all()
        assert tasks.after_response.assert_scheduled(send, "ada").return_value == "ada"
    with TestClient(other) as client:
        client.post("/users/ada")
        assert held.of(send).one().attempt == 0

def test_expected(record_tasks):
    app = make_app()
    tasks = record_tasks(app)
    with TestClient(app) as client:
        client.post("/users/nobody")
    tasks.of(send).expect_failure(ConnectionError)

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_async(record_tasks, anyio_backend):
    import httpx

    app = make_app()
    tasks = record_tasks(app, run="inline")
    from fastapi_tasks._installation import Installation
    Installation.has_warned = True
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await client.post("/users/ada")
    assert tasks.one().status == "succeeded"
""",
    )
    assert "4 passed" in output, output


def test_the_recorder_of_the_fixture_is_not_entered_again(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
def test_twice(record_tasks):
    with record_tasks(make_app()) as tasks:
        pass
""",
    )
    assert "1 failed" in output, output
    assert "with the fixture `record_tasks`, which enters it, write `tasks = record_tasks(app)`" in output


def test_a_failure_that_nobody_expected_is_an_error_with_its_traceback(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
from fastapi.testclient import TestClient

def test_fails(record_tasks):
    app = make_app()
    record_tasks(app)
    with TestClient(app) as client:
        client.post("/users/nobody")
""",
    )
    assert "1 passed, 1 error" in output, output
    assert "send('nobody') after_response failed: ConnectionError('no answer')" in output
    assert 'raise ConnectionError("no answer")' in output
