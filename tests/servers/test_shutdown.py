"""The ends of tasks when a real server is told to end (G9, G10), with SIGTERM and with Ctrl-C."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from tests.servers.apps.shutdown import QUEUED
from tests.servers.harness import SERVERS, UVICORN, Record, Server, ServerKind, assert_order

APP = "tests.servers.apps.shutdown:app"
TIMEOUT = 1.0  # seconds; far more than the work of a task that should end in time
CLOCK_ERROR = 0.02  # seconds; timers of the event loops may be early by their resolution
ENDS = ("ended", "cancelled", "raised", "broken")

every_server = pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)
UVICORNS = [kind for kind in SERVERS if kind.name.startswith("uvicorn")]
every_uvicorn = pytest.mark.parametrize("kind", UVICORNS, ids=lambda kind: kind.name)


def schedule(server: Server, *names: str) -> None:
    """Have the tasks scheduled, and wait until all of them are under way."""
    for name in names:
        server.post(f"/{name}").raise_for_status()
    server.wait_for(*(f"started {name}" for name in names))


def end(server: Server, name: str = "SIGTERM") -> list[Record]:
    """Tell the server to end, assert that its exit code is the expected one, and return the journal."""
    if name == "SIGTERM":
        server.term()
        expected = server.kind.exit_after_term
    else:
        server.interrupt()
        expected = server.kind.exit_after_interrupt
    assert server.wait() == expected
    return server.journal()


def ends(journal: list[Record]) -> dict[str, list[str]]:
    """Return the ends of each started task: a list of one, if all is well."""
    started = [entry.subject for entry in journal if entry.event == "started"]
    assert len(started) == len(set(started))
    return {
        subject: [entry.event for entry in journal if entry.subject == subject and entry.event in ENDS]
        for subject in started
    }


def moment(journal: list[Record], line: str) -> float:
    [found] = [entry.at for entry in journal if str(entry) == line]
    return found


@dataclass(frozen=True)
class Run:
    """The observations of a server that was told to end while tasks of every kind ran."""

    journal: list[Record]
    output: str


@pytest.fixture(scope="module", params=SERVERS, ids=lambda kind: kind.name)
def kind_of_run(request: pytest.FixtureRequest) -> ServerKind:
    kind: ServerKind = request.param
    return kind


@pytest.fixture(scope="module", params=["SIGTERM", "SIGINT"])
def run(request: pytest.FixtureRequest, kind_of_run: ServerKind) -> Run:
    with Server(kind_of_run, APP) as server:
        schedule(server, "unshielded", "shielded", "thread", "failing", "parent")
        return Run(end(server, request.param), server.output())


def test_g9_shielded_tasks_end_by_themselves_and_unshielded_tasks_are_cancelled(run: Run) -> None:
    assert ends(run.journal) == {
        "unshielded": ["cancelled"],
        "shielded": ["ended"],
        "thread": ["ended"],
        "failing": ["raised"],
        "parent": ["ended"],
        "late": ["ended"],
    }
    lines = [str(entry) for entry in run.journal]
    assert_order(lines, "shutdown", "cancelled unshielded", "ended shielded", "ended late")
    assert_order(lines, "cancelled unshielded", "ended thread")
    assert_order(lines, "shutdown", "ended parent", "ended late")
    assert_order(lines, "shutdown", "raised failing", "handled.ValueError failing")
    assert "unshielded" in run.output  # cancelled tasks are logged by name


def test_g10_the_users_lifespan_ends_after_every_task_and_handler(run: Run) -> None:
    lines = [str(entry) for entry in run.journal]
    assert lines[-1] == "down"
    assert lines.count("down") == 1
    users = {entry.subject: entry.event for entry in run.journal if entry.event.startswith("resource.")}
    assert users == dict.fromkeys(["shielded", "thread", "handler", "late"], "resource.open")


@every_server
def test_g9_the_drain_timeout_lets_unshielded_tasks_end(kind: ServerKind) -> None:
    with Server(kind, APP, {"TASKS_DRAIN_TIMEOUT": str(TIMEOUT)}) as server:
        schedule(server, "short", "unshielded")
        journal = end(server)

    assert ends(journal) == {"short": ["ended"], "unshielded": ["cancelled"]}
    assert moment(journal, "cancelled unshielded") - moment(journal, "shutdown") > TIMEOUT - CLOCK_ERROR
    assert str(journal[-1]) == "down"


@every_server
def test_g9_the_drain_is_over_as_soon_as_nothing_is_left(kind: ServerKind) -> None:
    with Server(kind, APP, {"TASKS_DRAIN_TIMEOUT": "60", "TASKS_SHIELD_TIMEOUT": "60"}) as server:
        schedule(server, "short", "shielded")
        journal = end(server)

    assert ends(journal) == {"short": ["ended"], "shielded": ["ended"]}
    assert str(journal[-1]) == "down"


@every_server
def test_g9_the_shield_timeout_cuts_what_would_last_for_ever(kind: ServerKind) -> None:
    with Server(kind, APP, {"TASKS_SHIELD_TIMEOUT": str(TIMEOUT)}) as server:
        schedule(server, "endless", "shielded")
        journal = end(server)
        output = server.output()

    assert ends(journal) == {"endless": ["cancelled"], "shielded": ["ended"]}
    assert moment(journal, "cancelled endless") - moment(journal, "shutdown") > TIMEOUT - CLOCK_ERROR
    assert str(journal[-1]) == "down"
    assert "endless" in output


@every_server
def test_g9_a_request_in_flight_at_the_signal_gets_its_after_response_task_done(
    kind: ServerKind,
) -> None:
    with Server(kind, APP) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(server.get, "/in-flight")
        server.wait_for("request.entered")
        signalled = time.monotonic()
        journal = end(server)
        response = answer.result(timeout=5)

    assert (response.status_code, response.json()) == (200, "answered")
    assert signalled < moment(journal, "request.returned")
    assert ends(journal) == {"after": ["ended"]}
    lines = [str(entry) for entry in journal]
    assert_order(lines, "request.returned", "started after", "resource.open after", "ended after", "down")


# Servers that ask for the shutdown of the app while calls of the app last.
HURRIED = [
    SERVERS[-1],
    ServerKind("uvicorn-graceful", f"{UVICORN} --timeout-graceful-shutdown 1", -signal.SIGTERM, 0),
]


@pytest.mark.parametrize("kind", HURRIED, ids=lambda kind: kind.name)
def test_g9_g10_the_shutdown_waits_for_the_shielded_tasks_of_calls_that_hold_them(kind: ServerKind) -> None:
    with Server(kind, APP, {"TASKS_HOLD": "1"}) as server:
        schedule(server, "unshielded", "shielded", "thread", "failing")
        journal = end(server)

    assert ends(journal) == {
        "unshielded": ["cancelled"],
        "shielded": ["ended"],
        "thread": ["ended"],
        "failing": ["raised"],
    }
    assert_order([str(entry) for entry in journal], "shutdown", "ended shielded", "handled.ValueError failing", "down")
    assert str(journal[-1]) == "down"


# A second signal


@every_server
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_g9_a_second_signal_in_the_drain_does_not_cut_it_short(kind: ServerKind, name: str) -> None:
    with Server(kind, APP) as server:
        schedule(server, "unshielded", "shielded", "thread", "failing")
        tell = server.term if name == "SIGTERM" else server.interrupt
        tell()
        server.wait_for("shutdown")
        tell()
        code = server.wait()
        journal = server.journal()

    if name == "SIGTERM":
        assert code == kind.exit_after_term
    else:  # a second signal may end a process in which everything is over
        assert code in {kind.exit_after_interrupt, -signal.SIGINT}
    assert ends(journal) == {
        "unshielded": ["cancelled"],
        "shielded": ["ended"],
        "thread": ["ended"],
        "failing": ["raised"],
    }
    assert_order([str(entry) for entry in journal], "shutdown", "ended shielded", "handled.ValueError failing", "down")


@every_server
def test_g9_a_second_sigterm_during_a_request_cuts_no_after_response_task_short(kind: ServerKind) -> None:
    with Server(kind, APP) as server, ThreadPoolExecutor(1) as client:
        schedule(server, "shielded")
        answer = client.submit(server.get, "/in-flight")
        server.wait_for("request.entered")
        server.term()
        if "hypercorn" in kind.name:
            server.send(signal.SIGINT)  # it takes no notice of that either
        else:
            server.wait_for_output("Shutting down")  # an immediate second signal may make granian hang
        server.term()
        assert server.wait() == kind.exit_after_term
        journal = server.journal()
        response = answer.result(timeout=5)

    assert (response.status_code, response.json()) == (200, "answered")
    assert ends(journal) == {"shielded": ["ended"], "after": ["ended"]}
    assert str(journal[-1]) == "down"


@every_uvicorn
def test_g2_uvicorns_forced_exit_cancels_tasks_and_waits_for_threads(kind: ServerKind) -> None:
    with Server(kind, APP) as server, ThreadPoolExecutor(1) as client:
        schedule(server, "unshielded", "shielded", "outlasting")
        journal = force(server, client)

    assert ends(journal) == {"unshielded": ["cancelled"], "shielded": ["cancelled"], "outlasting": ["ended"]}


@every_uvicorn
def test_g2_uvicorns_forced_exit_leaves_no_waiting_task_and_no_thread_behind(kind: ServerKind) -> None:
    with Server(kind, APP, {"TASKS_MAX_RUNNING": "1"}) as server, ThreadPoolExecutor(1) as client:
        server.post("/queue").raise_for_status()
        server.wait_for("started queued-0")
        journal = force(server, client)

    assert ends(journal) == {f"queued-{number}": ["ended"] for number in range(QUEUED)}


def force(server: Server, client: ThreadPoolExecutor) -> list[Record]:
    """Send SIGINT twice while a request is open, assert that uvicorn ends by itself, and return the journal."""
    answer = client.submit(server.get, "/open")
    server.wait_for("request.entered")
    server.interrupt()
    server.wait_for_output("Shutting down")
    server.interrupt()
    assert server.wait() in {0, -signal.SIGINT}
    journal = server.journal()
    assert answer.exception(timeout=5) or answer.result().status_code == 500
    assert "shutdown" not in [str(entry) for entry in journal]  # it does not ask the app for it
    assert str(journal[-1]) == "lifespan.left"  # G10: no event of a task comes later
    return journal
