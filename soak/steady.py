"""One server for minutes under steady load: do its resources stay flat, how fast are responses, is a task lost?"""

from __future__ import annotations

import json
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
from .memory import rss
from .records import Findings, Terms
from .servers import Server

SETTINGS = {"max_running": 300, "max_pending": 500, "drain_timeout": 1, "shield_timeout": 10}
MENU = Menu(floods=0.02)
CLIENTS = 4
PACE = 0.05  # seconds from one request of a client to the next, so that the two cores have idle time
HANG = 3.0  # seconds of a hanging task, which ends by itself here

QUIET_SHARE = 0.12  # share of the time without load
LEGS = 4  # parts of the load; the server rests after each. The first part is a warm-up
REST_WITHIN = 20.0  # seconds for the tasks of a part to end
FORGOTTEN_WITHIN = 15.0  # seconds; uvicorn keeps the last request of a closed connection for 5 s
SAMPLE_EVERY = 1.0  # seconds
REST_EVERY = 0.1  # seconds
PROBE_EVERY = 0.01  # seconds from one response to the next request
ENDS_WITHIN = 30.0  # seconds

GROWTH = 0.03
"""The relative growth of memory that is allowed from the second quarter to the last one, in addition to MARGIN."""
MARGIN = 2.0  # MiB
THREADS_MORE = 8  # the worker threads of asyncio and trio come and go with the load
FILES_MORE = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """The resources of a server, and the counts of its tasks."""

    rss: float  # MiB
    threads: int
    files: int
    running: int
    waiting: int
    deferred: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a server holds at rest: see `memory.held`."""

    rss: float
    blocks: int
    malloc: float
    objects: int
    library: dict[str, int]

    def more_than(self, other: Held) -> dict[str, int]:
        """Return the additional objects of the library, by class or function."""
        return dict(Counter(self.library) - Counter(other.library))


@dataclass
class Steady:
    """The result of one server.

    :ivar held: before the load, and after each part of the load; once more after malloc has given free memory back
    :ivar quiet, loaded: seconds of responses, without and with tasks in the background
    """

    kind: ServerKind
    seconds: float
    samples: list[Sample] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    quiet: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    directory: Path | None = None

    @property
    def seconds_under_load(self) -> float:
        return self.seconds * (1 - QUIET_SHARE)

    def quarter(self, number: int, name: str) -> float:
        """Return the median of a figure in a quarter of the time, 1 to 4."""
        return median(getattr(sample, name) for sample in self.samples[_slice(len(self.samples), number)])


def _slice(length: int, number: int) -> slice:
    return slice((number - 1) * length // 4, max(number * length // 4, 1))


def percentile(seconds: Sequence[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    return quantiles(seconds, n=100)[percent - 1] * 1000


def run(kind: ServerKind, minutes: float, seed: int, place: Path) -> Steady:
    """Load a server for `minutes`. If a promise was broken, keep its files in `place`."""
    directory = place / kind.name
    directory.mkdir()
    steady = Steady(kind, minutes * 60, directory=directory)
    server = Server(kind, directory, SETTINGS, HANG)
    try:
        server.wait_ready()
        with _probe(server, steady.quiet):
            time.sleep(steady.seconds - steady.seconds_under_load)
        steady.held.append(at_rest(server))
        for leg in range(LEGS):
            with _probe(server, steady.loaded):
                _load(server, steady, directory, f"{seed}-{leg}")
            steady.held.append(at_rest(server, before=steady.held[0]))
        steady.held.append(at_rest(server, before=steady.held[0], trim=True))
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


def at_rest(server: Server, *, before: Held | None = None, trim: bool = False) -> Held:
    """Wait until no task and no thread of a task is left, and return the counts. While the library has more objects
    than `before`, wait for some more seconds.

    :raises RuntimeError: if a task or thread is still there
    """
    deadline = time.monotonic() + REST_WITHIN
    while not json.loads(server.get("/at-rest")):
        if time.monotonic() > deadline:
            raise RuntimeError(f"tasks have no end: {server.get('/counts').decode()}")
        time.sleep(REST_EVERY)
    deadline = time.monotonic() + FORGOTTEN_WITHIN
    while (held := Held(**json.loads(server.get(f"/held?trim={trim}")))) and time.monotonic() < deadline:
        if before is None or not held.more_than(before):
            break
        time.sleep(1)
    return held


def _load(server: Server, steady: Steady, directory: Path, seed: str) -> None:
    seconds = steady.seconds_under_load / LEGS
    settings = {"menu": asdict(MENU), "seed": f"{seed}-{server.kind.name}", "number": CLIENTS, "pace": PACE}
    settings["prefix"] = f"{seed}-"
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
    """Measure the process that runs the app, and read the counts of the host."""
    proc = Path("/proc", str(server.pid))
    counts: dict[str, Any] = json.loads(server.get("/counts"))
    return Sample(
        rss=rss(server.pid),
        threads=len(list((proc / "task").iterdir())),
        files=len(list((proc / "fd").iterdir())),
        **counts,
    )


@contextmanager
def _probe(server: Server, seconds: list[float]) -> Iterator[None]:
    """Request a response without tasks again and again, and note the seconds of each."""
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
    if retained := steady.held[-1].more_than(steady.held[0]):
        steady.findings.add("held", f"at rest the library holds more than before the load: {retained}")
    if steady.answers["broken"]:
        steady.findings.add("connection", f"{steady.answers['broken']} were broken")


def bounds(steady: Steady) -> dict[str, float]:
    """Return the bounds of the last quarter, computed from the second quarter."""
    return {
        "rss": steady.quarter(2, "rss") * (1 + GROWTH) + MARGIN,
        "threads": steady.quarter(2, "threads") + THREADS_MORE,
        "files": steady.quarter(2, "files") + FILES_MORE,
    }
