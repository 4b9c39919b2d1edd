"""docs/how-to/move-to-a-queue.md: its files and its commands do what the page says.

A `py` block whose first line is a comment with a name is a file. A line of a block that begins with `$ ` is a command;
the lines below are its answer.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from tests.queueing import FakeQueue
from tests.queues.brokers import find_redis, poll
from tests.queues.postgres import Postgres, what_is_missing
from tests.servers.harness import ROOT, free_port

from taskphase import TaskHost
from taskphase.queues import running

PAGE = (ROOT / "docs/how-to/move-to-a-queue.md").read_text()
FILE = re.compile(r"^```py\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"^```output\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TERMINALS = re.compile(r"^```\n(\$ .*?)^```$", re.MULTILINE | re.DOTALL)
ENDS_WITHIN = 60.0  # seconds, for a command that ends by itself


@dataclass(frozen=True)
class Part:
    """A section of the page.

    :ivar files: by name
    :ivar commands: in order, each with the lines of its answer
    :ivar shown: the lines that a terminal shows, in any order
    """

    files: Mapping[str, str]
    commands: tuple[tuple[str, list[str]], ...]
    shown: set[str]


def part(heading: str) -> Part:
    text = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert text, heading
    lines = [line for block in TERMINALS.findall(text) for line in block.splitlines()]
    commands: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), []))
        else:
            commands[-1][1].append(line)
    shown = {line for block in SHOWN.findall(text) for line in block.splitlines()}
    return Part(dict(FILE.findall(text)), tuple(commands), shown)


class Terminals:
    """The folder of the page's files, and the programs that run there.

    :param files: by name
    :param instead: texts of files and commands, and what stands there in the test: other ports
    """

    def __init__(self, folder: Path, files: Mapping[str, str], instead: Mapping[str, str]) -> None:
        self.folder = folder
        self._instead = {**instead, "8000": str(free_port())}
        self._stack = ExitStack()
        for name, source in files.items():
            (folder / name).write_text(self._replaced(source))

    def __enter__(self) -> Terminals:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, command: str, **env: str) -> None:
        """Start a program that does not end by itself."""
        words = self._words(command)
        with self._output_of(command).open("wb") as output:
            process = subprocess.Popen(
                words,
                cwd=self.folder,
                env={**self._env(), **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._stack.callback(end, process)
        if "uvicorn" in command:
            self._wait_for_port("8000")
        elif "redis-server" in command:
            self._wait_for_port("6379")

    def run(self, command: str, **env: str) -> str:
        """Run a command that ends, and return its output."""
        done = subprocess.run(
            self._words(command),
            cwd=self.folder,
            env={**self._env(), **env},
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait_for_lines(self, command: str, lines: set[str]) -> None:
        """Wait until the terminal of a program shows each of these lines. Several processes write to one terminal, so a
        line may have the time, a name or another line before and behind it.
        """

        def are_there() -> bool:
            found = self.output(command)
            return all(line in found for line in lines)

        try:
            poll(are_there, f"the lines of the page in the terminal of {command!r}")
        except AssertionError:
            print(self.output(command)[-8000:])  # noqa: T201  pytest shows it beside the failure
            raise

    def output(self, command: str) -> str:
        return self._output_of(command).read_text(errors="replace")

    def _words(self, command: str) -> list[str]:
        """Return a command of the page with the programs and the ports of the test."""
        program, *rest = shlex.split(self._replaced(command))
        match program:
            case "redis-server":
                return [str(find_redis()), "--port", self._instead["6379"], *rest]
            case "curl":
                return ["curl", "--silent", "--show-error", "--noproxy", "*", *rest]
            case "uvicorn":
                return [sys.executable, "-m", "uvicorn", *rest, "--port", self._instead["8000"]]
            case "python":
                return [sys.executable, *rest]
            case _:
                return [sys.executable, "-m", program, *rest]

    def _output_of(self, command: str) -> Path:
        return self.folder / f"{shlex.split(command)[0]}-{len(command)}.log"

    def _replaced(self, text: str) -> str:
        for old, new in self._instead.items():
            text = text.replace(old, new)
        return text

    def _env(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT / "core"), str(ROOT / "fastapi_binding")])
        return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    def _wait_for_port(self, name: str) -> None:
        def answers() -> bool:
            try:
                socket.create_connection(("127.0.0.1", int(self._instead[name])), timeout=1).close()
            except OSError:
                return False
            return True

        poll(answers, f"a program at the port that is {name} in the page")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program and its children at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def files_of(*headings: str) -> dict[str, str]:
    """Return the files after these steps: later ones replace earlier ones."""
    return {name: source for heading in headings for name, source in part(heading).files.items()}


def needs_redis() -> None:
    if find_redis() is None:
        pytest.skip("the page about queues is not run: the machine has no redis-server; set REDIS_SERVER to its path")


def follow(terminals: Terminals, step: Part) -> str:
    """Do what a part of the page says. Return the command whose terminal shows the lines of the tasks."""
    worker = ""
    for command, answer in step.commands:
        if command.startswith("curl ") or command.endswith("--apply"):
            assert terminals.run(command).splitlines() == answer
        else:
            terminals.start(command)
            worker = command if "worker" in command or not worker else worker
    terminals.wait_for_lines(worker, step.shown)
    return worker


@pytest.mark.parametrize(
    ("heading", "engine"),
    [("Step 1: no queue", None), ("Step 2 with Taskiq", "taskiq"), ("Step 2 with Celery", "celery")],
    ids=["none", "taskiq", "celery"],
)
def test_the_steps_of_the_page_run_the_tasks_where_the_page_says_g21(
    heading: str, engine: str | None, tmp_path: Path
) -> None:
    if engine is not None:
        pytest.importorskip(engine)
        needs_redis()
    step = part(heading)
    files = files_of("Step 1: no queue", heading)
    with Terminals(tmp_path, files, {"6379": str(free_port())}) as terminals:
        ran_in = follow(terminals, step)

        others = [terminals.output(command) for command, _ in step.commands if not command.startswith("curl")]
        assert sum("a mail for order 7" in output for output in others) == 1
        assert ran_in.startswith(engine or "uvicorn")


def test_endpoint_and_functions_are_the_same_files_with_each_engine_g21() -> None:
    for heading in ("Step 2 with Taskiq", "Step 2 with Celery"):
        assert list(part(heading).files) == ["queues.py"]


@pytest.mark.parametrize("engine", ["taskiq", "celery"])
def test_a_worker_that_does_not_know_a_name_drops_the_message_g21(engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    needs_redis()
    heading = f"Step 2 with {engine.title()}"
    redis, worker, app, order = (command for command, _ in part(heading).commands)
    new = files_of("Step 1: no queue", heading)
    old = {name: text.replace("[send_mail, archive]", "[send_mail]") for name, text in new.items()}
    ports = {"6379": str(free_port())}
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    with Terminals(folders[1], new, ports) as terminals:
        terminals.start(redis)
        terminals.start(app)
        with Terminals(folders[0], old, ports) as workers:
            workers.start(worker)
            terminals.run(order)
            workers.wait_for_lines(worker, {"a mail for order 7"})
            poll(lambda: "jobs.archive" in workers.output(worker), "a line about the name that is not known")

        terminals.start(worker)
        terminals.run(order.replace("/7", "/8"))
        terminals.wait_for_lines(worker, {"order 8 is archived"})
        assert "order 7 is archived" not in terminals.output(worker)


def test_a_hand_over_that_fails_is_told_as_the_page_shows_g21(tmp_path: Path) -> None:
    pytest.importorskip("taskiq")
    step = part("A hand-over that fails")
    files = files_of("Step 1: no queue", "A hand-over that fails")
    setting = "add_tasks(app, queues=queues, config=TaskConfig(on_error=report), shield_timeout=20)"
    assert setting in PAGE
    main = files["main.py"].replace("add_tasks(app, queues=queues, shield_timeout=20)", setting)
    main = main.replace("import Tasks, ", "import TaskConfig, Tasks, ")
    main = main.replace("import queues", "import queues, report")
    with Terminals(tmp_path, {**files, "main.py": main}, {"6379": str(free_port())}) as terminals:
        terminals.start("uvicorn main:app")
        terminals.run("curl -X POST http://127.0.0.1:8000/orders/7")
        terminals.wait_for_lines("uvicorn main:app", step.shown)


def test_the_page_carries_the_request_id_to_the_worker_g21(tmp_path: Path) -> None:
    pytest.importorskip("taskiq")
    needs_redis()
    step = part("Request ids and traces")
    [request] = re.findall(r"`(curl -X POST -H [^`]+)`", " ".join(PAGE.split()))
    files = files_of("Step 1: no queue", "Request ids and traces")
    middleware = """

