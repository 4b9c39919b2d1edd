"""A naive model of each table: lists of past events, and ifs.

The model is written from the guarantees (G1 to G19, G21), not from the tables. It shares only names with the machine.
The lists are its only state. So the model is slow, but each line can be compared with a sentence of the contract.
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

# One task: its past events, in order.

Past = tuple[LifeEvent, ...]


@lru_cache(10_000)
def _latest_in_attempt(past: Past) -> LifeEvent | None:
    kinds = (L.STEP, L.HAND_OVER, L.RAISE, L.SUCCEED, L.FAIL, L.UNWIND, L.RETRY)
    return next((event for event in reversed(past) if event in kinds), None)


def runs_code(past: Past) -> bool:
    """Return whether its function, its hand-over or its handler runs."""
    return _latest_in_attempt(past) in (L.STEP, L.HAND_OVER, L.RAISE)


def hands_over(past: Past) -> bool:
    """Return whether it is being handed over (G21)."""
    return _latest_in_attempt(past) is L.HAND_OVER


def in_handler(past: Past) -> bool:
    """Return whether its handler runs."""
    return _latest_in_attempt(past) is L.RAISE


@lru_cache(10_000)
def end_of(past: Past) -> TaskStatus | None:
    """Return how the task has ended, or None. A cancellation ends a task at once if no code has to unwind (G17)."""
    ends = {L.SUCCEED: S.SUCCEEDED, L.FAIL: S.FAILED, L.UNWIND: S.CANCELLED, L.DROP: S.DROPPED}
    for place, event in enumerate(past):
        if event is L.SUCCEED and hands_over(past[:place]):
            return S.HANDED_OVER
        if event in ends:
            return ends[event]
        if event is L.CANCEL and not runs_code(past[:place]):
            return S.CANCELLED
    return None


def may_live(past: Past, event: LifeEvent) -> bool:
    """Return whether `event` may happen to a task with this past."""
    if end_of(past) is not None:  # exactly one end, and nothing after it (G2)
        return False
    latest = past[-1] if past else None
    if latest is L.RECORD and event in (L.RAISE, L.FAIL):  # the journal has not written the task (G22)
        return True
    if event in (L.SUCCEED, L.RAISE, L.UNWIND):  # also after a cancellation: the code decides
        return runs_code(past) and not in_handler(past)
    if event is L.FAIL:
        return runs_code(past)
    if event is L.HAND_OVER:  # a task of a queue, instead of the call of its function (G21); even after a cancellation
        return _latest_in_attempt(past) is L.STEP
    if event is L.RETRY:  # after an attempt (G16), and only without a cancellation (G9)
        return runs_code(past) and not in_handler(past) and L.CANCEL not in past
    if event is L.CANCEL:
        return L.CANCEL not in past
    after: dict[LifeEvent, tuple[LifeEvent | None, ...]] = {
        L.DEFER: (None,),  # no task returns to wait for its phase (G1)
        L.RECORD: (
            None,
            L.DEFER,
            L.START,
        ),  # when the phase has come; and before the first step of a recovered run (G22)
        L.DROP: (None, L.DEFER, L.RECORD),  # a task that was never released (G5), or that the journal refuses (G24)
        L.DELAY: (None, L.DEFER, L.RECORD),  # once, when the phase has come (G18)
        L.LIMIT: (None, L.DEFER, L.RECORD, L.DELAY, L.RETRY),  # after the delay (G18); a pause holds no place (G19)
        L.QUEUE: (
            None,
            L.DEFER,
            L.RECORD,
            L.DELAY,
            L.LIMIT,
            L.RETRY,
        ),  # after the place (G19); no slot in a pause (G16)
        # Once (G1), for each retry (G16), and again when the journal has counted a recovered run (G22).
        L.START: (None, L.DEFER, L.RECORD, L.DELAY, L.LIMIT, L.RETRY, L.QUEUE),
        L.STEP: (L.START,),
    }
    return latest in after[event]


@lru_cache(10_000)
def status_of(past: Past) -> TaskStatus:
    """Return the status of a task with this past."""
    end = end_of(past)
    if end is not None:
        return end
    if in_handler(past):
        return S.ABORTING if L.CANCEL in past else S.HANDLING
    if hands_over(past):
        return S.WITHDRAWING if L.CANCEL in past else S.HANDING_OVER
    if runs_code(past):
        return S.CANCELLING if L.CANCEL in past else S.RUNNING
    return _WAITS[past[-1]] if past else S.NEW


_WAITS = {
    L.DEFER: S.DEFERRED,
    L.RECORD: S.RECORDING,
    L.DELAY: S.DELAYED,
    L.LIMIT: S.LIMITED,
    L.QUEUE: S.WAITING,
    L.START: S.STARTING,
    L.RETRY: S.RETRYING,
}


# One scope: the list of its signals.


def may_signal(signals: Sequence[ScopeEvent], event: ScopeEvent) -> bool:
    """Return whether `event` may happen: first the outcome of the route, then the end. If the end comes first, it is
    repeated later; until then the host may give the route up. Signals after both have no effect.
    """
    decided = _decided_at(signals)
    if decided is None:
        return event is not ScopeEvent.GIVEN_UP or ScopeEvent.ENDED in signals
    return _is_over(signals, decided) or event is ScopeEvent.ENDED


def _decided_at(signals: Sequence[ScopeEvent]) -> int | None:
    """Return the index of the signal that decides about the tasks of the route."""
    return next((place for place, signal in enumerate(signals) if signal is not ScopeEvent.ENDED), None)


def _is_over(signals: Sequence[ScopeEvent], decided: int) -> bool:
    return signals[decided] is ScopeEvent.GIVEN_UP or ScopeEvent.ENDED in signals[decided:]


def verdict_of(signals: Sequence[ScopeEvent], phase: Phase, when: When) -> Verdict:
    """Return the verdict for a task of `phase` (G1) with the setting `when` (G5)."""
    if phase is Phase.IMMEDIATE:
        return Verdict.START
    decided = _decided_at(signals)
    if decided is None or (phase is Phase.AFTER_RESPONSE and not _is_over(signals, decided)):
        return Verdict.HOLD
    outcome = "success" if signals[decided] is ScopeEvent.ROUTE_SUCCEEDED else "failure"
    return Verdict.START if when in (outcome, "always") else Verdict.DROP


def state_of(signals: Sequence[ScopeEvent]) -> ScopeState:
    """Return the state of a scope."""
    decided = _decided_at(signals)
    if decided is None:
        return ScopeState.LATE if signals else ScopeState.ROUTE
    succeeded = signals[decided] is ScopeEvent.ROUTE_SUCCEEDED
    if _is_over(signals, decided):
        return ScopeState.OVER if succeeded else ScopeState.OVER_FAILED
    return ScopeState.RESPONDING if succeeded else ScopeState.EXCUSING


# One drain (G9): the list of its events.


def may_drain(events: Sequence[DrainEvent], event: DrainEvent) -> bool:
    """Return whether `event` may happen. Two stages have a time limit, and no event follows the end."""
    if D.IDLE in events or D.ABORT in events:
        return False
    if event is D.CLOSE:
        return D.CLOSE not in events
    if event is D.DEADLINE:
        return D.CLOSE in events and events.count(D.DEADLINE) < 2
    return event is D.ABORT or D.CLOSE in events


def stage_of(events: Sequence[DrainEvent]) -> DrainStage:
    """Return the stage of a drain."""
    if D.IDLE in events or D.ABORT in events:
        return DrainStage.CLOSED
    if D.CLOSE not in events:
        return DrainStage.OPEN
    return (DrainStage.GRACE, DrainStage.SHIELDED, DrainStage.FORCED)[events.count(D.DEADLINE)]


def sweep_of(events: Sequence[DrainEvent]) -> Sweep:
    """Return the tasks that the last event cancels: (2) the unshielded ones, (3) finally all."""
    if not events or events[-1] is not D.DEADLINE:
        return Sweep.NOBODY
    return Sweep.UNSHIELDED if events.count(D.DEADLINE) == 1 else Sweep.EVERYBODY


def takes(events: Sequence[DrainEvent], *, by_shielded: bool) -> bool:
    """Return whether the host takes new tasks: from all code until the end of (1), from shielded tasks during (3)."""
    if D.IDLE in events or D.ABORT in events:
        return False
    return events.count(D.DEADLINE) < (2 if by_shielded else 1)


# One attempt: its outcome, and the answer of its policy (G4, G16).


def meaning_of_end(outcome: Outcome, *, again: bool, has_handler: bool) -> LifeEvent:
    """Return what the end of an attempt means for its task. `again`: the policy gets another attempt."""
    if outcome is Outcome.RETURNED:
        return L.SUCCEED
    if outcome is Outcome.CANCELLED:
        return L.UNWIND
    if outcome is Outcome.RAISED and again:
        return L.RETRY
    return L.RAISE if outcome is Outcome.RAISED and has_handler else L.FAIL
