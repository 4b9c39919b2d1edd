"""One run, as both event loops see it: what is chosen, what is noted, what is injected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import local
from typing import NoReturn, Protocol

from .faults import Call, Fault, Throw
from .policy import Policy
from .record import Actor, Decision, Entry, short_name

here = local()
"""Of each thread: `schedule`, the run that it belongs to, and `worker`, if it is one of its worker threads."""


class Abandon(Exception):
    """The run is to be given up: `Schedule.parked` is to be raised outside. No user code ever sees this."""


class OutOfSteps(Exception):
    """The budget is spent. The event loop makes a `Livelock` of it."""


class Candidate(Protocol):
    """What can step."""

    @property
    def actor(self) -> Actor: ...


class Schedule:
    """What one run has decided and noted so far.

    :ivar now: virtual seconds; only the event loop moves it
    :ivar parked: what the policy or a fault's function raised; it must not travel through an event loop
    :ivar ended: the virtual time at the end
    :ivar unwinding: whether the run is over: nothing is noted, chosen or injected any more
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
        # A policy that wants to know which tasks there are has this.
        self._choose_task: Callable[[Sequence[int]], int] | None = getattr(policy, "choose_task", None)
        self._faults = sorted(faults, key=lambda fault: fault.step)
        self.throws = any(isinstance(fault, Throw) for fault in self._faults)
        self._max_steps = max_steps
        self._turns = turns
        self._left = 0  # of those that were runnable when the turn began; they are the first candidates
        self._spawned = 0

    def choose(self, candidates: Sequence[Candidate]) -> int:
        """Return which of the candidates, one or more, steps next.

        :raises Abandon: if the policy raised; `parked` has it
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
        """Keep `error`, to be raised outside of the event loop.

        :raises Abandon: always
        """
        self.parked = error
        raise Abandon

    def spawn(self, name: str) -> Actor:
        """Return the next actor."""
        actor = Actor(self._spawned, f"{short_name(name)}#{self._spawned}")
        self._spawned += 1
        self.note("spawn", actor)
        return actor

    def begin_step(self, actor: Actor, choice: int, count: int) -> None:
        """Count and note a step that is about to be made.

        :raises OutOfSteps: if there are too many
        """
        if self.unwinding:
            return
        if self.steps >= self._max_steps:
            raise OutOfSteps
        self.steps += 1
        self.current = actor
        self.note("step", actor, f"({choice} of {count})" if count > 1 else "")

    @property
    def faults_are_due(self) -> bool:
        """Whether a fault waits for somebody whom it can hit."""
        return bool(self._faults) and self._faults[0].step <= self.steps and not self.unwinding

    def due(self, *, is_task: bool, has_started: bool) -> Sequence[Fault]:
        """Return, once, the faults that belong to the step that has begun.

        :param is_task: whether a task makes it
        :param has_started: whether it is not that task's first
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
        """Note nothing more: from here on the run is only unwound."""
        self.ended = self.now
        self.unwinding = True

    def move_time(self, to: float) -> None:
        """Let time pass until `to`."""
        self.now = max(self.now, to)
        self.note("timer", None)

    def note(self, what: str, actor: Actor | None, detail: str = "") -> None:
        """Add a line to the trace."""
        if not self.unwinding:
            self.trace.append(Entry(self.steps, self.now, "" if actor is None else actor.label, what, detail))


def mark(text: object) -> None:
    """Put a mark into the trace of the simulated run that this is called in; elsewhere nothing happens.

    From the event loop's thread or from a worker thread. Not a checkpoint.
    """
    schedule: Schedule | None = getattr(here, "schedule", None)
    if schedule is not None:
        schedule.note("mark", schedule.current, str(text))
