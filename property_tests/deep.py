"""Run the properties for hours, with a new seed in each round: `python -m property_tests.deep [--hours H] [--rounds
N]`.

A round runs each test alone, with `HYPOTHESIS_PROFILE=deep` and the number of the round as the seed, and then
`property_tests.exhaustive`, longer in each round. The progress is kept in `.property-deep/`: the next start continues
after the last passed test. The run stops at the first failure.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".property-deep"

EXHAUSTIVE = "property_tests.exhaustive"
# Seconds for the exhaustive search in the first round, and the additional seconds in each later round, up to an hour.
# Each further level takes about ten times as long as the level before.
_SHARE = 60
_LARGEST_SHARE = 3600

_NO_TESTS = 5  # pytest's exit code


@dataclass
class Round:
    """The progress of one round.

    :ivar number: from 1; also the seed
    :ivar done: the seconds of each passed test, by its id
    :ivar examples: the number of examples in these tests
    """

    number: int = 1
    done: dict[str, float] = field(default_factory=dict)
    examples: int = 0

    def note(self, test: str, seconds: float, examples: int = 0) -> None:
        self.done[test] = seconds
        self.examples += examples
        self.save()

    def save(self) -> None:
        """Save the round for the next start. A kill at any moment leaves either the old file or the new one."""
        new = STATE / "round.json.new"
        new.write_text(json.dumps(asdict(self)))
        new.replace(STATE / "round.json")


class Failed(Exception):
    """A test has failed."""


class Deep:
    """The rounds of one start."""

    def __init__(self, tests: Sequence[str], hours: float) -> None:
        self._tests = tests
        self._begin = monotonic()
        self._until = self._begin + hours * 3600
        STATE.mkdir(exist_ok=True)
        kept = STATE / "round.json"
        self.round = Round(**json.loads(kept.read_text())) if kept.exists() else Round()
        self.counts = {"rounds": 0, "tests": 0, "examples": 0}

    def run(self, rounds: float) -> None:
        """Run `rounds` rounds, the rest of an unfinished one included, or until the time is over.

        :raises Failed: at the first failure
        """
        while self.counts["rounds"] < rounds and not self._is_late():
            self._run_round()

    def summary(self) -> str:
        seconds, counts = monotonic() - self._begin, self.counts
        return (
            f"{seconds:.0f} s: {counts['rounds']} rounds ended, {counts['tests']} tests passed,"
            f" {counts['examples']} examples; the next start goes on in round {self.round.number},"
            f" in which {len(self.round.done)} have passed; log: {(STATE / 'log').relative_to(ROOT)}"
        )

    def _is_late(self) -> bool:
        return monotonic() > self._until

    def _run_round(self) -> None:
        ids = _collect(self._tests)
        print(f"round {self.round.number}: {len(ids)} tests, {len(self.round.done)} of which have passed", flush=True)
        for test in [*ids, EXHAUSTIVE]:
            if self._is_late():
                return
            if test not in self.round.done:
                self._run_test(test)
        self._log("passed")
        self.counts["rounds"] += 1
        self.round = Round(self.round.number + 1)
        self.round.save()

    def _run_test(self, test: str) -> None:
        begin = monotonic()
        share = min(_SHARE * self.round.number, _LARGEST_SHARE, max(1.0, self._until - begin))
        module = [EXHAUSTIVE, "--seconds", f"{share:.0f}"] if test == EXHAUSTIVE else _pytest(test, self.round.number)
        code, output = _run("-m", *module)
        seconds = monotonic() - begin
        if code != 0:
            self._fail(test, module, output)
        examples = sum(map(int, re.findall(r"(\d+) passing\b", output)))
        self.counts["tests"] += 1
        self.counts["examples"] += examples
        self.round.note(test, seconds, examples)
        print(f"{seconds:8.1f} s {f'{examples} examples' if examples else '':>15}  {test}", flush=True)

    def _fail(self, test: str, module: Sequence[str], output: str) -> None:
        self._log(f"failed {test}")
        kept = STATE / f"failure-{self.round.number}"
        kept.write_text(output)
        command = " ".join(f"'{word}'" if re.search(r"[^\w./:=-]", word) else word for word in module)
        raise Failed(
            f"{output}\nround {self.round.number} has failed: {test}\n"
            f"kept in {kept.relative_to(ROOT)}; again: HYPOTHESIS_PROFILE=deep {sys.executable} -m {command}"
        )

    def _log(self, verdict: str) -> None:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        done = self.round.done
        line = (
            f"{now} round={self.round.number} seed={self.round.number} seconds={sum(done.values()):.0f}"
            f" tests={len(done)} examples={self.round.examples} {verdict}\n"
        )
        with (STATE / "log").open("a") as log:
            log.write(line)
        print(line, end="", flush=True)


def _pytest(test: str, seed: int) -> list[str]:
    return ["pytest", "-q", "--hypothesis-show-statistics", f"--hypothesis-seed={seed}", test]


def _collect(tests: Sequence[str]) -> list[str]:
    code, output = _run("-m", "pytest", "-q", "--collect-only", *tests)
    if code not in (0, _NO_TESTS):
        raise Failed(f"{output}\nthe tests cannot be collected")
    return [line for line in output.splitlines() if "::" in line]


def _run(*arguments: str) -> tuple[int, str]:
    """Run python with `arguments`; return the exit code and the output. An interrupt ends the process."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "HYPOTHESIS_PROFILE": "deep"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C reaches only this process, which then ends the new one
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    return process.returncode, output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=math.inf, metavar="H", help="begin no test after this time")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: until interrupted")
    parser.add_argument("--tests", nargs="+", default=["property_tests"], metavar="PATH", help="default: all")
    options = parser.parse_args()
    for each in (signal.SIGINT, signal.SIGTERM):  # a background process would ignore SIGINT
        signal.signal(each, signal.default_int_handler)
    deep = Deep(options.tests, options.hours)
    try:
        deep.run(options.rounds or math.inf)
    except Failed as failure:
        print(failure)
        return 1
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    finally:
        print(deep.summary(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
