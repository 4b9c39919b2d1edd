"""`python -m benchmarks`: every figure, in one run. `--help` lists the options."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from . import figures, keepers, machine, report, traffic
from .figures import Table
from .measure import say
from .processes import PYTHONS, ROOT
from .wanted import judge

ROUNDS = {"tasks": 11, "requests": 11, "inspector": 5, "traffic": 5, "memory": 1, "growth": 1}
"""The rounds of each section. Bytes never vary, and a million tasks take long."""

UNITS = {"tasks": "us", "requests": "us", "inspector": "us", "memory": "bytes", "growth": "us"}


def measure(section: str, libraries: Sequence[str], rounds: int, *, quick: bool) -> list[Table]:
    if section == "traffic":
        return traffic.measure(libraries, rounds)
    if section in ("growth", "inspector"):
        libraries = ["ours"]
    return figures.measure(section, UNITS[section], libraries, rounds, quick=quick)


def main() -> None:
    options = parse()
    if options.draw:
        report.draw(report.read())
        return
    libraries = [library for library, python in PYTHONS.items() if python.exists()]
    missing = [library for library, python in (PYTHONS | keepers.PYTHONS).items() if not python.exists()]
    if missing:
        say(f"without {', '.join(missing)}: `make bench` makes the environment for each other package")
    begin, tables = time.perf_counter(), []
    for section in options.only:
        say(f"{time.perf_counter() - begin:4.0f} s: {section}")
        rounds = 1 if options.quick else ROUNDS[section]
        tables += measure(section, libraries, rounds * options.repeat, quick=options.quick)
    say(f"{time.perf_counter() - begin:4.0f} s\n")
    verdicts = judge(tables)
    print(report.text(tables, verdicts))
    if options.only == list(ROUNDS) and not options.quick and not missing:
        report.write(machine.facts(), tables, verdicts)
        print(f"written: {report.FOLDER.relative_to(ROOT)}/")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure everything, as ratios.")
    parser.add_argument(
        "--only",
        type=sections,
        default=list(ROUNDS),
        help=f"some of {','.join(ROUNDS)}, separated by commas; writes nothing",
    )
    parser.add_argument("--quick", action="store_true", help="a quick check that takes seconds; writes nothing")
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing: draw the charts again, from results.json (Python 3.11)"
    )
    parser.add_argument("--repeat", type=int, default=1, help="a factor for the number of rounds")
    return parser.parse_args()


def sections(names: str) -> list[str]:
    chosen = names.split(",")
    unknown = set(chosen) - set(ROUNDS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not among {', '.join(ROUNDS)}")
    return [name for name in ROUNDS if name in chosen]


if __name__ == "__main__":
    main()
