"""A broker that takes connections, and says nothing."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self


class SilentBroker:
    """Listens on a free port.

    :param hangs: False: it closes each connection at once
    :ivar connections: the number of connections so far
    """

    def __init__(self, *, hangs: bool) -> None:
        self.connections = 0
        self._hangs = hangs
        self._taken: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # `close()` does not wake `accept()`
        self._listening.close()
        self._thread.join()
        for each in self._taken:
            each.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            if self._hangs:
                self._taken.append(connection)
            else:
                connection.close()
