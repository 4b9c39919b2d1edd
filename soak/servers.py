"""Starts and ends real servers, and checks that their processes are gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.servers.harness import GRANIAN, HYPERCORN, ROOT, UVICORN, ServerKind, free_port

APP = "soak.app:app"
READY_WITHIN = 30.0  # seconds; a cold start takes 2 s on 2 busy cores
POLL_EVERY = 0.005  # seconds

_UVICORN = f"{UVICORN} --no-access-log --log-level warning"
# Every request takes less than a second. hypercorn on trio keeps the connections of streams open for this whole time.
_HYPERCORN = f"{HYPERCORN} trio --graceful-timeout 1 --log-level warning"

SERVERS = (
    ServerKind("uvicorn", f"{_UVICORN} --loop asyncio --http h11", -signal.SIGTERM, 0),
    ServerKind("uvicorn-uvloop", f"{_UVICORN} --loop uvloop --http httptools", -signal.SIGTERM, 0),
    ServerKind("hypercorn-trio", _HYPERCORN, 0, 0),
    ServerKind("granian", f"{GRANIAN} --log-level warning", 0, 0),
)
BY_NAME = {kind.name: kind for kind in SERVERS}


class Server:
    """One server process, with its workers, if any, in a new session.

    :param directory: for the journal and the output
    :param settings: the settings of `add_tasks`
    :param hang: seconds of a hanging task
    :ivar pid: the process that runs the app, as soon as the server is ready
    """

    def __init__(self, kind: ServerKind, directory: Path, settings: Mapping[str, Any], hang: float = 60) -> None:
        self.kind = kind
        self.port = free_port()
        self.pid = 0
        self.journal = directory / "server.journal"
        self._output = directory / "output"
        self.journal.touch()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {"SOAK_JOURNAL": str(self.journal), "SOAK_SETTINGS": json.dumps(settings), "SOAK_HANG": str(hang)}
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                kind.command(APP, self.port),
                cwd=ROOT,
                env={**os.environ, **env, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until the server answers.

        :raises RuntimeError: if the server does not answer in time
        """
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError, HTTPException):
                self.pid = int(self.get("/ready"))
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.kind.name} does not answer:\n{self.output()}")

    def get(self, path: str) -> bytes:
        """Return the body of the answer to one request, on a new connection.

        :raises HTTPException: if the request fails
        """
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != HTTPStatus.OK:
            raise HTTPException(f"GET {path}: {response.status} {body.decode(errors='replace')}")
        return body

    def send(self, number: signal.Signals) -> None:
        """Send a signal as usual: a supervisor signals the first process, a terminal all processes."""
        passes_on = number is signal.SIGINT and self.kind.passes_interrupts_on
        with suppress(ProcessLookupError):
            if number is signal.SIGTERM or passes_on:
                self._process.send_signal(number)
            else:
                os.killpg(self._process.pid, number)

    def wait(self, seconds: float) -> int | None:
        """Wait for the end of the first process and return its exit code; None if it still runs after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def left_over(self, seconds: float = 1.0) -> list[int]:
        """Return the processes that still run `seconds` after the end of the first one."""
        deadline = time.monotonic() + seconds
        while (pids := _session(self._process.pid)) and time.monotonic() < deadline:
            time.sleep(POLL_EVERY)
        return pids

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def close(self) -> None:
        """Kill the remaining processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _session(leader: int) -> list[int]:
    """Return the living processes of a session, without zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, _group, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found.append(int(path.parent.name))
    return found
