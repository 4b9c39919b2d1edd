"""Short rounds: start a server, load it, end it at a random moment, and check its journal."""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.servers.harness import ServerKind

from .checker import check
from .clients import Clients
from .journal import read
from .kinds import Menu
from .records import Findings, Terms
from .servers import BY_NAME, SERVERS, Server

ENDS_WITHIN = 20.0  # seconds from the signal to the end of the process; the drain takes at most 2 s
UNLIMITED: dict[str, Any] = {}
LIMITED = {"max_running": 60, "max_pending": 300}

TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL
SIGNALS = {"SIGTERM": (TERM,), "SIGINT": (INT,), "SIGINT twice": (INT, INT), "SIGKILL": (KILL,)}


@dataclass(frozen=True)
class Round:
    """The parameters of a round, all drawn from its seed.

    :ivar load: seconds from the first request to the signal
    :ivar pause: seconds from the first signal to the second
    """

    number: int
    seed: str
    server: str
    ending: str
    load: float
    pause: float
    clients: int
    limits: dict[str, Any]
    drain_timeout: float
    shield_timeout: float | None

    @classmethod
    def draw(cls, seed: int, number: int) -> Round:
        """Return round `number`. Each server meets each signal equally often."""
        random = Random(f"{seed}-{number}")
        return cls(
            number=number,
            seed=f"{seed}-{number}",
            server=SERVERS[number % len(SERVERS)].name,
            ending=list(SIGNALS)[number // len(SERVERS) % len(SIGNALS)],
            load=random.uniform(0.2, 1.5),
            pause=random.uniform(0, random.choice((0.15, 0.6))),
            clients=random.randint(2, 8),
            limits=random.choice((UNLIMITED, UNLIMITED, LIMITED)),
            drain_timeout=random.choice((0, 0, 0.2)),
            shield_timeout=random.choice((None, 0.5)),
        )

    @property
    def kind(self) -> ServerKind:
        return BY_NAME[self.server]

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.limits, "drain_timeout": self.drain_timeout, "shield_timeout": self.shield_timeout}

    @property
    def menu(self) -> Menu:
        return Menu(floods=0.1 if self.limits else 0, hangs_shielded=self.shield_timeout is not None)

    def terms(self, ending: str) -> Terms:
        """Return the facts that the checker needs."""
        return Terms(
            ending, bool(self.limits), "trio" not in self.server, float(self.drain_timeout), self.shield_timeout
        )


@dataclass
class Outcome:
    """The result of a round.

    :ivar ending: "graceful", "forced" or "killed"
    :ivar answers: the counts of the clients' answers, by status, "gone" or "broken"
    :ivar took: seconds from the signal to the end of the process
    :ivar signalled: the time of the signal, in nanoseconds
    """

    round: Round
    ending: str = "killed"
    findings: Findings = field(default_factory=Findings)
    answers: Counter[str] = field(default_factory=Counter)
    took: float = 0.0
    signalled: int = 0
    code: int | None = None
    directory: Path | None = None


def run_round(this: Round, place: Path) -> Outcome:
    """Run one round. If a promise was broken, keep the files in a new directory in `place`."""
    directory = Path(tempfile.mkdtemp(prefix=f"round-{this.number}-", dir=place))
    outcome = Outcome(this, directory=directory)
    server = Server(this.kind, directory, this.settings)
    try:
        server.wait_ready()
        _load_and_end(this, server, directory, outcome)
        outcome.findings = _check(this, server, directory, outcome)
    except RuntimeError as error:
        outcome.findings.add("start", error)
    finally:
        server.close()
    if not outcome.findings.violations:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        outcome.directory = None
    return outcome


def _load_and_end(this: Round, server: Server, directory: Path, outcome: Outcome) -> None:
    clients = Clients(server.port, directory / "clients.journal", this.menu, this.seed, this.clients)
    clients.start()
    try:
        time.sleep(this.load)
        began = time.monotonic()
        outcome.signalled = time.monotonic_ns()
        first, *others = SIGNALS[this.ending]
        server.send(first)
        for number in others:
            time.sleep(this.pause)
            server.send(number)
        outcome.code = server.wait(ENDS_WITHIN)
        outcome.took = time.monotonic() - began
    finally:
        if outcome.code is None:
            server.close()
        clients.stop()


def _check(this: Round, server: Server, directory: Path, outcome: Outcome) -> Findings:
    outcome.ending = ending_of(this, server)
    clients = list(read(directory / "clients.journal"))
    outcome.answers = Counter(event.fields[1] if event.name == "answered" else event.name for event in clients)
    findings = check(read(server.journal), clients, this.terms(outcome.ending))
    for event in clients:
        if event.name == "broken" and event.at < outcome.signalled:
            findings.add("connection", f"that of request {event.fields[0]} was broken before the signal")
    if outcome.code is None:
        findings.add("bound", f"the server is still there after {ENDS_WITHIN} s")
    elif outcome.code not in expected_codes(this, outcome.ending):
        findings.add("code", f"the exit code is {outcome.code}")
    if outcome.code is not None and (pids := server.left_over()):
        findings.add("bound", f"{len(pids)} processes of the server are still there")
    if outcome.ending == "graceful":
        _check_output(server.output(), findings)
    return findings


def ending_of(this: Round, server: Server) -> str:
    """Return how the server has ended. uvicorn ends without a shutdown if a second SIGINT comes while uvicorn waits for
    requests; a later one changes nothing. hypercorn and granian ignore a second SIGINT.
    """
    if this.ending == "SIGKILL":
        return "killed"
    if this.ending == "SIGINT twice" and "uvicorn" in this.server:
        return "graceful" if any(event.name == "asked" for event in read(server.journal)) else "forced"
    return "graceful"


def expected_codes(this: Round, ending: str) -> set[int]:
    """Return the documented exit codes."""
    if ending == "killed":
        return {-KILL}
    if this.ending == "SIGINT twice" and "hypercorn" not in this.server:
        # uvicorn raises both signals again, so the exit code depends on the place that the second one hits. It may end
        # granian's first process while Python shuts down, when the process has nothing left to do.
        return {0, -INT}
    return {this.kind.exit_after_term if this.ending == "SIGTERM" else this.kind.exit_after_interrupt}


def _check_output(output: str, findings: Findings) -> None:
    for sign in ("Traceback", "never retrieved", "never awaited"):
        if sign in output:
            findings.add("output", f"the server's output has {sign!r}")


def run(seed: int, numbers: Iterable[int], place: Path, jobs: int) -> Iterator[Outcome]:
    """Run rounds, `jobs` at a time, and yield their results."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(partial(run_round, place=place), (Round.draw(seed, number) for number in numbers))