from jobs import request_id


@app.middleware("http")
async def remember(request, call_next):
    request_id.set(request.headers["x-request-id"])
    return await call_next(request)
"""
    with Terminals(
        tmp_path, {**files, "main.py": files["main.py"] + middleware}, {"6379": str(free_port())}
    ) as terminals:
        for command, _ in part("Step 2 with Taskiq").commands[:-1]:
            terminals.start(command)
        terminals.run(request)
        terminals.wait_for_lines("taskiq worker queues:broker", step.shown)


@pytest.mark.parametrize("has_url", [False, True])
def test_the_test_of_the_page_passes_with_a_queue_and_without_g21(has_url: bool, tmp_path: Path) -> None:
    pytest.importorskip("taskiq")
    env = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}"} if has_url else {}
    files = files_of("Step 1: no queue", "Tests and development")
    [(command, answer)] = part("Tests and development").commands
    with Terminals(tmp_path, files, {}) as terminals:
        printed = terminals.run(f"{command} -p no:cacheprovider --rootdir .", **env)
    assert answer[-1] in printed


# Twins


@contextmanager
def imported(folder: Path, source: str) -> Generator[Any]:
    path = folder / "twin_jobs.py"
    path.write_text(source)
    spec = spec_from_file_location("twin_jobs", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["twin_jobs"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["twin_jobs"]


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[Any]:
    """Return the functions of the page that know their twins, with an empty database."""
    with imported(tmp_path, part("Twice is once").files["jobs.py"]) as module:
        module.DATABASE = str(tmp_path / "shop.db")
        tables = re.findall(r"^# (CREATE TABLE .*)$", part("Twice is once").files["jobs.py"], re.MULTILINE)
        with closing(sqlite3.connect(module.DATABASE)) as db, db:
            for table in tables:
                db.execute(table)
        yield module


def archived(twins: Any) -> list[tuple[int]]:
    with closing(sqlite3.connect(twins.DATABASE)) as db:
        found: list[tuple[int]] = db.execute("SELECT number FROM archive").fetchall()
        return found


def run_in_a_worker(twins: Any, message_id: str, order: object) -> None:
    with running(FakeQueue(twins.archive), "twin_jobs.archive", message_id, {}):
        twins.archive(order)


def test_a_twin_does_the_work_once_g21(twins: Any) -> None:
    for message_id in ("a", "a", "b"):
        run_in_a_worker(twins, message_id, 7)

    assert archived(twins) == [(7,), (7,)]


def test_work_that_failed_is_done_by_the_next_run_g21(twins: Any) -> None:
    with pytest.raises(sqlite3.Error):
        run_in_a_worker(twins, "a", object())
    run_in_a_worker(twins, "a", 7)

    assert archived(twins) == [(7,)]


async def test_a_task_that_is_not_for_a_queue_has_no_twin_g21(twins: Any) -> None:
    async with TaskHost() as host:
        for _ in range(2):
            await host.schedule(twins.archive, 7)

    assert archived(twins) == [(7,), (7,)]


# PostgreSQL


def test_a_job_and_an_order_are_one_transaction_in_the_page_g21(tmp_path: Path) -> None:
    if missing := what_is_missing():
        pytest.skip(missing)
    step = part("PostgreSQL, and the transaction of the request")
    [table] = re.findall(r"`(CREATE TABLE orders [^`]+)`", " ".join(PAGE.split()))
    files = files_of("Step 1: no queue", "PostgreSQL, and the transaction of the request")
    with Postgres() as postgres, Terminals(tmp_path, files, {"postgresql://127.0.0.1/shop": postgres.url}) as terminals:
        postgres.execute(table)
        worker = follow(terminals, step)

        again = step.commands[-1][0]
        assert terminals.run(again) == "Internal Server Error"
        other = again.replace("/7", "/8")
        assert terminals.run(other) == '{"order":8}'
        terminals.wait_for_lines(worker, {"a mail for order 8", "order 8 is archived"})
        assert terminals.output(worker).count("order 7 is archived") == 1
