"""What may and what must happen, said naively: lists of what has happened so far, and ifs.

Written from the guarantees (G1 to G17), not from the tables: of the machine it knows the words only. There is no state
in it but the lists. So it is slow, and each line of it can be held against a sentence of the contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from taskphase._machine.config import When
from taskphase._machine.dispatch import Answer, Outcome
from taskphase._machine.drain import DrainEvent, DrainStage, Sweep
from taskphase._machine.life import LifeEvent, TaskStatus
from taskphase._machine.scope import Phase, ScopeEvent, ScopeState, Verdict

L, S, D = LifeEvent, TaskStatus, DrainEvent

# One task: what has happened to it, in order.

Past = tuple[LifeEvent, ...]


@lru_cache(10_000)
def _latest_in_attempt(past: Past) -> LifeEvent | None:
    kinds = (L.STEP, L.RAISE, L.SUCCEED, L.FAIL, L.UNWIND, L.RETRY)
    return next((event for event in reversed(past) if event in kinds), None)


def runs_code(past: Past) -> bool:
    """Say whether its function or its handler runs."""
    return _latest_in_attempt(past) in (L.STEP, L.RAISE)


def in_handler(past: Past) -> bool:
    """Say whether what runs is its handler."""
    return _latest_in_attempt(past) is L.RAISE


@lru_cache(10_000)
def end_of(past: Past) -> TaskStatus | None:
    """Say how it has ended, if it has. A request to stop is an end at once where no code has to unwind (G17)."""
    ends = {L.SUCCEED: S.SUCCEEDED, L.FAIL: S.FAILED, L.UNWIND: S.CANCELLED, L.DROP: S.DROPPED}
    for place, event in enumerate(past):
        if event in ends:
            return ends[event]
        if event is L.CANCEL and not runs_code(past[:place]):
            return S.CANCELLED
    return None


def may_live(past: Past, event: LifeEvent) -> bool:
    """Say whether `event` may happen to a task with this past."""
    if end_of(past) is not None:  # exactly one end, and nothing after it (G2)
        return False
    latest = past[-1] if past else None
    if event in (L.SUCCEED, L.RAISE, L.UNWIND):  # also after a request to stop: the code has the last word
        return runs_code(past) and not in_handler(past)
    if event is L.FAIL:
        return runs_code(past)
    if event is L.RETRY:  # only a handler asks (G4), and only for a task that nobody has told to stop (G9)
        return in_handler(past) and L.CANCEL not in past
    if event is L.CANCEL:
        return L.CANCEL not in past
    after: dict[LifeEvent, tuple[LifeEvent | None, ...]] = {
        L.DEFER: (None,),  # nobody goes back to wait for a phase (G1)
        L.DROP: (None, L.DEFER),  # the fate of what was never let go (G5)
        L.QUEUE: (None, L.DEFER, L.RETRY),  # a pause holds no slot (G16), so it needs one again
        L.START: (None, L.DEFER, L.RETRY, L.QUEUE),  # once (G1), and once more for each attempt asked for (G16)
        L.STEP: (L.START,),
    }
    return latest in after[event]


@lru_cache(10_000)
def status_of(past: Past) -> TaskStatus:
    """Return the word for what a task with this past is doing."""
    end = end_of(past)
    if end is not None:
        return end
    if in_handler(past):
        return S.ABORTING if L.CANCEL in past else S.HANDLING
    if runs_code(past):
        return S.CANCELLING if L.CANCEL in past else S.RUNNING
    words = {L.DEFER: S.DEFERRED, L.QUEUE: S.WAITING, L.START: S.STARTING, L.RETRY: S.RETRYING}
    return words[past[-1]] if past else S.NEW


# One scope: the list of its signals.


def may_signal(signals: Sequence[ScopeEvent], event: ScopeEvent) -> bool:
    """Say whether `event` may come: first the route's outcome, once, then the end; what comes later is too late."""
    if ScopeEvent.ENDED in signals:
        return True
    return (event is ScopeEvent.ENDED) is bool(signals)


def verdict_of(signals: Sequence[ScopeEvent], phase: Phase, when: When) -> Verdict:
    """Say what becomes of a task of `phase` (G1) that wants the outcome `when` (G5)."""
    if phase is Phase.IMMEDIATE:
        return Verdict.START
    if not signals or (phase is Phase.AFTER_RESPONSE and ScopeEvent.ENDED not in signals):
        return Verdict.HOLD
    outcome = "success" if signals[0] is ScopeEvent.ROUTE_SUCCEEDED else "failure"
    return Verdict.START if when in (outcome, "always") else Verdict.DROP


def state_of(signals: Sequence[ScopeEvent]) -> ScopeState:
    """Return the word for where a scope is."""
    if not signals:
        return ScopeState.ROUTE
    succeeded = signals[0] is ScopeEvent.ROUTE_SUCCEEDED
    if ScopeEvent.ENDED in signals:
        return ScopeState.OVER if succeeded else ScopeState.OVER_FAILED
    return ScopeState.RESPONDING if succeeded else ScopeState.EXCUSING


