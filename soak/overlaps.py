"""Did two runs of one task overlap, in processes that were both alive?

An app notes the begin and the end of each run, with the clock that all processes of a Linux machine share: "began" and
"ended", with the message id and the process. A run without an end has ended with its process, if the process was
killed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import NamedTuple

from tests.servers.harness import Record


class Death(NamedTuple):
    """The kill of a process.

    :ivar at: the time just before the kill, in seconds of `time.monotonic()`
    :ivar pid: the process; None: all processes of that time
    :ivar until: a time at which the process was surely dead: before that it may have begun another run; default: `at`
    """

    at: float
    pid: int | None = None
    until: float = -inf


class _Run(NamedTuple):
    began: float
    ended: float
    pid: int


def overlaps(records: Iterable[Record], deaths: Sequence[Death]) -> Iterator[str]:
    """Yield a text for each run that has begun while another run of the same task went on."""
    for task, runs in _runs(records, deaths).items():
        last: _Run | None = None
        for run in sorted(runs):
            if last is not None and run.began < last.ended:
                later = "has not ended" if last.ended == inf else f"ended {last.ended - run.began:.3f} s later"
                yield f"{task} ran in process {run.pid} while it ran in process {last.pid}: the first run {later}"
            if last is None or run.ended > last.ended:
                last = run


def _runs(records: Iterable[Record], deaths: Sequence[Death]) -> dict[str, list[_Run]]:
    found: defaultdict[str, list[_Run]] = defaultdict(list)
    open_runs: dict[str, float] = {}

    def end(subject: str, at: float) -> None:
        task, _, pid = subject.partition("/")
        began = open_runs.pop(subject)
        found[task].append(_Run(began, min(at, _death_of(int(pid), began, deaths)), int(pid)))

    for each in records:
        if each.event == "began":
            if each.subject in open_runs:  # the number of the process is used again
                end(each.subject, inf)
            open_runs[each.subject] = each.at
        elif each.event == "ended":
            end(each.subject, each.at)
    for subject in list(open_runs):
        end(subject, inf)
    return found


def _death_of(pid: int, after: float, deaths: Sequence[Death]) -> float:
    fitting = (death for death in deaths if max(death.at, death.until) > after and death.pid in (None, pid))
    return max(after, min((death.at for death in fitting), default=inf))
