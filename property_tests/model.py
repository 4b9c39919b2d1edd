"""What each table may and must do, said naively: lists of what has happened so far, and ifs.

Written from the guarantees (G1 to G17), not from the tables: of the machine it knows the words only. There is no state
in it but the lists. So it is slow, and each line of it can be held against a sentence of the contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from taskphase._machine.config import When
from taskphase._machine.dispatch import Outcome
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
    if event is L.RETRY:  # after an attempt (G16), and only for a task that nobody has told to stop (G9)
        return runs_code(past) and not in_handler(past) and L.CANCEL not in past
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
    """Say whether `event` may come: the outcome of the route, then the end. An end that comes before is told again
    later, and until then the host may give the route up. What comes when both are over is too late.
    """
    decided = _decided_at(signals)
    if decided is None:
        return event is not ScopeEvent.GIVEN_UP or ScopeEvent.ENDED in signals
    return _is_over(signals, decided) or event is ScopeEvent.ENDED


def _decided_at(signals: Sequence[ScopeEvent]) -> int | None:
    """Return the place of the signal that decides what becomes of the tasks of the route."""
    return next((place for place, signal in enumerate(signals) if signal is not ScopeEvent.ENDED), None)


def _is_over(signals: Sequence[ScopeEvent], decided: int) -> bool:
    return signals[decided] is ScopeEvent.GIVEN_UP or ScopeEvent.ENDED in signals[decided:]


def verdict_of(signals: Sequence[ScopeEvent], phase: Phase, when: When) -> Verdict:
    """Say what becomes of a task of `phase` (G1) that wants the outcome `when` (G5)."""
    if phase is Phase.IMMEDIATE:
        return Verdict.START
    decided = _decided_at(signals)
    if decided is None or (phase is Phase.AFTER_RESPONSE and not _is_over(signals, decided)):
        return Verdict.HOLD
    outcome = "success" if signals[decided] is ScopeEvent.ROUTE_SUCCEEDED else "failure"
    return Verdict.START if when in (outcome, "always") else Verdict.DROP


def state_of(signals: Sequence[ScopeEvent]) -> ScopeState:
    """Return the word for where a scope is."""
    decided = _decided_at(signals)
    if decided is None:
        return ScopeState.LATE if signals else ScopeState.ROUTE
    succeeded = signals[decided] is ScopeEvent.ROUTE_SUCCEEDED
    if _is_over(signals, decided):
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


# One attempt: how it ended, and what its policy answered (G4, G16).


def meaning_of_end(outcome: Outcome, *, again: bool, has_handler: bool) -> LifeEvent:
    """Say what the end of an attempt is to its task. `again`: the policy wants another one, and may have it."""
    if outcome is Outcome.RETURNED:
        return L.SUCCEED
    if outcome is Outcome.CANCELLED:
        return L.UNWIND
    if outcome is Outcome.RAISED and again:
        return L.RETRY
    return L.RAISE if outcome is Outcome.RAISED and has_handler else L.FAIL