# One drain (G9): the list of its events.


def may_drain(events: Sequence[DrainEvent], event: DrainEvent) -> bool:
    """Say whether `event` may come. Two stages have a time limit, and nothing follows the end."""
    if D.IDLE in events or D.ABORT in events:
        return False
    if event is D.CLOSE:
        return D.CLOSE not in events
    if event is D.DEADLINE:
        return D.CLOSE in events and events.count(D.DEADLINE) < 2
    return event is D.ABORT or D.CLOSE in events


def stage_of(events: Sequence[DrainEvent]) -> DrainStage:
    """Return the word for where a drain is."""
    if D.IDLE in events or D.ABORT in events:
        return DrainStage.CLOSED
    if D.CLOSE not in events:
        return DrainStage.OPEN
    return (DrainStage.GRACE, DrainStage.SHIELDED, DrainStage.FORCED)[events.count(D.DEADLINE)]


def sweep_of(events: Sequence[DrainEvent]) -> Sweep:
    """Say whom the last of `events` cancels: (2) what is not shielded, (3) at last those too."""
    if not events or events[-1] is not D.DEADLINE:
        return Sweep.NOBODY
    return Sweep.UNSHIELDED if events.count(D.DEADLINE) == 1 else Sweep.EVERYBODY


def takes(events: Sequence[DrainEvent], *, by_shielded: bool) -> bool:
    """Say whether new tasks are taken: until the end of (1), and from shielded tasks during (3)."""
    if D.IDLE in events or D.ABORT in events:
        return False
    return events.count(D.DEADLINE) < (2 if by_shielded else 1)


# One attempt: how it ended, and what its handler answered (G4, G16).


def meaning_of_end(outcome: Outcome, *, has_handler: bool) -> LifeEvent:
    """Say what the end of an attempt is to its task."""
    if outcome is Outcome.RETURNED:
        return L.SUCCEED
    if outcome is Outcome.CANCELLED:
        return L.UNWIND
    return L.RAISE if outcome is Outcome.RAISED and has_handler else L.FAIL


def meaning_of_answer(answer: Answer, *, told_to_stop: bool) -> LifeEvent:
    """Say what the end of the handler is to its task."""
    return L.RETRY if answer is Answer.RETRY and not told_to_stop else L.FAIL


# A whole program: one scope and its tasks, in a host with limits that drains.


@dataclass(frozen=True, slots=True)
class Kind:
    """The settings of a task, as far as they decide anything."""

    phase: Phase
    when: When = "always"
    shielded: bool = False
    has_handler: bool = True


