"""Run a real server in a new process, read the journal of its app, and end the server by its pid.

The app under test writes events with `record`; the test reads them as `Record`s. Both sides of the file format are
here. Each wait has a deadline, and its error shows the events so far.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import randrange
from types import TracebackType
from typing import Self

import httpx

ROOT = Path(__file__).resolve().parents[2]
JOURNAL = "TASKS_JOURNAL"  # environment variable: the path of the journal

READY_WITHIN = 20.0  # seconds; a cold start takes about 1 s on 2 cores
ANSWER_WITHIN = 10.0  # seconds for one request, or for an event to reach the journal
POLL_EVERY = 0.01  # seconds; an observer outside of the process is sent no events


def record(event: str, subject: str = "") -> None:
    """Write one line into the journal: the time, the event, and its subject. Neither may contain a space.

    Unbuffered and in one write, so that lines of several threads do not mix, and a kill right after the call loses
    nothing.
    """
    line = f"{time.monotonic()!r} {event} {subject}\n".encode()
    file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal. `at`: `time.monotonic()` in seconds, shared by all processes of a machine."""

    at: float
    event: str
    subject: str

    @classmethod
    def parse(cls, line: str) -> Record:
        at, event, subject = line.split(" ")
        return cls(float(at), event, subject)

    def __str__(self) -> str:
        return f"{self.event} {self.subject}".rstrip()


@dataclass(frozen=True, slots=True)
class ServerKind:
    """The command for one kind of server, and the expected end.

    The exit codes were measured (uvicorn 0.54, hypercorn 0.18, granian 2.8). A negative code is a signal's number.
    """

    name: str
    arguments: str
    exit_after_term: int
    exit_after_interrupt: int

    @property
    def passes_interrupts_on(self) -> bool:
        """Whether SIGINT must go only to the first process, which tells the others. A worker of granian that gets two
        signals during a request may hang with all of its threads, with any app (see docs/shutdown.md).
        """
        return self.name == "granian"

    def command(self, app: str, port: int) -> list[str]:
        return [sys.executable, "-m", *self.arguments.format(app=app, port=port).split()]


UVICORN = "uvicorn {app} --port {port} --workers 1"
# hypercorn starts a worker process also for a single worker. `--workers 0` would run the app in the first
# process, but with trio SIGTERM then kills it at once, without any lifespan shutdown.
HYPERCORN = "hypercorn {app} --bind 127.0.0.1:{port} --workers 1 --worker-class"
GRANIAN = "granian {app} --interface asgi --port {port} --workers 1"

SERVERS = (
    # uvicorn raises a SIGTERM again, with the default handler, as soon as lifespan shutdown is over; for
    # SIGINT that is a KeyboardInterrupt, which its command line catches.
    ServerKind("uvicorn", UVICORN, -signal.SIGTERM, 0),
    ServerKind("uvicorn-asyncio-h11", f"{UVICORN} --loop asyncio --http h11", -signal.SIGTERM, 0),
    ServerKind("hypercorn-asyncio", f"{HYPERCORN} asyncio", 0, 0),
    ServerKind("hypercorn-trio", f"{HYPERCORN} trio", 0, 0),
    ServerKind("granian", GRANIAN, 0, 0),
)


# Each process of pytest-xdist has 4,000 ports of its own, so that no two tests take the same port. The system gives
# connections only ports from 32,768 on. The first number is random: another pytest may run on the machine.
_FIRST_PORT = 12_000 + 4_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 5)
_numbers = count(randrange(4_000))


