"""Plant each bug in a copy of the repository, run the properties there, and report the test that notices the bug.

`python -m property_tests.mutants [--only NAME] [--jobs N] [--tests PATH ...]`; the first test that fails, hangs or
crashes kills a mutant. The exit code is 1 if a mutant survives without a `reason` in its file.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import sleep

from property_tests.mutants.planted import Mutant, planted
from property_tests.mutants.trial import ROOT, Outcome, Trial, copy_tree

ALL = ["property_tests"]

# Limit for the properties of the unchanged code, in seconds of CPU time.
_LONGEST = 3600.0


def measure(pristine: Path, tests: Sequence[str]) -> float:
    """Run the unchanged properties, which have to pass. Return the CPU seconds that a run with a bug may take."""
    trial = Trial(pristine, tests, _LONGEST)
    try:
        while (outcome := trial.outcome()) is None:
            sleep(0.1)
        if outcome.by is not None:
            sys.exit(f"{trial.text()}\nwithout any bug planted this fails: {outcome.by}")
    finally:
        trial.stop()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime
    print(f"the unchanged code passes in {outcome.seconds:.0f} s, {seconds:.0f} s of them on a processor", flush=True)
    return 3 * seconds + 30


class Planted:
    """A mutant in its own copy, under trial: first with the test that is known to notice it, then with all tests."""

    def __init__(self, mutant: Mutant, pristine: Path, tests: Sequence[str], limit: float) -> None:
        self.mutant = mutant
        self._folder = tempfile.TemporaryDirectory(prefix="mutant-")
        self._copy = Path(self._folder.name) / "copy"
        self._limit = limit
        copy_tree(pristine, self._copy)
        mutant.plant(self._copy)
        self._left = [tests] if mutant.by is None or tests is not ALL else [[mutant.by], tests]
        self._spent = 0.0
        self._trial = self._next()

    def _next(self) -> Trial:
        return Trial(self._copy, self._left.pop(0), self._limit)

    def outcome(self) -> Outcome | None:
        outcome = self._trial.outcome()
        if outcome is None:
            return None
        self._spent += outcome.seconds
        if outcome.by is None and self._left:
            self._trial.stop()
            self._trial = self._next()
            return None
        return Outcome(outcome.by, self._spent)

    def stop(self) -> None:
        self._trial.stop()
        self._folder.cleanup()


def fates(
    mutants: Sequence[Mutant], pristine: Path, tests: Sequence[str], *, jobs: int, limit: float
) -> Iterator[tuple[Mutant, Outcome]]:
    """Try each mutant, `jobs` at a time, and yield the outcome."""
    waiting = list(reversed(mutants))
    running: list[Planted] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Planted(waiting.pop(), pristine, tests, limit))
            sleep(0.1)
            for one in list(running):
                outcome = one.outcome()
                if outcome is not None:
                    running.remove(one)
                    one.stop()
                    yield one.mutant, outcome
    finally:
        for one in running:
            one.stop()


def report(mutant: Mutant, outcome: Outcome) -> None:
    fate = outcome.by or ("survives: " + mutant.reason if mutant.reason else "SURVIVED")
    print(f"{mutant.name:<52} {mutant.breaks:<4} {outcome.seconds:5.0f} s  {fate}", flush=True)


def summary(outcomes: Sequence[tuple[Mutant, Outcome]]) -> str:
    fatal = [outcome.by for _, outcome in outcomes if outcome.by is not None]
    hung = sum(by.endswith("(hangs)") for by in fatal)
    names = unexplained(outcomes)
    return (
        f"{len(outcomes)} planted, {len(fatal)} killed ({hung} by a hang), {len(outcomes) - len(fatal)} survived,"
        f" {len(names)} of them without a reason{': ' if names else ''}{', '.join(names)}"
    )


def unexplained(outcomes: Sequence[tuple[Mutant, Outcome]]) -> list[str]:
    return [mutant.name for mutant, outcome in outcomes if outcome.by is None and mutant.reason is None]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="a name, or a prefix of names")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trials at a time, default: 2")
    parser.add_argument(
        "--tests", nargs="+", default=ALL, metavar="PATH", help="default: all, beginning with the known one"
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="SECONDS",
        help="CPU time of one run; default: three times the time of the unchanged code",
    )
    options = parser.parse_args()
    options.mutants = [m for m in planted() if options.only is None or m.name.startswith(tuple(options.only))]
    if not options.mutants:
        parser.error("there is no mutant with this name")
    return options


def main() -> int:
    options = parse()
    for each in (signal.SIGINT, signal.SIGTERM):  # a background process would ignore SIGINT
        signal.signal(each, signal.default_int_handler)
    for mutant in options.mutants:
        mutant.change((ROOT / mutant.file).read_text())  # raises now, not after hours
    outcomes: list[tuple[Mutant, Outcome]] = []
    with tempfile.TemporaryDirectory(prefix="pristine-") as folder:
        pristine = Path(folder) / "copy"
        copy_tree(ROOT, pristine)
        try:
            measured = measure(pristine, options.tests)
            limit = options.limit or measured
            for mutant, outcome in fates(options.mutants, pristine, options.tests, jobs=options.jobs, limit=limit):
                report(mutant, outcome)
                outcomes.append((mutant, outcome))
        except KeyboardInterrupt:
            print(f"interrupted; so far: {summary(outcomes)}")
            return 130
    print(summary(outcomes))
    return 1 if unexplained(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
