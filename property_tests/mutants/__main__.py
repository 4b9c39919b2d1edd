"""Plant each bug in a copy of the repository, run the properties there, and say which of them notices.

`python -m property_tests.mutants [--only NAME] [--jobs N] [--tests PATH ...]`; a mutant is killed by the first test
that fails, hangs or crashes. The exit code is 1 if one survives without a `reason` in its file.
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

# Seconds of the processor's time for the properties of the unchanged code.
_LONGEST = 3600.0


def measure(pristine: Path, tests: Sequence[str]) -> float:
    """Run the unchanged properties, all of which have to pass, and return the limit for a run with a bug, in seconds
    of the processor's time.
    """
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


def fates(
    mutants: Sequence[Mutant], pristine: Path, tests: Sequence[str], *, jobs: int, limit: float
) -> Iterator[tuple[Mutant, Outcome]]:
    """Try each mutant in a copy of its own, `jobs` at a time, and yield what became of it."""
    waiting = list(reversed(mutants))
    running: list[tuple[Mutant, Trial, tempfile.TemporaryDirectory[str]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                folder = tempfile.TemporaryDirectory(prefix="mutant-")
                copy = Path(folder.name) / "copy"
                copy_tree(pristine, copy)
                mutant = waiting.pop()
                mutant.plant(copy)
                first = [mutant.by] if mutant.by and tests == ALL else []
                running.append((mutant, Trial(copy, [*first, *tests], limit), folder))
            sleep(0.1)
            for one in list(running):
                mutant, trial, folder = one
                outcome = trial.outcome()
                if outcome is not None:
                    running.remove(one)
                    trial.stop()
                    folder.cleanup()
                    yield mutant, outcome
    finally:
        for _, trial, folder in running:
            trial.stop()
            folder.cleanup()


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
    parser.add_argument("--only", action="append", metavar="NAME", help="this one, or those whose names begin so")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time, default: 2")
    parser.add_argument(
        "--tests", nargs="+", default=ALL, metavar="PATH", help="default: all, from the one that is known to notice it"
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="SECONDS",
        help="on a processor, for one run; default: three times that of the code without a bug",
    )
    options = parser.parse_args()
    options.mutants = [m for m in planted() if options.only is None or m.name.startswith(tuple(options.only))]
    if not options.mutants:
        parser.error("there is no mutant of that name")
    return options


def main() -> int:
    options = parse()
    for each in (signal.SIGINT, signal.SIGTERM):  # started in the background, it would ignore the first
        signal.signal(each, signal.default_int_handler)
    for mutant in options.mutants:
        mutant.change((ROOT / mutant.file).read_text())  # raises, before hours have passed
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
