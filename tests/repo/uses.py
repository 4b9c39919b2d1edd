"""How what the documentation's blocks define is used, and what is printed then: a row of USES for each program.

A program's name is its document and the anchor of the heading above it, `docs/limits.md#doing-without`. The rows of
docs/getting-started.md, docs/tutorial/ and docs/how-to/ are in uses_of_guides.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import iscoroutinefunction, signature
from types import ModuleType

import anyio
from fastapi.testclient import TestClient


@dataclass(frozen=True)
class Use:
    run: Callable[[ModuleType], object] | None = None
    printed: tuple[str, ...] = ()


@contextmanager
def serving(module: ModuleType) -> Generator[TestClient]:
    """Run the app of a program, and let whatever it began begin before the app is shut down."""
    with TestClient(module.app) as client:
        yield client
        assert client.portal is not None
        client.portal.call(anyio.wait_all_tasks_blocked)


def requests(*expected: tuple[str, str, int]) -> Callable[[ModuleType], None]:
    """Return a function that sends requests to the app, and expects these status codes."""

    def run(module: ModuleType) -> None:
        with serving(module) as client:
            for method, path, status in expected:
                assert client.request(method, path).status_code == status, path

    return run


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


def use_limits(module: ModuleType) -> None:
    with serving(module) as client:
        refused = client.post("/letters", params={"letters": 3})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert client.post("/letters", params={"letters": 2}).status_code == 200
        assert client.get("/load").json() == {"running": 0, "waiting": 0, "deferred": 0, "failed": 0}


def use_websocket_and_stream(module: ModuleType) -> None:
    with serving(module) as client:
        with client.websocket_connect("/echo") as session:
            session.send_text("hello")
            assert session.receive_text() == "hello"
        assert client.get("/rows").text == "0\n1\n2\n"


def use_without_lifespan(module: ModuleType) -> None:
    assert TestClient(module.app).post("/runs/1").status_code == 200
    requests(("POST", "/runs/2", 200))(module)


def use_tests(module: ModuleType) -> None:
    module.test_a_new_user_gets_a_mail()
    module.test_send_counts()


def use_request_id(module: ModuleType) -> None:
    with serving(module) as client:
        assert client.post("/login", headers={"x-request-id": "r-17"}).status_code == 200


def use_page_of_tests(module: ModuleType) -> None:
    """Run each test as pytest would, with the fixture `record_tasks`."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    assert len(tests) == 8
    for test in tests.values():
        if iscoroutinefunction(test):
            anyio.run(test)
        elif "record_tasks" in signature(test).parameters:
            with ExitStack() as recorders:
                test(lambda app: recorders.enter_context(module.record_tasks(app)))
        else:
            test()


ALONE = (
    "no scope, no phases",
    *("immediate: hello", "after_route: hello", "reply: HELLO", "after_response: hello"),
    "total: 6",
)

# What is not here prints nothing and needs no use.
USES = {
    "README.md#quickstart": Use(
        requests(("POST", "/users?email=ada", 200)),
        ("looking for the avatar of ada", "user_created +1", "welcome, ada"),
    ),
    "README.md#settings": Use(requests(("POST", "/orders/7", 200)), ("order 7 is charged", "order 7 is archived")),
    "README.md#outcomes-when": Use(
        requests(("POST", "/login?user=eve&password=1", 403), ("POST", "/login?user=ada&password=correct horse", 200)),
        ("eve: was refused", "ada: is in"),
    ),
    "README.md#errors-and-retries": Use(
        requests(("POST", "/events", 200)), ("giving up deliver to a after 2 attempts: a does not answer",)
    ),
    "README.md#shutdown": Use(requests(("POST", "/payments/7", 200)), ("payment 7 is settled",)),
    "README.md#limits": Use(use_limits, ("letter 0", "letter 1")),
    "README.md#the-handle": Use(use_reports),
    "README.md#scheduling-from-anywhere": Use(
        requests(("POST", "/pictures?picture=portrait", 200)),
        ("the cache is warm", "resize: portrait", "published portrait"),
    ),
    "README.md#websockets-and-streams": Use(
        use_websocket_and_stream,
        ("received hello", "the session is over", "row 0", "row 1", "row 2", "the stream is over"),
    ),
    "README.md#without-a-lifespan": Use(use_without_lifespan, ("run 1 is reported", "run 2 is reported")),
    "README.md#testing": Use(use_tests),
    "README.md#without-fastapi": Use(None, (*ALONE, *ALONE, "now", "later", "last")),
    "core/README.md#taskphase": Use(
        None, ("the cache is warm", "counted hello", "hello: 532", "stored hello", "drained")
    ),
    "core/README.md#in-short": Use(None, ("3 succeeded",)),
    "CONTRIBUTING.md#how-to-add-a-test": Use(
        lambda module: anyio.run(module.test_a_task_that_returns_has_succeeded_g2)
    ),
    "docs/testing.md#the-app-of-this-page": Use(use_page_of_tests),
    "docs/testing.md#without-fastapi": Use(None, ("stored hello",)),
    "docs/index.md#fastapi-tasks": Use(requests(("POST", "/users?email=ada@example.org", 200))),
    "docs/faq.md#can-a-task-schedule-tasks": Use(requests(("POST", "/orders/7", 200))),
    "docs/faq.md#what-about-context-variables-request-ids-and-opentelemetry": Use(use_request_id),
}
