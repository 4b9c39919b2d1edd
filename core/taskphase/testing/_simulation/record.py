"""What a run leaves behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

_QUALIFIED = re.compile(r"(?:<\w+>|[^\W\d]\w*)(?:\.(?:<\w+>|[^\W\d]\w*))+")


class Decision(NamedTuple):
    """A choice, and among how many."""

    choice: int
    among: int


class Actor(NamedTuple):
    """Whoever steps: a task, a worker thread, or what threads have asked the event loop to call.

    :ivar number: in the order of spawning, from 0, the main task
    :ivar label: what it is called in the trace
    """

    number: int
    label: str


# Calls that threads have asked the event loop for. There may be several waiting; they are made in order.
MAIL = Actor(-1, "from threads")


class Entry(NamedTuple):
    """One line of the trace.

    :ivar step: how many steps had begun, this one included
    :ivar time: virtual seconds
    :ivar task: name and number; empty for timers
    :ivar what: "spawn", "step", "end", "timer", "fault" or "mark"
    :ivar detail: of a step that was chosen: which, among how many; of an end: what was raised; of a mark: its text
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
    :ivar value: what the main function returned; None if it did not
    :ivar exception: what it raised, or what the simulation found: `Deadlock`, `Livelock`, `ForeignBlock`; else None
    :ivar decisions: what was chosen, and among how many
    :ivar trace: what happened, in order
    :ivar steps: how many there were
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
        """What `Replay` takes to make the same run again."""
        return [choice for choice, _ in self.decisions]

    @property
    def marks(self) -> list[str]:
        """The texts that the program has put into the trace by `mark()`."""
        return [entry.detail for entry in self.trace if entry.what == "mark"]

    def result(self) -> Any:
        """Return the value, or raise the exception."""
        if self.exception is not None:
            raise self.exception
        return self.value

    def timeline(self, last: int | None = None) -> str:
        """Return the trace as text, a line an entry.

        :param last: how many lines at most, the last ones; default: all
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
    """Return the last part of the qualified name of a function; any other name as it is."""
    return name.rpartition(".")[2] if _QUALIFIED.fullmatch(name) else name
