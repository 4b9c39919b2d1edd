"""One server for minutes under steady load: does what it uses stay flat, how long do responses take, is a task lost?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.servers.harness import ROOT, ServerKind

from .checker import check
from .journal import read
from .kinds import Menu
from .records import Findings, Terms
from .servers import Server

SETTINGS = {"max_running": 300, "max_pending": 500, "drain_timeout": 1, "shield_timeout": 10}
MENU = Menu(floods=0.02)
CLIENTS = 4
PACE = 0.05  # seconds from one request of a client to the next: the two cores have time left over
HANG = 3.0  # seconds of a task that hangs: here it ends by itself

QUIET_SHARE = 0.12  # of the time, in which there is no load
SAMPLE_EVERY = 1.0  # seconds
PROBE_EVERY = 0.01  # seconds from one response to the next request
ENDS_WITHIN = 30.0  # seconds

GROWTH = 0.03
"""By how much of itself memory may grow from the second quarter to the last one; MARGIN more are allowed."""
MARGIN = 2.0  # MiB
THREADS_MORE = 8  # the worker threads of asyncio and trio come and go with the load
FILES_MORE = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server uses, and the tasks that it has."""

    rss: float  # MiB
    threads: int
    files: int
    running: int
    waiting: int
    deferred: int


@dataclass
class Steady:
    """What came of one server.

    :ivar quiet, loaded: seconds that a response took, without and with tasks in the background
    """

    kind: ServerKind
    seconds: float
    samples: list[Sample] = field(default_factory=list)
    quiet: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    directory: Path | None = None

    def quarter(self, number: int, name: str) -> float:
        """Return the median of a figure in one of the four quarters of the time, 1 to 4."""
        return median(getattr(sample, name) for sample in self.samples[_slice(len(self.samples), number)])


def _slice(length: int, number: int) -> slice:
    return slice((number - 1) * length // 4, max(number * length // 4, 1))


def percentile(seconds: Sequence[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    return quantiles(seconds, n=100)[percent - 1] * 1000


def run(kind: ServerKind, minutes: float, seed: int, place: Path) -> Steady:
    """Keep a server under load for so long, and leave its files in `place` if a promise was broken."""
    directory = place / kind.name
    directory.mkdir()
    steady = Steady(kind, minutes * 60, directory=directory)
    server = Server(kind, directory, SETTINGS, HANG)
    try:
        server.wait_ready()
        with _probe(server, steady.quiet):
            time.sleep(steady.seconds * QUIET_SHARE)
        with _probe(server, steady.loaded):
            _load(server, steady, directory, seed)
        server.send(signal.SIGTERM)
        code = server.wait(ENDS_WITHIN)
    finally:
        server.close()
    _check(server, steady, directory)
    if code != kind.exit_after_term:
        steady.findings.add("code", f"the exit code is {code}")
    if not steady.findings.violations:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        steady.directory = None
    return steady


def _load(server: Server, steady: Steady, directory: Path, seed: int) -> None:
    seconds = steady.seconds * (1 - QUIET_SHARE)
    settings = {"menu": asdict(MENU), "seed": f"{seed}-{server.kind.name}", "number": CLIENTS, "pace": PACE}
    clients = directory / "clients.journal"
    command = [sys.executable, "-m", "soak.clients", str(server.port), str(clients), str(seconds), json.dumps(settings)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(SAMPLE_EVERY)
            steady.samples.append(sample(server))
        process.wait(ENDS_WITHIN)
    finally:
        process.kill()
        process.wait()


def sample(server: Server) -> Sample:
    """Look at the process that runs the app, and ask it for its counts."""
    proc = Path("/proc", str(server.pid))
    pages = int((proc / "statm").read_text().split()[1])
    counts: dict[str, Any] = json.loads(server.get("/counts"))
    return Sample(
        rss=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        threads=len(list((proc / "task").iterdir())),
        files=len(list((proc / "fd").iterdir())),
        **counts,
    )


@contextmanager
def _probe(server: Server, seconds: list[float]) -> Iterator[None]:
    """Ask for a response without tasks, again and again, and note how long each takes."""
    stop = threading.Event()

    def probe() -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
        while not stop.wait(PROBE_EVERY):
            began = time.perf_counter()
            connection.request("GET", "/ping")
            connection.getresponse().read()
            seconds.append(time.perf_counter() - began)
        connection.close()

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _check(server: Server, steady: Steady, directory: Path) -> None:
    clients = list(read(directory / "clients.journal"))
    steady.answers = Counter(event.fields[1] if event.name == "answered" else event.name for event in clients)
    terms = Terms(
        "graceful", True, "trio" not in server.kind.name, SETTINGS["drain_timeout"], SETTINGS["shield_timeout"]
    )
    steady.findings = check(read(server.journal), clients, terms)
    for name, bound in bounds(steady).items():
        if steady.quarter(4, name) > bound:
            grown = f"{steady.quarter(2, name):.1f} to {steady.quarter(4, name):.1f}"
            steady.findings.add("flat", f"{name} has grown from {grown}; the bound is {bound:.1f}")
    if steady.answers["broken"]:
        steady.findings.add("connection", f"{steady.answers['broken']} were broken")


def bounds(steady: Steady) -> dict[str, float]:
    """Return what the figures may be in the last quarter, given those of the second one."""
    return {
        "rss": steady.quarter(2, "rss") * (1 + GROWTH) + MARGIN,
        "threads": steady.quarter(2, "threads") + THREADS_MORE,
        "files": steady.quarter(2, "files") + FILES_MORE,
    }
