"""When tasks start, on real servers (G1, G5, G12): as the app's journal and as a client sees it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.servers.harness import SERVERS, Server, ServerKind, assert_order
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

APP = "tests.servers.apps.phases:app"


@pytest.fixture(scope="module", params=SERVERS, ids=lambda kind: kind.name)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    kind: ServerKind = request.param
    with Server(kind, APP) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    yield running
    print(running.report())  # noqa: T201  pytest shows it beside a failure only


@pytest.mark.parametrize(
    ("path", "status"),
    [("async-def", 200), ("plain-def", 200), ("stream", 200), ("file", 200), ("redirect", 307)],
)
def test_g1_each_task_starts_in_its_phase(server: Server, path: str, status: int) -> None:
    response = server.get(f"/{path}?{path}")
    when_answered = server.events(path)

    assert response.status_code == status
    assert {"immediate", "after_route"} <= set(when_answered)
    server.wait_for(f"after_response {path}", f"wire.returned {path}")
    seen = server.events(path)
    assert_order(
        seen,
        "route.returned",
        "function.exit",
        "after_route",
        "wire.start",
        "wire.final",
        "request.exit",
        "after_response",
    )
    assert_order(seen, "immediate", "wire.start")
    assert_order(seen, "immediate", "after_route")


def test_g1_after_response_waits_for_the_last_chunk_of_a_stream(server: Server) -> None:
    with server.client.stream("GET", "/held-stream?held") as response:
        chunks = response.iter_bytes()
        first = next(chunks)
        while_held = server.events("held")
        server.post("/release/held")
        rest = b"".join(chunks)

    assert (first, rest) == (b"one,", b"two")
    assert_order(while_held, "route.returned", "after_route", "wire.start")
    assert "wire.final" not in while_held
    assert "after_response" not in while_held
    server.wait_for("after_response held")
    assert_order(server.events("held"), "wire.start", "wire.final", "request.exit", "after_response")


def test_g5_an_error_response_drops_tasks_for_success_and_runs_tasks_for_failure(
    server: Server,
) -> None:
    response = server.get("/error?error")
    when_answered = server.events("error")

    assert response.status_code == 418
    assert {"immediate", "after_route.always"} <= set(when_answered)
    server.wait_for("after_response.failure error")
    # All other tasks of that request have started before this request's.
    server.get("/async-def?after-error")
    server.wait_for("after_response after-error")
    seen = server.events("error")
    assert_order(
        seen,
        "route.raised",
        "after_route.always",
        "wire.start",
        "wire.final",
        "after_response.failure",
    )
    assert_order(seen, "immediate", "wire.start")
    assert "after_route" not in seen
    assert "after_response" not in seen
    assert "error-after-route" in server.output()
    assert "error-after-response" in server.output()


def test_g12_a_websocket_starts_its_later_phases_when_its_handler_ends(server: Server) -> None:
    address = server.base_url.replace("http", "ws")
    with connect(f"{address}/websocket?websocket", proxy=None) as session:
        server.wait_for("immediate websocket")
        while_open = server.events("websocket")
        session.send("end")
        assert session.recv(timeout=5) == "end"
        # The server closes. A client that closes too meets it half-way, and hypercorn on trio then raises
        # BusyResourceError from the handler's close() once in about 150 times: a failed route.
        with pytest.raises(ConnectionClosedOK):
            session.recv(timeout=5)

    assert "after_route" not in while_open
    assert "after_response" not in while_open
    server.wait_for("after_response websocket", "wire.returned websocket")
    seen = server.events("websocket")
    assert_order(seen, "immediate", "route.returned", "after_route", "after_response")
    assert_order(seen, "function.exit", "request.exit", "after_response")


def test_g1_the_next_request_on_a_connection_does_not_wait_for_after_response_tasks(server: Server) -> None:
    one_connection = httpx.Limits(max_connections=1)
    with httpx.Client(base_url=server.base_url, limits=one_connection, trust_env=False) as client:
        first = client.get("/long?long").json()
        server.wait_for("loop.started long", "thread.started long")
        second = client.get("/port").json()
        while_running = server.events("long")
        client.post("/release/long").raise_for_status()

    assert first == second
    assert "loop.ended" not in while_running
    assert "thread.ended" not in while_running
    server.wait_for("loop.ended long", "thread.ended long")
