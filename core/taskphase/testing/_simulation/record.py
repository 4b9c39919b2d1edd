"""The result of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

_QUALIFIED = re.compile(r"(?:<\w+>|[^\W\d]\w*)(?:\.(?:<\w+>|[^\W\d]\w*))+")


class Decision(NamedTuple):
    """A choice, and the number of candidates."""

    choice: int
    among: int


class Actor(NamedTuple):
    """Something that steps: a task, a worker thread, or the calls that threads have requested from the event loop.

    :ivar number: the number in the order of spawning, from 0, the main task
    :ivar label: the name in the trace
    """

    number: int
    label: str


# The calls that threads have requested from the event loop. Several may wait; the loop makes them in order.
MAIL = Actor(-1, "from threads")


class Entry(NamedTuple):
    """One line of the trace.

    :ivar step: the number of steps so far, this one included
    :ivar time: virtual seconds
    :ivar task: name and number of the task; empty for timers
    :ivar what: "spawn", "step", "end", "timer", "fault" or "mark"
    :ivar detail: the choice and the number of candidates of a chosen step; the exception of an end; the text of a mark
    """

    step: int
    time: float
    task: str
    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One simulated run.

    :ivar backend: "asyncio" or "trio"
    :ivar value: the return value of the main function; None after an exception
    :ivar exception: from the main function, or from the simulation (`Deadlock`, `Livelock`, `ForeignBlock`), or None
    :ivar decisions: the choices, each with the number of candidates
    :ivar trace: all events, in order
    :ivar steps: the number of steps
    :ivar time: virtual seconds, from 0
    """

    backend: str
    value: Any
    exception: BaseException | None
    decisions: tuple[Decision, ...]
    trace: tuple[Entry, ...]
    steps: int
    time: float

    @property
    def choices(self) -> list[int]:
        """The choices, for `Replay`."""
        return [choice for choice, _ in self.decisions]

    @property
    def marks(self) -> list[str]:
        """The texts that the program has passed to `mark()`."""
        return [entry.detail for entry in self.trace if entry.what == "mark"]

    def result(self) -> Any:
        """Return the value, or raise the exception."""
        if self.exception is not None:
            raise self.exception
        return self.value

    def timeline(self, last: int | None = None) -> str:
        """Return the trace as text, one line for each entry.

        :param last: the number of lines, counted from the end; default: all
        """
        entries = self.trace if last is None else self.trace[max(0, len(self.trace) - last) :]
        width = max((len(entry.task) for entry in entries), default=0)
        lines = [f"{'step':>6} {'time':>9}  {'task':<{width}}  what"]
        if len(entries) < len(self.trace):
            lines.append(f"{'...':>6} ({len(self.trace) - len(entries)} earlier entries)")
        for entry in entries:
            what = f"{entry.what} {entry.detail}".rstrip()
            lines.append(f"{entry.step:>6} {entry.time:>9.3f}  {entry.task:<{width}}  {what}")
        return "\n".join(lines)


def short_name(name: str) -> str:
    """Return the last part of a qualified name; return any other name unchanged."""
    return name.rpartition(".")[2] if _QUALIFIED.fullmatch(name) else name
