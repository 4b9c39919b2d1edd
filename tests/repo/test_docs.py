"""What the documentation says is run: every `python` block, every example, and the demo.

Blocks that belong together share a namespace: `<!-- continues -->` on the line above a block has it go on where the
block before it ended. Apps are exercised through TestClient; no block starts a server.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import anyio
import pytest
from fastapi.testclient import TestClient

import fastapi_tasks
import taskphase

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RUNNABLE = [README, ROOT / "core/README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [*RUNNABLE, ROOT / "CHANGELOG.md"]

ENDS_WITHIN = 60.0  # seconds for a process; the longest takes 4 s on 2 cores

BLOCK = re.compile(r"^(?P<continues><!-- continues -->\n)?```python\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")


# The blocks


@dataclass
class Program:
    """The blocks of a document that share a namespace.

    :ivar source: with an empty line for each line of the document that is not in it, so that a traceback's line
        numbers are the document's
    """

    document: Path
    heading: str
    source: str

    @property
    def id(self) -> str:
        return f"{self.document.relative_to(ROOT)}#{self.heading}"


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def programs(document: Path) -> Iterator[Program]:
    text = document.read_text()
    program: Program | None = None
    for block in BLOCK.finditer(text):
        lines_before = text.count("\n", 0, block.start("source"))
        if program is not None and block["continues"]:
            program.source += "\n" * (lines_before - program.source.count("\n")) + block["source"]
            continue
        if program is not None:
            yield program
        heading = HEADING.findall(FENCED.sub("", text[: block.start()]))[-1]
        program = Program(document, anchor(heading), "\n" * lines_before + block["source"])
    if program is not None:
        yield program


PROGRAMS = [program for document in RUNNABLE for program in programs(document)]


@contextmanager
def executed(program: Program) -> Generator[ModuleType]:
    """Run a program, in a module of its own."""
    module = ModuleType("documented")
    sys.modules[module.__name__] = module
    try:
        exec(compile(program.source, program.document, "exec"), vars(module))
        yield module
    finally:
        del sys.modules[module.__name__]


# How what they define is used, and what is printed then


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
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.id)
def test_each_documented_program_does_what_it_says(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    use = USES.get(program.id, Use())
    with executed(program) as module:
        if use.run is not None:
            use.run(module)
    assert capsys.readouterr().out.splitlines() == list(use.printed)


def test_each_documented_app_is_used() -> None:
    assert {program.id for program in PROGRAMS if "add_tasks(app" in program.source} <= set(USES)
    assert set(USES) <= {program.id for program in PROGRAMS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_each_link_inside_the_repository_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(FENCED.sub("", document.read_text())):
        path, _, fragment = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        if fragment:
            assert fragment in {anchor(heading) for heading in HEADING.findall(FENCED.sub("", file.read_text()))}, (
                target
            )


@pytest.mark.parametrize("package", [fastapi_tasks, taskphase], ids=lambda package: package.__name__)
def test_the_readme_has_every_public_name(package: ModuleType) -> None:
    text = README.read_text()
    assert [name for name in package.__all__ if not re.search(rf"\b{name}\b", text)] == []


# The examples


@contextmanager
def example(name: str, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """Run an example as a process, which ends with the block at the latest."""
    command = [sys.executable, "-u", str(ROOT / "examples" / name), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        timer = threading.Timer(ENDS_WITHIN, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


def read_to_the_end(process: subprocess.Popen[str]) -> str:
    """Return what it prints until it ends, which has to be with exit code 0."""
    assert process.stdout is not None
    output = process.stdout.read()
    assert process.wait(ENDS_WITHIN) == 0, output
    return output


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return the next line with `text` in it."""
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} is not in the output:\n{''.join(seen)}")


def run_example(name: str) -> str:
    """Run an example to its end, and return what it printed."""
    with example(name) as process:
        return read_to_the_end(process)


def test_plain_asyncio_runs() -> None:
    output = run_example("plain_asyncio.py")
    for text in ("answer: 24", "answer: sorry", "no good", "report, on paper", "it took 3 attempts"):
        assert text in output
    assert "closed: nothing of it is alive" in output.splitlines()[-1]


def test_the_shop_sells_and_books_once_under_every_schedule() -> None:
    assert run_example("stock.py").startswith("sold once, and booked")


def test_order_service_keeps_its_books() -> None:
    rows = run_example("order_service.py").splitlines()
    assert rows[-1] == "database closed"
    assert {"order 1 is paid", "order 2 is paid", "order 3 was refused"} <= set(rows)


def test_quickstart_serves_until_it_is_interrupted() -> None:
    with example("quickstart.py", "0") as process:
        read_until(process, "Uvicorn running on")
        process.send_signal(signal.SIGINT)
        assert "lifespan: database closed" in read_to_the_end(process)


def test_trio_server_answers_and_stores_what_it_has_accepted() -> None:
    with example("trio_tcp_server.py", "0") as process:
        port = int(read_until(process, "listening on port").split()[-1])
        with socket.create_connection(("127.0.0.1", port), timeout=ENDS_WITHIN) as client:
            with client.makefile("rw") as lines:
                for line, reply in [("hello", "hello"), ("save a poem", "accepted")]:
                    print(line, file=lines, flush=True)
                    assert lines.readline() == f"{reply}\n"
            read_until(process, "storing 'a poem'")
            process.send_signal(signal.SIGTERM)
            assert "stored 'a poem'" in read_to_the_end(process)


def test_the_demo_keeps_its_promises() -> None:
    output = run_example("demo.py")
    assert "Everything was as promised." in output
    assert "FAILED" not in output
