"""`make soak`: hundreds of servers that end at random moments, two under load for minutes, brokers that fail, and
crashes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.servers.harness import ROOT

from . import chaos, crashes, queues, report, steady, tabs
from .records import Findings
from .servers import BY_NAME

PAGE = ROOT / "docs" / "soak.md"
ROUNDS = 224  # 14 of each server and signal
MINUTES = 4.0
SEED = 20
JOBS = 2
STEADY = ("uvicorn-uvloop", "hypercorn-trio")
SHOWN = 5  # violations of one run


def main() -> int:
    """Run everything; return 1 if a promise was broken."""
    arguments = parse(sys.argv[1:])
    began = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    result = report.Result(arguments.seed)
    for outcome in chaos.run(arguments.seed, range(arguments.rounds), place, arguments.jobs):
        result.rounds.append(outcome)
        tell_round(outcome, len(result.rounds), arguments.rounds)
    for name in STEADY if arguments.minutes > 0 else ():
        print(f"{name}: {arguments.minutes:g} minutes under load", flush=True)
        result.steady.append(steady.run(BY_NAME[name], arguments.minutes, arguments.seed, place))
        tell_violations(result.steady[-1].findings, result.steady[-1].directory)
    result.tabs = tabs.run_all(arguments.seed, arguments.tabs)
    result.queues = queues.run_all(arguments.seed, arguments.queues)
    result.crashes = crashes.run_all(arguments.seed, arguments.crashes)
    result.seconds = time.monotonic() - began
    print(text := report.page(result))
    is_whole = arguments.rounds >= ROUNDS and arguments.minutes >= MINUTES and arguments.crashes >= crashes.ROUNDS
    if is_whole and len(result.queues) >= queues.ROUNDS:
        PAGE.write_text(text)
        print(f"written: docs/{PAGE.name}")
    else:
        print(
            f"docs/{PAGE.name} is left as it is: it takes {ROUNDS} rounds, {MINUTES:g} minutes, "
            f"{queues.ROUNDS} rounds with queues and {crashes.ROUNDS} crashes, or more"
        )
    if result.violations:
        print(f"{result.violations} promises were broken; the journals are in {place}")
        return 1
    place.rmdir()
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser("python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="steady load of each server; 0: no steady load")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="number of servers to end at a random moment")
    parser.add_argument("--queues", type=int, default=queues.ROUNDS, help="number of rounds with brokers that fail")
    parser.add_argument(
        "--tabs", type=int, default=tabs.ROUNDS, help="rounds of each server with tabs of the inspector"
    )
    parser.add_argument("--crashes", type=int, default=crashes.ROUNDS, help="number of crashes of apps with a journal")
    parser.add_argument("--seed", type=int, default=SEED, help="for the clients' requests and the times of the signals")
    parser.add_argument("--jobs", type=int, default=JOBS, help="rounds at the same time")
    return parser.parse_args(arguments)


def tell_round(outcome: chaos.Outcome, done: int, total: int) -> None:
    this, findings = outcome.round, outcome.findings
    print(
        f"{done}/{total} {this.server}, {this.ending}: {findings.accepted} tasks, {outcome.ending}, "
        f"gone after {outcome.took:.2f} s with {outcome.code}",
        flush=True,
    )
    tell_violations(findings, outcome.directory)


def tell_violations(findings: Findings, directory: Path | None) -> None:
    for violation in findings.violations[:SHOWN]:
        print(f"  BROKEN {violation}")
    if findings.violations:
        print(f"  {len(findings.violations)} in all; the journals are in {directory}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
