"""Repeat one program, and print its timeline: `python -m property_tests.replay BACKEND "Program(...)"`.

A failing property prints the whole command.
"""

from __future__ import annotations

import argparse

from property_tests import programs, promises
from property_tests.order import FIRST_IN_FIRST_OUT, IN_ORDER
from property_tests.recorder import Boom
from property_tests.runtime import Meddle, tell
from taskphase import Phase
from taskphase.testing import Cancel, Replay, Throw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=["asyncio", "trio"])
    parser.add_argument("program", help="its repr()")
    parser.add_argument("--choices", default="", help="the choice at each decision: 0,0,1; then first in, first out")
    parser.add_argument("--faults", default="[]", help="the repr() of the faults")
    parser.add_argument("--turns", action="store_true", help="run turn by turn, like trio")
    parser.add_argument("--jitter", action="store_true", help="no two events at the same time")
    parser.add_argument("--closed-log", action="store_true", help="the log handler raises")
    given = parser.parse_args()
    names = {**vars(programs), "Phase": Phase}
    story = tell(
        eval(given.program, names),
        backend=given.backend,
        policy=Replay([int(choice) for choice in given.choices.split(",") if choice]),
        faults=eval(given.faults, {"Meddle": Meddle, "Throw": Throw, "Cancel": Cancel, "Boom": Boom}),
        turns=given.turns,
        jitter=given.jitter,
        closed_log=given.closed_log,
    )
    print(story.run.timeline())
    is_fifo = given.backend == "asyncio" and not any(story.run.choices)
    order = FIRST_IN_FIRST_OUT if is_fifo else IN_ORDER if given.turns else ()
    for promise in (*promises.ALWAYS, *order):
        try:
            promise(story)
        except AssertionError as exc:
            print(f"\nbroken: {promise.__name__}\n  {exc}")


if __name__ == "__main__":
    main()
