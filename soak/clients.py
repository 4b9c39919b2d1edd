"""Concurrent clients of one server, on loopback. Each client is a thread with its own connection, and keeps a journal.

`python -m soak.clients` runs the clients in their own process, so that they do not disturb measurements.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from .journal import Journal
from .kinds import CLOSED, Menu, Visit, encode

ANSWER_WITHIN = 10.0  # seconds
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@dataclass
class Clients:
    """Clients that send one request after the other, each at its own pace, until they are stopped.

    :param prefix: the prefix of the request names
    :param pace: seconds from one request of a client to its next one; 0: as fast as the server answers
    """

    port: int
    journal: Path
    menu: Menu
    seed: str
    number: int = 4
    pace: float = 0.0
    prefix: str = ""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._file = Journal(self.journal)
        self._threads = [threading.Thread(target=self._run, args=[name]) for name in range(self.number)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the clients finish their current requests, and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._file.close()

    def _run(self, name: int) -> None:
        random = Random(f"{self.seed}-{name}")
        connection = self._connect()
        count, due = 0, time.monotonic()
        while not self._stop.is_set():
            count += 1
            request = f"{self.prefix}{name}.{count}"
            try:
                if not self._visit(connection, request, self.menu.draw(random), random):
                    connection = self._connect()
            except (OSError, HTTPException):
                self._file.write("broken", request)
                connection.close()
                connection = self._connect()
                self._stop.wait(0.02)
            due = max(due + self.pace * random.uniform(0.5, 1.5), time.monotonic())
            self._stop.wait(due - time.monotonic())
        connection.close()

    def _connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_WITHIN)

    def _visit(self, connection: HTTPConnection, request: str, visit: Visit, random: Random) -> bool:
        """Make one request; return whether the connection can be used again."""
        if visit.is_session:
            self._converse(request, visit)
            return True
        connection.request("POST", f"/{visit.path}?r={request}&plan={encode(visit.orders)}")
        if visit.leaves_after is not None:
            time.sleep(visit.leaves_after)
            if random.random() < 0.5:
                with suppress(OSError):
                    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.close()
            self._file.write("gone", request)
            return False
        response = connection.getresponse()
        body = response.read()
        self._file.write("answered", request, response.status, int(body) if response.status == 200 else 0)
        return True

    def _converse(self, request: str, visit: Visit) -> None:
        """Open a websocket session, and wait until the server closes the session."""
        address = f"ws://127.0.0.1:{self.port}/{visit.path}?r={request}&plan={encode(visit.orders)}"
        count = "0"
        try:
            with connect(address, proxy=None, open_timeout=ANSWER_WITHIN, close_timeout=ANSWER_WITHIN) as session:
                session.send("order")
                while True:
                    count = str(session.recv(timeout=ANSWER_WITHIN))
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd is not None else 0
            if code in CLOSED:
                self._file.write("answered", request, CLOSED[code], count if code == 1000 else 0)
            else:
                self._file.write("broken", request)
        except (InvalidHandshake, TimeoutError) as error:
            raise HTTPException(str(error)) from error


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("journal", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("settings", type=json.loads)
    arguments = parser.parse_args()
    settings: dict[str, Any] = arguments.settings
    clients = Clients(arguments.port, arguments.journal, Menu(**settings.pop("menu")), **settings)
    clients.start()
    time.sleep(arguments.seconds)
    clients.stop()


if __name__ == "__main__":
    main()