def free_port() -> int:
    """Return a port on which no process listens, and that this function has not returned for a long time."""
    while True:
        port = _FIRST_PORT + next(_numbers) % 4_000
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """A server that answers between `__enter__` and `__exit__`, unless the test ends it earlier.

    :param kind: one of `SERVERS`
    :param app: the import path of the ASGI app, from the root of the repository; it has to answer `GET /ready`
    :param env: additions to this process's environment
    :param is_to_answer: False for an app that should be refused: `__enter__` then waits for nothing
    """

    def __init__(
        self, kind: ServerKind, app: str, env: Mapping[str, str] | None = None, *, is_to_answer: bool = True
    ) -> None:
        self.kind = kind
        self._is_to_answer = is_to_answer
        self._port = free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"
        self._command = kind.command(app, self._port)
        self._env = dict(env or {})

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="taskphase-server-")
        self._journal = Path(self._directory.name, "journal")
        self._output = Path(self._directory.name, "output")
        self._journal.touch()
        # The environment's proxies are not for loopback.
        self.client = httpx.Client(base_url=self.base_url, timeout=ANSWER_WITHIN, trust_env=False)
        self._process = self._start()
        try:
            if self._is_to_answer:
                self._poll(self._answers, READY_WITHIN, "an answer to GET /ready")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.report())  # noqa: T201  pytest shows it beside the failure
        self._close()

    @property
    def journal_path(self) -> Path:
        """The journal, for other processes of the same app."""
        return self._journal

    @property
    def pid(self) -> int:
        """The first process of the server, as a supervisor sees it; workers have other pids."""
        return self._process.pid

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def post(self, path: str) -> httpx.Response:
        return self.client.post(path)

    def term(self) -> None:
        """Send SIGTERM to the first process only, as a supervisor does."""
        self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the first process only."""
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """Send SIGINT to every process of the server, like Ctrl-C in a terminal; or only to a first process that passes
        it on.
        """
        if self.kind.passes_interrupts_on:
            self.send(signal.SIGINT)
        else:
            os.killpg(self.pid, signal.SIGINT)

    def start_again(self) -> None:
        """Start the server again after its end: another process on the same port."""
        self._process = self._start()
        self._poll(self._answers, READY_WITHIN, "an answer to GET /ready")

    def wait(self, timeout: float = ANSWER_WITHIN) -> int:
        """Wait for the end of the first process and return its exit code, negative for a signal."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s\n{self.report()}") from None

    def output(self) -> str:
        """Return the server's output so far, on stdout and stderr."""
        return self._output.read_text(errors="replace")

    def journal(self) -> list[Record]:
        """Return the app's records so far, in the order of writing."""
        lines = self._journal.read_text().splitlines(keepends=True)
        # The line that is being written at this moment has no end yet.
        return [Record.parse(line.removesuffix("\n")) for line in lines if line.endswith("\n")]

    def events(self, subject: str) -> list[str]:
        """Return the events about one subject, in order."""
        return [entry.event for entry in self.journal() if entry.subject == subject]

    def wait_for(self, *wanted: str, timeout: float = ANSWER_WITHIN) -> None:
        """Wait until each of the given lines ("event subject") is in the journal.

        :raises AssertionError: if a line is missing after `timeout` seconds, or after the end of the server
        """

        def is_there() -> bool:
            return set(wanted) <= {str(entry) for entry in self.journal()}

        self._poll(is_there, timeout, ", ".join(wanted))

    def wait_for_output(self, wanted: str, timeout: float = ANSWER_WITHIN) -> None:
        """Wait for this output of the server.

        :raises AssertionError: if the output is missing after `timeout` seconds, or after the end of the server
        """
        self._poll(lambda: wanted in self.output(), timeout, f"{wanted!r} in the output")

    def report(self) -> str:
        """Describe the server for a failure's message: state, journal, output."""
        journal = "\n".join(f"  {entry.at:.3f} {entry}" for entry in self.journal())
        state = "running" if (code := self._process.poll()) is None else f"exit code {code}"
        return f"{self.kind.name}: {state}\njournal:\n{journal}\noutput:\n{self.output()}"

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, **self._env, "PYTHONPATH": path, JOURNAL: str(self._journal)}
        with self._output.open("wb") as output:
            # A new session: a kill of its process group includes the workers.
            return subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        try:
            # hypercorn and granian listen before their worker can answer: such a connection is given up soon.
            return self.client.get("/ready", timeout=2).is_success
        except httpx.TransportError:
            return False

    def _poll(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while True:
            ended = self._process.poll() is not None  # read before the journal: lines from before the end still count
            if predicate():
                return
            if ended or time.monotonic() > deadline:
                why = "the server has ended" if ended else f"{timeout} s have passed"
                raise AssertionError(f"{why} without: {what}\n{self.report()}")
            time.sleep(POLL_EVERY)

    def _close(self) -> None:
        self.client.close()
        with suppress(ProcessLookupError):  # the server and its workers have ended
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(ANSWER_WITHIN)
        self._directory.cleanup()


def assert_order(seen: list[str], *expected: str) -> None:
    """Assert that each of the expected is in `seen` exactly once, in this order. Others may lie between."""
    of_interest = [name for name in seen if name in expected]
    assert of_interest == list(expected), f"all of it: {seen}"
