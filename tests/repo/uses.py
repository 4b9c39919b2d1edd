"""How a test uses the definitions of the documentation's blocks, and the expected output: a row of USES for each
program.

The name of a program is its document and the anchor of the heading above, `docs/limits.md#reading-the-counts`. The
rows of docs/getting-started.md, docs/tutorial/ and docs/how-to/ are in uses_of_guides.py.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from inspect import iscoroutinefunction, signature
from io import StringIO
from types import ModuleType

import anyio
from fastapi import Request
from fastapi.testclient import TestClient

from fastapi_tasks import TaskHost
from fastapi_tasks.testing import JumpClock

STEP = 0.5  # seconds; no two steps of a drain in the pages are closer


@dataclass(frozen=True)
class Use:
    run: Callable[[ModuleType], object] | None = None
    printed: tuple[str, ...] = ()


def host_of(module: ModuleType, client: TestClient) -> TaskHost:
    """Ask the app for its host, as an endpoint does."""
    found: list[TaskHost] = []

    async def look(request: Request) -> None:
        found.append(request.state.fastapi_tasks_host)

    module.app.add_api_route("/host", look)
    assert client.get("/host").status_code == 200
    return found[0]


async def pass_time(clock: JumpClock, host: TaskHost) -> None:
    """Jump from step to step of a drain. The pages let it take as long as a hand needs for Ctrl-C."""
    await host.closing.wait()
    while host.drain_report is None:
        await anyio.wait_all_tasks_blocked()
        clock.jump(STEP)


@contextmanager
def serving(module: ModuleType, clock: JumpClock | None = None) -> Generator[TestClient]:
    """Run the app of a program, and let all its tasks begin before the app shuts down.

    :param clock: the clock of the app; a shutdown then takes no real time
    """
    with TestClient(module.app, backend_options=clock.backend_options() if clock else None) as client:
        yield client
        assert client.portal is not None
        client.portal.call(anyio.wait_all_tasks_blocked)
        if clock is not None:
            client.portal.start_task_soon(pass_time, clock, host_of(module, client))


def requests(*expected: tuple[str, str, int]) -> Callable[[ModuleType], None]:
    """Return a function that sends requests to the app, and expects these status codes."""

    def run(module: ModuleType) -> None:
        with serving(module) as client:
            for method, path, status in expected:
                assert client.request(method, path).status_code == status, path

    return run


class PrintingHandler(logging.Handler):
    """Prints log records like `logging.basicConfig()`, without tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(f"{record.levelname}:{record.name}:{record.getMessage()}\n")


def logged(run: Callable[[ModuleType], object], level: int = logging.WARNING) -> Callable[[ModuleType], None]:
    """Return `run` with the log records of `taskphase` printed among the output of the program."""

    def run_logged(module: ModuleType) -> None:
        handler, logger = PrintingHandler(level), logging.getLogger("taskphase")
        logger.addHandler(handler)
        logger.setLevel(level)
        try:
            run(module)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)

    return run_logged


def use_reports(module: ModuleType) -> None:
    with serving(module) as client:
        quick = client.post("/reports", params={"year": 1999}).json()
        slow = client.post("/reports", params={"year": 2000}).json()
        assert client.portal is not None
        client.portal.call(module.reports[quick].wait)
        assert client.get(f"/reports/{quick}").json() == {"status": "succeeded", "report": "the report of 1999"}
        assert client.get(f"/reports/{slow}").json() == {"status": "running", "report": ""}
        assert client.delete(f"/reports/{slow}").status_code == 200
        client.portal.call(module.reports[slow].wait)
        assert client.get(f"/reports/{slow}").json()["status"] == "cancelled"
        assert client.get("/reports/0").status_code == 404


def use_ten_lines(module: ModuleType) -> None:
    """Do what the page does with curl, and run the test of the page, if any."""
    email = "ada@example.org"
    with serving(module) as client:
        response = client.post(f"/users?email={email}")
        assert (response.status_code, response.text) == (200, f'{{"email":"{email}"}}')
    if test := getattr(module, "test_a_new_user_gets_a_mail", None):
        with redirect_stdout(StringIO()):
            test()


def use_taskphase(module: ModuleType) -> None:
    """Run the program on asyncio, and see that it prints the same on trio."""

    def main(backend: str) -> str:
        with redirect_stdout(StringIO()) as printed:
            logged(lambda _: anyio.run(module.main, backend=backend))(module)
        return printed.getvalue()

    sys.stdout.write(main("asyncio"))
    assert main("trio") == main("asyncio")


def use_request_id(module: ModuleType) -> None:
    with serving(module) as client:
        assert client.post("/login", headers={"x-request-id": "r-17"}).status_code == 200


def use_page_of_tests(module: ModuleType) -> None:
    """Run each test as pytest would, with the fixtures `record_tasks` and `client`."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    assert len(tests) == 8
    for test in tests.values():
        if iscoroutinefunction(test):
            anyio.run(test)
        elif "record_tasks" in signature(test).parameters:
            with ExitStack() as fixtures:
                arguments = {"record_tasks": lambda app: fixtures.enter_context(module.record_tasks(app))}
                if "client" in signature(test).parameters:
                    arguments["client"] = fixtures.enter_context(module.TestClient(module.app))
                test(**arguments)
        else:
            test()


# A program without a row prints nothing and needs no requests.
USES = {
    "README.md#ten-lines": Use(use_ten_lines),
    "core/README.md#taskphase": Use(use_taskphase),
    "CONTRIBUTING.md#how-to-add-a-test": Use(
        lambda module: anyio.run(module.test_a_task_that_returns_has_succeeded_g2)
    ),
    "docs/testing.md#the-app-of-this-page": Use(use_page_of_tests),
    "docs/testing.md#async-fixtures": Use(),  # tests/repo/test_scripts.py has pytest run it
    "docs/testing.md#without-fastapi": Use(None, ("stored hello",)),
    "docs/index.md#ten-lines": Use(use_ten_lines),
    "docs/faq.md#can-the-client-ask-for-the-status-and-the-result-later": Use(use_reports),
    "docs/what-you-get.md#request-ids-in-tasks": Use(use_request_id),
}
