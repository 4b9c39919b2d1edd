"""examples/chat.py: who receives which message, and that the record has every message and session at any end."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from examples import chat
from tests import wire
from tests.backends import until
from tests.examples.programs import example, served
from websockets.sync.client import connect

from fastapi_tasks import current_host

Recorded = Callable[[], list[dict[str, Any]]]


def events_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    """Return a function that reads the app's record of this test."""
    file = chat.app.state.audit_file
    chat.app.state.audit_file = tmp_path / "audit.jsonl"
    yield lambda: events_in(chat.app.state.audit_file)
    chat.app.state.audit_file = file


def said(text: str, user: str = "ada") -> dict[str, str]:
    return {"user": user, "room": "lobby", "said": text}


def session(messages: int, user: str = "ada") -> dict[str, Any]:
    return {"user": user, "room": "lobby", "messages": messages}


async def test_each_member_of_a_room_hears_everything_and_outsiders_hear_nothing(recorded: Recorded) -> None:
    async with (
        wire.lifespan(chat.app) as state,
        wire.websocket(chat.app, "/rooms/lobby/ada", state=state) as ada,
        wire.websocket(chat.app, "/rooms/lobby/bob", state=state) as bob,
        wire.websocket(chat.app, "/rooms/attic/eve", state=state) as eve,
    ):
        await until(lambda: sum(map(len, chat.rooms.values())) == 3)
        await ada.send("hello")
        await eve.send("quiet here")
        assert [await ada.receive(), await bob.receive(), await eve.receive()] == [
            *("ada: hello", "ada: hello"),
            "eve: quiet here",
        ]
        await bob.send("hello, ada")
        assert [await ada.receive(), await bob.receive()] == ["bob: hello, ada"] * 2
    assert not chat.rooms


async def test_a_member_who_does_not_read_misses_lines_and_delays_nobody() -> None:
    with chat.joined("lobby") as slow, chat.joined("lobby") as quick:
        for number in range(2 * chat.BACKLOG):
            chat.tell("lobby", str(number))
            assert quick.receive_nowait() == str(number)
        assert slow.statistics().current_buffer_used == chat.BACKLOG


async def test_a_client_who_vanishes_is_recorded_with_all_it_said_g11(recorded: Recorded) -> None:
    async with wire.lifespan(chat.app) as state, wire.websocket(chat.app, "/rooms/lobby/ada", state=state) as ada:
        for text in ("one", "two"):
            await ada.send(text)
            await ada.receive()
        await ada.close(1006)
    assert sorted(map(str, recorded())) == sorted(map(str, [said("one"), said("two"), session(2)]))


async def test_a_session_that_fails_is_recorded_g5(recorded: Recorded) -> None:
    async with wire.lifespan(chat.app) as state, wire.websocket(chat.app, "/rooms/lobby/ada", state=state) as ada:
        await ada.send(b"not a text")
        await ada.wait()
    assert ada.raised is not None
    assert recorded() == [session(0)]
    assert not chat.rooms


async def test_lines_not_yet_written_are_written_when_the_server_stops_g9_g10(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_when_closing(audit: chat.Audit, *args: Any, **kwargs: Any) -> None:
        anyio.from_thread.run(current_host().closing.wait)
        write(audit, *args, **kwargs)

    write = chat.Audit.write
    monkeypatch.setattr(chat.Audit, "write", write_when_closing)
    async with wire.lifespan(chat.app) as state:
        async with wire.websocket(chat.app, "/rooms/lobby/ada", state=state) as ada:
            for text in ("one", "two", "three"):
                await ada.send(text)
                await ada.receive()
        assert recorded() == []
    assert len(recorded()) == 4
    assert session(3) in recorded()


async def test_a_session_that_is_cut_off_is_recorded_g9_g11(recorded: Recorded) -> None:
    async with wire.lifespan(chat.app) as state:
        with anyio.CancelScope() as cut_off:
            async with wire.websocket(chat.app, "/rooms/lobby/ada", state=state) as ada:
                await ada.send("one")
                await ada.receive()
                cut_off.cancel()
    assert cut_off.cancelled_caught
    assert sorted(map(str, recorded())) == sorted(map(str, [said("one"), session(1)]))


async def test_a_write_that_fails_is_tried_again_g16(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([OSError("no space")])

    def write_or_fail(audit: chat.Audit, *args: Any, **kwargs: Any) -> None:
        for failure in failures:
            raise failure
        write(audit, *args, **kwargs)

    write = chat.Audit.write
    monkeypatch.setattr(chat.Audit, "write", write_or_fail)
    async with wire.lifespan(chat.app) as state, wire.websocket(chat.app, "/rooms/lobby/ada", state=state) as ada:
        await ada.accept()
    assert recorded() == [session(0)]


def test_the_example_runs_by_a_single_command() -> None:
    lines = example("chat.py")
    written = [json.loads(line) for line in lines[lines.index("the record:") + 1 :]]
    texts = ["hello", "is anybody there?", *(f"good night {number}" for number in range(5))]
    expected = [*map(said, texts), session(7), session(0, "bob")]
    assert sorted(map(str, written)) == sorted(map(str, expected))
    assert [line for line in lines if line.startswith("bob reads")] == [f"bob reads: ada: {text}" for text in texts[:2]]


def test_an_interrupted_server_records_present_and_vanished_members(tmp_path: Path) -> None:
    with served("chat", folder=tmp_path) as (server, url):
        lobby = f"{url}/rooms/lobby".replace("http", "ws")
        with connect(f"{lobby}/ada", proxy=None) as ada, connect(f"{lobby}/bob", proxy=None) as bob:
            ada.send("hello")
            assert bob.recv(timeout=10) == "ada: hello"
            bob.socket.shutdown(socket.SHUT_RDWR)
            server.interrupt()
            assert ada.recv(timeout=10) == "ada: hello"
    expected = [said("hello"), session(1), session(0, "bob")]
    assert sorted(map(str, events_in(tmp_path / "audit.jsonl"))) == sorted(map(str, expected))
