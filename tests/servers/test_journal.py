"""G22: a journal in real servers: `kill -9`, deploys, processes that hang, and tasks that kill their process."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.servers.apps.journal import PATH, RENAMED
from tests.servers.harness import ANSWER_WITHIN, POLL_EVERY, SERVERS, Server, ServerKind

APP = "tests.servers.apps.journal:app"
ROUNDS = 3  # `make soak` has 200
CLIENTS = 4
STILL = 2.5  # seconds: at least one look for tasks of dead hosts

BY_NAME = {kind.name: kind for kind in SERVERS}


def servers(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [BY_NAME[name] for name in names], ids=names)


def until(condition: Callable[[], object], within: float = ANSWER_WITHIN) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(POLL_EVERY)


def rows(path: Path, columns: str = "state") -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path, timeout=5)
    try:
        return connection.execute(f"SELECT {columns} FROM tasks ORDER BY number").fetchall()
    finally:
        connection.close()


def kill(server: Server) -> None:
    """End all processes of the server at once, as a power cut does."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


class Load:
    """Clients that post until the server is gone.

    :ivar answered: the subjects of requests that the server has answered with 2xx
    :ivar refused: those that the app has refused
    """

    def __init__(self, server: Server, prefix: str) -> None:
        self.answered: set[str] = set()
        self.refused: set[str] = set()
        self._threads = [
            threading.Thread(target=self._post, args=(server.base_url, f"{prefix}.{number}"))
            for number in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _post(self, url: str, prefix: str) -> None:
        with httpx.Client(base_url=url, timeout=ANSWER_WITHIN, trust_env=False) as client:
            for number in range(100_000):
                subject = f"{prefix}.{number}"
                try:
                    status = client.post(f"/{'refused' if number % 4 == 3 else 'order'}/{subject}").status_code
                except httpx.TransportError:
                    return
                assert status in (200, 418), status
                (self.answered if status == 200 else self.refused).add(subject)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(ANSWER_WITHIN)


@servers("uvicorn", "hypercorn-trio", "granian")
def test_an_answered_request_keeps_its_promise_through_kills_g22(kind: ServerKind, tmp_path: Path) -> None:
    path, chance = tmp_path / "tasks.db", random.Random(22)
    answered, refused = set[str](), set[str]()
    with Server(kind, APP, {PATH: str(path)}) as server:
        for number in range(ROUNDS):
            load = Load(server, str(number))
            time.sleep(chance.uniform(0.1, 0.6))
            kill(server)
            load.join()
            answered |= load.answered
            refused |= load.refused
            server.start_again()
        until(lambda: not rows(path))
        ran = {entry.subject for entry in server.journal() if entry.event in ("ran", "again")}
    assert len(answered) > ROUNDS
    assert {f"{subject}.{phase}" for subject in answered for phase in ("route", "response")} - ran == set()
    assert {f"{subject}.refused" for subject in refused} & ran == set()


@servers("uvicorn", "hypercorn-trio", "granian")
def test_a_death_before_the_end_of_the_route_keeps_the_commit_and_no_task_g22(kind: ServerKind, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Server(kind, APP, {PATH: str(path)}) as server:
        with pytest.raises(httpx.TransportError):
            server.post("/die/a")
        assert server.events("a") == ["committed"]
        assert rows(path) == []
        if server._process.poll() is None:
            kill(server)
        server.start_again()
        server.post("/order/b").raise_for_status()
        server.wait_for("ran b.route", "ran b.response")
        assert {entry.subject for entry in server.journal() if entry.event in ("ran", "again")} == {
            *("b.route", "b.response")
        }


@servers("uvicorn", "hypercorn-trio")
def test_a_second_server_takes_the_tasks_of_a_killed_one_only_g22(kind: ServerKind, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Server(kind, APP, {PATH: str(path)}) as first, Server(BY_NAME["uvicorn"], APP, {PATH: str(path)}) as second:
        first.post("/wait/a").raise_for_status()
        first.wait_for("started a")
        os.killpg(first.pid, signal.SIGSTOP)  # a process that hangs keeps its work
        time.sleep(STILL)
        assert second.events("a") == []
        os.killpg(first.pid, signal.SIGKILL)
        second.wait_for("again a")
        until(lambda: not rows(path))


def test_the_living_workers_take_the_tasks_of_a_killed_one_and_serve_on_g22(tmp_path: Path) -> None:
    """uvicorn replaces the worker: either the other one or the new one takes the tasks."""

    def began(number: int) -> int:
        """Return the process in which run `number` of the task has begun."""
        runs = [entry.subject for entry in server.journal() if entry.event == "began"]
        return int([each for each in runs if each.startswith(runs[0].split("/")[0])][number].split("/")[1])

    path, kind = tmp_path / "tasks.db", BY_NAME["uvicorn"]
    kind = replace(kind, name="2 workers", arguments=kind.arguments.replace("--workers 1", "--workers 2"))
    with Server(kind, APP, {PATH: str(path)}) as server:
        until(lambda: len(list(tmp_path.glob("*.alive"))) == 2)
        server.post("/wait/a").raise_for_status()
        server.wait_for("started a")
        victim = began(0)
        assert victim != server.pid
        os.kill(victim, signal.SIGKILL)
        with httpx.Client(base_url=server.base_url, timeout=ANSWER_WITHIN, trust_env=False) as client:
            client.post("/order/b").raise_for_status()
        server.wait_for("again a", "ran b.route", "ran b.response")
        assert began(1) not in (victim, server.pid)
        until(lambda: not rows(path))
        until(lambda: len(list(tmp_path.glob("*.alive"))) == 2)
        assert server.events("a") == ["started", "again"]


def test_a_task_that_kills_its_process_comes_back_three_times_and_is_kept_g22(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Server(BY_NAME["uvicorn"], APP, {PATH: str(path)}) as server:
        assert server.post("/kill/a").status_code == 200
        server.wait()
        for _ in range(3):
            server._process = server._start()
            assert server.wait() == -signal.SIGKILL
        server.start_again()
        server.wait_for_output("its process has died in 3 recovered runs")
        assert server.events("a") == ["kills"] * 4
        assert rows(path, "state, recoveries") == [("failed", 3)]
        server.post("/order/b").raise_for_status()
        server.wait_for("ran b.response")


@servers("uvicorn", "hypercorn-trio", "granian")
def test_a_deploy_waits_for_no_task_and_the_next_version_runs_it_g9_g22(kind: ServerKind, tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Server(kind, APP, {PATH: str(path)}) as server:
        server.post("/wait/a").raise_for_status()
        server.wait_for("started a")
        server.term()
        assert server.wait() == kind.exit_after_term
        assert rows(path, "state, owner, recoveries") == [("due", None, 0)]
        server.start_again()
        server.wait_for("again a")
        until(lambda: not rows(path))


def test_a_deploy_without_the_function_keeps_its_task_as_failed_g22(tmp_path: Path) -> None:
    path, kind = tmp_path / "tasks.db", BY_NAME["uvicorn"]
    with (
        Server(kind, APP, {PATH: str(path)}) as old,
        Server(kind, APP, {PATH: str(path), RENAMED: "1"}) as new,
    ):
        old.post("/wait/a").raise_for_status()
        old.wait_for("started a")
        time.sleep(STILL)
        assert rows(path) == [("due",)]
        kill(old)
        new.wait_for_output("the journal of this app has no function with this name")
        assert rows(path) == [("failed",)]
