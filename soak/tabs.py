"""Rounds with three open tabs of the inspector: each server gets SIGTERM at a random moment of their event streams.

`python -m soak.tabs` runs only these, and writes their part of the page.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import httpx
from tests.servers.harness import ANSWER_WITHIN, ROOT, SERVERS, Server, ServerKind

APP = "tests.servers.apps.inspected:app"
PAGE = ROOT / "docs" / "soak.md"
HEADING = "## With open tabs of the inspector"
NEXT_HEADING = "## Under steady load"

TABS = 3
ROUNDS = 5  # of each server
SEED = 20
RETRY = 0.5  # seconds from the end of a stream to the next one, as the page has it
LONGEST = 3.0  # seconds from the first event to the signal: two streams
BOUND = 4.0  # seconds from SIGTERM to the end


@dataclass
class Round:
    """What happened in one round.

    :ivar streams: the number of streams that were opened before the signal
    :ivar took: seconds from SIGTERM to the end of the server
    """

    server: str
    streams: int = 0
    took: float = 0.0
    broken: list[str] = field(default_factory=list)


class Tab:
    """Reads the event streams one after another until the server is gone, as the page of the inspector does."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.streams = 0
        self.has_begun = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Wait for the end of the last stream."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        cursor = ""
        with httpx.Client(base_url=self._url, timeout=ANSWER_WITHIN, trust_env=False) as client:
            while not self._is_over.is_set():
                try:
                    with client.stream("GET", "/_tasks/events", params={"after": cursor}) as response:
                        self.streams += 1
                        for line in response.iter_lines():
                            self.has_begun.set()
                            if line.startswith("id: "):
                                cursor = line.removeprefix("id: ")
                except httpx.TransportError:  # the server ends
                    pass
                self._is_over.wait(RETRY)


def run(seed: int, rounds: int) -> Iterator[Round]:
    """Run the rounds, the servers in turn."""
    for number in range(rounds * len(SERVERS)):
        yield run_round(SERVERS[number % len(SERVERS)], Random(f"{seed}-tabs-{number}").uniform(0, LONGEST))


def run_round(kind: ServerKind, load: float) -> Round:
    """Run one round. `load`: seconds from the first event of each tab to the signal."""
    outcome = Round(kind.name)
    with Server(kind, APP) as server:
        server.post("/waits").raise_for_status()
        tabs = [Tab(server.base_url) for _ in range(TABS)]
        try:
            for tab in tabs:
                if not tab.has_begun.wait(ANSWER_WITHIN):
                    outcome.broken.append("a tab has got no event")
            end = time.monotonic() + load
            while time.monotonic() < end:
                server.post("/orders/7").raise_for_status()
                time.sleep(0.05)
            outcome.streams = sum(tab.streams for tab in tabs)
            _end(server, outcome)
        finally:
            for tab in tabs:
                tab.close()
    return outcome


def _end(server: Server, outcome: Round) -> None:
    began = time.monotonic()
    server.term()
    try:
        code = server.wait()
    except AssertionError as error:
        outcome.broken.append(str(error))
        return
    outcome.took = time.monotonic() - began
    if code != server.kind.exit_after_term:
        outcome.broken.append(f"the exit code is {code}")
    if outcome.took > BOUND:
        outcome.broken.append(f"the end took {outcome.took:.2f} s")
    if server.events("") != ["down"]:
        outcome.broken.append("the lifespan of the app has not ended")
    if "Traceback" in server.output():
        outcome.broken.append("the server has printed a traceback")


def run_all(seed: int, rounds: int) -> list[Round]:
    """Run and print the rounds."""
    outcomes: list[Round] = []
    for outcome in run(seed, rounds):
        outcomes.append(outcome)
        print(
            f"{len(outcomes)}/{rounds * len(SERVERS)} {outcome.server}, {TABS} tabs: {outcome.streams} streams, gone "
            f"after {outcome.took:.2f} s",
            flush=True,
        )
        for line in outcome.broken:
            print(f"  BROKEN {line}", flush=True)
    return outcomes


def section(outcomes: Sequence[Round]) -> str:
    """Return the part of the page."""
    if not outcomes:
        return ""
    lines = ["| server | rounds | streams | fastest end, s | slowest end, s | violations |", f"|{' --- |' * 6}"]
    for name in dict.fromkeys(outcome.server for outcome in outcomes):
        some = [outcome for outcome in outcomes if outcome.server == name]
        times = [outcome.took for outcome in some]
        cells = (len(some), sum(each.streams for each in some), f"{min(times):.2f}", f"{max(times):.2f}")
        lines.append(f"| {' | '.join(map(str, (name, *cells, sum(len(each.broken) for each in some))))} |")
    table = "\n".join(lines)
    return f"""{HEADING}

{TABS} tabs read the [event stream](how-to/observability.md) of the inspector while clients order tasks. At a random
moment the server gets SIGTERM. A server waits for its open streams, and a stream ends by itself. The bound: the server
ends within {BOUND:g} s, with its documented exit code and without a traceback, and the lifespan of the app ends before.

{table}
"""


def main() -> int:
    """Run the rounds, and replace their part of the page."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    outcomes = run_all(SEED, rounds)
    print(text := section(outcomes))
    if rounds >= ROUNDS:
        before, _, after = PAGE.read_text().partition(NEXT_HEADING)
        PAGE.write_text(before.partition(HEADING)[0] + text + "\n" + NEXT_HEADING + after)
        print(f"written: docs/{PAGE.name}")
    return int(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
