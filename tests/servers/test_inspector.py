"""The event streams of the inspector's page keep no real server from its shutdown (G9, G10)."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.servers.harness import ANSWER_WITHIN, SERVERS, Server, ServerKind

APP = "tests.servers.apps.inspected:app"
TABS = 3


def read(server: Server, has_begun: threading.Barrier) -> bool:
    """Read one stream, as a tab does; return True if the stream has ended by itself."""
    waits = True
    try:
        with (
            httpx.Client(base_url=server.base_url, timeout=ANSWER_WITHIN, trust_env=False) as client,
            client.stream("GET", "/_tasks/events") as response,
        ):
            for line in response.iter_lines():
                if line.startswith("data: ") and waits:
                    assert json.loads(line.removeprefix("data: "))["whole"]
                    waits = False
                    has_begun.wait(ANSWER_WITHIN)
    except httpx.TransportError:  # the server may close the connection when it ends
        return False
    return True


@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)
def test_g10_a_server_ends_while_three_tabs_read_their_streams(kind: ServerKind) -> None:
    with Server(kind, APP) as server, ThreadPoolExecutor(TABS) as tabs:
        server.post("/waits").raise_for_status()
        has_begun = threading.Barrier(TABS + 1)
        streams = [tabs.submit(read, server, has_begun) for _ in range(TABS)]
        has_begun.wait(ANSWER_WITHIN)
        server.term()
        assert server.wait() == kind.exit_after_term
        for stream in streams:
            stream.result(ANSWER_WITHIN)
        assert server.events("") == ["down"]
        assert "Traceback" not in server.output()


def test_a_stream_ends_by_itself_and_the_next_one_begins_where_it_ended() -> None:
    with Server(SERVERS[0], APP) as server:
        first = server.get("/_tasks/events").text
        [cursor] = {line.removeprefix("id: ") for line in first.splitlines() if line.startswith("id: ")}
        server.post("/orders/7").raise_for_status()
        event = server.get(f"/_tasks/events?after={cursor}").text
        [data, *_] = [json.loads(line[6:]) for line in event.splitlines() if line.startswith("data: ")]
        assert data["whole"] is False