What = Enum("What", "SCHEDULE ARRIVE SIGNAL STEP FINISH ANSWER PAUSE_ENDS CANCEL DRAIN")
Fate = Enum("Fate", "HAPPENS CHANGES_NOTHING CLOSED SATURATED ILLEGAL IMPOSSIBLE")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a program. `task`: whose; for SCHEDULE: of which task, if any, the call is part.

    `flag`: an ENDED scope has failed, if its route did not end before; a SCHEDULE comes from a thread, so that the
    task is on its way until ARRIVE.
    """

    what: What
    task: int | None = None
    how: Kind | ScopeEvent | Outcome | Answer | DrainEvent | None = None
    flag: bool = False


class World:
    """Everything that has happened."""

    def __init__(self, max_running: int | None = None, max_pending: int | None = None) -> None:
        self.max_running, self.max_pending = max_running, max_pending
        self.kinds: list[Kind] = []
        self.pasts: list[Past] = []
        self.signals: list[ScopeEvent] = []
        self.drain: list[DrainEvent] = []
        self.on_their_way: list[int] = []
        self.arrived: list[int] = []
        self.line: list[int] = []
        self.starts: list[int] = []

    def copy(self) -> World:
        """Return another one, to go on from here in another way."""
        other = World(self.max_running, self.max_pending)
        for name in ("kinds", "pasts", "signals", "drain", "on_their_way", "arrived", "line", "starts"):
            setattr(other, name, getattr(self, name)[:])
        return other

    def running(self) -> int:
        """Say how many hold a slot: from the request to start to the end, but not in a pause (G16)."""
        return sum(runs_code(past) or past[-1:] == (L.START,) for past in self.pasts if end_of(past) is None)

    def full(self) -> bool:
        return self.max_running is not None and self.running() >= self.max_running

    def idle(self) -> bool:
        return not self.on_their_way and all(end_of(past) for past in self.pasts)

    def fate(self, event: Event) -> Fate:
        """Say what `event` meets now."""
        past = () if event.task is None else self.pasts[event.task]
        match event.what, event.how:
            case What.SCHEDULE, Kind() as kind:
                return self._fate_of_schedule(kind, event)
            case What.ARRIVE, _:
                return Fate.HAPPENS if self.on_their_way else Fate.IMPOSSIBLE
            case What.PAUSE_ENDS, _:
                return Fate.HAPPENS if past[-1:] == (L.RETRY,) else Fate.IMPOSSIBLE
            case What.SIGNAL, signal:
                happens = ScopeEvent.ENDED not in self.signals if signal is ScopeEvent.ENDED else not self.signals
                return Fate.HAPPENS if happens else Fate.CHANGES_NOTHING
            case What.CANCEL, _:
                return Fate.HAPPENS if may_live(past, L.CANCEL) else Fate.CHANGES_NOTHING
            case What.DRAIN, DrainEvent() as drained:
                if drained is D.IDLE and not self.idle():
                    return Fate.IMPOSSIBLE
                return Fate.HAPPENS if may_drain(self.drain, drained) else Fate.ILLEGAL
            case What.FINISH, _ if in_handler(past):
                return Fate.IMPOSSIBLE
            case _:
                happens = may_live(past, self._meaning(event)) and in_handler(past) is (event.what is What.ANSWER)
                return Fate.HAPPENS if happens else Fate.ILLEGAL

    def _fate_of_schedule(self, kind: Kind, event: Event) -> Fate:
        by_shielded = False
        if event.task is not None:
            if L.STEP not in self.pasts[event.task]:
                return Fate.IMPOSSIBLE
            by_shielded = self.kinds[event.task].shielded and end_of(self.pasts[event.task]) is None
        if not takes(self.drain, by_shielded=by_shielded):
            return Fate.CLOSED
        verdict = verdict_of(self.signals, kind.phase, kind.when)
        would_wait = verdict is Verdict.HOLD or (verdict is Verdict.START and self.full())
        waiting = sum(past[-1:] in ((L.QUEUE,), (L.DEFER,)) for past in self.pasts)
        saturated = self.max_pending is not None and would_wait and waiting >= self.max_pending
        return Fate.SATURATED if saturated else Fate.HAPPENS

    def _meaning(self, event: Event) -> LifeEvent:
        assert event.task is not None
        match event.how:
            case Outcome() as outcome:
                return meaning_of_end(outcome, has_handler=self.kinds[event.task].has_handler)
            case Answer() as answer:
                return meaning_of_answer(answer, told_to_stop=L.CANCEL in self.pasts[event.task])
            case _:
                return L.STEP if event.what is What.STEP else L.CANCEL

    def happen(self, event: Event) -> None:
        """Add `event`, which happens, and whatever must follow from it."""
        match event.what, event.how:
            case What.SCHEDULE, Kind() as kind:
                (self.on_their_way if event.flag else self.arrived).append(len(self.kinds))
                self.kinds.append(kind)
                self.pasts.append(())
            case What.ARRIVE, _:
                self.arrived.append(self.on_their_way.pop(0))
            case What.SIGNAL, ScopeEvent() as signal:
                if signal is ScopeEvent.ENDED and not self.signals:  # a scope without a route ends both
                    self.signals.append(ScopeEvent.ROUTE_FAILED if event.flag else ScopeEvent.ROUTE_SUCCEEDED)
                self.signals.append(signal)
            case What.DRAIN, DrainEvent() as drained:
                self.drain.append(drained)
                self._sweep()
            case What.PAUSE_ENDS, _:
                self._let_go(event.task)
            case _:
                self._add(event.task, self._meaning(event))
        self._settle()

    def _sweep(self) -> None:
        everybody = sweep_of(self.drain) is Sweep.EVERYBODY or self.drain[-1] is D.ABORT
        for task, kind in enumerate(self.kinds):
            swept = everybody or (sweep_of(self.drain) is Sweep.UNSHIELDED and not kind.shielded)
            if swept and may_live(self.pasts[task], L.CANCEL):
                self._add(task, L.CANCEL)

    def _settle(self) -> None:
        self.line = [task for task in self.line if self.pasts[task][-1] is L.QUEUE]
        for phase in Phase:  # an earlier phase first, and within one in order (G1)
            for task in self.arrived:
                past = self.pasts[task]
                if self.kinds[task].phase is phase and past in ((), (L.DEFER,)):
                    verdict = verdict_of(self.signals, phase, self.kinds[task].when)
                    if verdict is Verdict.START:
                        self._let_go(task)
                    elif verdict is Verdict.DROP:
                        self._add(task, L.DROP)
                    elif not past:
                        self._add(task, L.DEFER)
        while self.line and not self.full():  # first in, first out (G15)
            self._let_go(self.line.pop(0), first=True)

    def _let_go(self, task: int | None, *, first: bool = False) -> None:
        assert task is not None
        queues = not first and (self.full() or self.line)
        self._add(task, L.QUEUE if queues else L.START)
        (self.line if queues else self.starts).append(task)

    def _add(self, task: int | None, event: LifeEvent) -> None:
        assert task is not None
        self.pasts[task] = (*self.pasts[task], event)
