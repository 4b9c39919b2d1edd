"""The choices, notes and faults of one run, for both event loops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import local
from typing import TYPE_CHECKING, NoReturn

from .faults import Call, Fault, Throw
from .policy import Policy
from .record import Actor, Decision, Entry, short_name

if TYPE_CHECKING:
    from .loop import Ready

here = local()
"""Thread-local: `schedule`, the run of the thread; and `worker`, if the thread is a worker thread of that run."""


class Abandon(Exception):
    """Ends the run: the caller has to raise `Schedule.parked`. User code never sees this exception."""


class Schedule:
    """The state of one run.

    :ivar now: virtual seconds; only the event loop changes this
    :ivar parked: the exception of the policy or of a fault's function; an event loop must not catch it
    :ivar ended: the virtual time at the end
    :ivar unwinding: whether the run is over and the remaining tasks are being ended, without notes, choices and faults
    """

    def __init__(self, policy: Policy, faults: Iterable[Fault], max_steps: int, *, turns: bool) -> None:
        self.now = self.ended = 0.0
        self.steps = 0
        self.decisions: list[Decision] = []
        self.trace: list[Entry] = []
        self.parked: BaseException | None = None
        self.unwinding = False
        self.current: Actor | None = None
        self._policy = policy
        # Only policies that know the tasks have this method.
        self._choose_task: Callable[[Sequence[int]], int] | None = getattr(policy, "choose_task", None)
        self._faults = sorted(faults, key=lambda fault: fault.step)
        self.throws = any(isinstance(fault, Throw) for fault in self._faults)
        self._max_steps = max_steps
        self._turns = turns
        self._left = 0  # of the tasks that were runnable at the begin of the turn, which are the first candidates
        self._spawned = 0

    def choose(self, candidates: Sequence[Ready]) -> int:
        """Return the index of the candidate that steps next.

        :param candidates: one or more
        :raises Abandon: if the policy raised; `parked` has the exception
        """
        count = len(candidates)
        if self._turns:
            self._left = count = min(self._left, count) or count
            self._left -= 1
        if count == 1 or self.unwinding:
            return 0
        try:
            if self._choose_task is None:
                choice = self._policy.choose(count)
            else:
                choice = self._choose_task([candidate.actor.number for candidate in candidates[:count]])
        except BaseException as exc:
            self.park(exc)
        if not 0 <= choice < count:
            self.park(ValueError(f"{self._policy!r} chose {choice!r}: it must be from 0 to {count - 1}"))
        self.decisions.append(Decision(choice, count))
        return choice

    def park(self, error: BaseException) -> NoReturn:
        """Keep `error`, to raise it outside of the event loop.

        :raises Abandon: always
        """
        self.parked = error
        raise Abandon

    def spawn(self, name: str) -> Actor:
        """Return a new actor."""
        actor = Actor(self._spawned, f"{short_name(name)}#{self._spawned}")
        self._spawned += 1
        self.note("spawn", actor)
        return actor

    @property
    def is_out_of_steps(self) -> bool:
        """Whether no step is left."""
        return self.steps >= self._max_steps and not self.unwinding

    def begin_step(self, actor: Actor, choice: int, count: int) -> None:
        """Count and note the step that begins."""
        if not self.unwinding:
            self.steps += 1
            self.current = actor
            self.note("step", actor, f"({choice} of {count})" if count > 1 else "")

    @property
    def faults_are_due(self) -> bool:
        """Whether a fault is due, and waits for a step that it can hit."""
        return bool(self._faults) and self._faults[0].step <= self.steps and not self.unwinding

    def due(self, *, is_task: bool, has_started: bool) -> Sequence[Fault]:
        """Return the faults that hit the step that has begun. Each fault is returned once.

        :param is_task: whether a task makes the step
        :param has_started: whether the task has already made its first step
        """
        due = [fault for fault in self._faults if fault.step <= self.steps and self._hits(fault, is_task, has_started)]
        self._faults = [fault for fault in self._faults if fault not in due]
        for fault in due:
            actor = None if isinstance(fault, Call) else self.current
            self.note("fault", actor, type(fault).__name__)
        return due

    def _hits(self, fault: Fault, is_task: bool, has_started: bool) -> bool:
        if isinstance(fault, Call):
            return True
        if not is_task or (isinstance(fault, Throw) and not has_started):
            return False
        return self.current is not None and self.current.label.startswith(fault.task)

    def end(self) -> None:
        """Stop taking notes: the run is over."""
        self.ended = self.now
        self.unwinding = True

    def move_time(self, to: float) -> None:
        """Move the virtual time to `to`."""
        self.now = max(self.now, to)
        self.note("timer", None)

    def note(self, what: str, actor: Actor | None, detail: str = "") -> None:
        """Add a line to the trace."""
        if not self.unwinding:
            self.trace.append(Entry(self.steps, self.now, "" if actor is None else actor.label, what, detail))


def mark(text: object) -> None:
    """Add `text` to the trace of the current simulated run; outside of a simulation, do nothing.

    From the event loop's thread or from a worker thread; no checkpoint.
    """
    schedule: Schedule | None = getattr(here, "schedule", None)
    if schedule is not None:
        schedule.note("mark", schedule.current, str(text))
