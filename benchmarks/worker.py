"""`python -m benchmarks.worker SECTION LIBRARY [--quick]`: takes samples on demand.

The worker prints the groups of the section as one line of JSON. Then it reads lines `[group, case]`, and answers each
with two numbers: a sample, and the cost of the group's base at that time. The starting process decides about the turns
of the cases, in this process and in others.
"""

from __future__ import annotations

import gc
import json
import sys
from importlib import import_module

from .measure import Group


def main(section: str, library: str, *options: str) -> None:
    found: dict[str, Group] = import_module(f".{section}", __package__).groups(library, quick="--quick" in options)
    answer({title: {"base": group.base, "cases": list(group.cases)} for title, group in found.items()})
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        title, case = json.loads(line)
        answer(found[title].take(case))


def answer(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
