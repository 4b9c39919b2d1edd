"""A real Redis and real workers, each a process of its own that ends by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.harness import JOURNAL, ROOT, free_port

NAMES = ("redis-server", "valkey-server")
READY_WITHIN = 20.0  # seconds; a worker of Celery starts in about 2 s on 2 cores
POLL_EVERY = 0.02  # seconds; a process outside of the test sends no events

COMMANDS = {
    "taskiq": "taskiq worker tests.queues.programs.{program}:broker --workers 1 --shutdown-timeout 2",
    "celery": "celery -A tests.queues.programs.{program}:app worker --concurrency 1 --loglevel INFO "
    "--without-gossip --without-mingle --without-heartbeat",
}
IS_READY = {"taskiq": "Listening started", "celery": " ready."}


def find_redis() -> str | None:
    """Return the path of a server: of the environment variable REDIS_SERVER, or a command of one of `NAMES`."""
    return os.environ.get("REDIS_SERVER") or next(filter(None, map(shutil.which, NAMES)), None)


def poll(predicate: Callable[[], bool], what: str, timeout: float = READY_WITHIN) -> None:
    """Wait until `predicate()` is true.

    :raises AssertionError: after `timeout` seconds
    """
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, f"{timeout} s have passed without: {what}"
        time.sleep(POLL_EVERY)


class Redis:
    """A server of its own, on a free port, in an empty directory.

    :param durable: True: it keeps in a crash what it has confirmed
    """

    def __init__(self, directory: Path, *arguments: str, durable: bool = False) -> None:
        self.port = free_port()
        self._directory = directory
        log = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        self._arguments = ["--bind", "127.0.0.1", "--save", "", *log, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server, again after `kill()`, and wait until it answers."""
        path = find_redis()
        assert path is not None
        with (self._directory / "redis.log").open("ab") as output:
            self._process = subprocess.Popen(
                [path, "--port", str(self.port), "--dir", str(self._directory), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        poll(self._answers, "an answer of Redis")

    def stop(self) -> None:
        """Have the server hang."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """End `stop()`."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End the server at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def command(self, *words: str) -> bytes:
        """Send one command, and return the answer without its type."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            return connection.recv(65536)[1:].strip()

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"PONG"
        except OSError:
            return False


class Worker:
    """A worker of an engine, with its child processes.

    :param journal: the path of the journal of the app
    :param program: a module of tests/queues/programs
    """

    def __init__(
        self, engine: str, env: Mapping[str, str], journal: Path, directory: Path, program: str = "handed"
    ) -> None:
        self._engine = engine
        self._command = COMMANDS[engine].format(program=program)
        self._env = {**env, JOURNAL: str(journal)}
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._output = directory / "worker.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self._output.read_text(errors="replace")[-8000:])  # noqa: T201  pytest shows it beside the failure
        self.kill()

    def start(self) -> None:
        """Start the worker, and wait until it is ready."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command.split()],
                cwd=ROOT,
                env={**os.environ, **self._env, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        poll(lambda: IS_READY[self._engine] in self._output.read_text(errors="replace"), "a worker that is ready")

    def kill(self) -> None:
        """End the worker and its child processes at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None
