"""`python -m benchmarks.guard`: counts the instructions of a task and of a request, and compares with a baseline.

Valgrind counts the instructions, so the load and the clock of the machine have no effect. Each case runs with N tasks
and with twice N, and the difference counts; so one-time work is not counted.

The baseline is `guard.json`, by Python version and architecture. Missing entries are added; `--update` replaces all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from .measure import say
from .processes import ROOT

BASELINE = Path(__file__).with_name("guard.json")
TOLERANCE = 0.03  # relative; the same program varies by less than 0.1 %
COUNT = 200  # tasks in the smaller of two runs

PACKAGES = ("anyio", "trio", "starlette", "fastapi")


def key() -> str:
    """Return the key of the baseline."""
    return f"{sys.version_info.major}.{sys.version_info.minor}-{platform.machine()}"


def environment() -> str:
    """Return the versions that affect the counts."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"Python {platform.python_version()}, {packages}"


def count_instructions() -> dict[str, int]:
    """Return the instructions of one task, or request, of each case.

    :raises RuntimeError: if the run has failed
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={folder}/%p"]
        command += [sys.executable, "-m", "benchmarks.guard_cases", str(COUNT)]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"valgrind has failed:\n{done.stderr}")
        counts: dict[str, dict[int, int]] = {}
        for line in done.stdout.splitlines():
            pid, count, name = line.split(" ", 2)
            counts.setdefault(name, {})[int(count)] = total_of(Path(folder) / pid)
    return {name: round(difference(each)) for name, each in counts.items()}


def total_of(output: Path) -> int:
    """Return the instructions of one process, from cachegrind's output."""
    line = next(line for line in output.read_text().splitlines() if line.startswith("summary:"))
    return int(line.split()[1])


def difference(counts: Mapping[int, int]) -> float:
    """Return the cost of one more task. `counts`: instructions by number of tasks, for two numbers."""
    (few, less), (many, more) = sorted(counts.items())
    return (more - less) / (many - few)


def compare(counts: Mapping[str, int], baseline: Mapping[str, int]) -> list[str]:
    """Return one line for each case that exceeds the tolerance."""
    return [
        f"{name}: {count} instructions, {count / baseline[name] - 1:+.1%} of {baseline[name]}"
        for name, count in counts.items()
        if name in baseline and count > baseline[name] * (1 + TOLERANCE)
    ]


def table(counts: Mapping[str, int], baseline: Mapping[str, int]) -> str:
    lines = []
    for name, count in counts.items():
        change = f"{count / baseline[name] - 1:+.1%}" if name in baseline else "new"
        lines.append(f"{name:<48} {count:>10} {change:>8}")
    return "\n".join([f"{'instructions':>59} {'change':>8}", *lines])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="replace the baseline")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        say("valgrind is not installed; it is in Debian's package `valgrind`")
        return 2
    everything = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    entry = {} if options.update else everything.get(key(), {})
    baseline = entry.get("instructions", {})
    counts = count_instructions()
    print(f"{environment()}\n\n{table(counts, baseline)}\n")
    if counts.keys() - baseline.keys():
        known = {"environment": environment(), "instructions": {**counts, **baseline}}
        BASELINE.write_text(json.dumps({**everything, key(): known}, indent=1) + "\n")
        print(f"the baseline of {key()} had not all of these, and has them now: commit {BASELINE.name}")
    worse = compare(counts, baseline)
    if worse and entry["environment"] != environment():
        print(f"the baseline is that of another environment: {entry['environment']}")
    print("\n".join(["worse than before:", *worse]) if worse else f"nothing is worse by more than {TOLERANCE:.0%}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
