"""examples/trio_tcp_server.py: accepted lines are stored, whether the clients or the server end first."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from examples import trio_tcp_server
from tests.backends import TRIO
from tests.examples.programs import EXAMPLES, started

pytestmark = pytest.mark.parametrize("anyio_backend", TRIO, indirect=True)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The output of the example."""
    printed: list[str] = []

    def keep(line: str, flush: bool) -> None:
        printed.append(line)

    monkeypatch.setattr(trio_tcp_server, "print", keep, raising=False)
    return printed


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """Serve on a free port, and yield it. Left, the server was told to stop, and has."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(trio_tcp_server.serve, 0)
        nursery.cancel_scope.cancel()


async def say(stream: trio.SocketStream, line: str) -> str:
    """Send a line and return the next one."""
    await stream.send_all(f"{line}\n".encode())
    return (await stream.receive_some()).decode()


async def test_each_line_is_counted_before_it_is_answered_and_stored_afterwards_g1(printed: list[str]) -> None:
    async with serving() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        assert await say(stream, "hello") == "hello\n"
        assert printed[-1] == "after_route: counted 'hello'"
        assert await say(stream, "save a poem") == "accepted\n"
        assert "after_route: counted 'save a poem'" in printed
        assert "after_response: stored 'a poem'" not in printed
    assert printed[-1] == "after_response: stored 'a poem'"


class Pieces:
    """A stream that yields these chunks, one at a time."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    async def receive_some(self) -> bytes:
        return next(self._pieces, b"")


async def test_lines_may_come_in_pieces_or_together() -> None:
    stream, buffer = Pieces(b"he", b"llo\nand ", b"good bye\r\nquit\nno line end"), bytearray()
    lines = [await trio_tcp_server.read_line(stream, buffer) for _ in range(4)]  # type: ignore[arg-type]
    assert lines == ["hello", "and good bye", "quit", None]


async def test_a_client_who_quits_or_sends_no_line_end_is_cut_off(printed: list[str]) -> None:
    async with serving() as port:
        for last_words in (b"quit\n", b"x" * 2000):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(last_words)
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""


async def test_accepted_lines_are_stored_though_client_and_server_leave_at_once_g9_g11(printed: list[str]) -> None:
    async with serving() as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        assert await say(stream, "save a poem") == "accepted\n"
        await trio.aclose_forcefully(stream)
    assert printed[-1] == "after_response: stored 'a poem'"


# Without a goodbye: closing then sends a reset.
RUDE = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_clients_who_are_gone_before_they_are_greeted_do_not_end_the_server(printed: list[str]) -> None:
    async with serving() as port:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as rude:
                rude.setsockopt(*RUDE)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert await say(stream, "hello") == "hello\n"


async def test_a_client_who_is_gone_in_the_middle_does_not_end_the_server(printed: list[str]) -> None:
    async with serving() as port:
        rude = await trio.open_tcp_stream("127.0.0.1", port)
        rude.setsockopt(*RUDE)
        assert await say(rude, "save a poem") == "accepted\n"
        await trio.aclose_forcefully(rude)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert await say(stream, "hello") == "hello\n"
    assert "after_response: stored 'a poem'" in printed


def test_an_interrupted_server_stores_the_accepted_lines(anyio_backend: object) -> None:
    with started(str(EXAMPLES / "trio_tcp_server.py"), "0") as server:
        port = int(server.until("listening on port").split()[-1])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client, client.makefile("rw") as lines:
            print("save a poem", file=lines, flush=True)
            assert lines.readline() == "accepted\n"
            server.until("storing 'a poem'")
            server.interrupt()
            assert server.end()[-3:] == [
                "shutting down",
                "after_response: stored 'a poem'",
                "closed: nothing of it is alive",
            ]
